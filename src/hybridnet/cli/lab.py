"""``hybridnet lab``: the two hosts of the demo, left standing for a person to play in."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from hybridnet.cli.namespaces import Host, Lab, ip

SUMMARY = "two hosts on a wire (network namespaces) to play in"
DESCRIPTION = """\
Make two network namespaces joined by a veth pair, and run commands in them:

  hn-a  va  10.77.0.1/24  fd77::1/64   the client
  hn-b  vb  10.77.0.2/24  fd77::2/64   the server

Nothing else on the machine changes, and 'down' removes what 'up' made.  Needs root."""
EXAMPLES = """\
examples:
  hybridnet lab up                        make hn-a and hn-b
  hybridnet lab exec b -- hybridnet doctor vb
  hybridnet lab exec b -- python examples/udp_echo.py --dev vb --listen 10.77.0.2:9000
  hybridnet lab exec a -- python -m hybridnet.cli.echo_client 10.77.0.2:9000 --window 64
  hybridnet lab up --name two --queues 2 --mtu 9000
  hybridnet lab status
  hybridnet lab down"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="up|down|exec|status")
    up = actions.add_parser("up", help="make the two hosts and the wire")
    up.add_argument("--queues", type=int, default=1, help="queues of each veth end (1)")
    up.add_argument("--mtu", type=int, default=1500, help="bytes (1500)")
    down = actions.add_parser("down", help="remove what 'up' made")
    execute = actions.add_parser("exec", help="run a command on host a or b")
    status = actions.add_parser("status", help="show what is there")
    for action in (up, down, execute, status):
        action.add_argument("--name", default="hn", help="prefix of the namespaces (hn)")
    execute.add_argument("host", choices=["a", "b"])
    execute.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARGUMENT ...")


def run(args: argparse.Namespace) -> int:
    """Do what ``args.action`` says; 0 done, 1 not (for exec: the command's own status)."""
    lab = Lab(args.name, queues=getattr(args, "queues", 1), mtu=getattr(args, "mtu", 1500))
    actions = {"up": _up, "down": _down, "status": _status}
    if args.action == "exec":
        return _exec(lab, lab.a if args.host == "a" else lab.b, args.command)
    return actions[args.action](lab)


def _record(lab: Lab) -> Path:
    """Where 'up' notes for 'down' which namespaces it made."""
    return Path("/run/hybridnet") / f"lab-{lab.a.namespace.removesuffix('-a')}.json"


def _up(lab: Lab) -> int:
    lab.up()
    record = _record(lab)
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.write_text(json.dumps(lab.identities()), encoding="utf-8")
    except OSError:
        lab.down()
        raise
    for host in lab.hosts:
        print(f"{host.namespace}  {host.interface}  {host.ipv4}/24  {host.ipv6}/64")
    print("try: hybridnet lab exec b -- hybridnet doctor vb")
    return 0


def _down(lab: Lab) -> int:
    record = _record(lab)
    try:
        identities: dict[str, int] = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = [host.namespace for host in lab.hosts if host.exists()]
        if there:
            print(
                f"not made by 'hybridnet lab up': {', '.join(there)}; left alone", file=sys.stderr
            )
            return 1
        print("nothing to remove")
        return 0
    lab.adopt(identities)
    left = lab.processes() if lab.identities() else []
    lab.down()
    with contextlib.suppress(FileNotFoundError):
        record.unlink()
    print("removed")
    if left:
        ids = ", ".join(str(number) for number in left)
        print(f"still running without a name for their network: process {ids}", file=sys.stderr)
    return 0


def _exec(lab: Lab, host: Host, command: list[str]) -> int:
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        print("hybridnet lab exec: say what to run, after --", file=sys.stderr)
        return 2
    if not host.exists():
        print(f"{host.namespace} is not there; first: hybridnet lab up", file=sys.stderr)
        return 1
    argv = lab.command(host, *command)
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print("iproute2 is not installed; as root: apt-get install iproute2", file=sys.stderr)
        return 1


def _status(lab: Lab) -> int:
    found = [host for host in lab.hosts if host.exists()]
    for host in found:
        links: list[dict[str, Any]] = json.loads(ip("-n", host.namespace, "-j", "address") or "[]")
        for link in (link for link in links if link.get("ifname") != "lo"):
            addresses = [f"{a['local']}/{a['prefixlen']}" for a in link.get("addr_info", [])]
            state = "up" if "UP" in link.get("flags", []) else "down"
            print(
                f"{host.namespace}  {link['ifname']}  {state}  mtu {link.get('mtu')}  "
                f"{'  '.join(addresses)}"
            )
    if not found:
        print("no lab; make one: hybridnet lab up")
        return 1
    running = lab.processes()
    if running:
        print(f"processes inside: {', '.join(str(number) for number in running)}")
    return 0
