"""``create_datagram_endpoint`` beside the event loop's own: the same script, the same events.

The reference is a transport of the loop on a kernel socket.  Where uvloop and asyncio differ from
each other, asyncio's documentation decides.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import hybridnet
from support.peers import CLIENT4, CLIENT6, SERVER4, SERVER6, Net, Recorder, run

Open = Callable[..., Awaitable[tuple[Any, Any]]]
NOBODY = (CLIENT4, 9)

pytestmark = pytest.mark.both_loops


def slow_down(net: Net) -> None:
    """Let vb send 10 MB a second and queue the rest."""
    assert net.b.interface == "vb"
    shape = ("root", "tbf", "rate", "80mbit", "burst", "4kb", "limit", "10mb")
    run("tc", "qdisc", "add", "dev", "vb", *shape)


async def on_both(net: Net, mode: str, script: Callable[[Open], Awaitable[Any]]) -> Any:
    """Run a script on the loop's transport, then on ours; both must report the same."""
    expected = await script(asyncio.get_running_loop().create_datagram_endpoint)
    async with net.stack(mode=mode) as stack:
        got = await script(stack.create_datagram_endpoint)
    assert got == expected
    return got


async def test_life_of_a_transport(net: Net, mode: str) -> None:
    peer = net.peer(local=(CLIENT4, 0))

    async def script(open_endpoint: Open) -> Any:
        transport, protocol = await open_endpoint(Recorder, local_addr=SERVER4)
        seen: list[Any] = [protocol.transport is transport, transport.is_closing()]
        peer.send(b"hello", SERVER4)
        await protocol.wait_for("datagram")
        for data, addr in ((b"one", peer.address), (bytearray(b"two"), peer.address)):
            transport.sendto(data, addr)
            seen.append(await peer.receive())
        transport.sendto(memoryview(b"three"), peer.address)
        transport.close()
        seen += [transport.is_closing(), list(protocol.events)]
        transport.close()
        seen.append((await peer.receive())[0])
        await protocol.wait_for("connection_lost")
        return [*seen, protocol.events]

    await on_both(net, mode, script)


async def test_connected_transport(net: Net, mode: str) -> None:
    peer = net.peer(local=(CLIENT4, 0))

    async def script(open_endpoint: Open) -> Any:
        transport, protocol = await open_endpoint(
            Recorder, local_addr=SERVER4, remote_addr=peer.address
        )
        seen: list[Any] = [transport.get_extra_info("peername") == peer.address]
        transport.sendto(b"by default")
        seen.append(await peer.receive())
        transport.sendto(b"spelt out", peer.address)
        seen.append(await peer.receive())
        with pytest.raises(ValueError, match="address"):
            transport.sendto(b"elsewhere", (CLIENT4, 1))
        net.peer().send(b"stranger", SERVER4)
        peer.send(b"friend", SERVER4)
        seen.append((await protocol.wait_for("datagram"))[0][1])
        transport.abort()
        await protocol.wait_for("connection_lost")
        return [*seen, protocol.events[-1]]

    await on_both(net, mode, script)


async def test_refusal_reaches_the_protocol_and_the_transport_lives_on(net: Net, mode: str) -> None:
    async def script(open_endpoint: Open) -> Any:
        transport, protocol = await open_endpoint(Recorder, remote_addr=NOBODY)
        transport.sendto(b"anybody?")
        ((_, error),) = await protocol.wait_for("error")
        seen = [type(error).__mro__.count(ConnectionRefusedError), error.errno]
        transport.sendto(b"anybody else?")
        await protocol.wait_for("error", 2)
        transport.close()
        await protocol.wait_for("connection_lost")
        return [*seen, transport.is_closing(), protocol.events[-1]]

    await on_both(net, mode, script)


async def test_too_large_a_datagram_is_an_error_received(net: Net, mode: str) -> None:
    async def script(open_endpoint: Open) -> Any:
        transport, protocol = await open_endpoint(Recorder, local_addr=("10.77.0.2", 0))
        transport.sendto(bytes(70000), NOBODY)
        ((_, error),) = await protocol.wait_for("error")
        transport.abort()
        await protocol.wait_for("connection_lost")
        return error.errno

    assert await on_both(net, mode, script) == errno.EMSGSIZE


