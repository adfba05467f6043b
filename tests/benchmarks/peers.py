"""Others that one might take instead, where they are installed.

Socket.IO (``npm install -g socket.io socket.io-client``) and Redis Streams behind a socket server
(``redis-server`` and ``pip install redis``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from cases import INORDER, Case, Load
from subjects import Program

SOCKET_IO, REDIS = "Socket.IO, keeps nothing", "Redis Streams, fsync always"
_HERE = Path(__file__).parent
_MODULES = ("socket.io", "socket.io-client")


def makers(disk: Path) -> dict[str, Callable[[], Program]]:
    """Those that are installed, by name; says which are not."""
    found: dict[str, Callable[[], Program]] = {}
    if (env := _node()) is not None:
        load = ["node", str(_HERE / "socketio_load.js")]
        echo = str(_HERE / "socketio_echo.js")
        found[SOCKET_IO] = lambda: Program("node", echo, load=load, env=env)
    else:
        print(f"{SOCKET_IO}: not here (npm install -g {' '.join(_MODULES)})")
    if shutil.which("redis-server") and find_spec("redis"):
        streams = str(_HERE / "redis_streams.py")
        found[REDIS] = lambda: Program(sys.executable, streams, disk=disk)
    else:
        print(f"{REDIS}: not here (redis-server, and pip install redis)")
    return found


def cases(found: dict[str, Callable[[], Program]]) -> list[Case]:
    """This server beside those."""
    made = []
    for in_flight in (1, 16):
        load = Load(connections=50, in_flight=in_flight)
        bars = {"inorder": (INORDER, load), **{who: (who, load) for who in found}}
        made.append(Case(name=f"50 × {in_flight}, single frames", bars=bars))
    return made if found else []


def _node() -> dict[str, str] | None:
    """The environment in which Node finds the modules; None where it doesn't."""
    if not (node := shutil.which("node")) or not (npm := shutil.which("npm")):
        return None
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=30)
    places = [os.environ.get("NODE_PATH", ""), root.stdout.strip()]
    env = {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, places))}
    script = "".join(f"require.resolve({name!r});" for name in _MODULES)
    tried = subprocess.run([node, "-e", script], env=env, capture_output=True, timeout=30)
    return env if tried.returncode == 0 else None
