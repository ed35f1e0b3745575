"""Which addresses code may be fetched from.

Owns the rule: those of the public internet only, unless the worker allows private ones. An address that stands for
another one (IPv4 in IPv6, by mapping or translation) is judged as that one. Pure. Called by `resolver`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_TRANSLATED = IPv6Network("64:ff9b::/96")
_TRANSLATED_LOCALLY = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")


def is_public(text: str) -> bool:
    """Whether an address, as the system's resolver writes it, belongs to the public internet."""
    try:
        address = _meant(ip_address(text))
    except ValueError:
        return False
    if address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback:
        return False
    return address.is_global and not address.is_link_local and not _is_local(address)


def _is_local(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return False
    return address in _TRANSLATED_LOCALLY or address in _COMPATIBLE or address.is_site_local or bool(address.scope_id)


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
