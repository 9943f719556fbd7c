"""One UDP endpoint on both paths, under a channel or a transport."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hybridnet._native import Port, ffi, lib
from hybridnet.addresses import Address, Data, format_address, resolve, respell, to_native
from hybridnet.channels.kernel_socket import SocketOptions, drain_errors, open_socket
from hybridnet.errors import ChannelClosed, HybridnetError, from_errno
from hybridnet.stack.core import Udp

if TYPE_CHECKING:
    from hybridnet.channels.stack import Stack

_KERNEL_BURST = 64
_TRANSIENT = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS})


@dataclass(slots=True, frozen=True, kw_only=True)
class ChannelStatistics:
    """Datagrams and payload bytes of one channel since it was opened, by path."""

    rx_fast_datagrams: int
    rx_fast_bytes: int
    tx_fast_datagrams: int
    tx_fast_bytes: int
    rx_kernel_datagrams: int
    rx_kernel_bytes: int
    tx_kernel_datagrams: int
    tx_kernel_bytes: int
    rx_queue_full: int
    """Dropped because nobody took them in time."""
    rx_no_frames: int
    """Dropped because all frames were waiting in channels."""
    rx_kernel_dropped: int
    """Dropped by the kernel socket's own receive queue."""
    tx_kernel_errors: int
    rx_queue_datagrams: int
    """Waiting now."""
    rx_queue_bytes: int
    """Frame memory that they hold."""
    icmp_errors: int
    """ICMP errors about datagrams of this channel."""
    tx_dropped: int
    """Datagrams given up because the transport's buffer was full."""


class Owner(Protocol):
    """What an endpoint asks of the channel or transport above it."""

    def on_refused(self, number: int, data: Data, addr: Address | None) -> object:
        """A send did not go; ``number`` is the errno.  The result is ``sendto``'s."""

    def on_send_failed(self, number: int, addr: Address | None) -> None:
        """A send by the kernel path failed after ``sendto`` had returned."""

    def on_error(self, error: HybridnetError) -> None:
        """An error of a connected endpoint arrived (ICMP, RFC 1122 4.1.3.3)."""

    def on_writable(self) -> None:
        """There is room to send again."""


