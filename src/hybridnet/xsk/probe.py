"""What this machine and its interfaces can do for the fast path, found out by trying.

Every finding is absent, present or *could not tell*; nothing is printed and nothing is changed.
The command ``hybridnet doctor`` says what the findings mean.  Each probe takes microseconds to
milliseconds and leaves nothing open.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import platform
import re
import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hybridnet.xsk import netlink_query as query

KERNEL_MIN = (5, 10)
MULTI_BUFFER_KERNEL_MIN = (6, 6)
FEATURES_KERNEL_MIN = (6, 3)
MEMCG_KERNEL_MIN = (5, 11)

# In front of every received packet in its frame (XDP_PACKET_HEADROOM).
_HEADROOM_BYTES = 256
# Ethernet header and one VLAN tag, which the MTU does not count.
_LINK_HEADER_BYTES = 18
FRAME_BYTES = (2048, 4096)
# One stack with default specs: 8,192 frames of 4,096 bytes.
STACK_MEMORY_BYTES = 8192 * 4096

# What the functions of the steering program are called, whichever is attached.
OWN_PROGRAM_PREFIX = "hn_steer"

_AF_XDP = 44
_CAPABILITIES = {"net_admin": 12, "net_raw": 13, "ipc_lock": 14, "sys_admin": 21, "bpf": 39}

_XDP_BASIC = 1
_XDP_REDIRECT = 2
_XDP_NDO_XMIT = 4
_XDP_ZERO_COPY = 8
_XDP_RX_SG = 32

_BPF_PROG_LOAD = 5
_BPF_PROG_GET_FD_BY_ID = 13
_BPF_OBJ_GET_INFO_BY_FD = 15
_BPF_PROG_TYPE_XDP = 6
_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_ETHTOOL_GTXCSUM = 0x16
_ETHTOOL_GFLAGS = 0x25
_ETHTOOL_GGRO = 0x2B
_ETH_FLAG_RXVLAN = 1 << 8
_ETH_FLAG_LRO = 1 << 15


class Presence(enum.Enum):
    """Whether something is there.  ``UNKNOWN``: the probe itself could not run."""

    ABSENT = "absent"
    PRESENT = "present"
    UNKNOWN = "unknown"


@dataclass(slots=True, frozen=True, kw_only=True)
class Finding:
    """One fact.  ``name`` is stable and machine-readable; ``value`` is for a person."""

    name: str
    presence: Presence
    value: str


@dataclass(slots=True, frozen=True, kw_only=True)
class MachineReport:
    """Findings that hold for every interface."""

    findings: tuple[Finding, ...]

    def presence(self, name: str) -> Presence:
        """Return one finding's state; UNKNOWN when it was not probed."""
        return next((f.presence for f in self.findings if f.name == name), Presence.UNKNOWN)


@dataclass(slots=True, frozen=True, kw_only=True)
class DeviceReport:
    """Findings about one interface; ``mode`` is the best that a stack can ask for there."""

    name: str
    ifindex: int
    mode: str
    """``zerocopy``, ``native``, ``generic``, or ``kernel`` when no fast path can run."""
    findings: tuple[Finding, ...]

    def presence(self, name: str) -> Presence:
        """Return one finding's state; UNKNOWN when it was not probed."""
        return next((f.presence for f in self.findings if f.name == name), Presence.UNKNOWN)


def _finding(name: str, present: bool | None, value: str) -> Finding:
    presence = {True: Presence.PRESENT, False: Presence.ABSENT, None: Presence.UNKNOWN}[present]
    return Finding(name=name, presence=presence, value=value)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


# The machine


