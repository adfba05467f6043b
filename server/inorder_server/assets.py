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
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE = "/console/index.html"
# Nothing inline, nothing from elsewhere, and the page in nobody's frame.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, and its media type. ``shared``: pages of other origins may have it."""

    body: bytes
    kind: str
    shared: bool = False

    @property
    def etag(self) -> str:
        """A strong one: of the bytes."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    def answer(self, request: Request) -> Response:
        """200 with the file; 304 without it where the browser has it (RFC 9110, 13.1.2)."""
        known, etag = _tags(request.headers), self.etag
        fresh = "*" in known or etag in known
        status = HTTPStatus.NOT_MODIFIED if fresh else HTTPStatus.OK
        headers = Headers(
            {
                "ETag": etag,
                # Kept, and asked for again each time: an upgraded server is seen at once.
                "Cache-Control": "no-cache",
                "Connection": "close",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            }
        )
        if self.shared:
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        else:
            headers["Content-Security-Policy"] = _POLICY
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not fresh:
            headers["Content-Type"] = self.kind
            headers["Content-Length"] = str(len(self.body))
        return Response(status.value, status.phrase, headers, b"" if fresh else self.body)


def client_module() -> dict[str, Asset]:
    """The browser's client by path: ``/inorder.js`` and what it imports, ``/inorder/….js``."""
    # It is no secret; pages of `allowed_origins` import it from here.
    return dict(_walk(files("inorder") / "browser", "/", shared=True))


def console() -> dict[str, Asset]:
    """The page by path, ``/``, and what it is made of, ``/console/…``. In the page ``{host}``
    stands for the address it was asked for by."""
    found = dict(_walk(files(__package__) / "console", "/console/", shared=False))
    return {"/": found.pop(_PAGE), **found}


def _walk(folder: Traversable, at: str, *, shared: bool) -> Iterator[tuple[str, Asset]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{at}{entry.name}/", shared=shared)
        elif kind := _KINDS.get(entry.name[entry.name.rfind(".") :]):
            yield f"{at}{entry.name}", Asset(entry.read_bytes(), kind, shared)


def _tags(headers: Headers) -> set[str]:
    """The ETags of If-None-Match; weak ones count as strong ones (RFC 9110, 8.8.3.2)."""
    given = ",".join(headers.get_all("If-None-Match"))
    return {tag.strip().removeprefix("W/") for tag in given.split(",")}
