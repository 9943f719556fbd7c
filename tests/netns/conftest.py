"""Fixtures for tests that live on one host of a lab, on either event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

from hybridnet.cli.namespaces import Lab
from support.peers import Net, net_in

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on uvloop; those marked ``both_loops`` on the selector loop as well.

    A module may name others in ``LOOP_FACTORIES``.
    """
    own: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None
    own = getattr(getattr(item, "module", None), "LOOP_FACTORIES", None)
    if own is not None:
        return own
    if item.get_closest_marker("both_loops"):
        return LOOPS
    return {"uvloop": LOOPS["uvloop"]}


@pytest.fixture(params=["native", "generic", "kernel"])
def mode(request: pytest.FixtureRequest) -> str:
    """Every way in which packets can travel on a veth."""
    return str(request.param)


@pytest.fixture(params=["native", "generic"])
def fast_mode(request: pytest.FixtureRequest) -> str:
    """Every way in which packets can travel by AF_XDP on a veth."""
    return str(request.param)


@pytest.fixture
def make_net(make_lab: Callable[..., Lab]) -> Iterator[Callable[..., Net]]:
    """Make labs (``queues=``, ``mtu=``) and put the test on host ``b`` of the last."""
    with contextlib.ExitStack() as nets:
        yield lambda **sizes: nets.enter_context(net_in(make_lab(**sizes)))


@pytest.fixture
def net(make_net: Callable[..., Net]) -> Net:
    """The test is on host ``b`` of a lab with default sizes."""
    return make_net()
