"""Write the seeds of the fuzz targets that are made of frames.

    python tests/fuzz/make_corpus.py

The same bytes every time, so that git shows what a change of this file changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from support import packets as p  # noqa: E402

V4 = (("10.0.0.2", 9000), ("10.0.0.1", 9000))
V6 = (("fd00::2", 9000), ("fd00::1", 9000))
LOCAL = (("fe80::2", 9000), ("fe80::1", 9000))


def frames() -> Iterator[tuple[str, bytes]]:
    """Yield frames by name: each way through the input path once, good and bad."""
    for name, (src, dst) in {"v4": V4, "v6": V6, "local": LOCAL}.items():
        yield f"{name}_echo", p.udp(b"hello", src, dst)
        yield f"{name}_empty", p.udp(b"", src, dst)
        yield f"{name}_padded", p.udp(b"x", src, dst, padding=17)
        yield f"{name}_vlan", p.udp(b"tagged", src, dst, vlans=(5, 6))
        yield f"{name}_no_sum", p.udp(b"hello", src, dst, sum_=0)
        partial = p.partial_sum(b"hello", src, dst)
        yield f"{name}_partial", p.udp(b"hello", src, dst, sum_=partial)
        yield f"{name}_short", p.udp(b"hello world", src, dst, length=12)
        yield f"{name}_chain", p.udp(bytes(range(256)) * 20, src, dst)
        yield f"{name}_far", p.udp(b"far", ("8.8.8.8" if name == "v4" else "2001:db8::8", 53), dst)
    datagram = p.udp_datagram(b"hello", *V4)
    source, destination = V4[0][0], V4[1][0]
    for name, packet in {
        "options": p.ipv4(datagram, source, destination, options=b"\x01" * 40),
        "fragment": p.ipv4(datagram, source, destination, fragment=0x2000),
        "tcp": p.ipv4(datagram, source, destination, protocol=p.TCP),
        "loopback_source": p.ipv4(datagram, "127.0.0.1", destination),
    }.items():
        yield f"v4_{name}", p.ethernet(packet, p.IPV4)
    source, destination = V6[0][0], V6[1][0]
    datagram = p.udp_datagram(b"hello", *V6)
    for kinds in ((0,), (60,), (43,), (44,), (59,), (0, 60, 43, 60), (60,) * 8, (60,) * 9):
        following, payload = p.extensions(kinds, datagram)
        packet = p.ipv6(payload, source, destination, next_header=following)
        name = "_".join(map(str, kinds)) if len(kinds) < 5 else f"{len(kinds)}_headers"
        yield f"v6_extension_{name}", p.ethernet(packet, p.IPV6)
    yield "arp", p.ethernet(b"\0\1\x08\0\6\4\0\1" + b"\0" * 20, p.ARP)


def entry(switches: int, *parts: bytes) -> bytes:
    """An input of fuzz_frame.c: it reads a length modulo what is left, plus one."""
    joined = b"".join((len(part) - 1).to_bytes(2, "big") + part for part in parts)
    return bytes([switches]) + joined


def main() -> None:
    directory = HERE / "corpus" / "frame"
    directory.mkdir(parents=True, exist_ok=True)
    everything = dict(frames())
    for number, (name, frame) in enumerate(everything.items()):
        (directory / name).write_bytes(entry(number * 37 % 128, frame))
    small = [frame for frame in everything.values() if len(frame) < 200]
    for name, switches in {"resolved": 2, "unresolved": 0, "tight": 1 | 2 | 4 | 8 | 16}.items():
        (directory / f"burst_{name}").write_bytes(entry(switches, *small, *small[:8] * 4))


if __name__ == "__main__":
    main()
