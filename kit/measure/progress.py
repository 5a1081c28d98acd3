"""Live progress of a comparison: for a person a bar, for the runner that executes the notebook a file."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from kit.measure import notebook
from kit.record import words

SHORTEST_INTERVAL_S = 0.25
"""Between two rounds that are told; what is prepared is told at once."""
FILE = "progress.json"


class Progress:
    """Tells where a comparison is. With `folder` (a run's folder) it keeps `progress.json` there, else it draws: a line
    in a terminal, and in a notebook one that goes on after the page was reloaded."""

    def __init__(self, comparison: str, unit: str, folder: Path | None):
        self._told = {"comparison": comparison, "unit": unit, "size": None}
        self._show = _to_file(folder / FILE) if folder else None
        self._last = 0.0

    def preparing(self, size: float | None, variant: str) -> None:
        """Say that `variant` is being prepared at `size`."""
        self._tell(stage="preparing", size=size, variant=variant, round=None, half_width=None, now=True)

    def measuring(self, variant: str, number: int, rounds: int, half_width: float | None) -> None:
        """Say that `variant` is being read in round `number` of at most `rounds`, known to ± `half_width` so far."""
        self._tell(stage="measuring", variant=variant, round=number, rounds=rounds, half_width=half_width)

    def done(self, outcome: str = "") -> None:
        """Say that the comparison is at its end, and put the bar away. outcome: what became of it, in a sentence."""
        self._tell(stage="done", outcome=outcome, now=True)

    def _tell(self, now: bool = False, **news: Any) -> None:
        self._told |= news
        if not now and time.monotonic() - self._last < SHORTEST_INTERVAL_S:
            return
        self._last = time.monotonic()
        if self._show is None:
            self._show = _on_page() if notebook.in_kernel() else _on_line()
        self._show(self._told)


def line(told: dict[str, Any]) -> str:
    """Return what a comparison is doing, in a line: `sum at 1,000 numbers · measuring loop · round 7 of 40 · ±3 %`."""
    size = words.count(told.get("size"), told.get("unit") or "")
    head = words.shown(told["comparison"], 60) + (f" at {size}" if size else "")
    if told["stage"] == "done":
        return f"{head} · {told.get('outcome') or 'ended'}"
    at = f"round {told['round']} of at most {told['rounds']}" if told.get("round") else ""
    known = f"±{words.percent(told['half_width'])}" if told.get("half_width") is not None else ""
    return " · ".join(filter(None, [head, f"{told['stage']} {words.shown(told.get('variant') or '', 60)}", at, known]))


def share(told: dict[str, Any]) -> float:
    """Return how much of the rounds is done, 0 to 1."""
    return 1.0 if told["stage"] == "done" else min(1.0, (told.get("round") or 0) / (told.get("rounds") or 1))


def _to_file(path: Path) -> Callable[[dict], None]:
    def show(told: dict) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid4().hex[:8]}")
        partial.write_text(json.dumps(told))
        os.replace(partial, path)

    return show


def _on_page() -> Callable[[dict], None]:
    """Show on the notebook's page, and in a file beside its records, which a page that was reloaded reads."""
    from kit.measure import live

    path = notebook.interactive_folder() / FILE
    write, page = _to_file(path), live.Page(path)

    def show(told: dict) -> None:
        said = {"line": line(told), "share": share(told), "ended": told["stage"] == "done"}
        write(told | said | {"kernel": live.KERNEL, "written": time.time()})
        page.show(**said)

    return show


def _on_line() -> Callable[[dict], None]:
    from tqdm import tqdm

    bar = tqdm(leave=False, bar_format="{desc} {bar} {n_fmt}/{total_fmt} rounds")

    def show(told: dict) -> None:
        bar.set_description_str(line(told), refresh=False)
        bar.total, bar.n = told.get("rounds") or 0, told.get("round") or 0
        bar.refresh()
        if told["stage"] == "done":
            bar.close()

    return show
