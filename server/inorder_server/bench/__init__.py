"""The load generator behind ``inorder bench``.

It knows a server only by the protocol (SPEC.md), and believes none of its counts: what came
is checked here. ``session`` decides what to send and what is wrong, and touches no socket;
``connection`` is a socket; ``worker`` drives many of them in one process; ``crew`` is the
processes.
"""
