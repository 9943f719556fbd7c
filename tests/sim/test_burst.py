"""Where bursts cross between C and Python: Engine, Port and Lease on a simulated wire."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from simulated import HOST4, HOST6, PEER4, PEER6, World

import hybridnet
from hybridnet._native import Engine, Lease, Port, ffi
from hybridnet.channels.batch import DESCRIPTOR_BYTES, DatagramBatch
from hybridnet.stack.core import Udp
from support import packets as p

AF_INET, AF_INET6 = 2, 10
CLIENT = (PEER4, 7)


class Burst(World):
    """A world that an Engine drives; the port's callbacks are noted."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.reported: list[tuple[BaseException, object]] = []
        self.refused: list[int] = []
        self.scheduled: list[bool] = []
        self.engine = Engine(
            self.core.disown(),
            self.scheduled.append,
            lambda error, owner: self.reported.append((error, owner)),
            lambda: None,
            lambda owner, number, address: None,
            lambda fd: None,
            lambda: None,
        )
        self.ports: list[tuple[Port, Udp]] = []

    def open_port(self, local: str = HOST4, port: int = 9000, **options: Any) -> Port:
        udp = self.core.open_udp((local, port), **options)
        made = Port(
            self.engine,
            int(ffi.cast("uintptr_t", udp.native)),
            f"owner of {port}",
            lambda number, data, address: self.refused.append(number),
            -1,
            AF_INET6 if ":" in local else AF_INET,
            False,
            False,
        )
        self.ports.append((made, udp))
        return made

    def turn(self, *frames: bytes) -> int:
        for frame in frames:
            self.wire.push(frame)
        return self.engine.turn(self.wire.index, 0, 4096)

    def sent(self) -> list[bytes]:
        """Take off the wire what the engine has flushed."""
        return list(iter(self.wire.pull, None))  # type: ignore[arg-type]

    def free(self) -> int:
        return self.core.memory().free

    def close(self) -> None:
        for port, udp in self.ports:
            port.close()
            udp.forget()
        while self.wire.pull() is not None:
            pass
        assert self.free() == self.frames_free, "frames have leaked"
        self.engine.close()


@pytest.fixture
def burst() -> Iterator[Burst]:
    made = Burst()
    yield made
    made.close()


def question(payload: bytes, port: int = 9000, src: p.Endpoint = CLIENT) -> bytes:
    return p.udp(payload, src, (HOST6 if ":" in src[0] else HOST4, port))


def questions(count: int) -> list[bytes]:
    return [question(b"%d" % number) for number in range(count)]


# Protocols.


def test_turn_hands_a_burst_to_the_protocol_and_sends_its_answers(burst: Burst) -> None:
    port = burst.open_port()
    port.on_datagram = lambda data, addr: port.send(data.upper(), addr)
    assert burst.turn(question(b"one"), question(b"two")) == 2
    one, two = burst.sent()
    p.assert_udp(one, payload=b"ONE", dst=CLIENT)
    p.assert_udp(two, payload=b"TWO", dst=CLIENT)
    assert burst.scheduled == []  # the turn itself has flushed


def test_addresses_are_as_the_socket_module_writes_them(burst: Burst) -> None:
    seen: list[object] = []
    four, dual = burst.open_port(port=9000), burst.open_port("::", 9001)
    four.on_datagram = lambda data, addr: seen.append(addr)
    dual.on_datagram = lambda data, addr: seen.append(addr)
    burst.turn(question(b"x"), question(b"x", 9001), question(b"x", 9001, (PEER6, 7)))
    assert sorted(map(str, seen)) == sorted(
        map(str, [CLIENT, (f"::ffff:{PEER4}", 7, 0, 0), (PEER6, 7, 0, 0)])
    )


def test_answer_to_a_mapped_address_goes_out_over_ipv4(burst: Burst) -> None:
    port = burst.open_port("::")
    port.on_datagram = lambda data, addr: port.send(data, addr)
    burst.turn(question(b"four"), question(b"six", src=(PEER6, 7)))
    assert {p.parse_udp(frame).dst[0] for frame in burst.sent()} == {PEER4, PEER6}


def test_exception_in_a_protocol_is_reported_and_the_rest_is_delivered(burst: Burst) -> None:
    seen: list[bytes] = []

    def receive(data: bytes, addr: object) -> None:
        if data == b"1":
            raise ValueError("on purpose")
        seen.append(data)

    burst.open_port().on_datagram = receive
    assert burst.turn(*questions(4)) == 4
    assert seen == [b"0", b"2", b"3"]
    [(error, owner)] = burst.reported
    assert str(error) == "on purpose"
    assert owner == "owner of 9000"
    assert burst.turn(question(b"still here")) == 1
    assert seen[-1] == b"still here"


