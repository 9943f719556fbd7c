"""The kernel's half of an endpoint: the socket that reserves the address and carries the rest."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

from hybridnet._native import ffi, lib
from hybridnet.addresses import Address, from_native
from hybridnet.errors import from_errno

_IP_RECVERR = 11
_IPV6_RECVERR = 25
_SO_RXQ_OVFL = 40
_SO_EE_ORIGIN_ICMP = 2
_SO_EE_ORIGIN_ICMP6 = 3


@dataclass(slots=True, frozen=True, kw_only=True)
class SocketOptions:
    """Options that matter before bind."""

    reuse_address: bool = False
    reuse_port: bool = False
    broadcast: bool = False
    v6only: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class QueuedError:
    """An entry of the error queue: an ICMP error, or a local one."""

    number: int
    """errno"""
    destination: Address | None
    path_mtu: int
    """Bytes; 0: the error says nothing of it."""
    from_network: bool


def open_socket(
    family: socket.AddressFamily,
    local: Address | None,
    remote: Address | None,
    options: SocketOptions,
) -> socket.socket:
    """Return a bound, non-blocking UDP socket whose ICMP errors go to its error queue.

    Raises: AddressInUse, AddressNotAvailable, PermissionMissing with one sentence each.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if options.reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if options.broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.v6only)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        # An IPv6 socket that takes IPv4 as well has both error queues.
        if family == socket.AF_INET or not options.v6only:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        _bind_and_connect(sock, local, remote)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_and_connect(sock: socket.socket, local: Address | None, remote: Address | None) -> None:
    wildcard: Address = ("::", 0, 0, 0) if sock.family == socket.AF_INET6 else ("0.0.0.0", 0)
    at = local or wildcard
    try:
        sock.bind(at)
    except OSError as error:
        number = error.errno or errno.EINVAL
        raise from_errno(number, _bind_sentence(number, at)) from None
    if remote is None:
        return
    try:
        sock.connect(remote)
    except OSError as error:
        number = error.errno or errno.EINVAL
        text = f"cannot connect to {remote[0]} port {remote[1]}: {os.strerror(number).lower()}"
        raise from_errno(number, text) from None


def _bind_sentence(number: int, at: Address) -> str:
    if number == errno.EADDRINUSE:
        return f"UDP {at[0]} port {at[1]} is in use by another socket (see: ss -ulnp)"
    if number == errno.EADDRNOTAVAIL:
        return f"{at[0]} is not an address of this machine (see: ip address)"
    if number == errno.EACCES:
        return f"UDP port {at[1]} needs CAP_NET_BIND_SERVICE"
    return f"cannot bind UDP {at[0]} port {at[1]}: {os.strerror(number).lower()}"


def drain_errors(fd: int) -> list[QueuedError]:
    """Take everything off the error queue, at most 64 entries; never blocks."""
    native = ffi.new("struct hn_kernel_error *")
    found: list[QueuedError] = []
    while len(found) < 64 and lib.hn_kernel_read_error(fd, native) == 1:
        found.append(
            QueuedError(
                number=native.error,
                destination=from_native(native.destination) if native.destination.family else None,
                path_mtu=native.info if native.error == errno.EMSGSIZE else 0,
                from_network=native.origin in (_SO_EE_ORIGIN_ICMP, _SO_EE_ORIGIN_ICMP6),
            )
        )
    return found
