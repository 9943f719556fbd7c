"""Random changes of a namespace's network by ``ip``, and what the kernel says of the result."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def ip(command: str, *, check: bool = True) -> str:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"ip {command}: {done.stderr}")
    return done.stdout


def batch(commands: Sequence[str]) -> None:
    """Run many in one process; those that the kernel refuses do not matter."""
    text = "\n".join(commands) + "\n"
    subprocess.run(
        ["ip", "-force", "-batch", "-"], input=text, capture_output=True, text=True, check=False
    )


@contextmanager
def background(commands: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The same while the test goes on."""
    process = subprocess.Popen(
        ["ip", "-force", "-batch", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdin is not None
        process.stdin.write("\n".join(commands) + "\n")
        process.stdin.close()
        yield process


# --- the oracle


def _hops(route: dict[str, Any], index: dict[str, int]) -> str:
    if int(route["type"]) >= 6:
        return ""
    made = []
    for hop in route.get("nexthops", [route]):
        if "dev" not in hop and "gateway" not in hop and "via" not in hop:
            continue
        gateway = hop.get("gateway") or hop.get("via", {}).get("host")
        flags = sum({"dead": 1, "onlink": 4, "linkdown": 16}.get(f, 0) for f in hop["flags"])
        via = f" via {gateway}" if gateway else ""
        weight = hop.get("weight", 1)
        made.append(f" nexthop{via} dev {index[hop['dev']]} weight {weight} flags {flags}")
    return "".join(sorted(made)) if ":" in str(route) else "".join(made)


def kernel_routes(family: int) -> list[str]:
    """The kernel's routes in the words of hn_fib_dump_text."""
    index = {link["ifname"]: link["ifindex"] for link in json.loads(ip("-j link"))}
    lines = []
    for route in json.loads(ip(f"-j -N -d -{family} route show table all") or "[]"):
        if route["dst"] == "default":
            route["dst"] = "0.0.0.0/0" if family == 4 else "::/0"
        if "/" not in route["dst"]:
            route["dst"] += "/32" if family == 4 else "/128"
        line = f"table {route['table']} {route['dst']} type {route['type']}"
        line += f" metric {route.get('metric', 0)} tos {int(route.get('tos', '0'), 16)}"
        line += f" protocol {route['protocol']} scope {route['scope']}"
        if route.get("nhid"):
            line += f" nhid {route['nhid']}"
        if route.get("prefsrc"):
            line += f" src {route['prefsrc']}"
        for metric in route.get("metrics", []):
            if "mtu" in metric:
                line += f" mtu {metric['mtu']}"
        lines.append(line + _hops(route, index))
    return lines


def _sorted_hops(line: str) -> str:
    head, *hops = re.split(r" nexthop(?= )", line)
    return head + "".join(f" nexthop{hop}" for hop in sorted(hops))


def by_prefix(lines: list[str], family: int) -> dict[tuple[str, ...], list[str]]:
    """Group by table, prefix, metric and tos; IPv4 keeps the order within, for it matters."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        words = line.split()
        key = (words[1], words[2], words[6], words[8])
        grouped.setdefault(key, []).append(_sorted_hops(line))
    if family == 6:
        for group in grouped.values():
            group.sort()
    return grouped


_ERRORS = {
    "Invalid argument": 6,
    "No route to host": 7,
    "Permission denied": 8,
    "Network is unreachable": 0,
}


def kernel_answer(destination: str) -> tuple[int, str, str]:
    """(type, device, gateway) by ``ip route get``; type 0: there is no route."""
    done = subprocess.run(
        ["ip", "-j", "-N", "-d", "route", "get", destination],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().removeprefix("RTNETLINK answers: ").splitlines()[0]
        return _ERRORS[reason], "", ""
    (route,) = json.loads(done.stdout)
    kind = int(route["type"])
    if kind != 1:
        return kind, "", ""
    gateway = route.get("gateway") or route.get("via", {}).get("host") or ""
    return 1, route["dev"], gateway


# --- a namespace with something in it


def build_links() -> None:
    ip("link set lo up")
    for i in range(3):
        ip(f"link add name va{i} type veth peer name vb{i}")
        ip(f"link set vb{i} up")
        restore_link(i)


def restore_link(i: int) -> None:
    batch(
        [
            f"link set va{i} up",
            f"addr add 10.{i}.0.1/24 dev va{i}",
            f"addr add 2001:db8:{i}::1/64 dev va{i} nodad",
        ]
    )


class Operations:
    """Random changes; most succeed, some the kernel refuses, and that is part of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def gateway(self, family: int) -> str:
        i, host = self.random.randrange(3), self.random.randrange(2, 6)
        return f"10.{i}.0.{host}" if family == 4 else f"2001:db8:{i}::{host}"

    def prefix(self, family: int) -> str:
        number = self.random.randrange(6)
        if self.random.random() < 0.1:
            return "default"
        if family == 4:
            return f"10.100.{number * 16}.0/{self.random.choice([16, 20, 24])}".replace(
                f"{number * 16}.0/16", "0.0/16"
            )
        return f"2001:db8:100:{number}::/64" if number else "2001:db8:100::/48"

    def route(self) -> str:
        family = self.random.choice([4, 6])
        verb = self.random.choice(
            ["add", "add", "append", "prepend", "replace", "del", "del", "change"]
        )
        if family == 6 and verb == "prepend":
            verb = "append"
        text = f"-{family} route {verb}"
        kind = self.random.random()
        if kind < 0.12:
            text += f" {self.random.choice(['blackhole', 'unreachable', 'prohibit', 'throw'])}"
        text += f" {self.prefix(family)}"
        metric = self.random.choice([0, 10, 20, 1024])
        if kind < 0.12:
            pass
        elif kind < 0.3:
            # A metric of its own: IPv6 picks among equal ones as it likes.
            text += f" nhid {self.random.choice([41, 42, 49] if family == 4 else [61, 62])}"
            metric = 300
        elif kind < 0.6:
            for _ in range(self.random.randrange(2, 4)):
                text += f" nexthop via {self.gateway(family)}"
                text += f" weight {self.random.randrange(1, 5)}"
        elif kind < 0.65 and family == 4:
            i = self.random.randrange(3)
            text += f" via inet6 2001:db8:{i}::7 dev va{i}"
        else:
            text += f" via {self.gateway(family)}"
            if self.random.random() < 0.2 and family == 4:
                text += f" src 10.{self.random.randrange(3)}.0.1"
            if self.random.random() < 0.2:
                text += f" mtu {self.random.choice([1280, 1400])}"
        if metric:
            text += f" metric {metric}"
        if self.random.random() < 0.15:
            text += " table 100"
        if self.random.random() < 0.05 and family == 4:
            text += " tos 0x10"
        return text

    def nexthop(self) -> str:
        verb = self.random.choice(["add", "replace", "del"])
        if self.random.random() < 0.3:
            group = self.random.choice(["41/42", "41,3/42", "41"])
            return f"nexthop {verb} id 49" + (f" group {group}" if verb != "del" else "")
        family = self.random.choice([4, 6])
        text = f"nexthop {verb} id {family}{self.random.randrange(1, 3)}"
        if verb != "del":
            gateway = self.gateway(family)
            i = gateway.split(".")[1] if family == 4 else gateway.split(":")[2]
            text += f" via {gateway} dev va{i}"
        return text

    def link(self) -> list[str]:
        i = self.random.randrange(3)
        up = [
            f"link set va{i} up",
            f"addr add 2001:db8:{i}::1/64 dev va{i} nodad",
        ]
        choice = self.random.randrange(6)
        if choice == 0:
            return [f"link set va{i} down"]
        if choice == 1:
            return [f"link set va{i} down", *up]
        if choice == 2:
            return [f"addr del 10.{i}.0.1/24 dev va{i}"]
        if choice == 3:
            return [f"link set vb{i} {self.random.choice(['down', 'up'])}"]
        if choice == 4:
            return [f"link set va{i} mtu {self.random.choice([1500, 1400, 9000])}"]
        return [*up, f"addr add 10.{i}.0.1/24 dev va{i}"]

    def burst(self, count: int) -> list[str]:
        commands: list[str] = []
        while len(commands) < count:
            kind = self.random.random()
            if kind < 0.8:
                commands.append(self.route())
            elif kind < 0.9:
                commands.append(self.nexthop())
            else:
                commands += self.link()
        return commands
