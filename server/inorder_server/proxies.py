"""Who is at the other end where proxies stand before the server.

Only what a proxy says that the configuration names is believed (``server.trusted_proxies``):
anybody else may write what they like into ``X-Forwarded-For``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def networks(given: Iterable[str]) -> Networks:
    """Addresses and networks, parsed. Raises :class:`ValueError`."""
    return tuple(ipaddress.ip_network(text) for text in given)


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Networks) -> str:
    """The nearest address that is no trusted proxy's.

    ``peer`` is who connected, ``forwarded_for`` the ``X-Forwarded-For`` headers in order. Each
    proxy adds at the end whom it was asked by, so they are read from there, as far as the one
    who says it is trusted. What is no address (``unknown``) leaves it at the one before.
    """
    address = _parsed(peer)
    hops = [hop.strip() for header in forwarded_for for hop in header.split(",")]
    while address is not None and hops and _is_among(address, trusted):
        nearer = _parsed(hops.pop())
        if nearer is None:
            break
        peer, address = str(nearer), nearer
    return peer


def _is_among(address: Address, trusted: Networks) -> bool:
    return any(address in network for network in trusted)


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