async def test_abort_calls_connection_lost_in_a_later_turn(net: Net, mode: str) -> None:
    async def script(open_endpoint: Open) -> Any:
        transport, protocol = await open_endpoint(Recorder, local_addr=("10.77.0.2", 0))
        transport.abort()
        at_once = list(protocol.events)
        transport.abort()
        transport.close()
        await protocol.wait_for("connection_lost")
        await asyncio.sleep(0.02)
        return [at_once, protocol.events]

    await on_both(net, mode, script)


async def test_nothing_is_received_after_close(net: Net, mode: str) -> None:
    peer = net.peer()

    async def script(open_endpoint: Open) -> Any:
        class Closes(Recorder):
            def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
                super().datagram_received(data, addr)
                assert self.transport is not None
                self.transport.close()

        _, protocol = await open_endpoint(Closes, local_addr=SERVER4)
        for number in range(5):
            peer.send(b"%d" % number, SERVER4)
        await protocol.wait_for("connection_lost")
        return [event for event in protocol.events if event[0] != "datagram" or event[1] == b"0"]

    await on_both(net, mode, script)


async def test_exception_in_datagram_received_goes_to_the_handler_and_all_lives_on(
    net: Net, mode: str
) -> None:
    class Fails(Recorder):
        def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
            super().datagram_received(data, addr)
            if data == b"bad":
                raise ZeroDivisionError("a mistake of the application")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with net.stack(mode=mode) as stack:
        transport, protocol = await stack.create_datagram_endpoint(Fails, SERVER4)
        peer = net.peer()
        for data in (b"good", b"bad", b"bad", b"good"):
            peer.send(data, SERVER4)
        await protocol.wait_for("datagram", 4)
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError] * 2
        assert reported[0]["transport"] is transport
        assert not transport.is_closing()
        transport.sendto(b"unharmed", (CLIENT4, peer.port))
        assert (await peer.receive())[0] == b"unharmed"


async def test_exceptions_in_other_callbacks_do_not_stop_the_stack(net: Net, mode: str) -> None:
    class Fails(Recorder):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            raise ZeroDivisionError

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            raise ZeroDivisionError

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with net.stack(mode=mode) as stack:
        channel = await stack.open_udp(SERVER4)
        transport, protocol = await stack.create_datagram_endpoint(Fails, remote_addr=NOBODY)
        transport.sendto(b"anybody?")
        await protocol.wait_for("error")
        net.peer().send(b"x", SERVER4)
        assert (await channel.recvfrom())[0] == b"x"
        transport.close()
        await protocol.wait_for("connection_lost")
        await asyncio.sleep(0)
    assert len(reported) == 2


async def test_extra_info_is_as_the_loop_gives_it(net: Net, mode: str) -> None:
    async def script(open_endpoint: Open) -> Any:
        transport, _ = await open_endpoint(Recorder, local_addr=SERVER4)
        sock = transport.get_extra_info("socket")
        seen = [
            transport.get_extra_info("sockname"),
            transport.get_extra_info("peername"),
            transport.get_extra_info("nonsense"),
            transport.get_extra_info("nonsense", 7),
            sock.getsockname(),
            sock.family,
            sock.type,
            sock.fileno() >= 0,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
        ]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        transport.abort()
        await asyncio.sleep(0.02)
        return seen

    await on_both(net, mode, script)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # uvloop forgets what it could not bind
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_wrong_arguments_are_refused_alike(net: Net, mode: str) -> None:
    async def script(open_endpoint: Open) -> Any:
        seen = []
        for arguments in (
            {},
            {"local_addr": ("10.77.0.9", 9000)},
            {"local_addr": ("10.77.0.2",)},
        ):
            try:
                transport, _ = await open_endpoint(Recorder, **arguments)
                transport.abort()
                await asyncio.sleep(0.02)
                seen.append("fine")
            except Exception as error:
                seen.append(
                    next(
                        t
                        for t in (ValueError, TypeError, OSError, Exception)
                        if isinstance(error, t)
                    )
                )
        return seen

    await on_both(net, mode, script)