def kernel_version(release: str | None = None) -> tuple[int, int] | None:
    """Return (major, minor) of the running kernel, or of ``release``; None: not readable."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release if release is None else release)
    return (int(match[1]), int(match[2])) if match else None


def _at_least(minimum: tuple[int, int]) -> bool | None:
    version = kernel_version()
    return None if version is None else version >= minimum


def effective_capabilities(status: str | None = None) -> frozenset[str] | None:
    """Return the capabilities of this process that matter here; None: /proc does not say.

    ``status``: the text of a /proc/PID/status.
    """
    if status is None:
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
    match = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", status, re.MULTILINE)
    if match is None:
        return None
    bits = int(match[1], 16)
    held = {name for name, bit in _CAPABILITIES.items() if bits >> bit & 1}
    # Kernels before 5.8 know no CAP_BPF, and all still let CAP_SYS_ADMIN do its work.
    return frozenset(held | {"bpf"} if "sys_admin" in held else held)


def _capability_findings() -> list[Finding]:
    held = effective_capabilities()
    return [
        _finding(
            f"cap_{name}",
            None if held is None else name in held,
            "could not be read" if held is None else "held" if name in held else "not held",
        )
        for name in ("net_admin", "net_raw", "bpf", "ipc_lock")
    ]


def _af_xdp() -> Finding:
    try:
        socket.socket(_AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return _finding("af_xdp", None, "no permission to try")
        return _finding("af_xdp", False, _reason(error))
    return _finding("af_xdp", True, "socket created")


def _bpf(command: int, attribute: bytes) -> int:
    """Make one bpf(2) call.  Raises: OSError; ENOSYS on an unknown architecture."""
    number = _BPF_SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attribute, 128)
    result = int(libc.syscall(ctypes.c_long(number), command, buffer, ctypes.c_uint(128)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _program_info(fd: int) -> bytes:
    """Return the kernel's struct bpf_prog_info of a program."""
    info = ctypes.create_string_buffer(256)
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, 256, ctypes.addressof(info)))
    return info.raw


