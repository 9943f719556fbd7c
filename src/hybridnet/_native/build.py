"""Build the one extension module, hybridnet._native._lib.

Every ``*_api.h`` under the package is read by cffi as it stands and by the C compiler through
the private header that includes it, so the two sides cannot drift.  Every ``*.c`` under the
package is part of the extension.

``HYBRIDNET_DEBUG=1`` builds with frame-ownership checks and poisoned frames;
``HYBRIDNET_SANITIZE=1`` adds ASan and UBSan.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

PACKAGE = Path(__file__).resolve().parent.parent
PROJECT = PACKAGE.parent.parent

# Declarations build on each other, so the order is that of the layers.
API_HEADERS = [
    "stack/base_api.h",
    "stack/ip/ip_api.h",
    "stack/stack_api.h",
    "devices/wire_api.h",
    "xsk/program_api.h",
    "xsk/xsk_api.h",
    "control/control_api.h",
    "channels/kernel_api.h",
    "cli/client_api.h",
    "_native/burst_api.h",
]

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla"]


def _sources() -> list[str]:
    found = [p for p in PACKAGE.rglob("*.c") if p.name != "_lib.c"]
    return sorted(str(p.relative_to(PROJECT)) for p in found)


def _make() -> FFI:
    builder = FFI()
    present = [name for name in API_HEADERS if (PACKAGE / name).exists()]
    for name in present:
        builder.cdef((PACKAGE / name).read_text(encoding="utf-8"))
    preamble = ["#include <stdbool.h>", "#include <stddef.h>", "#include <stdint.h>"]
    preamble += [f'#include "{name}"' for name in present]

    # A sanitized build is for tests, and is made anew by each run of them.
    optimize = "-O1" if os.environ.get("HYBRIDNET_SANITIZE") else "-O3"
    compile_args = ["-std=gnu17", optimize, "-g", "-fno-strict-aliasing", *WARNINGS]
    # The cffi glue itself is not ours to keep free of these.
    compile_args += ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    link_args: list[str] = []
    if os.environ.get("HYBRIDNET_DEBUG") or os.environ.get("HYBRIDNET_SANITIZE"):
        compile_args += ["-DHN_DEBUG=1"]
    if os.environ.get("HYBRIDNET_SANITIZE"):
        flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        compile_args += flags
        link_args += flags
    builder.set_source(
        "hybridnet._native._lib",
        "\n".join(preamble),
        sources=_sources(),
        include_dirs=[str(PACKAGE), str(PROJECT / "bpf")],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        # Shared, because Debian's libbpf.a and libelf.a are not position independent.  iproute2
        # depends on libbpf.so.1 there too, so a machine that has `ip` has it.
        libraries=["bpf"],
        py_limited_api=False,
    )
    return builder


ffibuilder = _make()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
