"""What a browser fetches: the client's module, whole, cached by its ETag, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from inorder_server.assets import Asset, client_module, console

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "protocol" / "inorder" / "browser"
PAGE = ROOT / "server" / "inorder_server" / "console"
ASSETS = client_module()
CONSOLE = console()


def ask(asset: Asset, *tags: str) -> Response:
    headers = Headers([("If-None-Match", tag) for tag in tags])
    return asset.answer(Request("/inorder.js", headers))


def test_every_file_of_the_module_and_no_other() -> None:
    files = {f"/{path.relative_to(FOLDER).as_posix()}": path for path in FOLDER.rglob("*.js")}
    assert {path: asset.body for path, asset in ASSETS.items()} == {
        path: file.read_bytes() for path, file in files.items()
    }
    assert "/inorder.js" in ASSETS


def test_everything_that_is_imported_is_there() -> None:
    for path, asset in ASSETS.items():
        for name in re.findall(r'from "(\./[\w./]+)"', asset.body.decode()):
            assert str((Path(path).parent / name).as_posix()) in ASSETS


def test_the_whole_file() -> None:
    asset = ASSETS["/inorder.js"]
    response = ask(asset)
    assert (response.status_code, response.body) == (200, asset.body)
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["Content-Length"] == str(len(asset.body))
    assert response.headers["ETag"] == asset.etag
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_an_etag_is_of_the_bytes() -> None:
    tags = {asset.etag for asset in ASSETS.values()}
    assert len(tags) == len({asset.body for asset in ASSETS.values()})
    assert all(re.fullmatch(r'"[0-9a-f]{32}"', tag) for tag in tags)


@pytest.mark.parametrize("given", ["{}", "W/{}", '"other", {}', "*", '"a",W/{} , "b"'])
def test_what_the_browser_has(given: str) -> None:
    asset = ASSETS["/inorder.js"]
    response = ask(asset, given.format(asset.etag))
    assert (response.status_code, response.body) == (304, b"")
    assert response.headers["ETag"] == asset.etag
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("tags", [(), ('"other"',), ("",), ('W/"other"', '"x"')])
def test_what_it_has_not(tags: tuple[str, ...]) -> None:
    assert ask(ASSETS["/inorder.js"], *tags).status_code == 200


def test_several_headers_count_together() -> None:
    asset = ASSETS["/inorder.js"]
    assert ask(asset, '"other"', asset.etag).status_code == 304


# ---- the console


def test_the_page_and_what_it_is_made_of() -> None:
    files = {f"/console/{path.name}": path for path in PAGE.iterdir()}
    files["/"] = files.pop("/console/index.html")
    assert {path: asset.body for path, asset in CONSOLE.items()} == {
        path: file.read_bytes() for path, file in files.items()
    }
    assert {asset.kind.split(";")[0] for asset in CONSOLE.values()} == {
        "text/html",
        "text/css",
        "text/javascript",
        "image/svg+xml",
    }


def test_everything_that_the_console_asks_for_is_there() -> None:
    page = CONSOLE["/"].body.decode()
    for path in re.findall(r'(?:href|src)="(/console/[^"]+)"', page):
        assert path in CONSOLE
    for asset in CONSOLE.values():
        for name in re.findall(r'from "([./\w]+)"', asset.body.decode()):
            assert name.replace("./", "/console/", 1) in CONSOLE.keys() | ASSETS.keys()


def test_nothing_inline_and_nothing_from_elsewhere() -> None:
    page = CONSOLE["/"].body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", page)
    assert not re.search(r'(?:href|src)="(?!/[\w])', page)
    for path, asset in CONSOLE.items():
        headers = ask(asset).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy.pop("default-src") == "'none'", path
        assert policy.pop("frame-ancestors") == "'none'"
        assert set(policy.values()) == {"'self'", "'none'"}
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
