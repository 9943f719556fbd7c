"""UDP channels: sockets for coroutines, on both paths."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from hybridnet.addresses import Address, Data
from hybridnet.channels.batch import DatagramBatch
from hybridnet.channels.endpoint import ChannelStatistics, Endpoint
from hybridnet.channels.kernel_socket import SocketOptions
from hybridnet.errors import ChannelBusy, ChannelClosed, HybridnetError, WouldBlock, from_errno

if TYPE_CHECKING:
    from hybridnet.channels.stack import Stack

RECEIVE_MAX = 1024
"""Datagrams one batch holds at most."""


class UdpChannel:
    """A UDP endpoint: datagrams of the fast path and of the kernel path in one stream.

    Made by :meth:`hybridnet.Stack.open_udp`; used on that stack's event loop.  One task receives
    at a time; any number may send.  ``async for data, addr in channel`` ends when it is closed.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        local: tuple[object, ...] | None,
        remote: tuple[object, ...] | None,
        options: SocketOptions,
    ) -> None:
        self._loop = stack.loop
        self._driver = stack.driver
        self._waiter: asyncio.Future[None] | None = None
        self._error: HybridnetError | None = None
        self._endpoint = Endpoint(
            stack, self, local=local, remote=remote, options=options, queued=False
        )
        self._port = self._endpoint.port
        self._port.on_readable = self._on_readable

    # Receiving.

    async def recvfrom(self) -> tuple[bytes, Address]:
        """Return the next datagram, copied (payload 0 to 65,527 bytes), and its source.

        Waits for one.  Cancelling loses none.  Raises: ChannelBusy: another task receives.
        ChannelClosed: closed before or meanwhile.  PeerRefused and its like: an ICMP error about
        a connected channel.  Source: RFC 768.
        """
        while True:
            received = self._receive()
            if received is not None:
                return received
            await self._wait_readable()

    def recvfrom_nowait(self) -> tuple[bytes, Address]:
        """As :meth:`recvfrom`, but raises WouldBlock instead of waiting."""
        received = self._receive()
        if received is None:
            raise WouldBlock("nothing to receive")
        return received

    def _receive(self) -> tuple[bytes, Address] | None:
        self._check()
        return self._port.receive()

    async def recv_batch(self, max: int = 256, *, lease: bool = False) -> DatagramBatch:
        """Return all that waits, at least one and at most ``max`` (1 to 1024) datagrams.

        Copied into one buffer, or with ``lease`` lent without a copy: see
        :class:`DatagramBatch`.  Waits, cancels and raises as :meth:`recvfrom`.
        """
        while True:
            batch = self.recv_batch_nowait(max, lease=lease)
            if len(batch):
                return batch
            if self._waiter is not None or self._driver.poll_now() == 0:
                await self._wait_readable()

    def recv_batch_nowait(self, max: int = 256, *, lease: bool = False) -> DatagramBatch:
        """Return what waits, possibly an empty batch; never waits."""
        self._check()
        if lease:
            held = self._port.receive_lease(max)
            if held is None:
                return DatagramBatch(b"", b"")
            return DatagramBatch(b"", None, held)
        received = self._port.receive_batch(max)
        return DatagramBatch(*received) if received else DatagramBatch(b"", b"")

    def __aiter__(self) -> UdpChannel:
        return self

    async def __anext__(self) -> tuple[bytes, Address]:
        try:
            return await self.recvfrom()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def _wait_readable(self) -> None:
        if self._waiter is not None:
            raise ChannelBusy
        self._waiter = self._loop.create_future()
        self._port.waiting = True
        try:
            await self._waiter
        finally:
            self._waiter = None
            if not self._endpoint.is_closed:
                self._port.waiting = False

    def _on_readable(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check(self) -> None:
        if self._endpoint.is_closed:
            raise ChannelClosed
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    # Sending.

    def sendto(self, data: Data, addr: Address | None = None) -> None:
        """Send one datagram, copied; ``addr`` numeric, or None on a connected channel.

        Never waits.  Raises: WouldBlock: the transmit queue is full, see :meth:`wait_writable`.
        MessageTooLarge.  NetworkUnreachable.  PermissionMissing: broadcast without SO_BROADCAST.
        PeerRefused: an ICMP error about an earlier datagram of a connected channel.  ValueError:
        an address on a connected channel that is not the peer's.  ChannelClosed.
        """
        if self._error is not None:
            self._check()
        self._port.send(data, addr)

    async def sendto_wait(self, data: Data, addr: Address | None = None) -> None:
        """As :meth:`sendto`, but waits for room instead of raising WouldBlock."""
        while True:
            try:
                return self.sendto(data, addr)
            except WouldBlock:
                await self.wait_writable()

    async def wait_writable(self) -> None:
        """Wait until a send that was told WouldBlock may succeed.  Cancelling is safe."""
        if self._endpoint.is_closed:
            raise ChannelClosed
        await self._driver.wait_writable()
        if self._endpoint.is_closed:
            raise ChannelClosed

    def send_batch(
        self, batch: DatagramBatch | Iterable[tuple[Any, Address | None]], start: int = 0
    ) -> int:
        """Send datagrams from number ``start`` on in one call; returns how many were taken.

        A received batch goes back to its senders, a leased one without a copy.  Fewer than all
        are taken when the transmit queue is full.  Raises as :meth:`sendto` when the very first
        one fails.
        """
        if not isinstance(batch, DatagramBatch):
            batch = DatagramBatch.of(batch)
        if self._error is not None or self._endpoint.is_closed:
            self._check()
        sent, number = self._send_batch(batch, start)
        if number not in (0, errno.EAGAIN) and sent == 0:
            raise self._refusal(number)
        return sent

    def _send_batch(self, batch: DatagramBatch, start: int) -> tuple[int, int]:
        payloads, table = batch.native()
        return self._port.send_batch(payloads, table, start)

    def _refusal(self, number: int) -> Exception:
        if number == errno.EISCONN:
            return ValueError(f"the channel is connected to {self._endpoint.remote} alone")
        return from_errno(number)

    async def send_batch_wait(
        self, batch: DatagramBatch | Iterable[tuple[Any, Address | None]]
    ) -> None:
        """As :meth:`send_batch`, waiting for room until all are taken."""
        if not isinstance(batch, DatagramBatch):
            batch = DatagramBatch.of(batch)
        sent = self.send_batch(batch)
        while sent < len(batch):
            # What stopped it was a full queue, or an error that the next call raises.
            taken = self.send_batch(batch, sent)
            sent += taken
            if taken == 0:
                await self.wait_writable()

    # What the endpoint tells (see endpoint.Owner).

    def on_refused(self, number: int, data: Data, addr: Address | None) -> None:
        endpoint = self._endpoint
        if endpoint.is_closed:
            raise ChannelClosed
        if number == errno.EISCONN:
            if addr != endpoint.remote:
                raise ValueError(f"the channel is connected to {endpoint.remote}, not {addr}")
            self._port.send(data)
            return
        if number == errno.EINVAL and addr is not None:
            # Names, broadcast spellings, scopes by name: the kernel socket understands them, and
            # refuses the rest as any socket does.
            endpoint.send_as_socket(data, addr)
            return
        if endpoint.remote is not None:
            endpoint.drain_errors()  # if it was an ICMP error, it is told now
        raise from_errno(number)

    def on_send_failed(self, number: int, addr: Address | None) -> None:
        self.on_error(from_errno(number))

    def on_error(self, error: HybridnetError) -> None:
        self._error = error
        self._on_readable()

    def on_writable(self) -> None:
        """Senders of a channel wait by themselves."""

    # The rest.

    @property
    def local_address(self) -> Address:
        """The bound address; the port is never 0."""
        return self._endpoint.local

    @property
    def remote_address(self) -> Address | None:
        """The connected peer, or None."""
        return self._endpoint.remote

    def setsockopt(self, level: int, option: int, *value: object) -> None:
        """Set a socket option, as ``socket.setsockopt`` does, on both paths.

        SO_RCVBUF, IP_TTL, IP_TOS, IPV6_UNICAST_HOPS and IPV6_TCLASS act on the fast path too;
        multicast membership, broadcast and the rest concern the kernel path, which carries those
        datagrams.
        """
        self._endpoint.setsockopt(level, option, *value)

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        """Return a socket option's value as the kernel socket has it."""
        return cast(Any, self._endpoint.socket).getsockopt(level, option, *size)

    def statistics(self) -> ChannelStatistics:
        """Return the channel's counters.  Raises: ChannelClosed."""
        return self._endpoint.statistics()

    def close(self) -> None:
        """Close now; what was sent goes out, a waiting task gets ChannelClosed.  Idempotent."""
        if self._endpoint.is_closed:
            return
        self._endpoint.close()
        self._on_readable()

    async def aclose(self) -> None:
        """Close and let the loop turn once."""
        self.close()
        await asyncio.sleep(0)

    async def __aenter__(self) -> UdpChannel:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._endpoint.is_closed else "open"
        return f"<UdpChannel {state} local={self.local_address} remote={self.remote_address}>"
