"""One table from errno to exception, and families that existing code catches."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle

import pytest

import hybridnet
from hybridnet import errors
from hybridnet.errors import HybridnetError, WouldBlock, from_errno

CLASSES = [
    member
    for _, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, HybridnetError)
]
NUMBERS = {
    errno.EAGAIN: hybridnet.WouldBlock,
    errno.EWOULDBLOCK: hybridnet.WouldBlock,
    errno.EADDRINUSE: hybridnet.AddressInUse,
    errno.EADDRNOTAVAIL: hybridnet.AddressNotAvailable,
    errno.ENODEV: hybridnet.InterfaceNotFound,
    errno.EBUSY: hybridnet.InterfaceBusy,
    errno.EPERM: hybridnet.PermissionMissing,
    errno.EACCES: hybridnet.PermissionMissing,
    errno.EOPNOTSUPP: hybridnet.Unsupported,
    errno.EMSGSIZE: hybridnet.MessageTooLarge,
    errno.ENETUNREACH: hybridnet.NetworkUnreachable,
    errno.EHOSTUNREACH: hybridnet.NetworkUnreachable,
    errno.ECONNREFUSED: hybridnet.PeerRefused,
    errno.EIO: hybridnet.HybridnetError,
}


@pytest.mark.parametrize(("number", "kind"), NUMBERS.items())
def test_errno_of_either_sign_becomes_its_exception(
    number: int, kind: type[HybridnetError]
) -> None:
    for sign in (1, -1):
        error = from_errno(sign * number)
        assert type(error) is kind
        assert error.errno == number
        assert error.strerror
    assert from_errno(number, "in my words").strerror == "in my words"


def test_existing_except_clauses_catch_what_is_meant() -> None:
    for number, builtin in (
        (errno.EAGAIN, BlockingIOError),
        (errno.EPERM, PermissionError),
        (errno.ECONNREFUSED, ConnectionRefusedError),
        (errno.EADDRINUSE, OSError),
    ):
        with pytest.raises(builtin):
            raise from_errno(number)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_exception_is_public_and_says_what_it_means(kind: type[HybridnetError]) -> None:
    assert getattr(hybridnet, kind.__name__) is kind
    assert kind.__name__ in hybridnet.__all__
    assert kind.__doc__


@pytest.mark.parametrize("kind", [k for k in CLASSES if "__init__" in vars(k)])
def test_exceptions_without_an_errno_to_give_have_one(kind: type[HybridnetError]) -> None:
    error = kind()  # type: ignore[call-arg]
    assert error.errno
    assert error.strerror
    assert kind("why").strerror == "why"  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", CLASSES)
def test_exception_survives_copying_and_pickling(kind: type[HybridnetError]) -> None:
    error = kind("why") if "__init__" in vars(kind) else kind(5, "why")  # type: ignore[call-arg]
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert (twin.errno, twin.strerror) == (error.errno, "why")
        assert str(twin) == str(error)


def test_would_block_is_not_mistaken_for_the_end() -> None:
    assert not issubclass(WouldBlock, ConnectionError)
