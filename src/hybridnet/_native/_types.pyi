"""The types of burst.h as the type checkers see them."""

from collections.abc import Callable

Address = tuple[str, int] | tuple[str, int, int, int]

class Engine:
    blocked: bool
    def __init__(
        self,
        stack: int,
        schedule: Callable[[bool], object],
        on_exception: Callable[[BaseException, object], object],
        on_writable: Callable[[], object],
        on_failure: Callable[[object, int, Address | None], object],
        on_kernel_full: Callable[[int], object],
        on_wanted: Callable[[], object],
    ) -> None: ...
    def turn(self, device: int, queue: int, budget: int, /) -> int: ...
    def spin(self, budget: int, nanoseconds: int, /) -> int: ...
    def flush(self) -> None: ...
    def deliver(self) -> int: ...
    def close(self) -> None: ...

class Lease:
    released: bool
    def __len__(self) -> int: ...
    def view(self, index: int, /) -> memoryview: ...
    def descriptors(self) -> bytes: ...
    def release(self) -> None: ...

class Port:
    waiting: bool
    pending: int
    on_datagram: Callable[[bytes, Address], object] | None
    on_readable: Callable[[], object] | None
    kernel_only: bool
    def __init__(
        self,
        engine: Engine,
        udp: int,
        owner: object,
        on_refused: Callable[[int, bytes | bytearray | memoryview, Address | None], object],
        kernel_fd: int,
        kernel_family: int,
        kernel_only: bool,
        kernel_queued: bool,
    ) -> None: ...
    def send(self, data: bytes | bytearray | memoryview, addr: Address | None = None) -> None: ...
    def receive(self) -> tuple[bytes, Address] | None: ...
    def receive_batch(self, max: int, /) -> tuple[bytes, bytes] | None: ...
    def receive_lease(self, max: int, /) -> Lease | None: ...
    def send_batch(
        self,
        payloads: bytes | bytearray | memoryview | Lease,
        descriptors: bytes | bytearray | memoryview,
        start: int,
        /,
    ) -> tuple[int, int]: ...
    def kernel_turn(self, max: int, /) -> int: ...
    def close(self) -> None: ...
