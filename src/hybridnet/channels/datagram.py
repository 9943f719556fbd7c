"""The datagram transport: asyncio's contract on both paths."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from hybridnet.addresses import Address, Data
from hybridnet.channels.endpoint import Endpoint
from hybridnet.channels.facade import SocketFacade
from hybridnet.channels.kernel_socket import SocketOptions
from hybridnet.errors import HybridnetError, from_errno

if TYPE_CHECKING:
    from hybridnet.channels.stack import Stack

_log = logging.getLogger("hybridnet")

_HIGH_WATER = 64 * 1024
_DATAGRAM_OVERHEAD = 64
"""Charged to the buffer beside each payload: what keeping a datagram costs, an empty one too."""
_BUFFER_FACTOR = 64
"""The buffer takes this many times the high-water mark; a protocol that ignores pause_writing
loses datagrams then, counted, instead of growing without bound."""


class DatagramTransport(asyncio.DatagramTransport):
    """An ``asyncio.DatagramTransport`` whose datagrams travel by AF_XDP where they can.

    Made by :meth:`hybridnet.Stack.create_datagram_endpoint`.  ``sendto`` of an instance is a
    native method that settles the common case by itself; the method of the class is what it
    means.
    """

    def __init__(
        self,
        stack: Stack,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        local: tuple[object, ...] | None,
        remote: tuple[object, ...] | None,
        options: SocketOptions,
    ) -> None:
        super().__init__()
        self._stack = stack
        self._loop = stack.loop
        self._closing = False
        self._lost = 0
        self._ending = False
        self._buffer: deque[tuple[bytes, Address | None]] = deque()
        self._buffer_bytes = 0
        self._high_water = _HIGH_WATER
        self._low_water = _HIGH_WATER // 4
        self._paused = False
        self._endpoint = Endpoint(
            stack, self, local=local, remote=remote, options=options, queued=True
        )
        self._facade = SocketFacade(self._endpoint)
        try:
            self._protocol: asyncio.DatagramProtocol
            self._protocol = cast("asyncio.DatagramProtocol", protocol_factory())
        except BaseException:
            self._endpoint.close()
            raise
        # The instance's attribute wins over the class's method: one C call per datagram.
        self.__dict__["sendto"] = self._endpoint.port.send

    def start(self) -> None:
        """Tell the protocol, then let datagrams in; once, by the stack.

        As on asyncio, what ``connection_made`` raises goes to the loop's exception handler.
        """
        self._guarded(self._protocol.connection_made, self)
        if not self._closing:
            self._let_in()

    def _let_in(self) -> None:
        # IPv6 addresses have four items, which the stubs of DatagramProtocol do not say.
        receive = cast("Callable[[bytes, Address], object]", self._protocol.datagram_received)
        self._endpoint.port.on_datagram = receive
        self._stack.loop.call_soon(self._stack.driver.deliver)

    # asyncio.BaseTransport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``socket``, ``sockname``, ``peername``, or ``hybridnet`` (path and mode)."""
        if name == "socket":
            return self._facade
        if name == "sockname":
            return self._endpoint.local
        if name == "peername":
            return self._endpoint.remote if self._endpoint.remote is not None else default
        if name == "hybridnet":
            return self._stack.path_info()
        return default

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol  # type: ignore[assignment]
        if not self._closing:
            self._let_in()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def close(self) -> None:
        """Receive no more, send what is buffered, then call ``connection_lost(None)``."""
        if self._closing:
            return
        self._closing = True
        self._endpoint.port.on_datagram = None
        self._loop.call_soon(self._end_when_sent)

    def _end_when_sent(self) -> None:
        if self._ending or self._endpoint.is_closed:
            return
        if not self._buffer:
            self._stack.driver.engine.flush()
            if self._endpoint.port.unsent == 0:
                self._ending = True
                self._call_connection_lost(None)
                return
        self._stack.driver.call_when_writable(self._endpoint)

    def abort(self) -> None:
        """Close without sending what is buffered."""
        if self._endpoint.is_closed:
            return
        self._closing = True
        self._lost += 1
        self._endpoint.port.on_datagram = None
        self._endpoint.tx_dropped += len(self._buffer)
        self._buffer.clear()
        self._buffer_bytes = 0
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self._ending:
            self._ending = True
            self._loop.call_soon(self._call_connection_lost, error)

    def _call_connection_lost(self, error: Exception | None) -> None:
        if self._endpoint.is_closed:
            return
        try:
            self._protocol.connection_lost(error)
        finally:
            self._endpoint.close()
            self._stack.transports.discard(self)

    # asyncio.DatagramTransport

    def sendto(self, data: Any, addr: Any | None = None) -> None:
        """Send one datagram, copied; buffered when there is no room (see pause_writing).

        Errors of the network go to ``protocol.error_received``.  Raises: TypeError: not bytes.
        ValueError: another address than the connected peer's.
        """
        self._endpoint.port.send(data, addr)

    def get_write_buffer_size(self) -> int:
        return self._buffer_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high_water, self._low_water = high, low
        self._maybe_pause()

    # endpoint.Owner

    def on_refused(self, number: int, data: Data, addr: Address | None) -> None:
        endpoint = self._endpoint
        if endpoint.is_closed or self._lost:
            self._warn_lost()
            return
        if number == errno.EISCONN:
            if addr != endpoint.remote:
                raise ValueError(f"Invalid address: must be None or {endpoint.remote}")
            endpoint.port.send(data)
            return
        if number == errno.EAGAIN:
            self._hold(data, addr)
            return
        if number == errno.EINVAL and addr is not None:
            try:
                # Names and broadcast spellings: the kernel socket understands them.
                endpoint.send_as_socket(data, addr)
            except BlockingIOError:
                self._hold(data, addr)
            except OSError as error:
                self._protocol.error_received(error)
            return
        if endpoint.remote is not None:
            endpoint.drain_errors()  # if it was an ICMP error, it is told now
        self._protocol.error_received(from_errno(number))

    def _hold(self, data: Data, addr: Address | None) -> None:
        copy = bytes(data)
        if self._buffer_bytes > self._high_water * _BUFFER_FACTOR:
            self._endpoint.tx_dropped += 1
            return
        if not self._buffer:
            # What follows queues behind it; see on_writable.
            self.__dict__["sendto"] = self._send_behind
        self._buffer.append((copy, addr))
        self._buffer_bytes += len(copy) + _DATAGRAM_OVERHEAD
        self._stack.driver.call_when_writable(self._endpoint)
        self._maybe_pause()

    def _send_behind(self, data: Any, addr: Any | None = None) -> None:
        if self._lost:
            self._warn_lost()
        elif addr is not None and self._endpoint.remote not in (None, addr):
            raise ValueError(f"Invalid address: must be None or {self._endpoint.remote}")
        else:
            self._hold(data, None if self._endpoint.remote else addr)

    def on_writable(self) -> None:
        waiting, self._buffer = self._buffer, deque()
        self._buffer_bytes = 0
        try:
            # Held back again, it is in the new buffer and the rest goes behind it.
            while waiting and not self._buffer:
                data, addr = waiting.popleft()
                self._endpoint.port.send(data, addr)
        finally:  # error_received() may raise
            self._buffer.extend(waiting)
            self._buffer_bytes += sum(len(data) + _DATAGRAM_OVERHEAD for data, _ in waiting)
            if self._buffer:
                self._stack.driver.call_when_writable(self._endpoint)
            else:
                self.__dict__["sendto"] = self._endpoint.port.send
            self._maybe_resume()
        if self._closing:
            self._end_when_sent()

    def on_send_failed(self, number: int, addr: Address | None) -> None:
        if not self._closing:
            self._protocol.error_received(from_errno(number))

    def on_error(self, error: HybridnetError) -> None:
        if not self._closing:
            self._protocol.error_received(error)

    def _warn_lost(self) -> None:
        self._lost += 1
        if self._lost >= 5:
            _log.warning("sendto() on a datagram transport that is closed")

    def _maybe_pause(self) -> None:
        if self._paused or self._buffer_bytes <= self._high_water:
            return
        self._paused = True
        self._guarded(self._protocol.pause_writing)

    def _maybe_resume(self) -> None:
        if not self._paused or self._buffer_bytes > self._low_water:
            return
        self._paused = False
        self._guarded(self._protocol.resume_writing)

    def _guarded(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": f"protocol.{callback.__name__}() failed",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )

    def __repr__(self) -> str:
        state = "closing" if self._closing else "open"
        return f"<hybridnet.DatagramTransport {state} {self._endpoint.local}>"
