"""Builds the two compiled parts: the BPF object and the extension (see _native/build.py)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "src" / "hybridnet" / "_native"))

BPF_SOURCE = ROOT / "bpf" / "steer.bpf.c"
BPF_OBJECT = Path("hybridnet") / "xsk" / "steer.bpf.o"


def build_bpf(output: Path) -> None:
    """Compile the steering program with clang; the only compiler with a stable BPF target."""
    clang = shutil.which("clang")
    if clang is None:
        raise SystemExit(
            "hybridnet: clang is needed to build the XDP program: apt-get install clang"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    multiarch = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = [clang, "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"]
    command += ["-mcpu=v3", f"-I/usr/include/{multiarch}", f"-I{ROOT / 'bpf'}"]
    command += ["-c", str(BPF_SOURCE), "-o", str(output)]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


class BuildExtAndBpf(build_ext):
    """build_ext, and the BPF object placed beside the package's Python."""

    def run(self) -> None:
        if not Path("/usr/include/bpf/libbpf.h").exists():
            raise SystemExit(
                "hybridnet: libbpf's headers are needed: apt-get install libbpf-dev libelf-dev"
            )
        super().run()
        base = ROOT / "src" if self.inplace else Path(self.build_lib)
        build_bpf(base / BPF_OBJECT)

    def get_outputs(self) -> list[str]:
        outputs: list[str] = super().get_outputs()
        return [*outputs, str(Path(self.build_lib) / BPF_OBJECT)]


setup(
    cffi_modules=["src/hybridnet/_native/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtAndBpf},
)
