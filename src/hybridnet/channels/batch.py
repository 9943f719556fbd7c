"""Bursts of datagrams: one buffer of payloads, one table of descriptors."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from hybridnet._native import Lease
from hybridnet.addresses import Address
from hybridnet.errors import LeaseReleased

_DESCRIPTOR = struct.Struct("=II16sIHBBQ")
DESCRIPTOR_BYTES = _DESCRIPTOR.size
_MAPPED = bytes(10) + b"\xff\xff"

DATAGRAM_FIELDS: list[tuple[Any, ...]] = [
    ("offset", "<u4"),
    ("length", "<u4"),
    ("ip", "u1", (16,)),
    ("scope_id", "<u4"),
    ("port", "<u2"),
    ("family", "u1"),
    ("reserved", "u1"),
    ("arrival_ns", "<u8"),
]
"""The descriptor's fields, for ``numpy.dtype(hybridnet.DATAGRAM_FIELDS)``: ``offset`` and
``length`` of the payload in bytes, the peer's address (IPv4 in the first four bytes of ``ip``,
``family`` 4 or 6, ``port`` in host order), ``arrival_ns`` on the monotonic clock."""


def _peer(ip: bytes, scope_id: int, port: int, family: int) -> Address:
    if family == 4:
        return (socket.inet_ntop(socket.AF_INET, ip[:4]), port)
    return (socket.inet_ntop(socket.AF_INET6, ip), port, 0, scope_id)


def _pack(offset: int, length: int, address: Address | None) -> bytes:
    if address is None:
        return _DESCRIPTOR.pack(offset, length, bytes(16), 0, 0, 0, 0, 0)
    host = address[0].partition("%")[0]
    scope = address[3] if len(address) > 3 else 0
    if ":" not in host:
        ip, family = socket.inet_pton(socket.AF_INET, host), 4
    else:
        ip, family = socket.inet_pton(socket.AF_INET6, host), 6
        if ip.startswith(_MAPPED):
            ip, family = ip[12:], 4
    return _DESCRIPTOR.pack(offset, length, ip.ljust(16, b"\0"), scope, address[1], family, 0, 0)


class DatagramBatch:
    """A burst of datagrams, received or to be sent.

    ``len(batch)`` datagrams; iterating yields ``(payload, address)`` with payloads as
    memoryviews.  ``descriptors`` is a memoryview of the table (see :data:`DATAGRAM_FIELDS`), to be
    read as it is or as ``numpy.frombuffer(batch.descriptors, DATAGRAM_FIELDS)``.

    A copied batch is immutable and lives as long as it is referenced.  A leased one borrows the
    stack's frames: its payload views are writable, and it must be released (or used as a context
    manager) soon, because frames that are lent cannot receive.  After the release every use
    raises :class:`LeaseReleased`; releasing while views are alive raises ``BufferError``.
    """

    __slots__ = ("_lease", "_payloads", "_table")

    def __init__(self, payloads: bytes, table: bytes | None, lease: Lease | None = None) -> None:
        self._payloads = payloads
        self._table = table  # of a lease: None until somebody looks
        self._lease = lease

    @classmethod
    def of(cls, datagrams: Iterable[tuple[Any, Address | None]]) -> DatagramBatch:
        """Make a batch to send from ``(data, address)`` pairs; None: to the connected peer.

        Copies.  Raises: OSError: an address is not numeric.
        """
        parts: list[bytes] = []
        table: list[bytes] = []
        offset = 0
        for data, address in datagrams:
            part = bytes(data)
            table.append(_pack(offset, len(part), address))
            parts.append(part)
            offset += len(part)
        return cls(b"".join(parts), b"".join(table))

    def __len__(self) -> int:
        if self._lease is not None:
            return len(self._lease)
        return len(self._descriptors()) // DESCRIPTOR_BYTES

    def _descriptors(self) -> bytes:
        if self._table is None:
            self._table = self._lease.descriptors() if self._lease is not None else b""
        return self._table

    @property
    def is_leased(self) -> bool:
        """True while the batch holds frames of the stack."""
        return self._lease is not None and not self._lease.released

    @property
    def descriptors(self) -> memoryview:
        """The table, 40 bytes a datagram, read-only."""
        self._check()
        return memoryview(self._descriptors())

    @property
    def payloads(self) -> memoryview:
        """All payloads one after the other, read-only; copied batches only."""
        if self._lease is not None:
            raise ValueError("a leased batch has no common buffer; use payload(i)")
        return memoryview(self._payloads)

    def payload(self, index: int) -> memoryview:
        """Return the payload of one datagram, 0 to 65,527 bytes, without copying it.

        Raises: LeaseReleased: after release, or when it was sent on.  IndexError.
        """
        if index < 0:
            index += len(self)
        if self._lease is not None:
            try:
                return self._lease.view(index)
            except OSError:
                raise LeaseReleased from None
        if not 0 <= index < len(self):
            raise IndexError("no such datagram in this batch")
        offset, length = struct.unpack_from("=II", self._descriptors(), index * DESCRIPTOR_BYTES)
        return memoryview(self._payloads)[offset : offset + length]

    def address(self, index: int) -> Address:
        """Return the peer of one datagram; IPv4 as ``(host, port)`` on any channel."""
        self._check()
        if not -len(self) <= index < len(self):
            raise IndexError("no such datagram in this batch")
        position = (index % len(self)) * DESCRIPTOR_BYTES
        _, _, ip, scope, port, family, _, _ = _DESCRIPTOR.unpack_from(self._descriptors(), position)
        if family == 0 and self._lease is not None:
            raise LeaseReleased("the datagram was sent on")
        return _peer(ip, scope, port, family)

    def __iter__(self) -> Iterator[tuple[memoryview, Address]]:
        for index in range(len(self)):
            yield self.payload(index), self.address(index)

    def release(self) -> None:
        """Give leased frames back; does nothing for a copied batch, idempotent.

        Raises: BufferError: views of payloads are still alive.
        """
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> DatagramBatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _check(self) -> None:
        if self._lease is not None and self._lease.released:
            raise LeaseReleased

    def native(self) -> tuple[bytes | Lease, bytes]:
        """What Port.send_batch takes."""
        self._check()
        if self._lease is not None:
            return self._lease, b""
        return self._payloads, self._descriptors()