class Endpoint:
    """The kernel socket, the stack's endpoint and the steering entries of one address.

    Construction undoes everything when it fails.  ``queued`` collects kernel-path sends for one
    system call per loop turn, which reports their errors later.
    """

    def __init__(
        self,
        stack: Stack,
        owner: Owner,
        *,
        local: tuple[object, ...] | None,
        remote: tuple[object, ...] | None,
        options: SocketOptions,
        queued: bool,
    ) -> None:
        family, local_address, remote_address = _families(local, remote)
        self.stack = stack
        self.owner = owner
        self.icmp_errors = 0
        self.tx_dropped = 0
        self.socket = open_socket(family, local_address, remote_address, options)
        self._udp: Udp | None = None
        self._steered: list[object] = []
        try:
            self.local: Address = self.socket.getsockname()
            self.remote: Address | None = self.socket.getpeername() if remote_address else None
            # A connected socket has a definite source; the fast path follows the kernel's choice.
            self._udp = udp = stack.core.open_udp(
                self.local,
                self.remote,
                v6only=options.v6only,
                reuse=options.reuse_address or options.reuse_port,
            )
            self.port = Port(
                stack.driver.engine,
                int(ffi.cast("uintptr_t", udp.native)),
                owner,
                owner.on_refused,
                self.socket.fileno(),
                family,
                not stack.has_fast_path,
                queued,
            )
            self._apply_header()
            # A share, so that a channel that nobody reads leaves room for others.
            lib.hn_udp_set_receive_limit(udp.native, stack.host.receive_bytes // 4)
            self._steer(options)
            stack.driver.add_socket(self)
        except BaseException:
            self._undo()
            raise
        stack.endpoints.add(self)

    def _steer(self, options: SocketOptions) -> None:
        if self.local[0] in ("127.0.0.1", "::1"):
            return
        self._steered.append(to_native(self.local))
        if self.local[0] == "::" and not options.v6only:
            self._steered.append(to_native(("0.0.0.0", self.local[1])))
        done: list[object] = []
        try:
            for address in self._steered:
                self.stack.steer(address, True)
                done.append(address)
        except BaseException:
            self._steered = done
            raise

    def _undo(self) -> None:
        for address in self._steered:
            self.stack.steer(address, False)
        self._steered = []
        if self._udp is not None:
            # The port frees the native endpoint together with what the kernel path has queued.
            if hasattr(self, "port"):
                self.port.close()
                self._udp.forget()
            else:
                self._udp.close()
            self._udp = None
        self.socket.close()

    @property
    def is_closed(self) -> bool:
        """True from :meth:`close` on."""
        return self._udp is None

    def close(self) -> None:
        """Leave the steering table, drop what is queued, close the socket; idempotent."""
        if self._udp is None:
            return
        self.stack.endpoints.discard(self)
        self.stack.driver.engine.flush()  # what was sent before goes out
        counts = self.statistics()
        for name in ChannelStatistics.__slots__:
            self.stack.host.closed_channels[name] += getattr(counts, name)
        self.stack.driver.remove_socket(self)
        self._undo()
        self.stack.driver.wake_senders()
        self.port.on_datagram = None
        self.port.on_readable = None

    # The kernel path.

    def on_kernel_readable(self) -> None:
        """Receive a burst from the kernel socket, or what its error queue has to say."""
        received = self.port.kernel_turn(_KERNEL_BURST)
        # Level-triggered, and an entry in the error queue makes it readable too.
        if received < 0 and self._udp is not None:
            self._on_kernel_error(-received)

    def _on_kernel_error(self, number: int) -> None:
        if number == errno.ENOBUFS:
            self.stack.driver.rest(self)  # no frames to receive into
            return
        queued = self.drain_errors()
        if self.remote is None:
            return  # unconnected endpoints are not told (RFC 1122 4.1.3.3; as Linux does)
        numbers = [n for n in queued if n != errno.EMSGSIZE]
        if number not in _TRANSIENT and number != errno.EMSGSIZE and not numbers:
            numbers = [number]
        for each in numbers[:1]:
            self.owner.on_error(from_errno(each, f"{self._peer_text()}: {_reason(each)}"))

    def send_as_socket(self, data: Data, addr: Address) -> None:
        """Send to an address that the native side does not know as one: as a socket would.

        May block for a name server, as ``socket.sendto`` does.  Raises: HybridnetError.
        TypeError: not an address.
        """
        plain = respell(addr, self.socket.family)
        if plain is not None:
            self.port.send(data, plain)
            return
        try:
            self.socket.sendto(data, addr)
        except socket.gaierror as error:
            raise from_errno(errno.EINVAL, f"{addr[0]}: {error.strerror}") from None
        except OSError as error:
            raise from_errno(error.errno or errno.EINVAL) from None

    def _peer_text(self) -> str:
        return f"{self.remote[0]} port {self.remote[1]}" if self.remote else "the peer"

    def drain_errors(self) -> list[int]:
        """Empty the kernel's error queue, learn path MTUs from it; returns the errnos."""
        numbers: list[int] = []
        for error in drain_errors(self.socket.fileno()):
            self.icmp_errors += error.from_network
            numbers.append(error.number)
            if error.path_mtu and error.destination is not None:
                self.stack.learn_path_mtu(error.destination, error.path_mtu)
        return numbers

    # Options that both paths share.

    def setsockopt(self, level: int, option: int, *value: object) -> None:
        """Set an option on the kernel socket and, where it matters, on the fast path."""
        self.socket.setsockopt(level, option, *value)  # type: ignore[call-overload]
        if self._udp is None:
            return
        if (level, option) == (socket.SOL_SOCKET, socket.SO_RCVBUF):
            limit = min(self.socket.getsockopt(level, option), self.stack.host.receive_bytes)
            lib.hn_udp_set_receive_limit(self._udp.native, max(limit, 4096))
        elif (level, option) in _HEADER_OPTIONS:
            self._apply_header()

    def _apply_header(self) -> None:
        """Let the fast path's headers be as the kernel socket's."""
        if self._udp is None:
            return
        get = self.socket.getsockopt
        ttl, tos = get(socket.IPPROTO_IP, socket.IP_TTL), get(socket.IPPROTO_IP, socket.IP_TOS)
        hops, traffic_class = ttl, tos
        if self.socket.family == socket.AF_INET6:
            hops = get(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            traffic_class = get(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        lib.hn_udp_set_header(
            self._udp.native, ttl, tos & 0xFF, hops & 0xFF, max(traffic_class, 0) & 0xFF
        )

    def statistics(self) -> ChannelStatistics:
        """Return the counters.  Raises: ChannelClosed."""
        if self._udp is None:
            raise ChannelClosed
        return ChannelStatistics(
            **self._udp.statistics(), icmp_errors=self.icmp_errors, tx_dropped=self.tx_dropped
        )

    def snapshot(self) -> dict[str, object]:
        """Return the counters as ``hybridnet stats`` shows them."""
        s = self.statistics()
        return {
            "protocol": "udp",
            "local": format_address(self.local),
            "remote": format_address(self.remote) if self.remote else None,
            "rx_datagrams": s.rx_fast_datagrams + s.rx_kernel_datagrams,
            "tx_datagrams": s.tx_fast_datagrams + s.tx_kernel_datagrams,
            "rx_kernel_datagrams": s.rx_kernel_datagrams,
            "tx_kernel_datagrams": s.tx_kernel_datagrams,
            "rx_queue": s.rx_queue_datagrams,
            "drops": s.rx_queue_full + s.rx_no_frames + s.rx_kernel_dropped + s.tx_dropped,
            "icmp_errors": s.icmp_errors,
        }


_HEADER_OPTIONS = frozenset(
    {
        (socket.IPPROTO_IP, socket.IP_TTL),
        (socket.IPPROTO_IP, socket.IP_TOS),
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    }
)


def _reason(number: int) -> str:
    if number == errno.ECONNREFUSED:
        return "nobody listens there (ICMP port unreachable)"
    return "an ICMP error says that it cannot be reached"


def _families(
    local: tuple[object, ...] | None, remote: tuple[object, ...] | None
) -> tuple[socket.AddressFamily, Address | None, Address | None]:
    """Resolve both addresses and see that they are of one family."""
    if local is None and remote is None:
        return socket.AF_INET, None, None
    found = [
        resolve(address, passive=passive) if address is not None else None
        for address, passive in ((local, True), (remote, False))
    ]
    families = {pair[0] for pair in found if pair is not None}
    if len(families) > 1:
        raise ValueError(f"{local} and {remote} are of different families")
    if found[1] is not None and found[1][1][1] == 0:
        raise ValueError("a remote address needs a port")
    return (
        families.pop(),
        found[0][1] if found[0] else None,
        found[1][1] if found[1] else None,
    )


__all__ = ["ChannelStatistics", "Endpoint", "Owner"]
