"""Live progress of a comparison: a bar for a person, or a file for the runner that executes the notebook."""

import json
import os
import time
from pathlib import Path
from uuid import uuid4

SHORTEST_INTERVAL_S = 0.25


class Progress:
    """Tells where a comparison is. With `folder` (a run's folder) it keeps `progress.json` there, else it draws a bar:
    a widget in JupyterLab, a line in a terminal."""

    def __init__(self, comparison: str, unit: str, folder: Path | None):
        self._told = {"comparison": comparison, "unit": unit, "size": None}
        self._folder = folder
        self._bar = None
        self._last = 0.0

    def preparing(self, size: float | None, variant: str) -> None:
        """Say that `variant` is being prepared at `size`."""
        self._tell(stage="preparing", size=size, variant=variant, round=None, half_width=None, now=True)

    def measuring(self, variant: str, number: int, rounds: int, half_width: float | None) -> None:
        """Say that `variant` is being read in round `number` of at most `rounds`, known to ± `half_width` so far."""
        self._tell(stage="measuring", variant=variant, round=number, rounds=rounds, half_width=half_width)

    def done(self) -> None:
        """Say that the comparison is at its end, and put the bar away."""
        self._tell(stage="done", now=True)
        if self._bar is not None:
            self._bar.close()

    def _tell(self, now: bool = False, **news) -> None:
        self._told |= news
        if not now and time.monotonic() - self._last < SHORTEST_INTERVAL_S:
            return
        self._last = time.monotonic()
        self._write() if self._folder else self._draw()

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "progress.json"
        partial = path.with_suffix(f".{uuid4().hex[:8]}")
        partial.write_text(json.dumps(self._told))
        os.replace(partial, path)

    def _draw(self) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(leave=False, bar_format="{desc} {bar} {n_fmt}/{total_fmt} rounds {postfix}")
        told, bar = self._told, self._bar
        at = f" at {told['size']:,} {told['unit']}".rstrip() if told["size"] is not None else ""
        bar.set_description_str(f"{told['comparison']}{at}: {told['stage']} {told.get('variant') or ''}", refresh=False)
        bar.total, bar.n = told.get("rounds") or 0, told.get("round") or 0
        known = told.get("half_width")
        bar.set_postfix_str(f"±{known:.1%}" if known is not None else "", refresh=False)
        bar.refresh()
