"""The examples, run as a person runs them, against kernel clients on the other host."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from hybridnet.cli.namespaces import Lab
from support.netns import python_environment, read_line, run_python, start_python, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
UDP = str(EXAMPLES / "udp_echo.py")
QUIC = str(EXAMPLES / "quic_echo.py")


def closing_line(child: subprocess.Popen[str], number: signal.Signals) -> dict[str, Any]:
    """Ask a server to end and return the JSON line that it prints last."""
    child.send_signal(number)
    assert child.stdout is not None
    rest = child.stdout.read().splitlines()
    assert child.wait(timeout=5) == 0
    assert len(rest) == 1
    return dict(json.loads(rest[0]))


def xdp(lab: Lab) -> bool:
    return "xdp" in lab.run(lab.b, "ip", "link", "show", "dev", "vb").stdout


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("api", ["protocol", "channel", "batch"])
@pytest.mark.parametrize("mode", ["auto", "native", "generic", "kernel"])
def test_udp_echo_serves_and_reports(lab: Lab, api: str, mode: str, loop: str) -> None:
    server = start_python(
        *(lab, lab.b, UDP, "--dev", "vb", "--listen", "10.77.0.2:9000"),
        *("--api", api, "--mode", mode, "--loop", loop),
    )
    granted = "native" if mode == "auto" else mode
    assert read_line(server) == f"ready 10.77.0.2:9000 {granted}"
    client = run_python(
        *(lab, lab.a, "-m", "hybridnet.cli.echo_client", "10.77.0.2:9000"),
        *("--seconds", "0.1", "--json"),
    )
    answered = json.loads(client.stdout)["received"]
    assert answered > 10
    number = signal.SIGINT if loop == "uvloop" else signal.SIGTERM
    report = closing_line(server, number)
    assert set(report) == {"mode", "fast", "kernel", "drops"}
    assert set(report["fast"]) == {"rx_packets", "tx_packets", "rx_bytes", "tx_bytes"}
    assert report["mode"] == granted
    assert report["fast"]["rx_packets"] + report["kernel"]["rx_packets"] >= answered
    assert (report["fast"]["tx_packets"] >= answered) == (mode != "kernel")
    assert not xdp(lab)


@pytest.mark.parametrize("listen", ["0.0.0.0:9000", "[::]:9000", "[fd77::2]:9000"])
def test_udp_echo_listens_where_it_is_told(lab: Lab, listen: str) -> None:
    server = start_python(lab, lab.b, UDP, "--dev", "vb", "--listen", listen)
    assert read_line(server) == f"ready {listen} native"
    target = "10.77.0.2:9000" if "0.0.0.0" in listen else "[fd77::2]:9000"
    client = ("-m", "hybridnet.cli.echo_client", target, "--seconds", "0.1", "--json")
    assert json.loads(run_python(lab, lab.a, *client).stdout)["received"] > 10
    closing_line(server, signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dev", "nope", "--listen", "10.77.0.2:9000"), "no interface 'nope'"),
        (("--dev", "vb", "--listen", "10.77.0.9:9000"), "not an address of this machine"),
        (("--dev", "vb", "--listen", "10.77.0.2:9000", "--mode", "zerocopy"), "zero-copy"),
    ],
)
def test_udp_echo_explains_in_one_sentence(lab: Lab, options: tuple[str, ...], said: str) -> None:
    done = run_python(lab, lab.b, UDP, *options, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not xdp(lab)


QUIC_CLIENT = """
import asyncio, hashlib, os, sys
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

async def main(host, authority, count):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"])
    configuration.load_verify_locations(authority)
    async with connect(host, 4433, configuration=configuration) as connection:
        for _ in range(2):
            data = os.urandom(count)
            reader, writer = await connection.create_stream()
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
    print("echoed")

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.parametrize(
    ("mode", "loop", "host"),
    [
        ("native", "uvloop", "10.77.0.2"),
        ("native", "asyncio", "fd77::2"),
        ("generic", "uvloop", "10.77.0.2"),
        ("kernel", "uvloop", "10.77.0.2"),
    ],
)
def test_quic_echo_returns_a_megabyte(
    lab: Lab, tmp_path: Path, mode: str, loop: str, host: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    identity = authority.issue_cert(host)
    identity.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(identity.cert_chain_pems):
        pem.write_to_path(tmp_path / "cert.pem", append=number > 0)
    listen = f"[{host}]:4433" if ":" in host else f"{host}:4433"
    server = start_python(
        *(lab, lab.b, QUIC, "--dev", "vb", "--listen", listen, "--mode", mode, "--loop", loop),
        *("--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")),
    )
    assert read_line(server) == f"ready {listen} {mode}"
    client = ("-c", QUIC_CLIENT, host, str(tmp_path / "ca.pem"), "500000")
    done = run_python(lab, lab.a, *client, check=False)
    assert done.stdout == "echoed\n", done.stderr
    report = closing_line(server, signal.SIGINT)
    path = "kernel" if mode == "kernel" else "fast"
    assert report[path]["tx_bytes"] > 1_000_000


# Death in full flight.

SENDER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.77.0.1", 0))
s.settimeout(0.01)
while True:
    try:
        for _ in range(32):
            s.sendto(b"x" * 64, ("10.77.0.2", 9000))
        for _ in range(32):
            s.recv(100)
    except OSError:
        pass
"""


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_killed_server_leaves_the_interface_to_the_kernel(lab: Lab, mode: str) -> None:
    server = start_python(
        lab, lab.b, UDP, "--dev", "vb", "--listen", "10.77.0.2:9000", "--mode", mode
    )
    assert read_line(server).endswith(mode)
    limits = ("icmp_ratelimit=0", "icmp_msgs_per_sec=1000000", "icmp_msgs_burst=1000000")
    lab.run(lab.b, "sysctl", "-qw", *(f"net.ipv4.{limit}" for limit in limits))
    start_python(lab, lab.a, "-c", SENDER)
    wait_until(lambda: xdp(lab), "the steering program")
    probe = ("-m", "hybridnet.cli.echo_client", "10.77.0.2:9000", "--seconds", "0.1", "--json")
    assert json.loads(run_python(lab, lab.a, *probe).stdout)["received"] > 0
    server.kill()  # of "ip netns exec", which became the server
    server.wait()
    wait_until(lambda: not xdp(lab), "the program to go with its process", 1.0)
    done = run_python(lab, lab.a, *probe, check=False)
    assert json.loads(done.stdout)["refused"] > 0
    again = start_python(
        lab, lab.b, UDP, "--dev", "vb", "--listen", "10.77.0.2:9000", "--mode", mode
    )
    assert read_line(again).endswith(mode)
    assert json.loads(run_python(lab, lab.a, *probe).stdout)["received"] > 0
    closing_line(again, signal.SIGTERM)


def test_examples_tell_what_they_take() -> None:
    for example in (UDP, QUIC):
        done = subprocess.run(
            [sys.executable, example, "--help"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            env=python_environment(),
        )
        assert "--listen HOST:PORT" in done.stdout
