"""What goes wrong is said: to the right caller, in one sentence, as the right exception."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hybridnet
from support.netns import python_environment
from support.peers import (
    CLIENT4,
    CLIENT6,
    SERVER4,
    SERVER6,
    Net,
    Recorder,
    echo,
    eventually,
    run,
)

NOBODY4 = (CLIENT4, 9)
NOBODY6 = (CLIENT6, 9)


def one_sentence(error: BaseException) -> str:
    assert isinstance(error, OSError)
    text = str(error.strerror)
    assert text
    assert "\n" not in text
    assert len(text) < 240
    return text


# Errors of the network.


@pytest.mark.both_loops
@pytest.mark.parametrize("nobody", [NOBODY4, NOBODY6], ids=["ipv4", "ipv6"])
async def test_connected_channel_learns_that_nobody_listens(
    net: Net, mode: str, nobody: tuple[str, int]
) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(remote=nobody)
        for _ in range(2):  # and lives on
            channel.sendto(b"anybody?")
            with pytest.raises(hybridnet.PeerRefused, match=r"port 9: nobody listens") as caught:
                await asyncio.wait_for(channel.recvfrom(), 3)
            assert isinstance(caught.value, ConnectionRefusedError)
            assert caught.value.errno == errno.ECONNREFUSED
        assert channel.statistics().icmp_errors == 2


async def test_refusal_is_raised_once_by_the_next_send_when_nobody_receives(
    net: Net, mode: str
) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(remote=NOBODY4)
        channel.sendto(b"anybody?")
        await eventually(lambda: channel.statistics().icmp_errors == 1, "the ICMP error")
        with pytest.raises(hybridnet.PeerRefused):
            channel.sendto(b"again")
        channel.sendto(b"and again")


async def test_unconnected_channel_is_not_told_that_nobody_listens(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(local=(CLIENT4, 0))
        for _ in range(3):
            channel.sendto(b"anybody?", NOBODY4)
        await eventually(lambda: channel.statistics().icmp_errors == 3, "the ICMP errors")
        channel.sendto(b"you", peer.address)
        assert (await peer.receive())[0] == b"you"
        peer.send(b"me", SERVER4)
        assert (await channel.recvfrom())[0] == b"me"


@pytest.mark.both_loops
async def test_protocol_gets_error_received_when_nobody_listens(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        transport, protocol = await stack.create_datagram_endpoint(Recorder, remote_addr=NOBODY4)
        transport.sendto(b"anybody?")
        ((_, error),) = await protocol.wait_for("error")
        assert isinstance(error, ConnectionRefusedError)
        transport.close()
        await protocol.wait_for("connection_lost")


@pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["ipv4", "ipv6"])
async def test_datagram_beyond_the_largest_is_refused(
    net: Net, mode: str, server: tuple[str, int]
) -> None:
    largest = 65507 if "." in server[0] else 65527
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(server)
        peer = net.peer(local=(CLIENT4 if "." in server[0] else CLIENT6, 0))
        with pytest.raises(hybridnet.MessageTooLarge) as caught:
            channel.sendto(bytes(largest + 1), peer.address)
        assert caught.value.errno == errno.EMSGSIZE
        channel.sendto(bytes(largest), peer.address)
        assert len((await peer.receive())[0]) == largest


async def test_network_without_a_route_is_unreachable(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        with pytest.raises(hybridnet.NetworkUnreachable):
            channel.sendto(b"x", ("192.0.2.1", 9))
        transport, protocol = await stack.create_datagram_endpoint(Recorder, ("10.77.0.2", 0))
        transport.sendto(b"x", ("192.0.2.1", 9))
        ((_, error),) = await protocol.wait_for("error")
        assert error.errno == errno.ENETUNREACH


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("blackhole", errno.EINVAL),
        ("unreachable", errno.EHOSTUNREACH),
        ("prohibit", errno.EACCES),
    ],
)
async def test_refusing_route_says_so_as_to_any_socket(
    net: Net, mode: str, kind: str, number: int
) -> None:
    net.ip(net.b, f"route add {kind} 192.0.2.0/24")
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        with pytest.raises(hybridnet.HybridnetError) as caught:
            channel.sendto(b"x", ("192.0.2.1", 9))
        assert caught.value.errno == number


async def test_broadcast_needs_permission(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        shy = await stack.open_udp(SERVER4)
        peer = net.peer(local=("0.0.0.0", 7777))
        for address in ("255.255.255.255", "10.77.0.255", "<broadcast>"):
            with pytest.raises(hybridnet.PermissionMissing):
                shy.sendto(b"all", (address, 7777))
        loud = await stack.open_udp(("10.77.0.2", 0), broadcast=True)
        loud.sendto(b"all", ("10.77.0.255", 7777))
        assert await peer.receive() == (b"all", loud.local_address)


async def test_smaller_path_mtu_is_learnt_from_the_router(net: Net, mode: str) -> None:
    # b --- a (router) --- far, and the last wire only takes 1200 bytes.
    far = net.add_host("fa", net.a, "rf")
    net.ip(net.a, "address add 10.99.0.1/24 dev rf")
    net.ip(far, "address add 10.99.0.2/24 dev fa")
    net.ip(far, "route add default via 10.99.0.1")
    net.ip(net.a, "link set rf mtu 1200")
    run("ip", "netns", "exec", net.a.namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    net.ip(net.b, "route add 10.99.0.0/24 via 10.77.0.1")
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        peer = net.peer(far, ("10.99.0.2", 0))
        channel.sendto(b"small", peer.address)
        assert (await peer.receive())[0] == b"small"
        before = channel.statistics()
        channel.sendto(b"x" * 1400, peer.address)  # lost if it carries DF, and taught by that
        await asyncio.sleep(0.1)
        for _ in range(2):
            channel.sendto(b"y" * 1400, peer.address)
        while (data := (await peer.receive())[0])[:1] != b"y":
            pass
        assert data == b"y" * 1400
        after = channel.statistics()
        if mode != "kernel" and after.icmp_errors > before.icmp_errors:
            assert after.tx_kernel_datagrams >= before.tx_kernel_datagrams + 2


# Errors of opening.


async def test_port_of_a_kernel_program_is_in_use(net: Net, mode: str) -> None:
    net.peer(net.b, SERVER4)
    async with net.stack(mode=mode) as stack:
        with pytest.raises(hybridnet.AddressInUse, match="9000 is in use") as caught:
            await stack.open_udp(SERVER4)
        assert caught.value.errno == errno.EADDRINUSE
        one_sentence(caught.value)
        with pytest.raises(OSError, match="in use"):
            await stack.create_datagram_endpoint(Recorder, SERVER4)


async def test_kernel_program_cannot_take_the_port_of_a_channel(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        with pytest.raises(OSError, match="in use"):
            net.peer(net.b, SERVER4)
        with pytest.raises(hybridnet.AddressInUse):
            await stack.open_udp(SERVER4)
        channel.close()
        net.peer(net.b, SERVER4)


async def test_address_of_another_machine_is_not_available(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        with pytest.raises(
            hybridnet.AddressNotAvailable, match=r"not an address of this"
        ) as caught:
            await stack.open_udp((CLIENT4, 9000))
        one_sentence(caught.value)


async def test_interface_that_does_not_exist_is_named(net: Net) -> None:
    with pytest.raises(hybridnet.InterfaceNotFound, match="'nope'") as caught:
        await hybridnet.open_stack("nope").open()
    assert "vb" in one_sentence(caught.value)


async def test_loopback_is_served_by_the_kernel_or_refused(net: Net) -> None:
    async with net.stack("lo", mode="auto") as stack:
        assert stack.mode == "kernel"
        async with echo(await stack.open_udp(("127.0.0.1", 9000))):
            assert await net.peer(net.b).ask(b"x", ("127.0.0.1", 9000)) == b"x"
    with pytest.raises(hybridnet.HybridnetError) as caught:
        await hybridnet.open_stack("lo", mode="native").open()
    one_sentence(caught.value)


async def test_zerocopy_that_the_driver_has_not_is_unsupported(net: Net) -> None:
    with pytest.raises(hybridnet.Unsupported, match="zero-copy") as caught:
        await hybridnet.open_stack("vb", mode="zerocopy").open()
    one_sentence(caught.value)
    assert net.xdp() is None


async def test_frame_size_too_small_for_the_mtu_is_explained(net: Net) -> None:
    net.ip(net.b, "link set vb mtu 9000")
    net.ip(net.a, "link set va mtu 9000")
    with pytest.raises(ValueError, match=r"9000|4096"):
        hybridnet.open_stack("vb", frame_bytes=1024)
    with pytest.raises(ValueError, match="queues"):
        await hybridnet.open_stack("vb", queues=2).open()


@pytest.mark.parametrize(
    ("local", "error"),
    [
        ("10.77.0.2:9000", TypeError),
        (("10.77.0.2",), TypeError),
        (("10.77.0.2", "9000"), TypeError),
        (("10.77.0.2", 70000), ValueError),
        (("a.name", 9000), ValueError),
    ],
)
async def test_wrong_local_address_is_misuse(net: Net, local: object, error: type) -> None:
    async with net.stack(mode="kernel") as stack:
        with pytest.raises(error):
            await stack.open_udp(local)  # type: ignore[arg-type]


# Somebody else is on the interface.


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An XDP program that lets everything pass, as another tool might have attached it."""
    source = tmp_path / "pass.bpf.c"
    source.write_text('__attribute__((section("xdp"), used)) int stranger(void *x) { return 2; }\n')
    output = source.with_suffix(".o")
    run("clang", "-O2", "-target", "bpf", "-c", str(source), "-o", str(output))
    return output


