"""A live stack's counters, for ``hybridnet stats``: one unix socket per process and loop.

The protocol is one JSON object per line.  Request ``{"get": "stats"}``; answer
``{"pid": …, "command": …, "stacks": [snapshot, …]}`` or ``{"error": …}``.  A connection may ask
as often as it likes.  Only the same user can connect (directory 0700, socket 0600).

Looking at a stack must never disturb it: whatever goes wrong here is logged and ends here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

Snapshot = Callable[[], dict[str, object]]

REQUEST_BYTES_MAX = 4096
CLIENTS_MAX = 16
_SOCKET_NAME = re.compile(r"(\d+)(?:-\d+)?\.sock")
_servers: dict[asyncio.AbstractEventLoop, _Server] = {}
# Loops live in threads of their own; two that open at once must not take the same name.
_servers_lock = threading.Lock()


def runtime_directory() -> Path | None:
    """Return where the sockets of this user's processes are, made or not; None: nowhere.

    $HYBRIDNET_RUNTIME_DIR, else /run/hybridnet for root, else $XDG_RUNTIME_DIR/hybridnet.
    """
    chosen = os.environ.get("HYBRIDNET_RUNTIME_DIR")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/run/hybridnet")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "hybridnet" if base else None


def socket_process(path: Path) -> int | None:
    """Return the process id that a socket's name carries; None: not one of ours."""
    match = _SOCKET_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def process_is_alive(pid: int) -> bool:
    """Tell whether a process of that id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _make_directory(directory: Path) -> None:
    """Make the directory; refuse one that somebody else could have put there.

    Raises: OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not a directory of this user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        directory.chmod(0o700)


def _remove_stale(directory: Path) -> None:
    """Remove the sockets that killed processes left behind."""
    for path in directory.iterdir():
        pid = socket_process(path)
        if pid is None or process_is_alive(pid):
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                # Nobody listens: not a process that merely lives in another pid namespace.
                with contextlib.suppress(OSError):
                    path.unlink()
            except OSError:
                continue


def _bind(directory: Path) -> tuple[socket.socket, Path]:
    """Bind the first free name of this process: PID.sock, or PID-2.sock for a second loop.

    Raises: OSError.
    """
    taken = {server.path for server in _servers.values()}
    for number in range(1, 100):
        suffix = "" if number == 1 else f"-{number}"
        path = directory / f"{os.getpid()}{suffix}.sock"
        if path in taken:
            continue
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # left by an earlier process of the same id
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(0o600)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        return listener, path
    raise OSError(f"no free name for this process in {directory}")


class _Server:
    """The listening socket of one loop, and the snapshots registered with it."""

    __slots__ = ("_clients", "_listener", "_pid", "_server", "path", "snapshots")

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self.snapshots: list[Snapshot] = []
        self._listener = listener
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._listener, limit=REQUEST_BYTES_MAX, backlog=CLIENTS_MAX
        )

    def close(self) -> None:
        # Unlinked first, so that nobody connects to what is going away; but a forked child that
        # closes its copy must not take the parent's name away.
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self.path.unlink()
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for writer in list(self._clients):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            writer.transport.abort()
            return
        self._clients.add(writer)
        try:
            while line := await reader.readline():
                writer.write(self._answer(line) + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # the client went away; a line over the limit
            pass
        except Exception:
            log.exception("answering a statistics client failed")
        finally:
            self._clients.discard(writer)
            writer.close()

    def _answer(self, line: bytes) -> bytes:
        try:
            request: object = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if request != {"get": "stats"}:
            return json.dumps({"error": 'expected {"get": "stats"}'}).encode()
        answer = {
            "pid": os.getpid(),
            "command": " ".join([Path(sys.executable).name, *sys.argv]),
            "stacks": [_take(snapshot) for snapshot in self.snapshots],
        }
        return json.dumps(answer, default=str).encode()


def _forget_closed_loops() -> None:
    for loop in [loop for loop in _servers if loop.is_closed()]:
        with contextlib.suppress(Exception):
            _servers.pop(loop).close()


def _take(snapshot: Snapshot) -> dict[str, object]:
    try:
        return snapshot()
    except Exception as error:
        log.exception("taking a snapshot of a stack failed")
        return {"error": f"{type(error).__name__}: {error}"}


def _open() -> _Server | None:
    """Bind this loop's socket; None, with a line in the log, when there can be none."""
    directory = runtime_directory()
    if directory is None:
        log.info("no statistics socket: XDG_RUNTIME_DIR is not set")
        return None
    try:
        _forget_closed_loops()
        _make_directory(directory)
        _remove_stale(directory)
        return _Server(*_bind(directory))
    except OSError as error:
        log.warning("no statistics socket in %s: %s", directory, error)
        return None


class StatisticsSocket:
    """One stack's place on the socket of its process and loop.

    ``snapshot`` is called in the loop's thread, once per request; it must not block.
    """

    __slots__ = ("_server", "_snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._server: _Server | None = None

    @property
    def path(self) -> Path | None:
        """Where to connect; None while closed, or when it could not be made."""
        return None if self._server is None else self._server.path

    async def start(self) -> None:
        """Make the snapshot available; logs a warning instead of raising when that fails."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        with _servers_lock:
            server = _servers.get(loop)
            opened = server is None
            if server is None:
                server = _open()
                if server is None:
                    return
                # Known before the await: a stack that opens meanwhile joins this one.
                _servers[loop] = server
        server.snapshots.append(self._snapshot)
        self._server = server
        if opened:
            try:
                await server.start()
            except BaseException as error:
                self.close()
                if not isinstance(error, OSError):
                    raise
                log.warning("no statistics socket at %s: %s", server.path, error)

    def close(self) -> None:
        """Withdraw the snapshot; the last one closes and removes the socket.  Never raises."""
        server, self._server = self._server, None
        if server is None:
            return
        # By identity: two bound methods of equal stacks may compare equal.
        for index, snapshot in enumerate(server.snapshots):
            if snapshot is self._snapshot:
                del server.snapshots[index]
                break
        if server.snapshots:
            return
        with _servers_lock:
            for loop, other in list(_servers.items()):
                if other is server:
                    del _servers[loop]
        try:
            server.close()
        except Exception:  # for instance: the loop was closed first
            log.exception("closing the statistics socket failed")
