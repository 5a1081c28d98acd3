"""Tables of real training runs, recorded once by this project: a trial looks up what a training showed and cost.

A search over hundreds of seeds costs seconds so, on losses that real models had. `record_tables.py` made the
tables and says how; beside each NAME.npz (losses, seconds) lies a NAME.json (what was run, when, on what, with
which versions).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Setting, Step

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FOLDER = Path(__file__).parent
TABLES = ("digits net", "adult trees", "MNIST kernel")
"""The tables that are shipped."""

Number = int | float


class Axis(msgspec.Struct, frozen=True):
    """One parameter of a table.

    values: what was run, ascending; log: they are a factor apart, not a distance; whole: only whole numbers make
    sense.
    """

    name: str
    values: tuple[Number, ...]
    log: bool = False
    whole: bool = False

    def distribution(self) -> "BaseDistribution":
        """Return all numbers from the first to the last value, as samplers of real numbers want it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        kind = IntDistribution if self.whole else FloatDistribution
        return kind(self.values[0], self.values[-1], log=self.log)

    def nearest(self, value: Number) -> int:
        """Return the position of the recorded value nearest to this one: by factor if `log`, else by distance."""
        scale = np.log if self.log else np.asarray
        return int(np.argmin(np.abs(scale(self.values) - scale(value))))


class About(msgspec.Struct, frozen=True):
    """What a table was recorded from: all that is needed to record it again and to judge what it is worth.

    rungs: after how much training (`unit`: epochs, trees, rows) a loss was taken. rows: how many were for fitting,
    for validation and for the test. cpu_s: processor time of the whole recording.
    """

    name: str
    note: str
    axes: tuple[Axis, ...]
    default: dict[str, Number]
    rungs: tuple[int, ...]
    unit: str
    loss: str
    seeds: tuple[int, ...]
    rows: dict[str, int]
    recorded: str
    cpu: str
    cpu_s: float
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Table:
    """Recorded runs. A[i, j, …] is the setting with the i-th value of the first axis, the j-th of the second, ….

    loss: [settings…, seeds, rungs] on the validation part. seconds: likewise, of each rung alone. test:
    [settings…, seeds], of a refit with the validation part too, on rows that no trial saw.
    """

    about: About
    loss: np.ndarray
    seconds: np.ndarray
    test: np.ndarray

    def place(self, setting: Setting) -> tuple[int, ...]:
        """Return where the recorded setting nearest to this one is in the arrays."""
        return tuple(axis.nearest(setting[axis.name]) for axis in self.about.axes)

    def trial(self, setting: Setting, seed: int) -> Iterator[Step]:
        """Yield the rungs of one of the recorded runs of the nearest setting; seed and setting say which."""
        place = self.place(setting)
        run = np.random.default_rng((seed, *place)).integers(len(self.about.seeds))
        for loss, seconds, at in zip(self.loss[place][run], self.seconds[place][run], self.units(), strict=True):
            yield Step(float(loss), float(seconds), at)

    def units(self) -> list[int]:
        """Return how far each rung is, the first being one unit: 1, 3, 9, … of as many as the last."""
        return [rung // self.about.rungs[0] for rung in self.about.rungs]

    def truth(self, setting: Setting) -> float:
        """Return the mean over the recorded runs of the last rung's loss."""
        return float(self.loss[self.place(setting)][:, -1].mean(dtype=float))

    def truths(self) -> np.ndarray:
        """Return the truth of every recorded setting, [settings…]."""
        return self.loss[..., -1].mean(axis=-1, dtype=float)

    def final(self, setting: Setting) -> float:
        """Return the mean loss of the refits, on the test part."""
        return float(self.test[self.place(setting)].mean(dtype=float))


def tabulated(name: str) -> Problem:
    """Return a recorded table as a problem; raise `UserError` if there is none of that name.

    Parameters are real (or whole) numbers over the grid's range, so that every sampler works as it would on the
    model; a setting has the losses of the nearest one that was run. A parameter's first and last value have half
    as wide a neighbourhood as those between. The noise of a trial is which of the recorded runs it gets, by seed
    and setting. The default is what the library has if nothing is set, moved to the nearest recorded value:

    - digits net: scikit-learn's `MLPClassifier` (learning rate 0.001, 100 hidden units → 128, batches of 200 →
      256, no dropout) and the weight decay of PyTorch's AdamW (0.01);
    - adult trees: LightGBM (learning rate 0.1, 31 leaves, 20 rows a leaf, no L2 → 0.1, all features, all rows);
    - MNIST kernel: scikit-learn's `SVC` (C = 1; gamma="scale", which is 0.021 here → 0.025); all pixels → 80
      components.
    """
    table = read(name)
    return Problem(
        name=name,
        space={axis.name: axis.distribution() for axis in table.about.axes},
        trial=table.trial,
        steps=table.units()[-1],
        default=table.about.default,
        truth=table.truth,
        best=float(table.truths().min()),
        final=table.final,
        simulated=True,
        note=table.about.note,
    )


@cache
def read(name: str) -> Table:
    """Return a shipped table by name, from the file or from an earlier call."""
    if name not in TABLES:
        near = get_close_matches(name, TABLES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TABLES)}"
        raise UserError(f"no table is called {name!r}; {hint}")
    path = FOLDER / f"{name.lower().replace(' ', '_')}.npz"
    about = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=About)
    with np.load(path) as arrays:
        return Table(about, arrays["loss"], arrays["seconds"], arrays["test"])
