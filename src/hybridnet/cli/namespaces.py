"""Two hosts on a wire: a pair of network namespaces joined by a veth.

    PREFIX-a  (client)                      PREFIX-b  (server)
      lo                                      lo
      va  10.77.0.1/24  fd77::1/64  <-veth->  vb  10.77.0.2/24  fd77::2/64

The demo, ``hybridnet lab`` and the tests use it.  Everything goes through iproute2's ``ip``, so
what is built here is what ``ip netns`` shows, and nothing outside the two namespaces changes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hybridnet.errors import HybridnetError, PermissionMissing, Unsupported, from_errno

NETNS_DIRECTORY = Path("/run/netns")
STOP_GRACE_S = 3.0
# Interface names are va and vb whatever the prefix; a namespace's name only has to be a file name.
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}")
_serial = itertools.count(1)


@dataclass(slots=True, frozen=True, kw_only=True)
class Host:
    """One end of the wire."""

    namespace: str
    interface: str
    ipv4: str
    ipv6: str

    @property
    def path(self) -> Path:
        """The file that names the namespace while it exists."""
        return NETNS_DIRECTORY / self.namespace

    def exists(self) -> bool:
        """Tell whether a namespace of that name is there, whoever made it."""
        return self.path.exists()


def ip(*arguments: str, batch: str | None = None) -> str:
    """Run iproute2's ``ip`` and return what it prints; blocks for milliseconds.

    Raises: Unsupported: iproute2 is not installed; PermissionMissing: not root;
    HybridnetError: anything else that ip refuses, in its own words.
    """
    program = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise Unsupported(95, "iproute2 is not installed; as root: apt-get install iproute2")
    done = subprocess.run(
        [program, *arguments], input=batch, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    if "Operation not permitted" in said or "Permission denied" in said:
        raise PermissionMissing(1, f"network namespaces need root (CAP_SYS_ADMIN): {said}")
    raise HybridnetError(22, f"ip {' '.join(arguments)}: {said}")


class Lab:
    """The two hosts; a context manager that leaves nothing behind.

    ``Lab()`` has the names for a person (``hn-a``, ``hn-b``), ``Lab.private()`` names that no
    other process uses.  ``queues`` is the number of receive and of transmit queues of each veth
    end, ``mtu`` in bytes.

    Raises: ValueError: prefix, queues or mtu out of range.
    """

    __slots__ = ("_children", "_made", "a", "b", "mtu", "queues")

    def __init__(self, prefix: str = "hn", *, queues: int = 1, mtu: int = 1500) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} cannot name a namespace: letters, digits, . _ - only")
        if not 1 <= queues <= 64:
            raise ValueError(f"queues must be 1 to 64, not {queues}")
        if not 1280 <= mtu <= 65535:
            raise ValueError(f"mtu must be 1280 (the least for IPv6) to 65535 bytes, not {mtu}")
        self.a = Host(namespace=f"{prefix}-a", interface="va", ipv4="10.77.0.1", ipv6="fd77::1")
        self.b = Host(namespace=f"{prefix}-b", interface="vb", ipv4="10.77.0.2", ipv6="fd77::2")
        self.queues = queues
        self.mtu = mtu
        self._made: list[Host] = []
        self._children: list[subprocess.Popen[str]] = []

    @classmethod
    def private(cls, *, queues: int = 1, mtu: int = 1500) -> Lab:
        """Return a lab whose names carry this process's id and a serial number."""
        return cls(f"hn{os.getpid()}x{next(_serial)}", queues=queues, mtu=mtu)

    @property
    def hosts(self) -> tuple[Host, Host]:
        return (self.a, self.b)

    def up(self) -> None:
        """Make both namespaces and the wire between them, or nothing at all.

        Raises: HybridnetError(EEXIST): a namespace of that name exists; what ``ip`` raises.
        """
        for host in self.hosts:
            if host.exists():
                raise from_errno(17, f"the network namespace {host.namespace} exists already")
        try:
            for host in self.hosts:
                with uninterrupted():
                    ip("netns", "add", host.namespace)
                    self._made.append(host)
                self._prepare(host)
            self._wire()
        except BaseException:
            self.down()
            raise

    def _prepare(self, host: Host) -> None:
        """Loopback up; no waiting for duplicate address detection on interfaces made later."""
        script = "for i in all default; do echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad; done"
        with contextlib.suppress(HybridnetError):  # a kernel without IPv6
            ip("netns", "exec", host.namespace, "sh", "-c", script)
        ip("-n", host.namespace, "link", "set", "lo", "up")

    def _wire(self) -> None:
        a, b = self.hosts
        size = ["mtu", str(self.mtu), "numtxqueues", str(self.queues)]
        size += ["numrxqueues", str(self.queues)]
        # Two indices: ends with the same one look to the kernel like a device without a peer, and
        # it then takes up to a second to start their transmit queues.
        ip(
            *["link", "add", a.interface, "index", "2", *size, "netns", a.namespace],
            *["type", "veth", "peer", "name", b.interface, "index", "3", *size],
            *["netns", b.namespace],
        )
        for host in self.hosts:
            commands = [f"address add {host.ipv4}/24 dev {host.interface}"]
            if Path("/proc/sys/net/ipv6").exists():
                commands.append(f"address add {host.ipv6}/64 dev {host.interface} nodad")
            commands.append(f"link set {host.interface} up")
            ip("-n", host.namespace, "-batch", "-", batch="\n".join(commands) + "\n")

    def identities(self) -> dict[str, int]:
        """Return the inode of each namespace made here: a name can come back, an inode not."""
        return {host.namespace: host.path.stat().st_ino for host in self._made if host.exists()}

    def adopt(self, identities: dict[str, int]) -> None:
        """Take over what an earlier process made, so that ``down`` removes just that."""
        for host in self.hosts:
            if host.exists() and host.path.stat().st_ino == identities.get(host.namespace):
                self._made.append(host)

    def down(self) -> None:
        """Stop what was started here, remove what was made here; harmless when repeated."""
        with uninterrupted():
            while self._children:
                stop(self._children.pop())
            while self._made:
                host = self._made.pop()
                # Somebody may have deleted it by hand; what is gone need not be removed.
                if host.exists():
                    ip("netns", "del", host.namespace)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.down()

    def command(self, host: Host, *argv: str) -> list[str]:
        """Return the command line that runs ``argv`` inside a host, under the same process id."""
        return ["ip", "netns", "exec", host.namespace, *argv]

    def run(
        self, host: Host, *argv: str, check: bool = True, timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside a host to its end and return what it printed."""
        return subprocess.run(
            self.command(host, *argv),
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout_s,
        )

    def start(
        self,
        host: Host,
        *argv: str,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command inside a host; ``down`` ends it and its children by process group."""
        child = start(self.command(host, *argv), stdout, stderr, environment)
        self._children.append(child)
        return child

    def processes(self) -> list[int]:
        """Return the ids of all processes inside the two namespaces, whoever started them."""
        found: list[int] = []
        for host in self.hosts:
            if host.exists():
                found += [int(word) for word in ip("netns", "pids", host.namespace).split()]
        return found


def start(
    argv: Sequence[str],
    stdout: int | IO[str] | None = subprocess.PIPE,
    stderr: int | IO[str] | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a process as leader of a group of its own, out of reach of the terminal's Ctrl-C."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        bufsize=1,
        start_new_session=True,
        env=None if environment is None else {**os.environ, **environment},
    )


def stop(child: subprocess.Popen[str], grace_s: float = STOP_GRACE_S) -> str:
    """End a child of ``start`` and all it started; return the rest of its output.

    SIGTERM to its group first, SIGKILL to whatever of the group is left after ``grace_s``.
    """
    if child.returncode is None:
        _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        # The ended leader is left unreaped: until then its id cannot name another group.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, child.pid, flags) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        _signal_group(child, signal.SIGKILL)
    if child.stdout is None or child.stdout.closed:
        child.wait()
        return ""
    return child.communicate()[0] or ""


def _signal_group(child: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def termination_as_interrupt() -> Generator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that ``with`` blocks clean up."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, interrupt)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Generator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP while something is being tidied away."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