async def test_addresses_of_two_families_are_misuse(net: Net) -> None:
    async with net.stack(mode="kernel") as stack:
        with pytest.raises(ValueError, match="address"):
            await stack.create_datagram_endpoint(
                Recorder, local_addr=("10.77.0.2", 0), remote_addr=(CLIENT6, 9)
            )


async def test_data_that_is_not_bytes_is_a_type_error(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        transport, _ = await stack.create_datagram_endpoint(Recorder, ("10.77.0.2", 0))
        for wrong in ("text", 7, None):
            with pytest.raises(TypeError):
                transport.sendto(wrong, NOBODY)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            transport.sendto()  # type: ignore[call-arg]


async def test_family_alone_gives_a_wildcard(net: Net, mode: str) -> None:
    async def script(open_endpoint: Open) -> Any:
        seen = []
        for family in (socket.AF_INET, socket.AF_INET6):
            transport, _ = await open_endpoint(Recorder, family=family)
            seen.append(transport.get_extra_info("socket").family)
            transport.abort()
            await asyncio.sleep(0.02)
        return seen

    await on_both(net, mode, script)


async def test_names_are_resolved(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        transport, protocol = await stack.create_datagram_endpoint(
            Recorder, local_addr=("localhost", 0), family=socket.AF_INET
        )
        here = transport.get_extra_info("sockname")
        assert here[0] == "127.0.0.1"
        client, _ = await stack.create_datagram_endpoint(
            Recorder, remote_addr=("localhost", here[1]), family=socket.AF_INET
        )
        client.sendto(b"by name")
        assert (await protocol.wait_for("datagram"))[0][1] == b"by name"
        with pytest.raises(socket.gaierror):
            await stack.create_datagram_endpoint(Recorder, ("no.such.name.invalid", 9000))


async def test_ipv6_endpoint_echoes(net: Net, mode: str) -> None:
    class Echo(Recorder):
        def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
            assert self.transport is not None
            self.transport.sendto(data, addr)

    async with net.stack(mode=mode) as stack:
        await stack.create_datagram_endpoint(Echo, SERVER6)
        peer = net.peer(local=(CLIENT6, 0))
        for size in (0, 1, 1452, 5000):
            assert await peer.ask(b"6" * size, SERVER6) == b"6" * size


async def test_writing_is_paused_while_the_wire_is_slow_and_nothing_is_lost(net: Net) -> None:
    slow_down(net)
    async with net.stack(mode="kernel") as stack:
        transport, protocol = await stack.create_datagram_endpoint(Recorder, SERVER4)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        transport.set_write_buffer_limits(high=20_000, low=5_000)
        peer = net.peer(local=(CLIENT4, 0), options=((socket.SOL_SOCKET, 33, 8 << 20),))
        datagrams = [(b"%d" % number).ljust(1000) for number in range(300)]
        for data in datagrams:
            transport.sendto(data, peer.address)
        await protocol.wait_for("pause_writing")
        assert transport.get_write_buffer_size() > 20_000
        transport.close()  # what is buffered still goes out
        for data in datagrams:
            assert (await peer.receive())[0] == data
        await protocol.wait_for("connection_lost")
        kinds = [event[0] for event in protocol.events]
        assert kinds == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]


async def test_closing_the_stack_loses_the_connections(net: Net, mode: str) -> None:
    async with net.stack(mode=mode) as stack:
        _, protocol = await stack.create_datagram_endpoint(Recorder, SERVER4)
        await stack.aclose()
        assert protocol.events[-1] == ("connection_lost", None)


async def test_socket_of_the_callers_is_refused(net: Net) -> None:
    async with net.stack(mode="kernel") as stack:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="own sockets"):
                await stack.create_datagram_endpoint(Recorder, sock=sock)


async def test_stack_is_opened_once_and_used_while_open(net: Net) -> None:
    async with net.stack(mode="kernel") as stack:
        with pytest.raises(RuntimeError, match="open already"):
            await stack.open()
        await stack.aclose()
        with pytest.raises(RuntimeError, match="not open"):
            await stack.open_udp(SERVER4)
        await stack.aclose()
    assert isinstance(stack, hybridnet.Stack)