def test_keyboard_interrupt_goes_through_and_loses_only_what_was_in_hand(burst: Burst) -> None:
    port = burst.open_port()
    seen: list[bytes] = []

    def receive(data: bytes, addr: tuple[str, int]) -> None:
        seen.append(data)
        port.send(data, addr)
        if data == b"3":
            raise KeyboardInterrupt

    port.on_datagram = receive
    with pytest.raises(KeyboardInterrupt):
        burst.turn(*questions(100))  # more than are taken at a time
    assert len(burst.sent()) == 4, "what was sent before it must go out"
    burst.turn()
    delivered = len(seen)
    assert delivered > 4, "what waits must not be forgotten"
    assert delivered + burst.drops()["udp_closed"] == 100


def test_port_closed_by_its_own_callback_takes_its_datagrams_along(burst: Burst) -> None:
    port, other = burst.open_port(), burst.open_port(port=9001)
    seen: list[bytes] = []
    port.on_datagram = lambda data, addr: port.close()
    other.on_datagram = lambda data, addr: seen.append(data)
    burst.turn(*questions(100), question(b"other's", 9001))
    assert seen == [b"other's"]
    assert burst.drops() == {"udp_closed": 99}


def test_callback_can_neither_turn_again_nor_close_the_engine(burst: Burst) -> None:
    port = burst.open_port()
    results: list[object] = []

    def receive(data: bytes, addr: object) -> None:
        results.append(burst.turn())
        with pytest.raises(RuntimeError):
            burst.engine.close()

    port.on_datagram = receive
    burst.turn(question(b"x"))
    assert results == [0]
    assert burst.reported == []


def test_send_outside_a_turn_asks_for_one_flush(burst: Burst) -> None:
    port = burst.open_port()
    for _ in range(3):
        port.send(b"x", CLIENT)
    assert burst.scheduled == [False]
    assert burst.sent() == []
    burst.engine.flush()
    assert len(burst.sent()) == 3


def test_waiting_reader_is_woken_once(burst: Burst) -> None:
    port = burst.open_port()
    woken: list[int] = []
    port.on_readable = lambda: woken.append(1)
    burst.turn(question(b"nobody waits"))
    assert woken == []
    assert port.pending == 1
    port.waiting = True
    burst.turn(question(b"a"), question(b"b"))
    assert woken == [1]
    assert port.waiting is False
    assert [port.receive() for _ in range(4)] == [
        (b"nobody waits", CLIENT),
        (b"a", CLIENT),
        (b"b", CLIENT),
        None,
    ]


@pytest.mark.parametrize(
    "address",
    [
        ("10.0.0.2",),
        (PEER4, 7, 0),
        (PEER4, 0),
        (PEER4, 65536),
        (PEER4, -1),
        (PEER4, 2**70),
        (PEER4, "7"),
        (b"10.0.0.2", 7),
        ("nobody.invalid", 7),
        ("\ud800", 7),
        (PEER6, 7),
        [PEER4, 7],
    ],
    ids=repr,
)
def test_address_that_is_not_numeric_is_left_to_python(burst: Burst, address: Any) -> None:
    port = burst.open_port()
    port.send(b"x", address)
    assert burst.refused == [22]
    assert burst.sent() == []


def test_wrong_arguments_are_type_errors(burst: Burst) -> None:
    port: Any = burst.open_port()
    for arguments in ((), (1,), ("text", CLIENT), (b"x", CLIENT, 3)):
        with pytest.raises(TypeError):
            port.send(*arguments)
    with pytest.raises(TypeError):
        port.send(b"x", wrong=1)
    with pytest.raises(TypeError):
        port.receive_batch("many")
    with pytest.raises(ValueError, match="at least one"):
        port.receive_batch(0)
    with pytest.raises(OverflowError):
        port.receive_lease(-1)
    port.send(data=memoryview(b"xyz")[1:], addr=CLIENT)
    burst.engine.flush()
    p.assert_udp(burst.sent()[0], payload=b"yz")


def test_closed_port_refuses_everything(burst: Burst) -> None:
    port = burst.open_port()
    port.close()
    port.close()
    port.send(b"x", CLIENT)
    assert burst.refused == [9]
    for call in (port.receive, lambda: port.receive_batch(1), lambda: port.receive_lease(1)):
        with pytest.raises(OSError, match="Bad file"):
            call()
    with pytest.raises(OSError, match="Bad file"):
        port.send_batch(b"", b"", 0)


# Copied batches.


