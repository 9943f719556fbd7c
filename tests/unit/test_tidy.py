"""The rules that a reader should be able to rely on, checked instead of hoped for."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "hybridnet"
LINES_MAX = 700

# Who may know asyncio: the shell, the netlink watcher, and what runs programs.
ASYNCIO_PLACES = ("channels/", "control/watcher", "cli/", "sim/")
EVENT_LOOPS = {"asyncio", "uvloop"}
# What a layer may import of the package besides itself.
LAYERS = {
    "stack": {"errors", "addresses", "specs", "_native"},
    "xsk": {"errors", "addresses", "specs", "_native", "stack"},
    "devices": {"errors", "addresses", "specs", "_native", "stack"},
    "control": {"errors", "addresses", "specs", "_native", "stack"},
}
# What the C of a layer may include of the project.
C_LAYERS = {"stack": ("stack/",)}
TEXT_SUFFIXES = {".py", ".c", ".h", ".md", ".toml", ".sh", ""}
SOURCE_SUFFIXES = {".py", ".c", ".h"}


def tracked(*patterns: str) -> list[Path]:
    """Return the files that belong to the project: known to git, or not ignored by it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in names.splitlines() if (path := ROOT / name).is_file()]


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def python_files() -> list[Path]:
    return tracked("src/hybridnet/*.py")


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_asyncio_is_known_to_the_shell_only(path: Path) -> None:
    if relative(path).startswith(ASYNCIO_PLACES):
        return
    assert not {name.partition(".")[0] for name in imports(path)} & EVENT_LOOPS


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_what_lies_below_it(layer: str) -> None:
    wrong: list[str] = []
    for path in tracked(f"src/hybridnet/{layer}/*.py"):
        for name in imports(path):
            assert not name.startswith("."), f"{relative(path)}: relative import {name}"
            parts = name.split(".")
            if parts[0] != "hybridnet" or len(parts) < 2:
                continue
            if parts[1] != layer and parts[1] not in LAYERS[layer]:
                wrong.append(f"{relative(path)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("layer", C_LAYERS)
def test_c_of_a_layer_includes_only_its_own(layer: str) -> None:
    wrong: list[str] = []
    for path in tracked(f"src/hybridnet/{layer}/*.c", f"src/hybridnet/{layer}/*.h"):
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE):
            if not name.startswith(C_LAYERS[layer]):
                wrong.append(f"{relative(path)} includes {name}")
    assert wrong == []


def test_headers_read_by_both_sides_are_plain_declarations() -> None:
    wrong: list[str] = []
    for path in tracked("src/hybridnet/*_api.h"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        if re.search(r"^\s*#|\bstatic\b|\b_Static_assert\b", text, re.MULTILINE):
            wrong.append(relative(path))
    assert wrong == []


def test_no_file_is_longer_than_a_reader_bears() -> None:
    sources = [path for path in tracked() if path.suffix in SOURCE_SUFFIXES]
    lengths = {str(p.relative_to(ROOT)): len(p.read_bytes().splitlines()) for p in sources}
    assert {name: count for name, count in lengths.items() if count > LINES_MAX} == {}


def test_text_has_no_tabs_or_trailing_blanks() -> None:
    wrong: list[str] = []
    for path in tracked():
        if path.suffix not in TEXT_SUFFIXES or path.name in ("Makefile", "LICENSE"):
            continue
        if "corpus" in path.parts:  # whatever came from the wire
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line != line.rstrip() or "\t" in line:
                wrong.append(f"{path.relative_to(ROOT)}:{number}")
    assert wrong == []


def test_every_function_in_the_life_of_a_datagram_exists() -> None:
    document = ROOT / "ARCHITECTURE.md"
    if not document.exists():
        return
    text = document.read_text(encoding="utf-8")
    section = re.search(
        r"^#+ [^\n]*life of a datagram[^\n]*\n(.*?)(?=^# |^## |\Z)",
        text,
        re.DOTALL | re.IGNORECASE | re.MULTILINE,
    )
    assert section is not None, "ARCHITECTURE.md has no section 'Life of a datagram'"
    # `name` or `name()` in code quotes, C or Python, perhaps Class.method.
    named = set(re.findall(r"`(?:[A-Za-z_]+\.)*([a-z_][a-z0-9_]*)\(\)`", section[1]))
    named |= set(re.findall(r"`(hn_[a-z0-9_]+)`", section[1]))
    sources = tracked("src/*.py", "src/*.c", "src/*.h", "bpf/*.c", "bpf/*.h")
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert named, "the section names no function"
    assert {name for name in named if not re.search(rf"\b{name}\(", code)} == set()


def test_documents_link_to_files_that_exist() -> None:
    wrong: list[str] = []
    for path in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                wrong.append(f"{path.relative_to(ROOT)}: {target}")
    assert wrong == []


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in tracked("docs/decisions/*.md"))
    numbers = [name[:4] for name in names]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]
