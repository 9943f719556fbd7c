"""Addresses and data as callers give them, and the stack's ``struct hn_address``."""

from __future__ import annotations

import socket
from typing import Any, cast

from hybridnet._native import ffi, lib
from hybridnet.errors import from_errno

Address = tuple[str, int] | tuple[str, int, int, int]
"""``(host, port)`` for IPv4, ``(host, port, flowinfo, scope_id)`` for IPv6."""

Data = bytes | bytearray | memoryview
"""What can be sent: anything with contiguous bytes; the usual three for type checkers."""

_MAPPED = bytes(10) + b"\xff\xff"


def resolve(address: tuple[Any, ...], *, passive: bool) -> tuple[socket.AddressFamily, Address]:
    """Return the family and the full tuple of a *numeric* address; never asks a name server.

    ``None`` or ``""`` as the host means the IPv4 wildcard when ``passive``.
    Raises: TypeError: not ``(host, port[, flowinfo, scope_id])``.  ValueError: a name, not a
    number, or a port out of range.
    """
    if not isinstance(address, tuple) or len(address) < 2:
        raise TypeError(f"an address is a tuple (host, port), not {address!r}")
    host, port = address[0], address[1]
    if host is None or host == "":
        host = "0.0.0.0" if passive else "127.0.0.1"
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError(f"an address is a tuple (str, int), not {address!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"a port is from 0 to 65535, not {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        raise ValueError(
            f"{host!r} is not a numeric IPv4 or IPv6 address; resolve names first "
            "(loop.getaddrinfo)"
        ) from None
    family, _, _, _, sockaddr = found[0]
    if family == socket.AF_INET6:
        given = address[3] if len(address) > 3 else 0
        scope = int(given) or int(cast("tuple[Any, ...]", sockaddr)[3])  # "fe80::1%eth0" has one
        return socket.AF_INET6, (str(sockaddr[0]), port, 0, scope)
    return socket.AF_INET, (str(sockaddr[0]), port)


def respell(address: Any, family: int) -> Address | None:
    """Return the plain tuple for a spelling that only the socket module knows; None: no other.

    Those are a scope by name (``fe80::1%eth0``) and ``<broadcast>``.  Never asks a name server.
    """
    try:
        items = (address[0], address[1])
    except (TypeError, LookupError):
        return None
    host = "255.255.255.255" if items[0] == "<broadcast>" else items[0]
    try:
        infos = socket.getaddrinfo(
            host,
            items[1],
            family=family,
            type=socket.SOCK_DGRAM,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
    except (OSError, TypeError, UnicodeError):
        return None
    sockaddr: Any = infos[0][4]
    plain: Address = (
        sockaddr if family == socket.AF_INET else (sockaddr[0].partition("%")[0], *sockaddr[1:])
    )
    return plain if plain != address and plain[1] else None


def host_and_port(text: str) -> tuple[str, int]:
    """Return ``HOST:PORT`` or ``[HOST]:PORT`` as a tuple, as command lines write addresses.

    Raises: ValueError: no port, or not a number from 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 10.0.0.1:9000 or [::]:9000")
    return host.removeprefix("[").removesuffix("]"), int(port)


def format_address(address: tuple[Any, ...]) -> str:
    """Return ``HOST:PORT``, or ``[HOST]:PORT`` for IPv6: what :func:`host_and_port` reads."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def to_native(address: Address) -> Any:
    """Return a new ``struct hn_address *`` for a numeric tuple."""
    native = ffi.new("struct hn_address *")
    host = address[0].partition("%")[0]
    native.port = address[1]
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        if packed.startswith(_MAPPED):
            native.family = lib.HN_FAMILY_IPV4
            ffi.memmove(native.ip, packed[12:], 4)
            return native
        native.family = lib.HN_FAMILY_IPV6
        if len(address) > 3:
            native.scope_id = address[3]
    else:
        packed = socket.inet_pton(socket.AF_INET, host)
        native.family = lib.HN_FAMILY_IPV4
    ffi.memmove(native.ip, packed, len(packed))
    return native


def native_ip(family: int, packed: bytes) -> Any:
    """Return a new ``struct hn_address *`` for a packed IP address, port 0."""
    native = ffi.new("struct hn_address *")
    native.family = family
    ffi.memmove(native.ip, packed, len(packed))
    return native


def from_native(native: Any) -> Address:
    """Return the tuple of a ``struct hn_address``."""
    packed = bytes(ffi.buffer(native.ip))
    if native.family == lib.HN_FAMILY_IPV4:
        return (socket.inet_ntop(socket.AF_INET, packed[:4]), native.port)
    return (socket.inet_ntop(socket.AF_INET6, packed), native.port, 0, native.scope_id)


def is_wildcard(address: Address) -> bool:
    """True for 0.0.0.0 and ``::``."""
    return address[0] in ("0.0.0.0", "::")


def check(result: int, message: str | None = None) -> int:
    """Return a native call's result, or raise the exception for its negative errno."""
    if result < 0:
        raise from_errno(result, message)
    return result
