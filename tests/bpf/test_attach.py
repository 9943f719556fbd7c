"""The steering program on real interfaces: attaching, refusals, real traffic, a crash.

Everything happens in network namespaces without a name, see ``steer_support.Namespace``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from steer_support import (
    GENERIC,
    NATIVE,
    OBJECT,
    LoadError,
    Namespace,
    Steer,
    veth_pair,
    xdp_socket,
)

MODES = pytest.mark.parametrize("mode", [NATIVE, GENERIC], ids=["native", "generic"])
UDP_SEGMENT = 103
SERVER, SERVER6 = "10.88.0.2", "fd88::2"


def compiled(directory: Path, source: str) -> Path:
    """A BPF object of the given C; clang is there, since it built the steering program."""
    made = directory / "foreign.bpf.o"
    text = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n" + source
    multiarch = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True, check=True
    ).stdout.strip()
    command = ["clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{multiarch}"]
    subprocess.run([*command, "-x", "c", "-c", "-", "-o", made], input=text, text=True, check=True)
    return made


FOREIGN = """
SEC("xdp") int pass_all(struct xdp_md *ctx) { return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    with veth_pair() as made:
        yield made


def attach(host: Namespace, mode: int, **options: int) -> Steer:
    with host.entered():
        return Steer(mode=mode, ifindex=socket.if_nametoindex("vb"), **options)


def refusal(host: Namespace, mode: int, **options: int) -> LoadError:
    with pytest.raises(LoadError) as caught:
        attach(host, mode, **options).close()
    print(caught.value.message)
    return caught.value


def has_xdp(host: Namespace) -> bool:
    return "prog/xdp" in host.ip("link show dev vb")


def wait_until(condition, seconds: float = 1.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def steered(steer: Steer, *reasons: str) -> dict[str, int]:
    """The counters, once one of the reasons has occurred; neighbour discovery and so on come in
    between at any time."""
    wait_until(lambda: any(reason in steer.counters() for reason in reasons))
    return steer.counters()


# ---- Attaching ----


@MODES
def test_attached_program_goes_with_close(pair, mode: int) -> None:
    _, host = pair
    for _ in range(3):
        steer = attach(host, mode)
        assert has_xdp(host)
        assert ("xdpgeneric" in host.ip("link show dev vb")) == (mode == GENERIC)
        steer.close()
        assert not has_xdp(host), "at once, so that it can be attached again"


@MODES
def test_close_detaches_although_a_forked_child_holds_the_link(pair, mode: int) -> None:
    _, host = pair
    steer = attach(host, mode)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        steer.close()
        assert not has_xdp(host)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


CHILD = """
import socket, sys
from steer_support import Steer
steer = Steer(mode=int(sys.argv[1]), ifindex=socket.if_nametoindex("vb"))
print("ready", flush=True)
sys.stdin.read()
"""


@MODES
def test_killed_process_leaves_the_interface_to_the_kernel(pair, mode: int) -> None:
    _, host = pair
    with host.entered():
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(mode)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            assert has_xdp(host)
        finally:
            child.kill()
    assert wait_until(lambda: not has_xdp(host))
    attach(host, mode).close()


def test_deleted_interface_leaves_the_program_usable(pair) -> None:
    _, host = pair
    with attach(host, NATIVE) as steer:
        host.ip("link del vb")
        assert steer.add(SERVER, 9000) == 0
        assert steer.set_mtu(9000) == 0
        steer.counters()


def test_many_queues_take_a_socket_each(pair) -> None:
    _, host = pair
    with attach(host, NATIVE, queues=64) as steer, xdp_socket() as fd:
        assert steer.set_socket(63, fd) == 0
        assert steer.set_socket(64, fd) == -errno.EINVAL


# ---- Refusals ----


@MODES
@pytest.mark.parametrize("foreign", ["xdpdrv", "xdpgeneric"])
def test_foreign_program_is_named_and_left_alone(
    pair, mode: int, foreign: str, tmp_path: Path
) -> None:
    _, host = pair
    command = f"ip link set dev vb {foreign} obj {compiled(tmp_path, FOREIGN)} sec xdp"
    with host.entered():  # in mounts of its own, because ip would mount a bpffs
        subprocess.run(["unshare", "--mount", *command.split()], check=True)
    before = host.ip("link show dev vb")
    error = refusal(host, mode)
    number = before.split("prog/xdp id ")[1].split()[0]
    assert error.errno == errno.EBUSY
    assert error.message == (
        f"interface vb already runs XDP program 'pass_all' (id {number}); "
        'detach it or choose mode "kernel"'
    )
    assert host.ip("link show dev vb") == before


@MODES
def test_program_held_by_another_link_is_named(pair, mode: int) -> None:
    _, host = pair
    with attach(host, NATIVE):
        error = refusal(host, mode)
    assert error.errno == errno.EBUSY
    assert "vb already runs XDP program 'hn_steer_drv' (id " in error.message


def test_driver_without_native_xdp_is_told() -> None:
    host = Namespace()
    try:
        with host.entered(), pytest.raises(LoadError) as caught:
            Steer(mode=NATIVE, ifindex=socket.if_nametoindex("lo"))
        assert caught.value.errno == errno.EOPNOTSUPP
        assert "interface lo: the driver refuses native XDP (" in caught.value.message
        assert caught.value.message.endswith('; choose mode "generic"')
    finally:
        host.close()


def test_what_the_driver_says_is_in_the_message() -> None:
    with veth_pair(rx_queues=1, peer_tx_queues=2) as (_, host):
        error = refusal(host, NATIVE)
        assert error.errno == errno.EOPNOTSUPP
        assert "XDP expects number of rx queues not less than peer tx queues" in error.message
        assert not has_xdp(host)
        attach(host, GENERIC).close()


@MODES
def test_jumbo_mtu_is_taken_with_multi_buffer(mode: int) -> None:
    with veth_pair(mtu=9000) as (_, host):
        attach(host, mode, mtu=9000).close()


def test_mtu_too_large_for_native_mode_is_told(tmp_path: Path) -> None:
    """As on a kernel without multi-buffer XDP: only the variant for those is there."""
    path = tmp_path / "older.bpf.o"
    path.write_bytes(OBJECT.read_bytes().replace(b"\0hn_steer_drv\0", b"\0xx_steer_drv\0"))
    with veth_pair(mtu=9000) as (_, host), host.entered(), pytest.raises(LoadError) as caught:
        Steer(mode=NATIVE, mtu=9000, path=path, ifindex=socket.if_nametoindex("vb"))
    assert caught.value.errno == errno.ERANGE
    assert caught.value.message == (
        "interface vb: MTU 9000 is too large for native XDP on this driver (veth: Peer MTU is "
        'too large to set XDP); lower the MTU or choose mode "generic"'
    )


@MODES
def test_missing_interface_is_told(mode: int) -> None:
    with pytest.raises(LoadError) as caught:
        Steer(mode=mode, ifindex=2_000_000)
    assert caught.value.errno == errno.ENODEV
    assert "no interface with index 2000000" in caught.value.message


def test_missing_object_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"cannot be read.*reinstall") as caught:
        Steer(path=tmp_path / "absent.o")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x7fELF" + b"\0" * 200])
def test_damaged_object_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.o"
    path.write_bytes(content)
    with pytest.raises(LoadError) as caught:
        Steer(path=path)
    assert caught.value.errno == errno.EINVAL
    print(caught.value.message)


def test_verifier_has_the_last_word_in_the_message(tmp_path: Path) -> None:
    source = """
    struct { __uint(type, BPF_MAP_TYPE_XSKMAP); __uint(max_entries, 1); __type(key, __u32);
             __type(value, __u32); } hn_sockets SEC(".maps");
    SEC("xdp") int hn_steer_drv(struct xdp_md *ctx) { return *(char *)(long)ctx->data; }
    char _license[] SEC("license") = "GPL";
    """
    with pytest.raises(LoadError) as caught:
        Steer(path=compiled(tmp_path, source))
    assert caught.value.errno == errno.EINVAL
    assert "R1 offset is outside of the packet" in caught.value.message


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    test_verifier_has_the_last_word_in_the_message(tmp_path)
    assert capfd.readouterr() == ("", "")


LOAD_ONLY = """
from steer_support import Steer, LoadError
try:
    Steer().close()
except LoadError as error:
    print(error.errno, error.message)
else:
    print("loaded")
"""


@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        ("-sys_admin,-bpf", "CAP_BPF,"),
        ("-sys_admin,-perfmon", "CAP_PERFMON,"),
        ("-sys_admin,-net_admin", "CAP_NET_ADMIN,"),
        ("-all", "CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON,"),
        ("-sys_admin", None),
    ],
)
def test_missing_capability_is_named(dropped: str, told: str | None) -> None:
    done = subprocess.run(
        [
            "setpriv",
            "--inh-caps",
            dropped,
            "--bounding-set",
            dropped,
            sys.executable,
            "-c",
            LOAD_ONLY,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    if told is None:
        assert done.stdout == "loaded\n"
    else:
        assert done.stdout.startswith(f"{errno.EPERM} XDP needs {told} which this process lacks")


# ---- Real traffic ----


@contextlib.contextmanager
def talk(pair: tuple[Namespace, Namespace]) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A kernel server on 10.88.0.2:9000 behind the program, and a client that reached it once."""
    client_host, server_host = pair
    with server_host.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((SERVER, 9000))
        server.settimeout(5)
    with client_host.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((SERVER, 9000))
        client.settimeout(5)
    with server, client:
        client.send(b"hello")
        assert server.recv(2048) == b"hello"
        yield client, server


@MODES
def test_steered_datagrams_reach_the_kernel_while_no_socket_is_there(pair, mode: int) -> None:
    with attach(pair[1], mode) as steer:
        assert steer.add(SERVER, 9000) == 0
        with talk(pair) as (client, server):
            for size in (0, 1, 1472):
                client.send(b"x" * size)
                assert len(server.recv(2048)) == size
            assert steer.counters()["no_socket"] == 4


@MODES
def test_fragments_are_reassembled_by_the_kernel(pair, mode: int) -> None:
    with attach(pair[1], mode) as steer:
        assert steer.add(SERVER, 9000) == 0
        with talk(pair) as (client, server):
            client.send(b"x" * 4000)
            assert len(server.recv(8192)) == 4000
            assert steer.counters()["fragment"] == 3


def test_generic_mode_leaves_segmented_sends_to_the_kernel(pair) -> None:
    """Five datagrams in one buffer, shorter together than the MTU."""
    with attach(pair[1], GENERIC) as steer:
        assert steer.add(SERVER, 9000) == 0
        with talk(pair) as (client, server):
            before = steer.counters()["no_socket"]
            client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 100)
            client.send(b"x" * 500)
            assert [len(server.recv(2048)) for _ in range(5)] == [100] * 5
            assert steer.counters()["gso"] == 1
            client.send(b"x" * 100)  # one segment is no super-frame
            assert len(server.recv(2048)) == 100
            client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)
            client.send(b"x" * 500)
            assert len(server.recv(2048)) == 500
            assert steer.counters()["no_socket"] == before + 2
            assert steer.counters()["gso"] == 1


def test_generic_mode_leaves_long_segmented_sends_to_the_kernel(pair) -> None:
    with attach(pair[1], GENERIC) as steer:
        assert steer.add(SERVER, 9000) == 0
        with talk(pair) as (client, server):
            client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
            client.send(b"x" * 40_000)
            assert [len(server.recv(2048)) for _ in range(40)] == [1000] * 40
            assert steer.counters()["gso"] == 1


def test_native_mode_sees_segmented_sends_one_by_one(pair) -> None:
    with attach(pair[1], NATIVE) as steer:
        assert steer.add(SERVER, 9000) == 0
        with talk(pair) as (client, server):
            client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 100)
            client.send(b"x" * 500)
            assert [len(server.recv(2048)) for _ in range(5)] == [100] * 5
            assert steer.counters()["no_socket"] == 6


def test_datagrams_are_lifted_once_the_queue_has_a_socket(pair) -> None:
    """An AF_XDP socket that is not bound takes nothing: lifted and lost, which only shows that
    the kernel does not get them."""
    with attach(pair[1], NATIVE) as steer, talk(pair) as (client, server), xdp_socket() as fd:
        assert steer.add(SERVER, 9000) == 0
        assert steer.set_socket(0, fd) == 0
        client.send(b"lifted")
        assert steered(steer, "redirected")["redirected"] == 1
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(2048)
        assert steer.clear_socket(0) == 0
        client.send(b"kernel")
        assert server.recv(2048) == b"kernel"


@MODES
@pytest.mark.parametrize("server_ip", [SERVER, SERVER6])
def test_icmp_error_about_an_endpoint_reaches_its_kernel_socket(
    pair, mode: int, server_ip: str
) -> None:
    family = socket.AF_INET6 if ":" in server_ip else socket.AF_INET
    peer = "fd88::1" if ":" in server_ip else "10.88.0.1"
    with attach(pair[1], mode) as steer:
        assert steer.add(server_ip, 9000) == 0
        with pair[1].entered():
            sender = socket.socket(family, socket.SOCK_DGRAM)
        with sender:
            sender.bind((server_ip, 9000))
            sender.connect((peer, 9))
            sender.settimeout(5)
            sender.send(b"is anybody there")
            with pytest.raises(ConnectionRefusedError):
                sender.recv(2048)
        assert steer.counters()["icmp_error"] == 1
