"""The command line: ``inorder``.

Source: design.md section 9. One file a group of commands; an error is one line on standard
error and an exit status: 1 a failure, 2 a wrong use.
"""

from __future__ import annotations

import sys

_EXTRA = {
    "bcrypt",
    "click",
    "dotenv",
    "itsdangerous",
    "loguru",
    "prometheus_client",
    "pymongo",
    "rich",
}


def main() -> None:
    """The console script."""
    try:
        from .commands import inorder
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] not in _EXTRA:
            raise
        print("inorder: the server needs its extra: pip install 'inorder[server]'", file=sys.stderr)
        sys.exit(1)
    inorder.main(prog_name="inorder")
