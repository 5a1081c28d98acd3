"""How a search is going, told while it runs: a bar in notebook and terminal, plain lines, or nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """How far a search is. done: places used up; best: the lowest loss so far, None before there is one; seconds: since
    it was begun or gone on with; new: places used up since then."""

    name: str
    done: int
    trials: int
    best: float | None
    seconds: float
    new: int
    over: bool = False

    def __str__(self) -> str:
        best = "no loss yet" if self.best is None else f"best loss {self.best:.4g}"
        rate = f", {self.new / self.seconds:.3g} trials/s" if self.new and self.seconds else ""
        return f"{self.name}: {self.done} of {self.trials} trials, {best}{rate}"


Tell = Callable[[Told], None]
"""Called about twice a second, and once more at the end with `over`."""


def silent(told: Told) -> None:
    """Tell nothing, and don't look: what is timed is not disturbed."""


def bar() -> Tell:
    """Return what draws a bar: a widget in a notebook, a line in a terminal."""
    drawn = []

    def tell(told: Told) -> None:
        from tqdm.auto import tqdm

        if not drawn:
            drawn.append(tqdm(total=told.trials, initial=told.done, desc=told.name, unit="trial"))
        drawn[0].n = told.done
        drawn[0].set_postfix_str("" if told.best is None else f"best loss {told.best:.4g}", refresh=False)
        drawn[0].refresh()
        if told.over:
            drawn[0].close()

    return tell


def plain(every_s: float = 5.0) -> Tell:
    """Return what prints a line at times, and the last one."""
    last = [-every_s]

    def tell(told: Told) -> None:
        if told.over or time.monotonic() - last[0] >= every_s:
            last[0] = time.monotonic()
            print(told, flush=True)

    return tell