async def test_foreign_program_is_left_alone_and_named(net: Net, foreign: Path) -> None:
    net.ip(net.b, f"link set vb xdpdrv obj {foreign} sec xdp")
    there = net.xdp()
    assert there is not None
    async with hybridnet.open_stack("vb", statistics_socket=False) as stack:
        assert stack.mode == "kernel"
        assert any("stranger" in reason for reason in stack.reasons), stack.reasons
        async with echo(await stack.open_udp(SERVER4)):
            assert await net.peer().ask(b"x", SERVER4) == b"x"
    for mode in ("native", "generic"):
        with pytest.raises(hybridnet.InterfaceBusy, match="stranger") as caught:
            await hybridnet.open_stack("vb", mode=mode).open()
        one_sentence(caught.value)
    assert net.xdp() == there


async def test_second_stack_on_the_interface_is_told_who_has_it(net: Net) -> None:
    async with net.stack(mode="native") as stack, echo(await stack.open_udp(SERVER4)):
        with pytest.raises(hybridnet.InterfaceBusy) as caught:
            await hybridnet.open_stack("vb", mode="native").open()
        one_sentence(caught.value)
        assert await net.peer().ask(b"unharmed", SERVER4) == b"unharmed"


# Without privileges.

UNPRIVILEGED = """
import asyncio, json, sys
import hybridnet

async def main():
    try:
        async with hybridnet.open_stack("vb", mode=sys.argv[1]) as stack:
            channel = await stack.open_udp(("127.0.0.1", 9000))
            other = await stack.open_udp(remote=("127.0.0.1", 9000))
            other.sendto(b"hello")
            heard = (await asyncio.wait_for(channel.recvfrom(), 3))[0].decode()
            print(json.dumps({"mode": stack.mode, "reasons": stack.reasons, "heard": heard}))
    except hybridnet.HybridnetError as error:
        print(json.dumps({"error": type(error).__name__, "text": error.strerror}))

asyncio.run(main())
"""


