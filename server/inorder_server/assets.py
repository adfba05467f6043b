"""Files of the installed packages that a browser may fetch, and how they are answered.

They are read once, at the start, and found by their whole path: no path that a request brings
reaches the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

_KINDS = {
    ".js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, its media type, and a strong ETag of them."""

    body: bytes
    kind: str
    etag: str

    def answer(self, request: Request) -> Response:
        """200 with the file; 304 without it where the browser has it (RFC 9110, 13.1.2)."""
        known = _tags(request.headers)
        fresh = "*" in known or self.etag in known
        status = HTTPStatus.NOT_MODIFIED if fresh else HTTPStatus.OK
        headers = Headers(
            {
                "ETag": self.etag,
                # Kept, and asked for again each time: an upgraded server is seen at once.
                "Cache-Control": "no-cache",
                "Connection": "close",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                # The module is no secret; pages of `allowed_origins` import it from here.
                "Access-Control-Allow-Origin": "*",
                "Cross-Origin-Resource-Policy": "cross-origin",
            }
        )
        if not fresh:
            headers["Content-Type"] = self.kind
            headers["Content-Length"] = str(len(self.body))
        return Response(status.value, status.phrase, headers, b"" if fresh else self.body)


def client_module() -> dict[str, Asset]:
    """The browser's client by path: ``/inorder.js`` and what it imports, ``/inorder/….js``."""
    return dict(_walk(files("inorder") / "browser", "/"))


def _walk(folder: Traversable, at: str) -> Iterator[tuple[str, Asset]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{at}{entry.name}/")
        elif kind := _KINDS.get(entry.name[entry.name.rfind(".") :]):
            body = entry.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            yield f"{at}{entry.name}", Asset(body, kind, etag)


def _tags(headers: Headers) -> set[str]:
    """The ETags of If-None-Match; weak ones count as strong ones (RFC 9110, 8.8.3.2)."""
    given = ",".join(headers.get_all("If-None-Match"))
    return {tag.strip().removeprefix("W/") for tag in given.split(",")}
