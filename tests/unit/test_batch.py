"""Batches: made by hand, and received by a stack that has nothing but the kernel path."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy
import pytest
import pytest_asyncio

import hybridnet
from hybridnet import DatagramBatch, LeaseReleased, Stack, UdpChannel
from hybridnet.channels.batch import DESCRIPTOR_BYTES

# Made by hand.


def test_made_batch_reads_as_it_was_written() -> None:
    datagrams: list[tuple[Any, Any]] = [
        (b"one", ("10.0.0.1", 1)),
        (bytearray(b"two"), ("fe80::1%eth0", 2, 0, 9)),
        (memoryview(b"-three-")[1:-1], ("::ffff:10.0.0.3", 3, 0, 0)),
        (b"", ("::1", 65535)),
    ]
    batch = DatagramBatch.of(datagrams)
    assert len(batch) == 4
    assert not batch.is_leased
    assert [(bytes(data), address) for data, address in batch] == [
        (b"one", ("10.0.0.1", 1)),
        (b"two", ("fe80::1", 2, 0, 9)),
        (b"three", ("10.0.0.3", 3)),
        (b"", ("::1", 65535, 0, 0)),
    ]
    assert bytes(batch.payloads) == b"onetwothree"
    assert bytes(batch.payload(-2)) == b"three"
    assert batch.address(-4) == ("10.0.0.1", 1)
    batch.release()  # nothing to give back
    assert bytes(batch.payload(0)) == b"one"


def test_empty_batch_is_one() -> None:
    batch = DatagramBatch.of([])
    assert len(batch) == 0
    assert list(batch) == []
    for read in (batch.payload, batch.address):
        with pytest.raises(IndexError):
            read(0)


@pytest.mark.parametrize("index", [3, -4, 1000])
def test_index_beyond_the_batch_is_an_index_error(index: int) -> None:
    batch = DatagramBatch.of([(b"x", ("10.0.0.1", 1))] * 3)
    for read in (batch.payload, batch.address):
        with pytest.raises(IndexError):
            read(index)


@pytest.mark.parametrize(
    "address", [("name", 1), ("10.0.0.300", 1), ("10.0.0.1", 65536), ("10.0.0.1", -1)], ids=repr
)
def test_address_that_is_none_is_refused(address: tuple[str, int]) -> None:
    with pytest.raises((OSError, ValueError, struct.error)):
        DatagramBatch.of([(b"x", address)])


def test_descriptors_are_a_numpy_table_without_a_copy() -> None:
    batch = DatagramBatch.of([(b"abc", ("10.0.0.1", 7)), (b"de", ("fd00::1", 8, 0, 0))])
    assert batch.descriptors.readonly
    table = numpy.frombuffer(batch.descriptors, hybridnet.DATAGRAM_FIELDS)
    assert table.dtype.itemsize == DESCRIPTOR_BYTES == 40
    assert table["offset"].tolist() == [0, 3]
    assert table["length"].tolist() == [3, 2]
    assert table["port"].tolist() == [7, 8]
    assert table["family"].tolist() == [4, 6]
    assert table["ip"][0].tolist() == [10, 0, 0, 1] + [0] * 12
    with pytest.raises(ValueError, match="read-only"):
        table["port"][0] = 9


def test_payloads_of_a_copied_batch_are_read_only() -> None:
    batch = DatagramBatch.of([(b"abc", ("10.0.0.1", 7))])
    with pytest.raises(TypeError):
        batch.payload(0)[0] = 1


# Received.


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    async with hybridnet.open_stack(mode="kernel", statistics_socket=False) as made:
        yield made


async def pair(stack: Stack, host: str = "127.0.0.1") -> tuple[UdpChannel, UdpChannel]:
    server = await stack.open_udp((host, 0))
    return server, await stack.open_udp((host, 0), remote=server.local_address[:2])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_batch_by_the_kernel_path_is_whole_and_stamped(stack: Stack, host: str) -> None:
    server, client = await pair(stack, host)
    before = time.monotonic_ns()
    sent = [random.Random(size).randbytes(size) for size in (0, 1, 1791, 1792, 1793, 4000, 60000)]
    assert client.send_batch([(data, None) for data in sent]) == len(sent)
    got: list[bytes] = []
    while len(got) < len(sent):
        batch = await server.recv_batch()
        table = numpy.frombuffer(batch.descriptors, hybridnet.DATAGRAM_FIELDS)
        assert (table["arrival_ns"] >= before).all()
        assert (table["arrival_ns"] <= time.monotonic_ns()).all()
        got += [bytes(payload) for payload, _ in batch]
        assert {batch.address(i) for i in range(len(batch))} == {client.local_address}
    assert got == sent


async def test_lease_by_the_kernel_path_is_echoed_and_released(stack: Stack) -> None:
    server, client = await pair(stack)
    for data in (b"hello", b"world", bytes(5000)):
        client.sendto(data)
    seen = 0
    while seen < 3:
        with await server.recv_batch(lease=True) as batch:
            assert batch.is_leased
            with pytest.raises(ValueError, match="no common buffer"):
                _ = batch.payloads
            seen += len(batch)
            assert server.send_batch(batch) == len(batch)
        assert not batch.is_leased
        with pytest.raises(LeaseReleased):
            batch.payload(0)
        with pytest.raises(LeaseReleased):
            server.send_batch(batch)
    assert [(await client.recvfrom())[0] for _ in range(3)] == [b"hello", b"world", bytes(5000)]


async def test_view_that_lives_holds_the_release_up(stack: Stack) -> None:
    server, client = await pair(stack)
    client.sendto(b"hello")
    batch = await server.recv_batch(lease=True)
    view = batch.payload(0)
    numbers = numpy.frombuffer(view, numpy.uint8)
    with pytest.raises(BufferError):
        batch.release()
    view.release()
    with pytest.raises(BufferError):
        batch.release()
    assert bytes(numbers) == b"hello"
    del numbers
    batch.release()


async def test_lease_outlives_its_stack() -> None:
    async with hybridnet.open_stack(mode="kernel", statistics_socket=False) as stack:
        server, client = await pair(stack)
        client.sendto(b"hello")
        batch = await server.recv_batch(lease=True)
    assert bytes(batch.payload(0)) == b"hello"
    batch.release()


async def test_address_of_another_family_is_never_sent_somewhere_else(stack: Stack) -> None:
    server, _ = await pair(stack)
    with pytest.raises(OSError, match=r"[Aa]ddress family"):
        server.send_batch([(b"x", ("fd00::1", 9, 0, 0))])
    assert server.statistics().tx_kernel_datagrams == 0
