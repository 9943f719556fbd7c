"""Record the seed corpus of fuzz_rtnl from a real kernel, in a namespace of its own (root).

    python tests/fuzz/record_rtnl.py DIRECTORY

One file per buffer: a byte (1: dump, 0: notification), then what the socket gave.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "src"))

SETUP = """
link add name va type veth peer name vb
link set va up
link set vb up
addr add 10.0.0.1/24 dev va
addr add 2001:db8::1/64 dev va nodad
addr add 10.0.1.1/24 dev vb
nexthop add id 7 via 10.0.0.2 dev va
nexthop add id 8 via 10.0.1.2 dev vb
nexthop add id 9 group 7/8,3
route add 10.2.0.0/16 via 10.0.0.2 metric 50 mtu 1400 src 10.0.0.1
route add 10.3.0.0/16 nexthop via 10.0.0.2 weight 2 nexthop via 10.0.1.2
route add 10.4.0.0/16 via inet6 2001:db8::2 dev va onlink
route add 10.5.0.0/16 nhid 9
route add 10.6.0.0/16 encap mpls 100 via 10.0.0.2
route add blackhole 10.7.0.0/16
route add unreachable 10.8.0.0/16 table 1234567
route append 10.2.0.0/16 via 10.0.0.3 metric 50
route replace 10.2.0.0/16 via 10.0.0.4 metric 50
-6 route add 2001:db8:1::/48 nexthop via 2001:db8::2 nexthop via 2001:db8::3
-6 route add prohibit 2001:db8:2::/48
-6 route del 2001:db8:1::/48 via 2001:db8::2
neigh add 10.0.0.2 lladdr 02:00:00:00:00:01 dev va
neigh add 2001:db8::2 lladdr 02:00:00:00:00:01 dev va nud reachable
neigh del 10.0.0.2 dev va
rule add from 10.0.0.0/8 table 100
route del 10.3.0.0/16
"""


def record(directory: Path) -> None:
    from hybridnet.control import netlink

    monitor = netlink.open_socket(1 << 22, netlink.GROUPS)
    for line in SETUP.split("\n"):
        if line:
            subprocess.run(["ip", *line.split()], check=False)
    buffers = drain(monitor, b"\0")
    for kind, family in ((18, 0), (22, 0), (26, 2), (26, 10), (30, 0), (34, 0)):
        with netlink.open_socket(1 << 22) as dump:
            dump.send(netlink.dump_request(kind, family, 1))
            buffers += drain(dump, b"\1")
    directory.mkdir(parents=True, exist_ok=True)
    for buffer in buffers:
        (directory / hashlib.sha1(buffer).hexdigest()[:16]).write_bytes(buffer)


def drain(sock: object, head: bytes) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(head + sock.recv(1 << 18))  # type: ignore[attr-defined]
        except BlockingIOError:
            return found


def main() -> None:
    name = f"hn{os.getpid()}c"
    if len(sys.argv) == 3:
        record(Path(sys.argv[1]))
        return
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        command = ["ip", "netns", "exec", name, sys.executable, __file__, sys.argv[1], "inside"]
        subprocess.run(command, check=True)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


if __name__ == "__main__":
    main()
