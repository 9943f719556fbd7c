"""hybridnet: a hybrid networking stack for asyncio.

Packets of an application's channels travel by AF_XDP through a stack in its own process; all
others, and whatever the fast path cannot take, by the kernel.

    async with hybridnet.open_stack("eth0") as stack:
        channel = await stack.open_udp(("0.0.0.0", 9000))
        async for data, addr in channel:
            channel.sendto(data, addr)
"""

from hybridnet.addresses import format_address, host_and_port
from hybridnet.channels.batch import DATAGRAM_FIELDS, DatagramBatch
from hybridnet.channels.datagram import DatagramTransport
from hybridnet.channels.endpoint import ChannelStatistics
from hybridnet.channels.stack import Stack, open_stack
from hybridnet.channels.udp import UdpChannel
from hybridnet.errors import (
    AddressInUse,
    AddressNotAvailable,
    ChannelBusy,
    ChannelClosed,
    HybridnetError,
    InterfaceBusy,
    InterfaceNotFound,
    LeaseReleased,
    MessageTooLarge,
    NetworkUnreachable,
    PeerRefused,
    PermissionMissing,
    Unsupported,
    WouldBlock,
)
from hybridnet.host import PathStatistics, StackStatistics
from hybridnet.specs import PROFILES, BusyPoll, Mode, RingSpec, StackSpec

__all__ = [
    "DATAGRAM_FIELDS",
    "PROFILES",
    "AddressInUse",
    "AddressNotAvailable",
    "BusyPoll",
    "ChannelBusy",
    "ChannelClosed",
    "ChannelStatistics",
    "DatagramBatch",
    "DatagramTransport",
    "HybridnetError",
    "InterfaceBusy",
    "InterfaceNotFound",
    "LeaseReleased",
    "MessageTooLarge",
    "Mode",
    "NetworkUnreachable",
    "PathStatistics",
    "PeerRefused",
    "PermissionMissing",
    "RingSpec",
    "Stack",
    "StackSpec",
    "StackStatistics",
    "UdpChannel",
    "Unsupported",
    "WouldBlock",
    "format_address",
    "host_and_port",
    "open_stack",
]
