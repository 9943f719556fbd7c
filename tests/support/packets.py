"""Frames for tests: builders that make good ones, knobs that make them bad, and checkers.

    frame = udp(b"hello", src=("10.0.0.2", 7), dst=("10.0.0.1", 9000))
    assert_udp(wire.pull(), payload=b"HELLO", dst=("10.0.0.2", 7))

Builders return whole Ethernet frames.  Checkers parse everything that they are not asked about
too: lengths and checksums of a frame that passes are right.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

HOST_MAC = b"\x02\x00\x00\x00\x00\x01"
PEER_MAC = b"\x02\x00\x00\x00\x00\x02"

Endpoint = tuple[str, int]

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
UDP, TCP, ICMP = 17, 6, 1
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS, NO_NEXT_HEADER = 0, 43, 44, 60, 59


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``data``: 0 over what includes a right one."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(src: str, dst: str, length: int, protocol: int = UDP) -> bytes:
    """What UDP and TCP sum besides themselves (RFC 768, RFC 8200 8.1)."""
    source, destination = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    if source.version == 4:
        return source.packed + destination.packed + struct.pack("!BBH", 0, protocol, length)
    return source.packed + destination.packed + struct.pack("!IHBB", length, 0, 0, protocol)


def ethernet(
    packet: bytes,
    ethertype: int,
    *,
    src: bytes = PEER_MAC,
    dst: bytes = HOST_MAC,
    vlans: tuple[int, ...] = (),
    padding: int = 0,
) -> bytes:
    """An Ethernet frame; ``vlans`` from the outermost, ``padding`` bytes behind the packet."""
    tags = b"".join(struct.pack("!HH", 0x8100, vlan) for vlan in vlans)
    return dst + src + tags + struct.pack("!H", ethertype) + packet + b"\xaa" * padding


def udp_datagram(
    payload: bytes,
    src: Endpoint,
    dst: Endpoint,
    *,
    length: int | None = None,
    sum_: int | None = None,
) -> bytes:
    """Header and payload; ``length`` and ``sum_`` override what would be right."""
    real = 8 + len(payload)
    claimed = real if length is None else length
    header = struct.pack("!HHHH", src[1], dst[1], claimed, 0)
    right = checksum(pseudo_header(src[0], dst[0], claimed) + header + payload) or 0xFFFF
    return header[:6] + struct.pack("!H", right if sum_ is None else sum_) + payload


def partial_sum(payload: bytes, src: Endpoint, dst: Endpoint) -> int:
    """The checksum field of a datagram whose sum is left to a NIC (CHECKSUM_PARTIAL)."""
    return ~checksum(pseudo_header(src[0], dst[0], 8 + len(payload))) & 0xFFFF


def ipv4(
    payload: bytes,
    src: str,
    dst: str,
    *,
    protocol: int = UDP,
    options: bytes = b"",
    ttl: int = 64,
    tos: int = 0,
    fragment: int = 0x4000,
    version: int = 4,
    header_words: int | None = None,
    total: int | None = None,
    sum_: int | None = None,
) -> bytes:
    """An IPv4 packet; ``fragment`` is the field of flags and offset, ``options`` n*4 bytes."""
    words = (20 + len(options)) // 4
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | (words if header_words is None else header_words),
        tos,
        20 + len(options) + len(payload) if total is None else total,
        1,
        fragment,
        ttl,
        protocol,
        0,
        ipaddress.IPv4Address(src).packed,
        ipaddress.IPv4Address(dst).packed,
    )
    right = checksum(header + options)
    sealed = header[:10] + struct.pack("!H", right if sum_ is None else sum_) + header[12:]
    return sealed + options + payload


def ipv6(
    payload: bytes,
    src: str,
    dst: str,
    *,
    next_header: int = UDP,
    hop_limit: int = 64,
    traffic_class: int = 0,
    version: int = 6,
    length: int | None = None,
) -> bytes:
    """An IPv6 packet; extension headers are part of ``payload``, see :func:`extensions`."""
    first = version << 28 | traffic_class << 20
    header = struct.pack(
        "!IHBB", first, len(payload) if length is None else length, next_header, hop_limit
    )
    return header + ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + payload


def extensions(kinds: tuple[int, ...], upper: bytes, protocol: int = UDP) -> tuple[int, bytes]:
    """Put 8-byte extension headers in front of ``upper``: (first next-header, bytes)."""
    packet = b""
    following = (*kinds[1:], protocol)
    for kind, following_kind in zip(kinds, following, strict=True):
        if kind in (HOP_BY_HOP, DESTINATION_OPTIONS):
            body = b"\x01\x04\0\0\0\0"  # PadN
        else:
            body = b"\0" * 6  # routing: no segments left; fragment: the only one
        packet += bytes([following_kind, 0]) + body
    return (*kinds, protocol)[0], packet + upper


def udp(
    payload: bytes,
    src: Endpoint,
    dst: Endpoint,
    *,
    sum_: int | None = None,
    length: int | None = None,
    padding: int = 0,
    vlans: tuple[int, ...] = (),
) -> bytes:
    """A frame with one UDP datagram, over the IP version of its addresses."""
    datagram = udp_datagram(payload, src, dst, sum_=sum_, length=length)
    if ":" in src[0]:
        packet, ethertype = ipv6(datagram, src[0], dst[0]), IPV6
    else:
        packet, ethertype = ipv4(datagram, src[0], dst[0]), IPV4
    return ethernet(packet, ethertype, padding=padding, vlans=vlans)


@dataclass(slots=True, frozen=True, kw_only=True)
class Parsed:
    """What :func:`assert_udp` found in a frame."""

    src_mac: bytes
    dst_mac: bytes
    src: Endpoint
    dst: Endpoint
    ttl: int
    tos: int
    dont_fragment: bool
    payload: bytes


def parse_udp(frame: bytes | None) -> Parsed:
    """Take a frame apart; every length and checksum in it must be right, to the byte."""
    assert frame is not None, "there is no frame"
    assert len(frame) >= 14, "no Ethernet header"
    ethertype = int.from_bytes(frame[12:14], "big")
    packet = frame[14:]
    if ethertype == IPV4:
        assert packet[0] == 0x45, f"version and header length are {packet[0]:#x}"
        assert checksum(packet[:20]) == 0, "IPv4 header checksum is wrong"
        assert int.from_bytes(packet[2:4], "big") == len(packet), "IPv4 total length is wrong"
        fragment = int.from_bytes(packet[6:8], "big")
        assert fragment & 0x3FFF == 0, "a fragment"
        protocol, ttl, tos, rest = packet[9], packet[8], packet[1], packet[20:]
        addresses = packet[12:16], packet[16:20]
    else:
        assert ethertype == IPV6, f"EtherType is {ethertype:#06x}"
        assert packet[0] >> 4 == 6, "IPv6 version is wrong"
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40, "IPv6 length is wrong"
        fragment = 0x4000
        protocol, ttl, rest = packet[6], packet[7], packet[40:]
        tos = (packet[0] & 15) << 4 | packet[1] >> 4
        addresses = packet[8:24], packet[24:40]
    source, destination = (str(ipaddress.ip_address(packed)) for packed in addresses)
    assert protocol == UDP, f"protocol is {protocol}"
    sport, dport, length, sum_ = struct.unpack("!HHHH", rest[:8])
    assert length == len(rest), "UDP length is wrong"
    assert sum_ != 0, "UDP checksum is missing"
    assert checksum(pseudo_header(source, destination, length) + rest) == 0, "UDP sum is wrong"
    return Parsed(
        src_mac=frame[6:12],
        dst_mac=frame[:6],
        src=(source, sport),
        dst=(destination, dport),
        ttl=ttl,
        tos=tos,
        dont_fragment=bool(fragment & 0x4000),
        payload=rest[8:],
    )


def assert_udp(
    frame: bytes | None,
    *,
    payload: bytes | None = None,
    src: Endpoint | None = None,
    dst: Endpoint | None = None,
    src_mac: bytes = HOST_MAC,
    dst_mac: bytes = PEER_MAC,
    ttl: int = 64,
    tos: int = 0,
) -> Parsed:
    """Check a transmitted frame; ``payload``, ``src`` and ``dst`` None: any."""
    found = parse_udp(frame)
    assert (found.src_mac, found.dst_mac) == (src_mac, dst_mac)
    assert (found.ttl, found.tos) == (ttl, tos)
    assert payload is None or found.payload == payload
    assert src is None or found.src == src
    assert dst is None or found.dst == dst
    assert found.dont_fragment
    return found
