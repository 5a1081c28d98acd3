"""What a batch prints while it runs: one rewritten line on a terminal, plain and few lines elsewhere."""

import json
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from kit.record.redaction import masked

WIDTH = 80  # of tables and paragraphs where there is no terminal


@dataclass
class Screen:
    """Where a batch reports what it does (standard error: results go to standard output)."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _shown: str = ""

    def say(self, text: str, passing: bool = False) -> None:
        """Write a line. passing: on a terminal the next one replaces it, elsewhere none repeats the last."""
        text, terminal = masked(text), self.stream.isatty()
        if passing and text == self._shown:
            return
        if terminal and (self._shown or passing):
            self.stream.write("\r\x1b[K")
        self._shown = text if passing else ""
        if passing and terminal and len(text) >= (width := shutil.get_terminal_size().columns):
            text = text[: width - 2] + "…"
        print(text, file=self.stream, end="" if passing and terminal else "\n", flush=True)

    def progress(self, head: str, folder: Path) -> None:
        """Show what the run in a folder does now; without a terminal only the first part, a comparison at a size."""
        path = folder / "progress.json"
        try:
            doing, age_s = json.loads(path.read_bytes()), time.time() - path.stat().st_mtime
        except (OSError, ValueError):
            return
        if age_s >= doing.get("after_s", 0):
            line = doing.get("line", "")
            self.say(f"{head}: {line if self.stream.isatty() else line.partition(' · ')[0]}", passing=True)


def paragraph(text: str, indent: str = "") -> str:
    """Return a text folded to the width of tables."""
    folded = textwrap.fill(masked(text), WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(folded, indent)


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output, its cells folded so that it is no wider than `WIDTH` or the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*heads, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in shown.columns:
        column.overflow = "fold"
    for row in rows:
        shown.add_row(*(Text(masked(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(shown)
