"""Markdown: tables of figures, paragraphs, plots. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.page.values import NONE, Results, look, number, shown, spread


@dataclass(frozen=True, slots=True)
class Column:
    """A column of figures: its head, and the path below that of a row."""

    head: str
    path: str
    unit: str = ""

    def text(self, results: Results, row: str) -> str:
        """Return what stands in this column of the row at that path; of the figures of each run least and greatest."""
        path = f"{row}/{self.path}"
        if self.path.endswith(EACH):
            return spread(results, path, self.unit)
        return shown(number(results, path), self.unit)


EACH = "_of_each_run"
"""What the figures of each run are named after that of all."""
RATE, RATES = Column("requests/s", "per_second"), Column("min–max", f"per_second{EACH}")
P50, P99 = Column("p50", "p50_ms", "ms"), Column("p99", "p99_ms", "ms")
CPU = (Column("gateway CPU", "gateway_cpu_us", "µs"), Column("replica CPU", "replica_cpu_us", "µs"))
SERVER_CPU = Column("CPU of all servers", "server_cpu_us", "µs")
CLIENT_CPU = Column("client CPU", "client_cpu_us", "µs")
BUSY = Column("processors busy", "busy/all")

PLOTS = "performance"
"""The directory of the plots, beside the page."""


def prose(text: str) -> str:
    """Return a paragraph in lines."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False) + "\n"


def plot(name: str, what: str) -> str:
    """Return the reference to a plot."""
    return f"![{what}]({PLOTS}/{name}.svg)\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; without rows nothing. Columns with nothing in them are left out, but for the first."""
    lines = [tuple(row) for row in rows]
    if not lines:
        return ""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] not in ("", NONE) for row in lines)]
    written = [[row[i].replace("|", "\\|") for i in kept] for row in lines]
    rule = ["---" if i == 0 else "--:" for i in kept]
    return "\n".join("| " + " | ".join(row) + " |" for row in ([head[i] for i in kept], rule, *written)) + "\n"


def figures(results: Results, first: str, rows: Iterable[tuple[str, str]], columns: Sequence[Column]) -> str:
    """Return a table with a row for each (label, path) that is there."""
    lines = [
        (label, *(column.text(results, path) for column in columns))
        for label, path in rows
        if look(results, path) is not None
    ]
    return table((first, *(column.head for column in columns)), lines)


def sentence(text: object) -> str:
    """Return a text with a capital letter."""
    words = str(text)
    return words[:1].upper() + words[1:]
