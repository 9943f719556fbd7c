"""The only seam to C: the compiled extension's ``ffi`` and ``lib``, and the hot types."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from hybridnet._native._lib import ffi, lib
except ImportError as error:  # pragma: no cover - depends on the machine
    if "libbpf" in str(error):
        raise ImportError(
            "hybridnet needs libbpf at run time: apt-get install libbpf1 (Debian, Ubuntu)"
        ) from error
    raise

if TYPE_CHECKING:
    from hybridnet._native._types import Engine, Lease, Port
else:
    _types: dict[str, type] = {}
    if lib.hn_burst_install(id(_types)) != 0:
        raise ImportError("hybridnet's native types could not be made")
    Engine, Lease, Port = _types["Engine"], _types["Lease"], _types["Port"]

__all__ = ["Engine", "Lease", "Port", "ffi", "lib"]
