"""Blueprints: bounds are checked where they are written down, and memory adds up."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hybridnet import PROFILES, BusyPoll, Mode, RingSpec, StackSpec, open_stack

WRONG_STACKS: list[dict[str, Any]] = [
    {"queues": 0},
    {"queues": 65},
    {"frame_bytes": 1024},
    {"frame_bytes": 3000},
    {"backlog": 100},
    {"backlog": 32},
    {"flows": 0},
    {"flows": 1000},
    {"receive_frames": 63},
    {"receive_frames": (1 << 20) + 1},
    {"neighbors": 1},
    {"burst": 0},
    {"burst": 65537},
]


@pytest.mark.parametrize("options", WRONG_STACKS, ids=repr)
def test_stack_option_out_of_range_names_itself(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ValueError, match=name) as caught:
        StackSpec(**options)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("name", ["rx", "tx", "fill", "completion"])
@pytest.mark.parametrize("entries", [0, -64, 63, 100, 32, 131072])
def test_ring_that_is_no_power_of_two_in_range_names_itself(name: str, entries: int) -> None:
    with pytest.raises(ValueError, match=rf"rings\.{name} .* not {entries}"):
        RingSpec(**{name: entries})


@pytest.mark.parametrize("entries", ["2048", 2048.0, None, b"1"])
def test_ring_of_a_wrong_type_is_a_type_error(entries: Any) -> None:
    with pytest.raises(TypeError, match=r"rings\.rx must be int"):
        RingSpec(rx=entries)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"spin_us": 0}, "spin_us"), ({"spin_us": 10_001}, "spin_us"), ({"linger_us": -1}, "linger")],
)
def test_busy_polling_is_bounded(options: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BusyPoll(**options)


def test_specs_are_frozen_and_compare_by_value() -> None:
    assert StackSpec() == StackSpec(rings=RingSpec())
    with pytest.raises(dataclasses.FrozenInstanceError):
        StackSpec().queues = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        StackSpec(Mode.AUTO)  # type: ignore[misc]


def test_memory_budget_is_a_sum_by_who_may_hold_it() -> None:
    spec = StackSpec(rings=RingSpec(rx=64, tx=128, fill=256), backlog=64, receive_frames=100)
    once, twice = spec.frames_needed(1), spec.frames_needed(2)
    assert once["fill rings"] == 256
    assert once["transmit rings"] == 128
    assert once["waiting to be received"] == 100
    assert sum(twice.values()) - sum(once.values()) == 256 + 128 + once["transmit backlog"]
    assert all(count > 0 for count in once.values())


def test_profiles_are_named() -> None:
    assert PROFILES["default"] is None
    assert isinstance(PROFILES["busy"], BusyPoll)


def test_open_stack_takes_options_by_name_or_one_spec() -> None:
    assert open_stack(mode="kernel").spec.mode is Mode.KERNEL
    assert open_stack(spec=StackSpec(burst=7)).spec.burst == 7
    with pytest.raises(TypeError, match="not both"):
        open_stack(spec=StackSpec(), burst=7)
    with pytest.raises(TypeError):
        open_stack(speed="fast")
    with pytest.raises(ValueError, match="fast"):
        open_stack(mode="fast")
    wrong: Any = 5
    with pytest.raises(TypeError, match="by its name"):
        open_stack(wrong)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("rings", None, "rings must be RingSpec, not NoneType"),
        ("queues", "x", "queues must be int or None, not str"),
        ("burst", 1.5, "burst must be int, not float"),
        ("busy_poll", True, "busy_poll must be BusyPoll or None, not bool"),
    ],
)
def test_option_of_the_wrong_type_is_named(option: str, value: object, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        open_stack("vb", **{option: value})


def test_unknown_mode_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="mode must be one of auto, zerocopy, native"):
        open_stack("vb", mode="warp")