def _bpf_findings() -> list[Finding]:
    """Load the smallest XDP program (return XDP_PASS) and see whether it became machine code."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0))
    text = ctypes.create_string_buffer(b"GPL")
    attribute = struct.pack(
        "=IIQQ", _BPF_PROG_TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(text)
    )
    try:
        fd = _bpf(_BPF_PROG_LOAD, attribute)
    except OSError as error:
        denied = error.errno in (errno.EPERM, errno.EACCES)
        present = None if denied else False
        value = "no permission to try" if denied else _reason(error)
        unknown = _finding("bpf_jit", None, "no program could be loaded")
        return [_finding("bpf_load", present, value), unknown]
    try:
        jited_bytes = struct.unpack_from("=I", _program_info(fd), 16)[0]
        jit = _finding("bpf_jit", jited_bytes > 0, "on" if jited_bytes else "off")
    except OSError as error:
        jit = _finding("bpf_jit", None, _reason(error))
    finally:
        os.close(fd)
    return [_finding("bpf_load", True, "program loaded"), jit]


def _bpffs() -> Finding:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return _finding("bpffs", None, _reason(error))
    places = [f[1] for f in (line.split() for line in mounts.splitlines()) if f[2:3] == ["bpf"]]
    return _finding("bpffs", bool(places), ", ".join(places) or "not mounted")


def _memlock() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return _finding("memlock", True, "unlimited")
    limit = f"limit {soft // 1024:,} KiB"
    if "ipc_lock" in (effective_capabilities() or ()) and _at_least(MEMCG_KERNEL_MIN):
        return _finding("memlock", True, f"{limit}, lifted by CAP_IPC_LOCK")
    return _finding("memlock", soft >= STACK_MEMORY_BYTES, limit)


def probe_machine() -> MachineReport:
    """Probe what does not depend on an interface."""
    release = os.uname().release
    findings = [
        _finding("kernel", _at_least(KERNEL_MIN), release),
        *_capability_findings(),
        _af_xdp(),
        *_bpf_findings(),
        _memlock(),
        _bpffs(),
    ]
    return MachineReport(findings=tuple(findings))


def missing_for_fast_path(machine: MachineReport) -> list[Finding]:
    """Return what every fast path needs and is known not to be there; empty: it can run."""
    needed = ("kernel", "cap_net_admin", "cap_net_raw", "cap_bpf", "af_xdp", "bpf_load")
    return [f for f in machine.findings if f.name in needed and f.presence is Presence.ABSENT]


# One interface


def _features(link: query.Link) -> query.XdpFeatures | str:
    try:
        return query.xdp_features(link.ifindex)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return "the kernel does not say (before 6.3)"
        return _reason(error)


def _link_findings(link: query.Link) -> list[Finding]:
    up = bool(link.flags & query.IFF_UP)
    carrier = bool(link.flags & query.IFF_RUNNING)
    loopback = bool(link.flags & query.IFF_LOOPBACK)
    state = "up" if up and carrier else "up, no carrier" if up else "down"
    try:
        driver = _finding("driver", True, query.ethtool_driver(link.name) or link.kind)
    except OSError as error:
        driver = _finding("driver", None, link.kind or _reason(error))
    return [
        _finding("interface", True, f"index {link.ifindex}"),
        _finding("link", up and carrier, state),
        driver,
        _finding("no_loopback", not loopback, "loopback" if loopback else link.kind or "ethernet"),
    ]


def _mode_findings(features: query.XdpFeatures | str) -> list[Finding]:
    if isinstance(features, str):
        names = ("xdp_native", "xdp_zero_copy", "xdp_transmit")
        return [_finding(name, None, features) for name in names]
    bits = features.bits
    redirects = bits & (_XDP_BASIC | _XDP_REDIRECT) == _XDP_BASIC | _XDP_REDIRECT
    zero_copy = bool(bits & _XDP_ZERO_COPY)
    transmits = bool(bits & _XDP_NDO_XMIT)
    return [
        _finding("xdp_native", redirects, "driver redirects" if redirects else "driver does not"),
        _finding("xdp_zero_copy", zero_copy, "driver has it" if zero_copy else "driver has not"),
        _finding("xdp_transmit", transmits, "redirect target" if transmits else "not a target"),
    ]


def _multi_buffer(features: query.XdpFeatures | str) -> Finding:
    if not _at_least(MULTI_BUFFER_KERNEL_MIN):
        return _finding("multi_buffer", False, "kernel before 6.6")
    if isinstance(features, str):
        return _finding("multi_buffer", None, features)
    if not features.bits & _XDP_RX_SG:
        return _finding("multi_buffer", False, "driver has not")
    if features.bits & _XDP_ZERO_COPY and features.zero_copy_segments_max <= 1:
        return _finding("multi_buffer", True, "native mode only, not with zero-copy")
    return _finding("multi_buffer", True, "driver has it")


def smallest_frame(mtu: int) -> int | None:
    """Return the smallest frame size in bytes that holds a packet of ``mtu``; None: none does."""
    packet_bytes = mtu + _LINK_HEADER_BYTES
    return next((n for n in FRAME_BYTES if n - _HEADROOM_BYTES >= packet_bytes), None)


def _mtu(link: query.Link, multi_buffer: Presence) -> Finding:
    frame_bytes = smallest_frame(link.mtu)
    if frame_bytes is not None:
        return _finding("mtu", True, f"{link.mtu}, fits a frame of {frame_bytes}")
    value = f"{link.mtu}, larger than a frame of {FRAME_BYTES[-1]}: needs multi-buffer"
    if multi_buffer is Presence.UNKNOWN:
        return _finding("mtu", None, value)
    return _finding("mtu", multi_buffer is Presence.PRESENT, value)


def _queues(link: query.Link) -> Finding:
    """Count the queues in use: by sysfs when it shows this namespace, else by ethtool."""
    place = Path("/sys/class/net") / link.name
    try:
        if int((place / "ifindex").read_text(encoding="ascii")) == link.ifindex:
            names = os.listdir(place / "queues")
            rx = sum(name.startswith("rx-") for name in names)
            tx = sum(name.startswith("tx-") for name in names)
            return _finding("queues", rx > 0, f"{rx} receive, {tx} transmit")
    except (OSError, ValueError):
        pass
    try:
        rx, tx = query.ethtool_channels(link.name)
    except OSError as error:
        return _finding("queues", None, _reason(error))
    return _finding("queues", rx > 0, f"{rx} receive, {tx} transmit")


def _offloads(link: query.Link) -> list[Finding]:
    def ask(read: Callable[[], int]) -> int | None:
        try:
            return read()
        except OSError:
            return None

    checksum = ask(lambda: query.ethtool_flag(link.name, _ETHTOOL_GTXCSUM))
    gro = ask(lambda: query.ethtool_flag(link.name, _ETHTOOL_GGRO))
    flags = ask(lambda: query.ethtool_flag(link.name, _ETHTOOL_GFLAGS))

    def word(value: int | None) -> str:
        return "unknown" if value is None else "on" if value else "off"

    lro = None if flags is None else flags & _ETH_FLAG_LRO
    vlan = None if flags is None else flags & _ETH_FLAG_RXVLAN
    summary = f"tx-checksum {word(checksum)}, gro {word(gro)}, rx-vlan {word(vlan)}"
    known = None if checksum is None and gro is None and flags is None else True
    return [
        _finding("offloads", known, summary),
        _finding("no_lro", None if lro is None else not lro, f"lro {word(lro)}"),
    ]


def program_name(program_id: int) -> str | None:
    """Return the name of a loaded BPF program; None without the privileges to ask."""
    try:
        fd = _bpf(_BPF_PROG_GET_FD_BY_ID, struct.pack("=I", program_id))
    except OSError:
        return None
    try:
        return _program_info(fd)[64:80].split(b"\0")[0].decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(fd)


def _foreign_program(link: query.Link) -> Finding:
    if not link.xdp_program_ids:
        return _finding("no_xdp_program", True, "none attached")
    names = {number: program_name(number) or "unnamed" for number in link.xdp_program_ids}
    value = ", ".join(f"{name} (id {number})" for number, name in names.items())
    ours = all(name.startswith(OWN_PROGRAM_PREFIX) for name in names.values())
    owner = "a running hybridnet stack's" if ours else "another program's"
    return _finding("no_xdp_program", False, f"{owner}: {value}, {link.xdp_mode} mode")


def _best_mode(machine: MachineReport, findings: dict[str, Presence]) -> str:
    blocked = ("no_loopback", "no_xdp_program", "queues")
    if missing_for_fast_path(machine):
        return "kernel"
    if any(findings.get(name) is Presence.ABSENT for name in blocked):
        return "kernel"
    native = findings["xdp_native"] is Presence.PRESENT and findings["mtu"] is not Presence.ABSENT
    if native and findings["no_lro"] is not Presence.ABSENT:
        return "zerocopy" if findings["xdp_zero_copy"] is Presence.PRESENT else "native"
    # Generic XDP works on every driver, on linearised packets.
    return "generic"


def _probe_link(link: query.Link, machine: MachineReport) -> DeviceReport:
    features = _features(link)
    multi_buffer = _multi_buffer(features)
    findings = [
        *_link_findings(link),
        *_mode_findings(features),
        multi_buffer,
        _queues(link),
        _mtu(link, multi_buffer.presence),
        *_offloads(link),
        _foreign_program(link),
    ]
    mode = _best_mode(machine, {f.name: f.presence for f in findings})
    return DeviceReport(name=link.name, ifindex=link.ifindex, mode=mode, findings=tuple(findings))


def probe_devices(machine: MachineReport) -> list[DeviceReport]:
    """Probe every interface of this network namespace.

    Raises: OSError: rtnetlink does not answer.
    """
    return [_probe_link(link, machine) for link in query.links()]


def probe_device(name: str, machine: MachineReport) -> DeviceReport | None:
    """Probe one interface; None: there is none of that name here.

    Raises: OSError: rtnetlink does not answer.
    """
    found = next((link for link in query.links() if link.name == name), None)
    return None if found is None else _probe_link(found, machine)
