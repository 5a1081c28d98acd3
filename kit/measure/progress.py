"""Live progress of a comparison: a tqdm bar for a person, a file for the runner that executes the notebook."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from kit.record import formatting as fmt
from kit.record import store

SHORTEST_INTERVAL_S = 0.25
"""Between two rounds that are reported; a setup is reported at once."""


class Progress:
    """Reports where a comparison is. With `folder` (a run's folder) it keeps `progress.json` there, else a bar."""

    def __init__(self, comparison: str, unit: str, folder: Path | None):
        self._now = {"comparison": comparison, "unit": unit, "size": None}
        self._file = folder / "progress.json" if folder else None
        self._bar: Any = None
        self._last = 0.0

    def preparing(self, size: float | None, variant: str) -> None:
        """Report that `variant` is being set up at `size`."""
        self._report(stage="setup of", size=size, variant=variant, round=None, half_width=None, now=True)

    def measuring(self, variant: str, number: int, rounds: int, half_width: float | None) -> None:
        """Report that `variant` is measured in round `number` of at most `rounds`, known to ± `half_width` so far."""
        self._report(stage="measuring", variant=variant, round=number, rounds=rounds, half_width=half_width)

    def done(self, outcome: str = "") -> None:
        """Report the end. outcome: in a sentence."""
        self._report(stage="done", outcome=outcome, now=True)
        if self._bar is not None:
            self._bar.close()

    def _report(self, now: bool = False, **news: Any) -> None:
        self._now |= news
        if not now and time.monotonic() - self._last < SHORTEST_INTERVAL_S:
            return
        self._last = time.monotonic()
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            store.put(self._file, json.dumps(self._now | {"line": line(self._now)}))
        elif self._now["stage"] != "done":
            self._show()

    def _show(self) -> None:
        if self._bar is None:
            from tqdm import tqdm

            where = sys.stdout if "ipykernel" in sys.modules else sys.stderr  # a cell shows the other as an error
            self._bar = tqdm(leave=False, file=where, bar_format="{desc} {bar:20} {n_fmt}/{total_fmt} rounds")
        self._bar.set_description_str(line(self._now), refresh=False)
        self._bar.total, self._bar.n = self._now.get("rounds") or 0, self._now.get("round") or 0
        self._bar.refresh()


def line(now: dict[str, Any]) -> str:
    """Return what a comparison is doing, in a line: `sum at 1,000 numbers · measuring loop · round 7 of 40 · ±3 %`."""
    size = fmt.count(now.get("size"), now.get("unit") or "")
    head = fmt.shown(now["comparison"], 60) + (f" at {size}" if size else "")
    at = f"round {now['round']} of at most {now['rounds']}" if now.get("round") else ""
    known = f"±{fmt.percent(now['half_width'])}" if now.get("half_width") is not None else ""
    return " · ".join(filter(None, [head, f"{now['stage']} {fmt.shown(now.get('variant') or '', 60)}", at, known]))