def test_batch_holds_payloads_addresses_and_arrivals(burst: Burst) -> None:
    port = burst.open_port("::")
    burst.turn(question(b"four"), question(b""), question(b"six!", src=("fe80::2", 9)))
    burst.turn(p.udp(b"link", ("fe80::2", 9), ("fe80::1", 9000)))
    received = port.receive_batch(64)
    assert received is not None
    batch = DatagramBatch(*received)
    assert [(bytes(data), addr) for data, addr in batch] == [
        (b"four", CLIENT),
        (b"", CLIENT),
        (b"six!", ("fe80::2", 9, 0, 7)),
        (b"link", ("fe80::2", 9, 0, 7)),
    ]
    table = numpy.frombuffer(batch.descriptors, hybridnet.DATAGRAM_FIELDS)
    assert table.dtype.itemsize == DESCRIPTOR_BYTES
    assert table["length"].tolist() == [4, 0, 4, 4]
    assert table["offset"].tolist() == [0, 4, 4, 8]
    assert table["family"].tolist() == [4, 4, 6, 6]
    assert (table["arrival_ns"] > 0).all()
    assert table["arrival_ns"][0] == table["arrival_ns"][2] < table["arrival_ns"][3]
    assert port.receive_batch(64) is None


def test_batch_is_bounded_by_what_was_asked_for(burst: Burst) -> None:
    port = burst.open_port()
    burst.turn(*questions(100))
    sizes = []
    while (received := port.receive_batch(30)) is not None:
        sizes.append(len(DatagramBatch(*received)))
    assert sizes == [30, 30, 30, 10]


def test_received_batch_goes_back_to_its_senders(burst: Burst) -> None:
    port = burst.open_port("::")
    burst.turn(question(b"a"), question(b"b", src=(PEER6, 8)), question(b"c", src=(PEER4, 9)))
    received = port.receive_batch(10)
    assert received is not None
    assert port.send_batch(*received, 0) == (3, 0)
    burst.engine.flush()
    answers = [(f.payload, f.dst) for f in map(p.parse_udp, burst.sent())]
    assert sorted(answers) == [(b"a", (PEER4, 7)), (b"b", (PEER6, 8)), (b"c", (PEER4, 9))]


def test_made_batch_is_sent_from_where_it_was_held_back(burst: Burst) -> None:
    port = burst.open_port()
    batch = DatagramBatch.of((b"%d" % number, CLIENT) for number in range(10))
    assert port.send_batch(*batch.native(), 7) == (3, 0)
    assert port.send_batch(*batch.native(), 10) == (0, 0)
    assert port.send_batch(*batch.native(), 11) == (0, 0)
    with pytest.raises(TypeError):
        port.send_batch(*batch.native(), -1)
    burst.engine.flush()
    assert [p.parse_udp(frame).payload for frame in burst.sent()] == [b"7", b"8", b"9"]


def test_descriptors_are_not_trusted(burst: Burst) -> None:
    port = burst.open_port()
    table = numpy.zeros(3, hybridnet.DATAGRAM_FIELDS)
    table["ip"][:, :4] = [10, 0, 0, 2]
    table["port"], table["family"], table["length"] = 7, 4, 1
    table["offset"][1] = 0xFFFFFFFF
    with pytest.raises(ValueError, match="descriptor 1"):
        port.send_batch(b"x", table.tobytes(), 0)
    table["offset"][1] = 0
    table["family"][1] = 77
    assert port.send_batch(b"x", table.tobytes(), 0)[1] == 97  # EAFNOSUPPORT
    table["family"][1], table["port"][1] = 4, 0
    assert port.send_batch(b"x", table.tobytes(), 0) == (1, 22)
    assert port.send_batch(b"x", table.tobytes()[:39], 0) == (0, 0)
    burst.engine.flush()
    assert len(burst.sent()) == 3


# Leases.


def lease(burst: Burst, port: Port, *frames: bytes) -> Lease:
    burst.turn(*frames)
    held = port.receive_lease(100)
    assert held is not None
    return held


def test_leased_payloads_are_the_frames_themselves(burst: Burst) -> None:
    port = burst.open_port()
    held = lease(burst, port, question(b"hello"), question(b"world"))
    batch = DatagramBatch(b"", held.descriptors(), held)
    assert batch.is_leased
    assert burst.free() == burst.frames_free - 2
    with batch.payload(0) as view:
        view[:] = b"HELLO"
    assert [bytes(view) for view, _ in batch] == [b"HELLO", b"world"]
    assert bytes(batch.payload(-1)) == b"world"
    with pytest.raises(IndexError):
        batch.payload(2)
    with pytest.raises(IndexError):
        batch.payload(-3)
    batch.release()
    assert not batch.is_leased
    assert burst.free() == burst.frames_free


