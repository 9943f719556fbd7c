"""The driver: from readable file descriptors to one native call each.

The loop calls ``Engine.turn`` itself: receive a burst, walk the graph, hand every datagram to its
protocol or wake who waits, flush, in one call from the loop.  Python sees nothing of it but the
datagrams.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hybridnet._native import Engine
from hybridnet.specs import BusyPoll, StackSpec
from hybridnet.stack.core import Core

if TYPE_CHECKING:
    from hybridnet.channels.endpoint import Endpoint
    from hybridnet.xsk.device import XskDevice

_log = logging.getLogger("hybridnet")

_SOCKETS_PER_TURN = 64

_POLLS_PER_TURN = 4

_RETRY_S = 0.001
"""After a flush that the devices could not take whole; long enough not to spin on a dead link."""


class Driver:
    """Joins one stack to one event loop; single-threaded as the loop is."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        core: Core,
        spec: StackSpec,
        on_wanted: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._burst = spec.burst
        self._busy: BusyPoll | None = spec.busy_poll
        self._spinning = False
        self._last_packet = 0.0
        self._closed = False
        self._fds: dict[int, list[int]] = {}
        self._writable_waiters: set[asyncio.Future[None]] = set()
        self._full_sockets: set[int] = set()
        self._deaf_sockets: set[int] = set()
        self._retrying = False
        self._polls_left = _POLLS_PER_TURN
        self._blocked: dict[int, Endpoint] = {}
        self._sockets: dict[int, Endpoint] = {}
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._on_sockets)
        self.engine = Engine(
            core.disown(),
            self._schedule,
            self._report,
            self._on_writable,
            _on_failure,
            self._on_kernel_full,
            on_wanted,
        )

    def add_device(self, device: XskDevice) -> None:
        """Poll a device's sockets from now on: one reader per AF_XDP socket."""
        fds = device.fds()
        for queue, fd in enumerate(fds):
            if self._busy is None:
                self._loop.add_reader(fd, self.engine.turn, device.index, queue, self._burst)
            else:
                self._loop.add_reader(fd, self._start_spinning)
        self._fds[device.index] = fds

    def remove_device(self, index: int) -> None:
        """Stop polling a device; before its sockets are closed."""
        for fd in self._fds.pop(index, ()):
            self._loop.remove_reader(fd)

    def _schedule(self, later: bool) -> None:
        if not later:
            self._loop.call_soon(self.engine.flush)
        elif not self._retrying:
            self._retrying = True
            self._loop.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if not self._closed:
            self.engine.flush()

    def _report(self, exception: BaseException, owner: object) -> None:
        self._loop.call_exception_handler(
            {
                "message": "Exception in a callback of a hybridnet channel",
                "exception": exception,
                "transport" if isinstance(owner, asyncio.BaseTransport) else "channel": owner,
            }
        )

    def deliver(self) -> None:
        """Hand over what waits already; for a protocol that starts to listen."""
        if not self._closed:
            self.engine.deliver()

    def poll_now(self) -> int:
        """Flush, then receive what is there without asking the loop; returns packets.

        For a reader that has emptied its queue: spares it a turn of the loop per burst.  A few
        times per turn only, so that nobody else starves.
        """
        if self._polls_left == 0 or not self._fds:
            return 0
        if self._polls_left == _POLLS_PER_TURN:
            self._loop.call_soon(self._allow_polls)
        self._polls_left -= 1
        return self.engine.spin(self._burst, 0)

    def _allow_polls(self) -> None:
        self._polls_left = _POLLS_PER_TURN

    # Busy polling: as long as packets keep coming, every turn of the loop spins for a moment.

    def _start_spinning(self) -> None:
        if not self._spinning:
            self._spinning = True
            self._last_packet = time.monotonic()
            self._spin()

    def _spin(self) -> None:
        busy = self._busy
        if self._closed or busy is None:
            return
        try:
            received = self.engine.spin(self._burst, busy.spin_us * 1000)
        except BaseException:
            self._spinning = False  # the readers may start it again
            raise
        now = time.monotonic()
        if received:
            self._last_packet = now
        if now - self._last_packet < busy.linger_us / 1e6:
            self._loop.call_soon(self._spin)
        else:
            # The readers are level-triggered: what comes from here on wakes the loop.
            self._spinning = False

    # Back-pressure.

    def wait_writable(self) -> asyncio.Future[None]:
        """Return a future that is done when a held-back sender may go on."""
        future: asyncio.Future[None] = self._loop.create_future()
        if not self.engine.blocked and not self._full_sockets:
            future.set_result(None)  # it was made room meanwhile, and nobody would tell again
            return future
        self._writable_waiters.add(future)
        future.add_done_callback(self._writable_waiters.discard)
        self._schedule(True)
        return future

    def wake_senders(self) -> None:
        """Let all that wait for room look again: there is some, or their channel was closed."""
        for future in list(self._writable_waiters):
            if not future.done():
                future.set_result(None)

    def _on_writable(self) -> None:
        self.wake_senders()
        blocked, self._blocked = self._blocked, {}
        for endpoint in blocked.values():
            try:
                endpoint.owner.on_writable()
            except Exception as error:
                self._report(error, endpoint.owner)

    def call_when_writable(self, endpoint: Endpoint) -> None:
        """Call the owner's ``on_writable`` once when there is room again."""
        self._blocked[id(endpoint)] = endpoint
        self._schedule(True)

    # Kernel sockets.  They hang on an epoll of our own, and that on the loop: a socket with an
    # entry in its error queue polls as POLLERR, and libuv, hence uvloop, drops it for that.

    def add_socket(self, endpoint: Endpoint) -> None:
        """Receive from an endpoint's kernel socket from now on."""
        fd = endpoint.socket.fileno()
        self._sockets[fd] = endpoint
        self._epoll.register(fd, select.EPOLLIN)

    def remove_socket(self, endpoint: Endpoint) -> None:
        """Stop receiving; before the socket is closed."""
        fd = endpoint.socket.fileno()
        if self._sockets.pop(fd, None) is not None:
            self._epoll.unregister(fd)
        self._full_sockets.discard(fd)
        self._deaf_sockets.discard(fd)

    def _listen(self, fd: int) -> None:
        events = 0 if fd in self._deaf_sockets else select.EPOLLIN
        if fd in self._full_sockets:
            events |= select.EPOLLOUT
        self._epoll.modify(fd, events)

    def _on_sockets(self) -> None:
        for fd, events in self._epoll.poll(0, _SOCKETS_PER_TURN):
            endpoint = self._sockets.get(fd)
            if endpoint is None:
                continue  # closed by a callback of the one before
            if events & select.EPOLLOUT:
                self._full_sockets.discard(fd)
                self._listen(fd)
                self.engine.flush()
                self._on_writable()
            if events & ~select.EPOLLOUT and not endpoint.is_closed:
                endpoint.on_kernel_readable()

    def rest(self, endpoint: Endpoint) -> None:
        """There are no frames to receive into: look at this socket again a little later."""
        fd = endpoint.socket.fileno()
        self._deaf_sockets.add(fd)
        self._listen(fd)

        def listen_again() -> None:
            if self._sockets.get(fd) is endpoint:
                self._deaf_sockets.discard(fd)
                self._listen(fd)

        self._loop.call_later(_RETRY_S, listen_again)

    def _on_kernel_full(self, fd: int) -> None:
        if fd in self._sockets and fd not in self._full_sockets:
            self._full_sockets.add(fd)
            self._listen(fd)

    def close(self) -> None:
        """Stop polling; the engine goes with its last lease."""
        self._closed = True
        for index in list(self._fds):
            self.remove_device(index)
        self.wake_senders()  # they find their channels closed
        self._blocked.clear()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


def _on_failure(owner: object, number: int, address: object) -> None:
    # The engine knows owners as plain objects; only endpoints' owners send.
    owner.on_send_failed(number, address)  # type: ignore[attr-defined]
