"""A comparison as a person writes it: a name, a baseline, sizes, variants; `run()` measures and keeps the record."""

import difflib
import inspect
import math
import secrets
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import msgspec

from kit import places
from kit.errors import UserError
from kit.machine import capabilities, ceilings, fingerprint
from kit.measure import answers, interruption, outlook, reach, statistics
from kit.measure.notebook import notebook_name, notebook_parameters, records_folder, run_folder
from kit.measure.point import Check, Measurement, Skipped
from kit.measure.process import InProcessWorker, SpawnedWorker, Start
from kit.measure.progress import Progress
from kit.measure.result import Result
from kit.measure.rounds import Rules
from kit.measure.worker import one_line
from kit.record import store, words
from kit.record.document import CONTROL, Asked, How, Point, Record, Scaling, Variant


@dataclass(frozen=True)
class Declared:
    """A variant as it was declared."""

    function: Callable
    needs: tuple[str, ...]
    skip: str = ""


class Comparison:
    """One measured question: several variants, one workload, at one size or several.

    Declare variants with `.variant(…)`, measure with `.run(…)`, which returns a `Result` and keeps a record of it.
    A comparison shows itself: what will run here, what will be skipped and why, and what it may cost.

    >>> comparison = Comparison("sum", baseline="loop", size=10_000, unit="numbers", seconds=0.2, seed=1)
    >>> @comparison.variant("loop")
    ... def loop(numbers):                             # once, in a process of its own, not timed
    ...     return lambda: sum(n for n in numbers)     # once a round, timed; it returns the answer
    >>> @comparison.variant("built in")
    ... def built_in(numbers):
    ...     return lambda: sum(numbers)
    >>> result = comparison.run(range(10_000))
    >>> list(result), result.record.complete, comparison.result is result
    (['loop', 'built in'], True, True)

    Of a run that is interrupted (■ in JupyterLab, Ctrl-C) what was measured is kept in `.result`.
    """

    def __init__(
        self,
        name: str,
        *,
        baseline: str,
        size: float | None = None,
        sizes: Sequence[float] | None = None,
        unit: str = "",
        title: str = "",
        seconds: float = 20.0,
        quality: Check | None = answers.equal,
        target: float = 0.03,
        threads: int | None = None,
        seed: int | None = None,
        limit_s: float = 60.0,
        max_rounds: int = 1000,
        isolate: bool = True,
        only: Sequence[str] = (),
    ):
        """
        name: what is compared, in a word. baseline: the variant that the others are measured against.
        size or sizes: where on the scaling curve, none by default; unit: what a size counts, as "rows". title: the
            question, in a line.
        seconds: time budget of the rounds at one size, 20; preparation comes on top, and up to three times as much is
            spent where ten rounds need it.
        quality: check(answer, baseline's answer) -> Quality or bool; default: equal answers; None: no check.
        target: differences up to this may be called "same", 0.03 for 3 %.
        threads: allowed to every variant, set before its imports; default: all usable cores.
        seed: of the order in the rounds and of work that draws on chance; default: a random one, kept in the record.
        limit_s: longest time for one call or one preparation, 60. max_rounds: at one size, 1,000.
        isolate=False: no processes, for debugging.
        only: names of the variants to measure beside the baseline; empty: all that are declared.

        Raises UserError if an argument makes no sense.
        """
        _check_numbers(name, seconds=seconds, limit_s=limit_s, target=target)
        _check_whole(name, 1, max_rounds=max_rounds, **({} if threads is None else {"threads": threads}))
        _check_whole(name, 0, **({} if seed is None else {"seed": seed}))
        if quality is not None and not callable(quality):
            raise UserError(f"comparison {name!r} got quality={quality!r}; it takes a function of two answers, or None")
        self.name, self.baseline, self.unit, self.title = name, baseline, unit, title
        self.sizes, self.only = _plain_sizes(name, size, sizes), tuple(only)
        self.result: Result | None = None
        """The newest result; after an interruption, what was measured until then."""
        self._takes_sizes = sizes is not None
        self._quality, self._isolate = quality, isolate
        self._declared: dict[str, Declared] = {}
        self.how = How(
            kit=metadata.version("ml-scaling-kit"),
            seed=int(seed) if seed is not None else secrets.randbits(32),
            seconds=float(seconds),
            target=float(target),
            alpha=statistics.ALPHA,
            max_looks=statistics.MAX_LOOKS,
            max_rounds=int(max_rounds),
            threads=int(threads or fingerprint.usable_cores()),
            limit_s=float(limit_s),
            isolated=isolate,
        )

    def variant(
        self, name: str, function: Callable | None = None, *, needs: str | Sequence[str] = (), skip: str = ""
    ) -> Callable:
        """Declare a variant, as a decorator or by a direct call, and return its function.

        function: called once in the variant's own process with the arguments of `run`; it prepares and returns the
        callable to time (or `Prepared`). needs: names of capabilities (see `kit doctor`) or of importable modules;
        where one is missing, the variant is skipped, with the reason. skip: why it can't take part with this data, in a
        sentence; it is then recorded as skipped. A cell that declares may be run twice.

        Raises UserError if another function has this name.

        >>> comparison = Comparison("sum", baseline="loop")
        >>> _ = comparison.variant("GPU", lambda: lambda: 42, needs="cupy")
        """
        if not isinstance(name, str):
            raise UserError(f'a variant of {self.name!r} has no name; write @comparison.variant("its name")')
        if function is None:
            return partial(self.variant, name, needs=needs, skip=skip)
        if name in self._declared and _written_as(self._declared[name].function) != _written_as(function):
            raise UserError(f"comparison {self.name!r} has a variant {name!r} already; give this one another name")
        if name == CONTROL:
            raise UserError(f"{CONTROL!r} is the name of the baseline's own control; give the variant another name")
        self._declared[name] = Declared(function, (needs,) if isinstance(needs, str) else tuple(needs), skip)
        return function

    @property
    def variants(self) -> dict[str, Callable]:
        """The functions that will be measured, by name: of those declared, the baseline and what `only=` names.

        Raise UserError if that is a name that was not declared."""
        self._check_only()
        return {name: declared.function for name, declared in self._variants.items()}

    @property
    def declared(self) -> dict[str, Declared]:
        """All variants that were declared, by name, each with its function, what it needs, and why it is skipped."""
        return dict(self._declared)

    @property
    def _variants(self) -> dict[str, Declared]:
        wanted = (self.baseline, *self.only) if self.only else self._declared
        return {name: declared for name, declared in self._declared.items() if name in wanted}

    def run(self, *arguments: Any) -> Result:
        """Measure, write the record, and return the result.

        With `size=`: the arguments go to every variant's function. With `sizes=`: give one function of the size that
        returns the argument (or a tuple of them); without it the variants get the size itself.
        A variant that fails costs only itself. Ctrl-C ends the workers; what was measured is kept in `.result` and in
        the record, which is then not complete, and KeyboardInterrupt goes on to the caller.

        Raises UserError if the baseline is not declared or cannot run here, or `only=` names an unknown variant.

        >>> comparison = Comparison("sleep", baseline="short", sizes=[1, 2], unit="ms", seconds=0.1, isolate=False)
        >>> @comparison.variant("short")
        ... def short(seconds):
        ...     import time
        ...     return lambda: time.sleep(seconds)
        >>> comparison.run(lambda ms: ms / 1000)["short"].verdict
        'baseline'
        """
        self._check_declarations(arguments)
        measurements: list[Measurement] = []
        progress = Progress(self.name, self.unit, run_folder())
        ceiling: dict[str, float | None] = {}
        complete = False
        try:
            progress.preparing(self.sizes[0], "what this machine can do at best")
            ceiling = ceilings.of_session(run_folder(), self.how.threads)
            for number, size in enumerate(self.sizes):
                measurement = self._measurement(size, arguments, self.how.seed + 1000 * number, progress)
                measurements.append(measurement)
                measurement.run()
            ceiling = self._with_lacking(ceiling, measurements)
            complete = True
        finally:
            with interruption.undisturbed():
                self._end(measurements, ceiling, complete, progress)
        return self.result

    def __repr__(self) -> str:
        return outlook.as_text(self)

    def _repr_html_(self) -> str:
        return outlook.as_html(self)

    def __dir__(self) -> list[str]:
        return ["baseline", "declared", "how", "name", "only", "result", "run", "sizes", "title", "unit", "variant",
                "variants"]  # fmt: skip

    def _end(self, measurements: list, ceiling: dict, complete: bool, progress: Progress) -> None:
        """Keep what was measured, whole or not, and say where it is."""
        if measurements:
            self.result = self._keep([m.point() for m in measurements], ceiling, complete)
        outcome = self._outcome(complete) if measurements else "ended before anything was measured"
        progress.done(outcome)
        if measurements and not complete:
            interruption.say(f"{self.name} {outcome}")

    def _outcome(self, complete: bool) -> str:
        name, path = f"{_name_of(self)}.result", _from_project(self.result.path)
        if complete:
            return f"measured: {name} shows it; it is kept in {path}"
        how = "interrupted" if isinstance(sys.exception(), KeyboardInterrupt) else "ended early"
        return f"{how}: what was measured is kept: {name} shows it (also .plot(), .sentence), and {path} holds it"

    def _measurement(self, size, arguments: tuple, seed: int, progress: Progress) -> Measurement:
        packed = self._pack(self._arguments_at(size, arguments))
        rules = Rules(self.how.seconds, self.how.target, self.how.max_rounds)
        return Measurement(
            size, packed, self.baseline, rules=rules, seed=seed, start=self._start(), check=self._quality,
            progress=progress,
        )  # fmt: skip

    def _start(self) -> Start:
        if not self._isolate:
            return InProcessWorker
        return partial(SpawnedWorker, self.how.threads, self.how.limit_s)

    def _check_declarations(self, arguments: tuple) -> None:
        names = ", ".join(self._variants) or "none"
        if self.baseline not in self._variants:
            raise UserError(f"the baseline {self.baseline!r} is not among the variants ({names}); declare it")
        self._check_only()
        if self._takes_sizes and arguments and (len(arguments) > 1 or not callable(arguments[0])):
            raise UserError(
                f"comparison {self.name!r} has sizes=, so run() takes one function of the size that returns the "
                f"variants' argument, as run(lambda rows: table(rows)); got {len(arguments)} argument(s)"
            )
        missing = capabilities.missing(self._variants[self.baseline].needs)
        if missing:
            raise UserError(f"the baseline {self.baseline!r} cannot run here: {missing.reason}; {missing.remedy}")

    def _check_only(self) -> None:
        for unknown in (name for name in self.only if name not in self._declared):
            near = difflib.get_close_matches(unknown, self._declared, n=1, cutoff=0)
            nearest = f"nearest: {near[0]!r}" if near else "it has none"
            raise UserError(f"comparison {self.name!r} has no variant {unknown!r} for only=; {nearest}")

    def _arguments_at(self, size, arguments: tuple) -> tuple:
        if not self._takes_sizes:
            return arguments
        if not arguments:
            return (size,)
        made = arguments[0](size)
        return made if isinstance(made, tuple) else (made,)

    def _pack(self, arguments: tuple) -> dict[str, bytes | Skipped]:
        import cloudpickle

        packed: dict[str, bytes | Skipped] = {}
        for name, declared in self._variants.items():
            if declared.skip:
                packed[name] = Skipped(declared.skip, "")
                continue
            missing = capabilities.missing(declared.needs)
            if missing:
                packed[name] = Skipped(missing.reason, missing.remedy)
                continue
            try:
                packed[name] = cloudpickle.dumps((declared.function, arguments))
            except Exception as error:  # what a variant holds on to may refuse in any way
                packed[name] = Skipped(f"it cannot be sent to its process: {one_line(error)}", "", "failed")
        if isinstance(packed[self.baseline], Skipped):
            raise UserError(f"the baseline {self.baseline!r} cannot run: {packed[self.baseline].reason}")
        return packed

    def _with_lacking(self, ceiling: dict, measurements: list[Measurement]) -> dict[str, float | None]:
        """Return the ceilings with those that only a variant of these knew to ask for."""
        lacking = reach.names([m.point() for m in measurements]) - set(ceiling)
        return ceiling | (ceilings.measured(lacking, self.how.threads) if lacking else {})

    def _keep(self, points: list[Point], ceiling: dict[str, float | None], complete: bool) -> Result:
        points = reach.with_shares(points, ceiling)
        record = Record(
            id=store.new_id(),
            written=store.now(),
            complete=complete,
            asked=Asked(
                comparison=self.name,
                notebook=notebook_name(),
                title=self.title,
                baseline=self.baseline,
                unit=self.unit,
                sizes=list(self.sizes),
                parameters=store.clean(notebook_parameters()),
                sources={name: source(declared.function) for name, declared in self._variants.items()},
            ),
            machine=msgspec.structs.replace(fingerprint.machine(), ceilings=ceiling),
            versions=fingerprint.versions(),
            git=fingerprint.git(),
            how=self.how,
            points=points,
            scaling=self._scaling(points) if self._takes_sizes and len(points) > 1 else {},
        )
        return Result(record, store.write(record, records_folder()))

    def _scaling(self, points: list[Point]) -> dict[str, Scaling]:
        found = {}
        for position, name in enumerate(self._variants):
            at = [point.variants[position] for point in points]
            if all(variant.state == "measured" for variant in at):
                sizes = [float(point.size) for point in points]
                seconds = [_seconds(point, variant) for point, variant in zip(points, at, strict=True)]
                effects, verdicts = [v.effect for v in at], [v.verdict for v in at]
                found[name] = statistics.scaling(sizes, seconds, effects, verdicts, self.how.seed)
        return found


