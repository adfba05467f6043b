"""Whose word counts for who a client is."""

from __future__ import annotations

import pytest

from inorder_server.proxies import client_address, networks

TRUSTED = networks(["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "198.51.100.7"),
        # Whoever comes directly may say what he likes.
        ("198.51.100.7", ["203.0.113.5"], "198.51.100.7"),
        # What the client wrote stands before what the proxy added.
        ("192.0.2.1", ["203.0.113.5, 198.51.100.7"], "198.51.100.7"),
        ("192.0.2.1", ["203.0.113.5", "198.51.100.7"], "198.51.100.7"),
        # A proxy behind a proxy.
        ("192.0.2.1", ["198.51.100.7,10.1.2.3 , 2001:db8::5"], "198.51.100.7"),
        ("192.0.2.1", ["10.1.2.3"], "10.1.2.3"),
        ("::ffff:192.0.2.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        # What is no address says nothing.
        ("192.0.2.1", ["198.51.100.7, unknown"], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7, 10.1.2.3, _x"], "192.0.2.1"),
        ("192.0.2.1", ["unknown, 10.1.2.3"], "10.1.2.3"),
        ("192.0.2.1", [""], "192.0.2.1"),
        ("", ["198.51.100.7"], ""),
    ],
)
def test_whose_address_it_is(peer: str, headers: list[str], client: str) -> None:
    assert client_address(peer, headers, TRUSTED) == client
    assert client_address(peer, headers, ()) == peer


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "1.2.3"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        networks([text])
