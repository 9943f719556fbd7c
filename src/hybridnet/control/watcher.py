"""Keeps the stack's tables equal to the kernel's, by routing netlink, on the caller's event loop.

One socket is subscribed to all news.  To synchronise, a second one dumps each kind in turn; news
that arrives meanwhile is held back and replayed in order when the dumps are complete and what
they did not name is swept, so nothing falls between the two:

    subscribe -> dump links, addresses, rules, routes, neighbours -> sweep -> replay -> live

Links are always dumped first: that request waits for the kernel's configuration lock, hence for
the end of the change whose announcement made us ask, which the routes' dump would not.

An overrun (ENOBUFS) means that news was lost: everything is dumped again.  There is no periodic
work: an idle watcher never wakes up.  Each callback stops after two milliseconds and goes on in
the loop's next turn.

Source: RFC 3549; linux/Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from hybridnet._native import ffi, lib
from hybridnet.control import messages, netlink
from hybridnet.control.messages import Address, Link
from hybridnet.control.state import Change, ChangeKind, Dump, KernelState, LinkChange
from hybridnet.errors import ChannelClosed, HybridnetError, from_errno

__all__ = [
    "Address",
    "Change",
    "ChangeKind",
    "Link",
    "LinkChange",
    "Watcher",
    "WatcherStatistics",
]

_TURN_SECONDS = 0.002
_RECEIVE_BYTES = 1 << 18  # one message fits: the kernel's largest are some 32 KB
_SEND_BYTES = 4096
_RETRY_SECONDS = 0.01  # doubled each time, after _PROMPT_RETRIES at once
_RETRY_SECONDS_MAX = 1.0
_PROMPT_RETRIES = 8
_NONE = 0xFFFFFFFF

_REQUESTS: dict[Dump, tuple[int, int]] = {
    Dump.LINKS: (netlink.RTM_GETLINK, socket.AF_UNSPEC),
    Dump.ADDRESSES: (netlink.RTM_GETADDR, socket.AF_UNSPEC),
    Dump.RULES4: (netlink.RTM_GETRULE, socket.AF_INET),
    Dump.RULES6: (netlink.RTM_GETRULE, socket.AF_INET6),
    Dump.ROUTES4: (netlink.RTM_GETROUTE, socket.AF_INET),
    Dump.ROUTES6: (netlink.RTM_GETROUTE, socket.AF_INET6),
    Dump.NEIGHBORS: (netlink.RTM_GETNEIGH, socket.AF_UNSPEC),
}


@dataclass(slots=True, frozen=True, kw_only=True)
class WatcherStatistics:
    """Counters since the start.

    ``dumps`` asked for, ``interrupted`` of them repeated because the kernel's table changed under
    them; ``synchronisations``: rounds of dumps; ``overruns``: losses of news, each followed by a
    full round; ``messages`` read; ``malformed`` of them ignored; ``unmatched``: deletions of
    routes that were not there; ``refused``: routes or neighbours for which there was no room;
    ``asked``: neighbours that the kernel was asked to resolve or probe; ``errors``: requests that
    the kernel or a socket refused.
    """

    dumps: int = 0
    interrupted: int = 0
    synchronisations: int = 0
    overruns: int = 0
    messages: int = 0
    malformed: int = 0
    unmatched: int = 0
    refused: int = 0
    asked: int = 0
    errors: int = 0


@dataclass(slots=True)
class _Counters:
    """The same, while they count."""

    dumps: int = 0
    interrupted: int = 0
    synchronisations: int = 0
    overruns: int = 0
    messages: int = 0
    malformed: int = 0
    unmatched: int = 0
    refused: int = 0
    asked: int = 0
    errors: int = 0


class Watcher:
    """Follows links, addresses, rules, routes and neighbours of one network namespace.

    The namespace is that of the thread which calls ``start``, and has to stay so.
    """

    __slots__ = (
        "_attempts",
        "_buffer",
        "_closed",
        "_count",
        "_current",
        "_draining",
        "_dump_interrupted",
        "_dump_socket",
        "_dumping",
        "_epoch",
        "_handle",
        "_held",
        "_loop",
        "_memory",
        "_monitor",
        "_on_change",
        "_queue",
        "_receive_buffer_bytes",
        "_replaying",
        "_result",
        "_send_memory",
        "_send_view",
        "_stale",
        "_state",
        "_tables",
        "_unasked",
        "_view",
    )

    def __init__(
        self,
        tables: object,
        *,
        on_change: Callable[[Change], None],
        receive_buffer_bytes: int = 1 << 25,
    ) -> None:
        """Prepare; nothing happens before ``start``.

        ``tables``: ``struct hn_control_tables *``, owned by the caller, who keeps it and what it
        points at until after ``close``.  ``on_change`` is called on the loop after each burst of
        news that changed something; what it raises goes to the loop's exception handler.
        ``receive_buffer_bytes``: room for news in the kernel, granted as far as allowed.
        """
        self._tables = ffi.cast("struct hn_control_tables *", tables)
        self._on_change = on_change
        self._receive_buffer_bytes = receive_buffer_bytes
        self._state = KernelState(tables)
        self._count = _Counters()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._monitor: socket.socket | None = None
        self._dump_socket: socket.socket | None = None
        self._current: asyncio.Future[None] | None = None  # start() waits for it
        self._handle: asyncio.Handle | None = None  # the next step that nothing will wake us for
        self._closed = False
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._memory = ffi.from_buffer("uint8_t[]", self._buffer)
        send = bytearray(_SEND_BYTES)
        self._send_view = memoryview(send)
        self._send_memory = ffi.from_buffer("uint8_t[]", send)
        self._result = ffi.new("struct hn_control_result *")
        self._epoch = 0
        self._stale = Dump.NOTHING  # to be dumped
        self._queue: list[Dump] = []  # the rest of this round
        self._dumping = Dump.NOTHING  # the dump under way
        self._dump_interrupted = False
        self._attempts = 0
        self._draining = False  # after an overrun, until the socket is empty
        self._replaying = False
        self._unasked = False  # a request for neighbours got lost
        self._held: deque[bytes] = deque()

    # --- what a user sees

    async def start(self) -> None:
        """Subscribe and synchronise; return when all tables are as the kernel's.

        Cancelling closes the watcher.

        Raises: HybridnetError: no netlink socket to be had.  ChannelClosed: closed meanwhile.
        RuntimeError: started before.
        """
        if self._loop is not None or self._closed:
            raise RuntimeError("a watcher starts once")
        self._loop = loop = asyncio.get_running_loop()
        self._current = loop.create_future()
        messages.load()
        try:
            try:
                self._monitor = netlink.open_socket(self._receive_buffer_bytes, netlink.GROUPS)
            except OSError as error:
                raise _no_socket(error) from error
            loop.add_reader(self._monitor.fileno(), self._on_monitor)
            self._stale = Dump.EVERYTHING
            self._start_round()
            await self._current
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop following; idempotent.  The tables stay as they are."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._close_dump_socket()
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            self._remove_reader(monitor)
            monitor.close()
        self._held.clear()
        if self._current is not None and not self._current.done():
            self._current.set_exception(ChannelClosed("the watcher was closed while starting"))
            # Whoever waited may be the one that closes, and then nobody looks at it.
            self._current.exception()

    @property
    def links(self) -> Mapping[int, Link]:
        """The interfaces by index: a read-only view that follows the kernel."""
        return self._state.links

    @property
    def addresses(self) -> Sequence[Address]:
        """All addresses of the machine, tentative ones too, as of the last change."""
        return self._state.address_list

    def statistics(self) -> WatcherStatistics:
        """Return the counters as they are now."""
        return WatcherStatistics(**asdict(self._count))

    def drain_wanted(self) -> int:
        """Make the kernel resolve every wanted neighbour; return how many.  Never blocks."""
        total = 0
        asked = ffi.new("uint32_t *")
        while self._monitor is not None:
            length = lib.hn_control_resolve(self._tables, self._send_memory, _SEND_BYTES, asked)
            if length == 0:
                break
            total += asked[0]
            try:
                self._monitor.send(self._send_view[:length])
            except OSError:
                # The neighbours behind which packets wait become wanted again by the dump.
                self._count.errors += 1
                self._unasked = True
                if self._handle is None:
                    self._later(_RETRY_SECONDS_MAX, self._start_round)
                break
        self._count.asked += total
        return total

    # --- news

    def _on_monitor(self) -> None:
        deadline = time.monotonic() + _TURN_SECONDS
        while self._monitor is not None:
            try:
                length = self._receive(self._monitor)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._overrun()
                    return
                self._count.errors += 1
                break
            if length == 0:
                pass
            elif self._dumping or self._replaying:
                self._held.append(bytes(self._view[:length]))
            else:
                self._apply(self._memory, self._view[:length], live=True)
            if time.monotonic() >= deadline:
                break
        if not (self._dumping or self._replaying):
            self._burst_done()

    def _receive(self, sock: socket.socket) -> int:
        """Return the length of the next buffer of messages, 0 to skip it.

        Raises: OSError: as recv; ENOBUFS also when it did not fit.
        """
        length, (port, _groups) = sock.recvfrom_into(self._buffer, 0, socket.MSG_TRUNC)
        if port != 0:
            return 0  # not from the kernel
        if length > _RECEIVE_BYTES:
            raise OSError(errno.ENOBUFS, "a netlink message larger than the buffer")
        return int(length)

    def _apply(
        self, memory: object, view: memoryview, *, dump: bool = False, live: bool = False
    ) -> tuple[bool, int]:
        """Work through one buffer of messages; return (dump is complete, its errno or 0)."""
        result, offset, done, error = self._result, 0, False, 0
        base = ffi.cast("uint8_t *", memory)
        kinds = ChangeKind.NOTHING
        while offset < len(view):
            if lib.hn_control_parse(
                self._tables, base + offset, len(view) - offset, dump, self._epoch, result
            ):
                self._count.malformed += 1
                break
            done, error = done or result.done, error or result.error
            kinds |= self._note_result(live)
            offset += result.consumed
            if result.other_offset != _NONE:
                offset = self._look_at(view, offset, dump)
        self._state.mark(kinds)
        return done, error

    def _note_result(self, live: bool) -> ChangeKind:
        result, count = self._result, self._count
        count.messages += result.messages
        count.malformed += result.malformed
        count.refused += result.refused
        count.unmatched += result.unmatched
        count.errors += result.error != 0
        self._dump_interrupted |= result.interrupted
        if live and result.unmatched:
            self._stale |= Dump.ROUTES  # our table and the kernel's differ: look again
        kinds = ChangeKind.NOTHING
        if result.routes_changed:
            kinds |= ChangeKind.ROUTES
        if result.neighbors_changed:
            kinds |= ChangeKind.NEIGHBORS
        return kinds

    def _look_at(self, view: memoryview, offset: int, dump: bool) -> int:
        """Hand one message, whose length C has checked, to Python; return the next offset."""
        length, message_type, _, _, _ = netlink.MESSAGE_HEADER.unpack_from(view, offset)
        self._count.messages += 1
        try:
            self._state.message(message_type, bytes(view[offset : offset + length]), dump=dump)
        except Exception:  # whatever the parser makes of a strange message
            self._count.malformed += 1
        return offset + (int(length) + 3 & ~3)

    def _overrun(self) -> None:
        """News was lost: what is left in the socket is older than the dumps that now follow."""
        self._count.overruns += 1
        self._close_dump_socket()
        self._queue.clear()
        self._held.clear()
        self._dumping = Dump.NOTHING
        self._replaying = False
        self._draining = True
        self._stale = Dump.EVERYTHING
        if self._monitor is not None:
            self._remove_reader(self._monitor)
        self._later(0, self._drain)

    def _drain(self) -> None:
        """Read the socket empty, unheeded: until then the kernel drops all further news.

        The reader is added anew afterwards, for uvloop ends it when a socket reports an error.
        """
        self._handle = None
        deadline = time.monotonic() + _TURN_SECONDS
        while self._monitor is not None:
            try:
                self._receive(self._monitor)
            except BlockingIOError:
                self._draining = False
                self._running_loop().add_reader(self._monitor.fileno(), self._on_monitor)
                self._start_round()
                return
            except OSError:
                pass
            if time.monotonic() >= deadline:
                self._later(0, self._drain)
                return

    def _burst_done(self) -> None:
        """Everything read so far is applied: tell, and look at what follows from it."""
        self._stale |= self._state.take_stale()
        self.drain_wanted()
        try:
            change = self._state.take_change()
        except MemoryError as error:
            self._report(error, "hybridnet: no memory for the list of addresses")
            change = None
        if change is not None:
            try:
                self._on_change(change)
            except Exception as error:
                self._report(error, "hybridnet: on_change of the netlink watcher failed")
        if self._closed:
            return
        if self._stale:
            self._later(0, self._start_round)
        elif self._current is not None and not self._current.done():
            self._current.set_result(None)

    # --- dumps

    def _start_round(self) -> None:
        self._handle = None
        if self._unasked:
            self._unasked = False
            self._stale |= Dump.NEIGHBORS
        if self._dumping or self._replaying or self._draining or not self._stale:
            return
        try:
            sock = netlink.open_socket(self._receive_buffer_bytes)
        except OSError:
            self._count.errors += 1
            self._later(_RETRY_SECONDS_MAX, self._start_round)
            return
        self._dump_socket = sock
        self._running_loop().add_reader(sock.fileno(), self._on_dump)
        self._count.synchronisations += 1
        self._queue = [kind for kind in _REQUESTS if kind in self._stale | Dump.LINKS]
        self._stale = Dump.NOTHING
        self._attempts = 0
        self._next_dump()

    def _next_dump(self) -> None:
        self._handle = None
        if not self._queue:
            self._end_round()
            return
        self._dumping = self._queue[0]
        self._epoch = (self._epoch + 1) & 0xFFFFFFFF
        self._dump_interrupted = False
        self._state.begin(self._dumping)
        self._count.dumps += 1
        request = netlink.dump_request(*_REQUESTS[self._dumping], self._epoch)
        if self._dump_socket is None:
            return
        try:
            self._dump_socket.send(request)
        except OSError:
            self._count.errors += 1
            self._repeat_dump()

    def _on_dump(self) -> None:
        deadline = time.monotonic() + _TURN_SECONDS
        while self._dump_socket is not None:
            try:
                length = self._receive(self._dump_socket)
            except BlockingIOError:
                return
            except OSError:
                # The socket may hold the rest of a dump that cannot be trusted any more.
                self._count.errors += 1
                self._restart_round()
                return
            if length:
                done, error = self._apply(self._memory, self._view[:length], dump=True)
                if done or error:
                    self._dump_ended(error)
            if time.monotonic() >= deadline:
                return

    def _dump_ended(self, error: int) -> None:
        if self._dump_interrupted:
            self._count.interrupted += 1
            self._repeat_dump()
            return
        kind = self._queue.pop(0)
        if error == 0:
            self._finish_dump(kind)
        elif error not in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT) and self._may_retry():
            self._queue.insert(0, kind)
            self._repeat_dump()
            return
        # Without that family or kind in the kernel, what we have (the default rules) stays.
        self._attempts = 0
        self._next_dump()

    def _finish_dump(self, kind: Dump) -> None:
        try:
            self._state.finish(kind, self._epoch)
        except MemoryError as failure:
            self._report(failure, "hybridnet: no memory for the kernel's tables")
        # A link that was found changed makes routes stale, unless their turn is yet to come.
        stale = self._state.take_stale()
        for later in self._queue:
            stale &= ~later
        self._stale |= stale

    def _may_retry(self) -> bool:
        return self._attempts < 2 * _PROMPT_RETRIES

    def _repeat_dump(self) -> None:
        """The same dump again: at once, then ever more slowly, so that the loop stays free."""
        self._attempts += 1
        excess = self._attempts - _PROMPT_RETRIES
        if excess <= 0:
            self._later(0, self._next_dump)
        else:
            delay = min(_RETRY_SECONDS * 2 ** min(excess, 16), _RETRY_SECONDS_MAX)
            self._later(delay, self._next_dump)

    def _restart_round(self) -> None:
        self._close_dump_socket()
        for kind in self._queue:
            self._stale |= kind
        self._queue.clear()
        self._dumping = Dump.NOTHING
        self._replaying = True  # what is held comes first, then a new round
        self._later(0, self._replay)

    def _end_round(self) -> None:
        self._close_dump_socket()
        self._dumping = Dump.NOTHING
        self._replaying = True
        self._replay()

    def _replay(self) -> None:
        self._handle = None
        deadline = time.monotonic() + _TURN_SECONDS
        while self._held:
            if time.monotonic() >= deadline:
                self._later(0, self._replay)
                return
            news = self._held.popleft()
            self._apply(ffi.from_buffer("uint8_t[]", news), memoryview(news))
        self._replaying = False
        self._burst_done()

    # --- small help

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the watcher was not started")
        return self._loop

    def _later(self, delay: float, step: Callable[[], None]) -> None:
        """Run the one next step; a round that was put off gives way to anything sooner."""
        if self._closed:
            return
        if self._handle is not None:
            self._handle.cancel()
        loop = self._running_loop()
        self._handle = loop.call_later(delay, step) if delay else loop.call_soon(step)

    def _remove_reader(self, sock: socket.socket) -> None:
        # A loop that is closed already has no readers.
        with contextlib.suppress(RuntimeError):
            self._running_loop().remove_reader(sock.fileno())

    def _close_dump_socket(self) -> None:
        sock, self._dump_socket = self._dump_socket, None
        if sock is not None:
            self._remove_reader(sock)
            sock.close()

    def _report(self, error: BaseException, message: str) -> None:
        self._running_loop().call_exception_handler({"message": message, "exception": error})


def _no_socket(error: OSError) -> HybridnetError:
    return from_errno(
        error.errno or errno.EIO, f"cannot open a routing netlink socket: {error.strerror}"
    )
