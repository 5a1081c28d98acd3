"""What a batch says: one rewritten line a run on a terminal, plain lines elsewhere; a table at the end."""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from kit.record import words
from kit.record.masking import masked


@dataclass
class Screen:
    """The place where a batch talks (standard error: what it found goes to standard output)."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _shown: str = ""

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if self._shown and self.stream.isatty():
            self.stream.write("\r\x1b[K")
        self._shown = ""
        print(masked(text), file=self.stream, flush=True)

    def show(self, text: str) -> None:
        """Write a line that, on a terminal, the next one takes the place of."""
        text = masked(text)
        if text == self._shown:
            return
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns
            self.stream.write("\r\x1b[K" + (text if len(text) < width else text[: width - 2] + "…"))
            self.stream.flush()
        else:
            print(text, file=self.stream, flush=True)
        self._shown = text

    def progress(self, head: str, doing: dict[str, Any]) -> None:
        """Show what a run is doing now; without a terminal only when it turns to another size."""
        if doing:
            self.show(f"{head} {in_words(doing) if self.stream.isatty() else _stage_in_words(doing)}")


def in_words(doing: dict[str, Any]) -> str:
    """Return a run's progress in words.

    >>> in_words({"comparison": "step", "stage": "measuring", "variant": "DDP", "size": 2, "unit": "ranks",
    ...           "round": 7, "half_width": 0.03})
    'step: measuring DDP at 2 ranks, round 7, ±3 %'
    """
    if doing.get("stage") == "done":
        return f"{doing.get('comparison', '')}: done"
    size, half = doing.get("size"), doing.get("half_width")
    parts = [
        " ".join(filter(None, [doing.get("stage"), doing.get("variant"), size and f"at {_count(doing)}"])),
        doing.get("round") and f"round {doing['round']}",
        half and words.plus_minus(half),
    ]
    return f"{doing.get('comparison', '')}: " + ", ".join(part for part in parts if part)


def _stage_in_words(doing: dict[str, Any]) -> str:
    return f"{doing.get('comparison', '')}" + (f" at {_count(doing)}" if doing.get("size") else "")


def _count(doing: dict[str, Any]) -> str:
    return words.count(doing["size"], doing.get("unit") or "")


def table(title: str, heads: list[str], rows: Iterable[list[str]]) -> None:
    """Print a table on standard output: folded to a terminal's width, and never cut or folded elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*heads, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in shown.columns:
        column.overflow = "fold"
    for row in rows:
        shown.add_row(*(Text(masked(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(shown)
