"""Every exception of the package, and the one table from errno to exception.

All inherit from ``HybridnetError``, which is an ``OSError``; concrete types also inherit the
builtin that existing code catches (``except ConnectionRefusedError`` keeps working).
Misuse by the caller is ``ValueError``, ``TypeError`` or ``RuntimeError``, not one of these.
"""

from __future__ import annotations

import errno
import os


class HybridnetError(OSError):
    """Base of all operating errors; ``errno`` and ``strerror`` are always set."""

    def __reduce__(self) -> tuple[object, ...]:
        # Copies and pickles must not go through constructors of different signatures.
        return _rebuild, (type(self), self.errno, self.strerror)


def _rebuild(kind: type[HybridnetError], number: int, text: str) -> HybridnetError:
    error = kind.__new__(kind, number, text)
    OSError.__init__(error, number, text)
    return error


class ChannelClosed(HybridnetError):
    """This end was closed, by the caller or with its stack (EBADF)."""

    def __init__(self, message: str = "the channel is closed") -> None:
        super().__init__(errno.EBADF, message)


class ChannelBusy(HybridnetError):
    """A second task wants to read while one is already waiting (EBUSY)."""

    def __init__(self, message: str = "another task is already receiving on this channel") -> None:
        super().__init__(errno.EBUSY, message)


class WouldBlock(HybridnetError, BlockingIOError):
    """Nothing to receive, or no room to send, right now (EAGAIN)."""

    def __init__(self, message: str = "the operation would block") -> None:
        super().__init__(errno.EAGAIN, message)


class LeaseReleased(HybridnetError):
    """A leased batch was used after ``release()`` (EFAULT)."""

    def __init__(self, message: str = "the lease was released") -> None:
        super().__init__(errno.EFAULT, message)


class AddressInUse(HybridnetError):
    """The local address is taken, by a channel or by a kernel socket (EADDRINUSE)."""


class AddressNotAvailable(HybridnetError):
    """The local address is not one of this machine (EADDRNOTAVAIL)."""


class InterfaceNotFound(HybridnetError):
    """There is no interface of that name in this network namespace (ENODEV)."""


class InterfaceBusy(HybridnetError):
    """Another XDP program or AF_XDP socket holds the interface or its queue (EBUSY)."""


class PermissionMissing(HybridnetError, PermissionError):
    """A capability is missing; the message names it (EPERM)."""


class Unsupported(HybridnetError):
    """The kernel or the driver cannot do it; the message says what would (EOPNOTSUPP)."""


class MessageTooLarge(HybridnetError):
    """The datagram does not fit (EMSGSIZE)."""


class NetworkUnreachable(HybridnetError):
    """No route, or a route that refuses (ENETUNREACH, EHOSTUNREACH)."""


class PeerRefused(HybridnetError, ConnectionRefusedError):
    """The peer answered that nobody listens there (ECONNREFUSED)."""


_BY_ERRNO: dict[int, type[HybridnetError]] = {
    errno.EADDRINUSE: AddressInUse,
    errno.EADDRNOTAVAIL: AddressNotAvailable,
    errno.ENODEV: InterfaceNotFound,
    errno.EBUSY: InterfaceBusy,
    errno.EPERM: PermissionMissing,
    errno.EACCES: PermissionMissing,
    errno.EOPNOTSUPP: Unsupported,
    errno.EMSGSIZE: MessageTooLarge,
    errno.ENETUNREACH: NetworkUnreachable,
    errno.EHOSTUNREACH: NetworkUnreachable,
    errno.ECONNREFUSED: PeerRefused,
}


def from_errno(number: int, message: str | None = None) -> HybridnetError:
    """Return (not raise) the exception for an errno, positive or negative."""
    number = abs(number)
    text = message if message is not None else os.strerror(number)
    if number == errno.EAGAIN:
        return WouldBlock(text)
    return _BY_ERRNO.get(number, HybridnetError)(number, text)
