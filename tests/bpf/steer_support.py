"""What the steering tests need: frames, a typed face of the loader, and throw-away namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hybridnet
from hybridnet._native import ffi, lib

OBJECT = Path(hybridnet.__file__).parent / "xsk" / "steer.bpf.o"
PASS, REDIRECT = 2, 4
NATIVE, GENERIC = 1, 2
UDP, TCP, ICMP, ICMPV6 = 17, 6, 1, 58
AF_XDP = 44
CLONE_NEWNET = 0x40000000

_MESSAGE_BYTES = 512
_libc = ctypes.CDLL(None, use_errno=True)


class LoadError(Exception):
    """hn_program_open or hn_program_load refused."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.errno = number
        self.message = message


def address(ip: str, port: int = 0):
    """An ``hn_address *``."""
    parsed = ipaddress.ip_address(ip)
    made = ffi.new("struct hn_address *")
    ffi.memmove(made.ip, parsed.packed, len(parsed.packed))
    made.port = port
    made.family = parsed.version
    return made


class Steer:
    """One loaded program; attached when ``ifindex`` is given."""

    def __init__(
        self,
        *,
        mode: int = NATIVE,
        mtu: int = 1500,
        queues: int = 1,
        path: Path = OBJECT,
        ifindex: int | None = None,
    ) -> None:
        error = ffi.new("int *")
        message = ffi.new("char[]", _MESSAGE_BYTES)
        tail = (mode, mtu, queues, error, message, _MESSAGE_BYTES)
        if ifindex is None:
            self._program = lib.hn_program_load(bytes(path), *tail)
        else:
            self._program = lib.hn_program_open(bytes(path), ifindex, *tail)
        if self._program == ffi.NULL:
            raise LoadError(error[0], ffi.string(message).decode())

    def __enter__(self) -> Steer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        lib.hn_program_close(self._program)
        self._program = ffi.NULL

    def add(self, ip: str, port: int, protocol: int = UDP) -> int:
        return lib.hn_program_add_endpoint(self._program, protocol, address(ip, port))

    def remove(self, ip: str, port: int, protocol: int = UDP) -> int:
        return lib.hn_program_remove_endpoint(self._program, protocol, address(ip, port))

    def set_local(self, ip: str, present: bool = True) -> int:
        return lib.hn_program_set_local(self._program, address(ip), present)

    def set_mtu(self, mtu: int) -> int:
        return lib.hn_program_set_link(self._program, mtu, ffi.NULL)

    def set_mac(self, mac: bytes) -> int:
        return lib.hn_program_set_link(self._program, 1500, mac)

    def set_socket(self, queue: int, fd: int) -> int:
        return lib.hn_program_set_socket(self._program, queue, fd)

    def clear_socket(self, queue: int) -> int:
        return lib.hn_program_clear_socket(self._program, queue)

    def counters(self) -> dict[str, int]:
        """Only the reasons that occurred."""
        count = lib.hn_program_reason_count()
        packets = ffi.new("uint64_t[]", count)
        assert lib.hn_program_counters(self._program, packets, count) == 0
        names = [ffi.string(lib.hn_program_reason_name(i)).decode() for i in range(count)]
        return {name: n for name, n in zip(names, packets, strict=True) if n}

    def run(self, frame: bytes, repeat: int = 1) -> int:
        """The verdict."""
        verdict = ffi.new("uint32_t *")
        result = lib.hn_program_test_run(
            self._program, frame, len(frame), repeat, verdict, ffi.NULL
        )
        assert result == 0, os.strerror(-result)
        return verdict[0]

    def reason(self, frame: bytes) -> tuple[int, str]:
        """The verdict and the one reason that was counted for this frame."""
        before = self.counters()
        verdict = self.run(frame)
        after = self.counters()
        counted = {k: n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)}
        assert list(counted.values()) == [1], counted
        return verdict, next(iter(counted))


# ---- Frames ----


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(
    payload: bytes,
    kind: int | None = None,
    *,
    tags: tuple[tuple[int, int], ...] = (),
    destination: str = "020000000002",
) -> bytes:
    """``kind`` defaults to what the payload's version nibble says; tags are (TPID, TCI)."""
    if kind is None:
        kind = 0x86DD if payload[0] >> 4 == 6 else 0x0800
    head = bytes.fromhex(destination) + bytes.fromhex("020000000001")
    for tpid, control in tags:
        head += struct.pack("!HH", tpid, control)
    return head + struct.pack("!H", kind) + payload


