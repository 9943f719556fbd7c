"""The in-memory wire, for tests, simulations and machines without a network."""

from __future__ import annotations

from hybridnet._native import ffi, lib
from hybridnet.addresses import check
from hybridnet.stack.core import Core

_FRAME_BYTES_MAX = 65_550


class Wire:
    """A device of one queue whose other end is this object.

    ``is_virtual`` tells the stack that checksums may be left to a NIC that is not there.
    """

    def __init__(
        self,
        core: Core,
        *,
        ifindex: int = 1,
        mtu: int = 1500,
        mac: bytes = b"\x02\x00\x00\x00\x00\x01",
        is_virtual: bool = False,
    ) -> None:
        self._native = lib.hn_wire_create(core.native, ifindex, mtu, mac, is_virtual)
        if self._native == ffi.NULL:
            raise MemoryError("no memory for a wire")
        self.index = core.add_device(self._native)
        self._buffer = ffi.new("uint8_t[]", _FRAME_BYTES_MAX)

    def push(self, frame: bytes) -> None:
        """Put one frame (Ethernet header first, 1 to 65,550 bytes) on the wire.

        Raises: HybridnetError (ENOBUFS): 1024 frames wait already, or the pool is empty.
        """
        check(lib.hn_wire_push(self._native, frame, len(frame)))

    def pull(self) -> bytes | None:
        """Take the oldest frame that the stack has sent; None: there is none."""
        length = check(lib.hn_wire_pull(self._native, self._buffer, _FRAME_BYTES_MAX))
        return bytes(ffi.buffer(self._buffer, length)) if length else None

    def set_room(self, frames: int) -> None:
        """Let the stack send only so many frames until some are pulled (at most 1024)."""
        lib.hn_wire_set_room(self._native, frames)