def test_lease_with_views_alive_stays_until_they_are_gone(burst: Burst) -> None:
    held = lease(burst, burst.open_port(), question(b"hello"))
    view = held.view(0)
    part = view[1:3]
    with pytest.raises(BufferError, match="still alive"):
        held.release()
    view.release()
    with pytest.raises(BufferError):
        held.release()  # the slice reads the same bytes
    assert bytes(part) == b"el"
    part.release()
    held.release()
    held.release()
    assert held.released


USES: list[Callable[[DatagramBatch], object]] = [
    lambda batch: batch.payload(0),
    lambda batch: batch.address(0),
    lambda batch: batch.descriptors,
    lambda batch: list(batch),
    lambda batch: batch.native(),
]


@pytest.mark.parametrize("use", USES, ids=["payload", "address", "descriptors", "iter", "native"])
def test_released_lease_refuses_every_use(
    burst: Burst, use: Callable[[DatagramBatch], object]
) -> None:
    held = lease(burst, burst.open_port(), question(b"hello"))
    with DatagramBatch(b"", held.descriptors(), held) as batch:
        use(batch)
        gc.collect()
    with pytest.raises(hybridnet.LeaseReleased):
        use(batch)


def test_forgotten_lease_gives_its_frames_back(burst: Burst) -> None:
    held: Lease | None = lease(burst, burst.open_port(), question(b"hello"))
    assert held is not None
    view = held.view(0)
    held = None
    gc.collect()
    assert bytes(view) == b"hello"  # the view keeps it
    assert burst.free() == burst.frames_free - 1
    view.release()
    assert burst.free() == burst.frames_free


@pytest.mark.parametrize("changed", [False, True], ids=["as it came", "changed"])
def test_leased_batch_is_sent_back_without_a_copy(burst: Burst, changed: bool) -> None:
    port = burst.open_port("::")
    held = lease(burst, port, question(b"four"), question(b"six!", src=(PEER6, 8)))
    if changed:
        for index in range(2):
            with held.view(index) as view:
                view[:] = bytes(view).upper()
    free = burst.free()
    assert port.send_batch(held, b"", 0) == (2, 0)
    assert burst.free() == free
    burst.engine.flush()
    four, six = sorted(map(p.parse_udp, burst.sent()), key=lambda found: found.payload)
    assert (four.payload, six.payload) == ((b"FOUR", b"SIX!") if changed else (b"four", b"six!"))
    with pytest.raises(OSError, match="Bad address"):
        held.view(0)
    held.release()


def test_leased_batch_with_views_alive_is_not_sent(burst: Burst) -> None:
    port = burst.open_port()
    held = lease(burst, port, question(b"hello"))
    view = held.view(0)
    with pytest.raises(BufferError):
        port.send_batch(held, b"", 0)
    view.release()
    held.release()
    with pytest.raises(OSError, match="Bad address"):
        port.send_batch(held, b"", 0)


def test_lease_of_another_stack_is_not_sent(burst: Burst) -> None:
    other = Burst()
    held = lease(other, other.open_port(), question(b"hello"))
    with pytest.raises(ValueError, match="another stack"):
        burst.open_port().send_batch(held, b"", 0)
    held.release()
    other.close()


def test_jumbo_datagram_is_leased_as_a_copy_and_sent_back(burst: Burst) -> None:
    burst.core.set_device(0, mtu=9000, mac=p.HOST_MAC, up=True)
    port = burst.open_port()
    payload = bytes(range(250)) * 30
    held = lease(burst, port, question(payload))
    assert bytes(held.view(0)) == payload
    gc.collect()
    assert port.send_batch(held, b"", 0) == (1, 0)
    burst.engine.flush()
    p.assert_udp(burst.sent()[0], payload=payload)
    held.release()


def test_engine_closed_under_a_lease_lives_until_its_end() -> None:
    world = Burst()
    port = world.open_port()
    held = lease(world, port, question(b"hello"))
    view = held.view(0)
    port.close()
    world.ports[0][1].forget()
    world.engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        world.turn()
    assert bytes(view) == b"hello"
    view.release()
    held.release()


def test_cycle_of_port_and_callback_is_collected() -> None:
    world = Burst()
    port = world.open_port()
    port.on_datagram = lambda data, addr, port=port: port.send(data, addr)  # type: ignore[misc]
    world.turn(question(b"hello"))
    world.ports[0][1].forget()
    del port
    world.ports.clear()
    gc.collect()
    world.close()
