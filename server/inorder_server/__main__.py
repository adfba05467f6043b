"""``python -m inorder_server`` is ``inorder``."""

from .cli import main

main()
