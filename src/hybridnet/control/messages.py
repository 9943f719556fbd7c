"""Links, addresses and policy rules as values, read from netlink messages.

pyroute2 takes the messages apart.  Its import costs some 100 ms, so it happens in ``load`` or
with the first message, and not when this module is imported.
"""

from __future__ import annotations

import enum
import functools
import importlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

IFF_UP = 0x1
IFF_RUNNING = 0x40

IFA_F_DADFAILED = 0x08
IFA_F_OPTIMISTIC = 0x04
IFA_F_TENTATIVE = 0x40


@dataclass(slots=True, frozen=True, kw_only=True)
class Link:
    """One network interface.

    ``mtu`` in bytes; ``mac`` 6 bytes on Ethernet, empty without link-layer addresses; ``up``: on,
    and able to carry packets (carrier); ``flags``: IFF_*; ``kind``: "veth", "vlan" …, empty for
    hardware; ``master``: interface index of the bridge, bond or VRF it belongs to, 0 for none.
    """

    ifindex: int
    name: str
    mtu: int
    mac: bytes
    up: bool
    flags: int
    kind: str
    master: int

    @property
    def enabled(self) -> bool:
        """Switched on (IFF_UP), whether or not it has a carrier."""
        return bool(self.flags & IFF_UP)


@dataclass(slots=True, frozen=True, kw_only=True)
class Address:
    """One address of an interface.

    ``family`` 4 or 6; ``ip`` 4 or 16 bytes; ``peer``: the other end on a point-to-point
    interface, else ``ip`` again; ``scope``: RT_SCOPE_*; ``flags``: IFA_F_*.
    """

    ifindex: int
    family: int
    ip: bytes
    peer: bytes
    prefix_bits: int
    scope: int
    flags: int

    @property
    def usable(self) -> bool:
        """Ours for certain: duplicate detection has not failed and is not under way."""
        if self.flags & IFA_F_DADFAILED:
            return False
        return not self.flags & IFA_F_TENTATIVE or bool(self.flags & IFA_F_OPTIMISTIC)

    @property
    def key(self) -> tuple[int, bytes, int, bytes]:
        """What makes two messages speak of the same address."""
        return (self.ifindex, self.ip, self.prefix_bits, self.peer)


@dataclass(slots=True, frozen=True, kw_only=True)
class Rule:
    """One policy rule; ``opaque``: it selects by something that the stack cannot evaluate."""

    family: int
    priority: int
    table: int
    action: int
    source: bytes
    source_bits: int
    destination: bytes
    destination_bits: int
    opaque: bool


_FAMILY: Final = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}

_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg
_RULE = struct.Struct("=BBBBBBBBI")  # struct fib_rule_hdr


class RuleAction(enum.IntEnum):
    """FR_ACT_* of linux/fib_rules.h, those that can be followed."""

    TO_TABLE = 1
    NOP = 3
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8


class _Message(Protocol):
    """What we use of pyroute2's message classes."""

    def decode(self) -> None: ...
    def __getitem__(self, key: str) -> Iterable[tuple[str, object]]: ...


@functools.cache
def _message_class(name: str) -> Callable[[bytes], _Message]:
    """Return pyroute2's class of that name, which lies in a module of that name."""
    module = importlib.import_module(f"pyroute2.netlink.rtnl.{name}")
    found: Callable[[bytes], _Message] = getattr(module, name)
    return found


def load() -> None:
    """Import what the parsers need: once some 100 ms, nothing from then on."""
    for name in ("ifinfmsg", "ifaddrmsg", "fibmsg"):
        _message_class(name)


def _attributes(class_name: str, message: bytes) -> Iterator[tuple[str, object]]:
    """Yield the attributes of a message by pyroute2's names."""
    parsed = _message_class(class_name)(message)
    parsed.decode()
    for attribute in parsed["attrs"]:
        yield attribute[0], attribute[1]


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"expected a number, got {value!r}")
    return value


def _ip(value: object, family: int) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"expected an address, got {value!r}")
    return socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, value)


