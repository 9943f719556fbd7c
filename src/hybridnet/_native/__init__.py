"""The only seam to C: ``ffi`` and ``lib`` of the compiled extension."""

from hybridnet._native._lib import ffi, lib

__all__ = ["ffi", "lib"]
