"""A socket to look at: what ``get_extra_info("socket")`` returns."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

from hybridnet.addresses import Address

if TYPE_CHECKING:
    from hybridnet.channels.endpoint import Endpoint


class SocketFacade:
    """The endpoint as a socket, without what would take data past the transport.

    As asyncio's ``TransportSocket``; options set here reach the fast path as well.
    """

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._endpoint.socket.family)

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_DGRAM

    @property
    def proto(self) -> int:
        return self._endpoint.socket.proto

    def fileno(self) -> int:
        """The kernel socket's descriptor; -1 when closed.  It is not readable for fast data."""
        return self._endpoint.socket.fileno()

    def dup(self) -> socket.socket:
        """Return a copy of the kernel socket; the fast path stays with the transport."""
        return self._endpoint.socket.dup()

    def get_inheritable(self) -> bool:
        return self._endpoint.socket.get_inheritable()

    def getsockname(self) -> Address:
        return self._endpoint.local

    def getpeername(self) -> Address:
        if self._endpoint.remote is None:
            return self._endpoint.socket.getpeername()  # type: ignore[no-any-return]
        return self._endpoint.remote

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        return cast(Any, self._endpoint.socket).getsockopt(level, option, *size)

    def setsockopt(self, level: int, option: int, *value: object) -> None:
        self._endpoint.setsockopt(level, option, *value)

    def setblocking(self, flag: bool) -> None:
        if flag:
            raise ValueError("a transport's socket cannot be blocking")

    def settimeout(self, value: float | None) -> None:
        if value != 0:
            raise ValueError("a transport's socket cannot have a timeout")

    def gettimeout(self) -> float:
        return 0.0

    def __repr__(self) -> str:
        return f"<hybridnet.SocketFacade fd={self.fileno()} laddr={self._endpoint.local}>"
