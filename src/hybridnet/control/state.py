"""What the watcher holds of the kernel's state besides routes and neighbours, and what follows.

No socket and no event loop: messages go in, the stack's tables change, and ``take_change`` and
``take_stale`` say what happened and what has to be asked for again.

The kernel removes routes silently in three cases, so each of them makes routes stale: an
interface goes down, moves or disappears; an address goes (IPv4: with it the routes that prefer it
as source); a nexthop object changes.  Until the new dump is there, next hops over an interface
that is off are taken out.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hybridnet._native import ffi, lib
from hybridnet.control import messages, netlink
from hybridnet.control.messages import Address, Link, Rule


class Dump(enum.Flag):
    """Kinds of state that the kernel is asked for, in the order of asking."""

    LINKS = enum.auto()
    ADDRESSES = enum.auto()
    RULES4 = enum.auto()
    RULES6 = enum.auto()
    ROUTES4 = enum.auto()
    ROUTES6 = enum.auto()
    NEIGHBORS = enum.auto()

    NOTHING = 0
    ROUTES = ROUTES4 | ROUTES6
    EVERYTHING = LINKS | ADDRESSES | RULES4 | RULES6 | ROUTES | NEIGHBORS


class ChangeKind(enum.Flag):
    """What a burst of news changed."""

    NOTHING = 0
    LINKS = enum.auto()
    ADDRESSES = enum.auto()
    RULES = enum.auto()
    ROUTES = enum.auto()
    NEIGHBORS = enum.auto()


@dataclass(slots=True, frozen=True, kw_only=True)
class LinkChange:
    """One interface before and after; ``old`` is None when it is new, ``new`` when it is gone."""

    old: Link | None
    new: Link | None


@dataclass(slots=True, frozen=True, kw_only=True)
class Change:
    """What one burst of news changed; ``links`` in order, several of one interface possible."""

    kinds: ChangeKind
    links: tuple[LinkChange, ...] = ()


_AddressKey = tuple[int, bytes, int, bytes]


class KernelState:
    """Links, addresses and rules as last told, and the stack's tables that follow them."""

    __slots__ = (
        "_addresses",
        "_changed",
        "_link_changes",
        "_links",
        "_staged_addresses",
        "_staged_links",
        "_staged_rules",
        "_stale",
        "_tables",
        "_told",
        "address_list",
    )

    def __init__(self, tables: object) -> None:
        self._tables = ffi.cast("struct hn_control_tables *", tables)
        self._links: dict[int, Link] = {}
        self._told: dict[int, Link] = {}  # by news alone, which may lag behind a dump
        self._addresses: dict[_AddressKey, Address] = {}
        self._staged_links: dict[int, Link] = {}
        self._staged_addresses: dict[_AddressKey, Address] = {}
        self._staged_rules: list[Rule] = []
        self._changed = ChangeKind.NOTHING
        self._link_changes: list[LinkChange] = []
        self._stale = Dump.NOTHING
        self.address_list: tuple[Address, ...] = ()

    @property
    def links(self) -> Mapping[int, Link]:
        """A live read-only view, by interface index."""
        return MappingProxyType(self._links)

    # --- news in

    def mark(self, kinds: ChangeKind) -> None:
        """Note what C changed in the tables."""
        self._changed |= kinds

    def message(self, message_type: int, message: bytes, *, dump: bool) -> None:
        """Take one message that is neither route nor neighbour, header included.

        Raises: any exception: it does not add up and changed nothing.
        """
        if message_type in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK):
            self._link_message(message_type, message, dump)
        elif message_type in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            self._address_message(message_type, message, dump)
        elif message_type in (netlink.RTM_NEWRULE, netlink.RTM_DELRULE):
            self._rule_message(message, dump)
        elif message_type in (netlink.RTM_NEWNEXTHOP, netlink.RTM_DELNEXTHOP):
            self._nexthop_message(message_type, message)

    def _link_message(self, message_type: int, message: bytes, dump: bool) -> None:
        link = messages.parse_link(message)
        if link is None:
            return
        if dump:
            self._staged_links[link.ifindex] = link
            return
        new = link if message_type == netlink.RTM_NEWLINK else None
        told = self._told.pop(link.ifindex, None)
        if new is not None:
            self._told[link.ifindex] = new
        # News replayed after a dump that knew it already: routes told of before it are silently
        # gone all the same.
        self._follow_link(link.ifindex, told, new)
        self._set_link(link.ifindex, new)

    def _address_message(self, message_type: int, message: bytes, dump: bool) -> None:
        address = messages.parse_address(message)
        if address is None:
            return
        if dump:
            self._staged_addresses[address.key] = address
            return
        if message_type == netlink.RTM_NEWADDR:
            if self._addresses.get(address.key) == address:
                return
            self._addresses[address.key] = address
        else:
            self._addresses.pop(address.key, None)
            if address.family == 4:
                self._stale |= Dump.ROUTES4
        self._changed |= ChangeKind.ADDRESSES

    def _rule_message(self, message: bytes, dump: bool) -> None:
        # Rules are few and their order matters, so news only says: ask again.
        family = message[16]
        if not dump:
            self._stale |= Dump.RULES4 if family == 2 else Dump.RULES6 if family == 10 else Dump(0)
            return
        try:
            rule = messages.parse_rule(message)
        except Exception:
            # Without it the order of the others would mislead: leave the family to the kernel.
            self._staged_rules.append(_unreadable_rule(6 if family == 10 else 4))
            raise
        if rule is not None:
            self._staged_rules.append(rule)

    def _nexthop_message(self, message_type: int, message: bytes) -> None:
        identifier = messages.parse_nexthop_id(message)
        if not lib.hn_fib_nexthop_used(self._tables.fib, identifier):
            return
        self._stale |= Dump.ROUTES
        if message_type == netlink.RTM_DELNEXTHOP and lib.hn_fib_purge_nexthop(
            self._tables.fib, identifier
        ):
            self._changed |= ChangeKind.ROUTES

    # --- dumps

    def begin(self, dump: Dump) -> None:
        """Forget what an unfinished dump of this kind has brought."""
        if dump is Dump.LINKS:
            self._staged_links = {}
        elif dump is Dump.ADDRESSES:
            self._staged_addresses = {}
        elif dump in Dump.RULES4 | Dump.RULES6:
            self._staged_rules = []

    def finish(self, dump: Dump, epoch: int) -> None:
        """Make a complete dump the truth; what it did not name is gone.

        Raises: MemoryError: the tables kept what they had.
        """
        tables = self._tables
        if dump is Dump.LINKS:
            for ifindex in self._links.keys() | self._staged_links.keys():
                self._set_link(ifindex, self._staged_links.get(ifindex))
            self._told = self._staged_links | self._told
            self._staged_links = {}
        elif dump is Dump.ADDRESSES:
            if self._addresses != self._staged_addresses:
                self._changed |= ChangeKind.ADDRESSES
            self._addresses = self._staged_addresses
            self._staged_addresses = {}
        elif dump is Dump.RULES4:
            self._set_rules(4)
        elif dump is Dump.RULES6:
            self._set_rules(6)
        elif dump is Dump.ROUTES4:
            self._swept(lib.hn_fib_sweep(tables.fib, 4, epoch))
        elif dump is Dump.ROUTES6:
            self._swept(lib.hn_fib_sweep(tables.fib, 6, epoch))
        elif dump is Dump.NEIGHBORS:
            before = lib.hn_neighbors_generation(tables.neighbors)
            lib.hn_neighbors_sweep(tables.neighbors, 4, epoch)
            lib.hn_neighbors_sweep(tables.neighbors, 6, epoch)
            if lib.hn_neighbors_generation(tables.neighbors) != before:
                self._changed |= ChangeKind.NEIGHBORS

    def _swept(self, count: int) -> None:
        if count:
            self._changed |= ChangeKind.ROUTES

    # --- what follows

    def _set_link(self, ifindex: int, new: Link | None) -> None:
        old = self._links.get(ifindex)
        if old == new:
            return
        if new is None:
            del self._links[ifindex]
        else:
            self._links[ifindex] = new
        self._link_changes.append(LinkChange(old=old, new=new))
        self._changed |= ChangeKind.LINKS
        self._follow_link(ifindex, old, new)

    def _follow_link(self, ifindex: int, old: Link | None, new: Link | None) -> None:
        """Do to the routes what the kernel does silently when a link changes."""
        if old is None or old == new:
            return
        if old.enabled and (new is None or not new.enabled):
            self._purge(ifindex)
        if new is None or old.flags != new.flags or old.master != new.master or old.mtu != new.mtu:
            self._stale |= Dump.ROUTES

    def _purge(self, ifindex: int) -> None:
        tables = self._tables
        for family in (4, 6):
            if lib.hn_fib_purge_interface(tables.fib, family, ifindex):
                self._changed |= ChangeKind.ROUTES
        lib.hn_neighbors_purge_interface(tables.neighbors, ifindex)
        self._changed |= ChangeKind.NEIGHBORS

    def _set_rules(self, family: int) -> None:
        rules, self._staged_rules = self._staged_rules, []
        array = ffi.new("struct hn_rule[]", len(rules))
        for slot, rule in zip(array, rules, strict=True):
            slot.priority, slot.table, slot.family = rule.priority, rule.table, family
            slot.source_bits, slot.destination_bits = rule.source_bits, rule.destination_bits
            slot.action, slot.opaque = rule.action, rule.opaque
            ffi.memmove(slot.source, rule.source, len(rule.source))
            ffi.memmove(slot.destination, rule.destination, len(rule.destination))
        before = lib.hn_fib_generation(self._tables.fib)
        if lib.hn_fib_set_rules(self._tables.fib, family, array, len(rules)) < 0:
            raise MemoryError
        if lib.hn_fib_generation(self._tables.fib) != before:
            self._changed |= ChangeKind.RULES

    def _push_addresses(self) -> None:
        self.address_list = tuple(self._addresses.values())
        usable = [address for address in self.address_list if address.usable]
        array = ffi.new("struct hn_local_address[]", len(usable))
        for slot, address in zip(array, usable, strict=True):
            ffi.memmove(slot.ip, address.ip, len(address.ip))
            slot.ifindex, slot.flags, slot.family = address.ifindex, address.flags, address.family
            slot.prefix_bits, slot.scope = address.prefix_bits, address.scope
        if lib.hn_fib_set_addresses(self._tables.fib, array, len(usable)) < 0:
            raise MemoryError

    # --- out

    def take_change(self) -> Change | None:
        """Bring the stack's address list up to date; return what changed since the last call."""
        kinds, self._changed = self._changed, ChangeKind.NOTHING
        links, self._link_changes = tuple(self._link_changes), []
        if kinds & ChangeKind.ADDRESSES:
            self._push_addresses()
        return Change(kinds=kinds, links=links) if kinds else None

    def take_stale(self) -> Dump:
        """Return which kinds have to be dumped again, once."""
        stale, self._stale = self._stale, Dump.NOTHING
        return stale


def _unreadable_rule(family: int) -> Rule:
    width = 4 if family == 4 else 16
    return Rule(
        family=family,
        priority=0,
        table=0,
        action=1,
        source=bytes(width),
        source_bits=0,
        destination=bytes(width),
        destination_bits=0,
        opaque=True,
    )