def _seconds(point: Point, variant: Variant) -> list[float]:
    """Return the readings of a variant at one size: none where it was checked for correctness only."""
    return [] if variant.session is None else point.sessions[variant.session].readings[variant.name].wall_s


def _check_numbers(name: str, **options: Any) -> None:
    """Raise UserError for an option that is not a number above 0."""
    for option, value in options.items():
        if not (isinstance(value, Real) and 0 < value < math.inf):
            raise UserError(f"comparison {name!r} got {option}={value!r}; it must be a number above 0")


def _check_whole(name: str, least: int, **options: Any) -> None:
    """Raise UserError for an option that is not a whole number of at least `least`."""
    for option, value in options.items():
        if not (isinstance(value, Integral) and value >= least):
            raise UserError(f"comparison {name!r} got {option}={value!r}; it must be a whole number, at least {least}")


def _plain_sizes(name: str, size: float | None, sizes: Sequence[float] | None) -> list[float | None]:
    """Return the sizes asked for as plain numbers, ascending; [None] if none was given."""
    if size is not None and sizes is not None:
        raise UserError(f"comparison {name!r} got size= and sizes=; give just one of them")
    if size is None and sizes is None:
        return [None]
    if isinstance(sizes, Real):
        raise UserError(f"comparison {name!r} got sizes={sizes}; sizes= takes a list, and size= takes one number")
    given = [s.item() if hasattr(s, "item") else s for s in ([size] if sizes is None else sizes)]
    if not given:
        raise UserError(f"comparison {name!r} got no sizes; give at least one, as sizes=[100_000, 1_000_000]")
    if not all(isinstance(s, int | float) and 0 < s < math.inf for s in given):
        raise UserError(f"comparison {name!r} got the sizes {given}; they must be numbers above 0")
    return sorted(set(given))


def _written_as(function: Callable) -> str:
    """Return the name that a function was written under: the same when a notebook's cell is run again."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__qualname__)


def _name_of(comparison: Comparison) -> str:
    """Return the name that a notebook knows a comparison by."""
    known = vars(sys.modules["__main__"]).items()
    return next((name for name, value in known if value is comparison and not name.startswith("_")), "comparison")


def _from_project(path: Path) -> str:
    inside = path.is_relative_to(places.project())
    return words.shown(store.clean(str(path.relative_to(places.project()) if inside else path)), 400)


def source(function: Callable) -> str:
    """Return the source code of a variant's function, or nothing where it has none."""
    while isinstance(function, partial):
        function = function.func
    try:
        return textwrap.dedent(inspect.getsource(function)).strip()
    except (OSError, TypeError):
        return ""