def parse_link(message: bytes) -> Link | None:
    """Read RTM_NEWLINK or RTM_DELLINK; None for what is not an interface (bridge port news).

    Raises: ValueError and whatever pyroute2 raises: the message does not add up.
    """
    family, _type, ifindex, flags, _change = _IFINFO.unpack_from(message, 16)
    if family != socket.AF_UNSPEC:
        return None
    name, mtu, mac, kind, master = "", 0, b"", "", 0
    for key, value in _attributes("ifinfmsg", message):
        if key == "IFLA_IFNAME":
            name = str(value)
        elif key == "IFLA_MTU":
            mtu = _number(value)
        elif key == "IFLA_ADDRESS":
            mac = bytes.fromhex(str(value).replace(":", ""))
        elif key == "IFLA_MASTER":
            master = _number(value)
        elif key == "IFLA_LINKINFO":
            kind = _link_kind(value)
    up = flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
    return Link(
        ifindex=ifindex,
        name=name,
        mtu=mtu,
        mac=mac,
        up=up,
        flags=flags,
        kind=kind,
        master=master,
    )


def _link_kind(information: object) -> str:
    get = getattr(information, "get_attr", None)
    kind = get("IFLA_INFO_KIND") if callable(get) else None
    return kind if isinstance(kind, str) else ""


def parse_address(message: bytes) -> Address | None:
    """Read RTM_NEWADDR or RTM_DELADDR; None for other families.  Raises: as parse_link."""
    number, prefix_bits, flags, scope, ifindex = _IFADDR.unpack_from(message, 16)
    family = _FAMILY.get(number)
    if family is None:
        return None
    local, address = b"", b""
    for key, value in _attributes("ifaddrmsg", message):
        if key == "IFA_LOCAL":
            local = _ip(value, family)
        elif key == "IFA_ADDRESS":
            address = _ip(value, family)
        elif key == "IFA_FLAGS":
            flags = _number(value)
    if not local and not address:
        raise ValueError("an address message without an address")
    return Address(
        ifindex=ifindex,
        family=family,
        ip=local or address,
        peer=address or local,
        prefix_bits=prefix_bits,
        scope=scope,
        flags=flags,
    )


# Attributes that do not narrow a rule down; any other makes it opaque.
_RULE_NEUTRAL: Final = {"FRA_UNSPEC", "FRA_PAD", "FRA_PROTOCOL", "FRA_FLOW"}
_NO_SUPPRESSION: Final = 0xFFFFFFFF
# FIB_RULE_PERMANENT and the two *_DETACHED hints; the rest (INVERT, UNRESOLVED, FIND_SADDR)
# change what matches.
_RULE_FLAGS_NEUTRAL: Final = 0x01 | 0x08 | 0x10


def parse_rule(message: bytes) -> Rule | None:
    """Read RTM_NEWRULE; None for other families.  Raises: as parse_link."""
    number, destination_bits, source_bits, tos, table, _, _, action, flags = _RULE.unpack_from(
        message, 16
    )
    family = _FAMILY.get(number)
    if family is None:
        return None
    width = 4 if family == 4 else 16
    source = destination = bytes(width)
    priority = 0
    opaque = tos != 0 or bool(flags & ~_RULE_FLAGS_NEUTRAL) or action not in list(RuleAction)
    for key, value in _attributes("fibmsg", message):
        if key == "FRA_SRC":
            source = _ip(value, family)
        elif key == "FRA_DST":
            destination = _ip(value, family)
        elif key == "FRA_PRIORITY":
            priority = _number(value)
        elif key == "FRA_TABLE":
            table = _number(value)
        elif key in ("FRA_SUPPRESS_PREFIXLEN", "FRA_SUPPRESS_IFGROUP"):
            opaque = opaque or _number(value) != _NO_SUPPRESSION
        elif key == "FRA_FWMASK":
            pass  # means something with FRA_FWMARK only
        elif key not in _RULE_NEUTRAL:
            opaque = True
    return Rule(
        family=family,
        priority=priority,
        table=table,
        action=action,
        source=source,
        source_bits=source_bits,
        destination=destination,
        destination_bits=destination_bits,
        opaque=opaque,
    )


def parse_nexthop_id(message: bytes) -> int:
    """Return the identifier of the nexthop object in RTM_NEWNEXTHOP or RTM_DELNEXTHOP, 0: none."""
    offset = 16 + 8  # behind struct nhmsg
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if length < 4 or offset + length > len(message):
            raise ValueError("an attribute that does not fit")
        if kind == 1 and length == 8:  # NHA_ID
            (identifier,) = struct.unpack_from("=I", message, offset + 4)
            return int(identifier)
        offset += (length + 3) & ~3
    return 0