def ipv4(
    payload: bytes,
    protocol: int = UDP,
    *,
    source: str = "10.0.0.1",
    destination: str = "10.0.0.2",
    options: bytes = b"",
    fragment: int = 0,
    total: int | None = None,
    version: int = 4,
    ihl: int | None = None,
) -> bytes:
    words = 5 + len(options) // 4 if ihl is None else ihl
    length = 20 + len(options) + len(payload) if total is None else total
    head = struct.pack("!BBHHHBBH", version << 4 | words, 0, length, 1, fragment, 64, protocol, 0)
    head += ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    check = ~checksum(head + options) & 0xFFFF
    return head[:10] + struct.pack("!H", check) + head[12:] + options + payload


def ipv6(
    payload: bytes,
    protocol: int = UDP,
    *,
    source: str = "fd00::1",
    destination: str = "fd00::2",
    extensions: tuple[tuple[int, bytes], ...] = (),
    length: int | None = None,
    version: int = 6,
) -> bytes:
    """Each extension is (its type, its bytes from the length byte on)."""
    kinds = [kind for kind, _ in extensions] + [protocol]
    followed = zip(kinds[1:], extensions, strict=True)
    chain = b"".join(bytes([following]) + rest for following, (_, rest) in followed)
    size = len(chain) + len(payload) if length is None else length
    head = struct.pack("!IHBB", version << 28, size, kinds[0], 64)
    head += ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return head + chain + payload


def udp(
    payload: bytes = b"x" * 20,
    *,
    port: int = 9000,
    source_port: int = 5000,
    length: int | None = None,
    check: int = 0,
) -> bytes:
    size = 8 + len(payload) if length is None else length
    return struct.pack("!HHHH", source_port, port, size, check) + payload


def tcp(payload: bytes = b"", *, port: int = 8000, words: int = 5) -> bytes:
    return struct.pack("!HHIIBBHHH", 5000, port, 1, 1, words << 4, 0x18, 65535, 0, 0) + payload


def icmp(kind: int, quoted: bytes, code: int = 3) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, 0) + quoted


def pseudo_sum(source: str, destination: str, length: int, protocol: int = UDP) -> int:
    """What a sender leaves in the checksum field when it defers the checksum."""
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return checksum(packed + struct.pack("!II", length, protocol))


# ---- Sockets and namespaces ----


@contextlib.contextmanager
def xdp_socket() -> Iterator[int]:
    """The descriptor of an AF_XDP socket; good enough for an XSKMAP without being bound."""
    with socket.socket(AF_XDP, socket.SOCK_RAW, 0) as made:
        yield made.fileno()


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """A network namespace without a name: it goes with its last descriptor, socket or device,
    so a killed test leaves nothing behind."""

    def __init__(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _enter(home)
        finally:
            os.close(home)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and the processes it starts, are inside."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self.fd)
            yield
        finally:
            _enter(home)
            os.close(home)

    def ip(self, command: str) -> str:
        with self.entered():
            done = subprocess.run(
                ["ip", *command.split()], capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, f"ip {command}: {done.stderr}"
        return done.stdout

    def index(self, name: str) -> int:
        with self.entered():
            return socket.if_nametoindex(name)

    def close(self) -> None:
        os.close(self.fd)


@contextlib.contextmanager
def veth_pair(
    *, rx_queues: int = 1, peer_tx_queues: int = 1, mtu: int = 1500
) -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts: va 10.88.0.1 in the first, vb 10.88.0.2 (the one to attach to) in the second."""
    a, b = Namespace(), Namespace()
    try:
        a.ip(
            f"link add va mtu {mtu} numtxqueues {peer_tx_queues} type veth "
            f"peer name vb mtu {mtu} numrxqueues {rx_queues} netns {b.path}"
        )
        for host, name, last in ((a, "va", 1), (b, "vb", 2)):
            host.ip(f"addr add 10.88.0.{last}/24 dev {name}")
            host.ip(f"addr add fd88::{last}/64 dev {name} nodad")
            host.ip("link set lo up")
            host.ip(f"link set {name} up")
        yield a, b
    finally:
        with contextlib.suppress(AssertionError):
            a.ip("link del va")
        a.close()
        b.close()