def unprivileged(mode: str, *without: str) -> dict[str, object]:
    """Run a stack on vb in a child that lacks some capabilities, all of them by default."""
    sets = ",".join(f"-{name}" for name in without) if without else "-all"
    done = subprocess.run(
        [
            "setpriv",
            f"--bounding-set={sets}",
            f"--inh-caps={sets}",
            "--no-new-privs",
            sys.executable,
            "-c",
            UNPRIVILEGED,
            mode,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env=python_environment(),
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "missing", [(), ("net_admin", "sys_admin"), ("net_raw",), ("bpf", "sys_admin")]
)
def test_auto_serves_by_the_kernel_without_privileges(net: Net, missing: tuple[str, ...]) -> None:
    report = unprivileged("auto", *missing)
    assert report["mode"] == "kernel"
    assert report["heard"] == "hello"
    assert "CAP_" in " ".join(report["reasons"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "missing", [(), ("net_admin", "sys_admin"), ("net_raw",), ("bpf", "sys_admin")]
)
def test_explicit_mode_names_the_missing_capability(net: Net, missing: tuple[str, ...]) -> None:
    report = unprivileged("native", *missing)
    assert report["error"] == "PermissionMissing", report
    text = str(report["text"])
    assert "CAP_" in text
    assert "\n" not in text


def test_kernel_mode_needs_no_privileges(net: Net) -> None:
    report = unprivileged("kernel")
    assert report["mode"] == "kernel"
    assert report["heard"] == "hello"
