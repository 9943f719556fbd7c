"""Addresses between the socket module's tuples and the stack's own form."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridnet import format_address, host_and_port
from hybridnet.addresses import check, from_native, is_wildcard, native_ip, resolve, to_native
from hybridnet.errors import AddressInUse

PORTS = st.integers(0, 65535)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None)


@given(IPV4, PORTS)
def test_ipv4_comes_back_as_it_was(host: str, port: int) -> None:
    assert from_native(to_native((host, port))) == (host, port)


@given(IPV6, PORTS, st.integers(0, 2**32 - 1))
def test_ipv6_comes_back_as_it_was(host: Any, port: int, scope: int) -> None:
    text = socket.inet_ntop(socket.AF_INET6, host.packed)
    assert from_native(to_native((text, port, 0, scope))) == (text, port, 0, scope)
    assert from_native(to_native((text, port))) == (text, port, 0, 0)


@given(IPV4, PORTS)
def test_mapped_ipv4_becomes_ipv4(host: str, port: int) -> None:
    assert from_native(to_native((f"::ffff:{host}", port, 0, 0))) == (host, port)


def test_interface_behind_a_link_local_address_is_no_part_of_it() -> None:
    native = to_native(("fe80::1%lo", 5, 0, 3))
    assert from_native(native) == ("fe80::1", 5, 0, 3)


def test_packed_address_has_no_port() -> None:
    assert from_native(native_ip(4, bytes([10, 0, 0, 1]))) == ("10.0.0.1", 0)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("10.0.0.1", 5), ("10.0.0.1", 5)),
        (("127.1", 5), ("127.0.0.1", 5)),
        (("::1", 5), ("::1", 5, 0, 0)),
        (("0:0::1", 5), ("::1", 5, 0, 0)),
        (("::1", 5, 0, 0), ("::1", 5, 0, 0)),
        (("fe80::1%lo", 5), ("fe80::1", 5, 0, socket.if_nametoindex("lo"))),
        (("fe80::1", 5, 0, 1), ("fe80::1", 5, 0, 1)),
        ((None, 5), ("0.0.0.0", 5)),
        (("", 0), ("0.0.0.0", 0)),
    ],
)
def test_numeric_address_is_completed(address: tuple[Any, ...], expected: object) -> None:
    family, full = resolve(address, passive=True)
    assert full == expected
    assert family == (socket.AF_INET6 if len(full) == 4 else socket.AF_INET)


def test_no_host_means_this_machine_for_a_remote_address() -> None:
    assert resolve((None, 5), passive=False)[1] == ("127.0.0.1", 5)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:5", ["10.0.0.1", 5], ("10.0.0.1",), (), (5, "10.0.0.1"), ("10.0.0.1", "5"), None],
    ids=repr,
)
def test_what_is_no_address_tuple_is_a_type_error(address: Any) -> None:
    with pytest.raises(TypeError, match="an address is a tuple"):
        resolve(address, passive=True)


@pytest.mark.parametrize("port", [-1, 65536, 2**40])
def test_port_out_of_range_is_a_value_error(port: int) -> None:
    with pytest.raises(ValueError, match=str(port)):
        resolve(("10.0.0.1", port), passive=True)


@pytest.mark.parametrize("host", ["localhost", "example.invalid", "10.0.0.256", "::g", "1:2"])
def test_name_is_a_value_error_that_says_what_to_do(host: str) -> None:
    with pytest.raises(ValueError, match="resolve names first"):
        resolve((host, 5), passive=True)


@given(st.one_of(IPV4, IPV6.map(str)), PORTS)
def test_text_form_is_read_back(host: str, port: int) -> None:
    assert host_and_port(format_address((host, port))) == (host, port)


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.1:", "[::1]", "x:65536", "x:-1", "x:y"])
def test_text_without_a_port_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        host_and_port(text)


def test_wildcards_are_known() -> None:
    assert is_wildcard(("0.0.0.0", 5))
    assert is_wildcard(("::", 5, 0, 0))
    assert not is_wildcard(("127.0.0.1", 5))


def test_native_results_become_exceptions() -> None:
    assert check(5) == 5
    with pytest.raises(AddressInUse, match="taken"):
        check(-98, "taken")
