"""Tables for a terminal: with rich when it is installed, as plain text when not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(slots=True, frozen=True, kw_only=True)
class Table:
    """Cells are text already; columns after the first ``left`` ones are aligned right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def plain(table: Table) -> str:
    """Return the table as lines of text."""
    grid = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.columns))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < table.left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return ("  " + "  ".join(cells)).rstrip()

    rule = "  " + "  ".join("-" * width for width in widths)
    head = [line(table.columns), rule] if any(table.columns) else []
    return "\n".join([table.title, *head, *map(line, table.rows)])


def _rich(tables: Iterable[Table]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(file=sys.stdout, highlight=False)
    with console.capture() as capture:
        for table in tables:
            shown = RichTable(
                title=table.title,
                title_justify="left",
                show_header=any(table.columns),
                box=SIMPLE_HEAD,
            )
            for i, column in enumerate(table.columns):
                shown.add_column(column, justify="left" if i < table.left else "right")
            for row in table.rows:
                shown.add_row(*row)
            console.print(shown)
    return capture.get().rstrip("\n")


def render(tables: Sequence[Table]) -> str:
    """Return tables one below the other; in colour only for a terminal."""
    if sys.stdout.isatty():
        try:
            return _rich(tables)
        except ImportError:
            pass
    return "\n\n".join(plain(table) for table in tables)


def quantity(value: float) -> str:
    """Write a count or a rate for a person: thousands separated, no needless decimals."""
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}"
