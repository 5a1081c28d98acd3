"""A comparison as a person writes it: a name, a baseline, sizes, variants; `run()` measures and keeps the record."""

import inspect
import math
import secrets
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from numbers import Integral, Real
from typing import Any

import cloudpickle
import numpy as np
from msgspec.structs import replace

from kit.errors import UserError
from kit.machine import capabilities, fingerprint, peaks
from kit.measure import answers, statistics
from kit.measure.interruption import undisturbed
from kit.measure.notebook import notebook_name, notebook_parameters, records_folder, run_folder
from kit.measure.point import Check, SizeRun, not_run
from kit.measure.process import InProcessWorker, SpawnedWorker
from kit.measure.progress import Progress
from kit.measure.result import Result
from kit.measure.session import Rules
from kit.measure.variant import VariantProcess
from kit.measure.worker import one_line
from kit.record import formatting as fmt
from kit.record import store
from kit.record.document import CONTROL, Asked, How, Point, Record, Scaling, Variant


@dataclass(frozen=True)
class Declared:
    """A variant as it was declared."""

    function: Callable
    requires: tuple[str, ...]
    skip: str = ""
    label: str = ""
    not_recommended: str = ""
    python: str = ""


class Comparison:
    """One measured question: several variants, one workload, at one size or several.

    Declare variants with `.variant(…)`, measure with `.run(…)`, which returns a `Result` and keeps a record of it.

    >>> comparison = Comparison("sum", baseline="loop", size=10_000, unit="numbers", time_budget_s=0.2, seed=1)
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
        baseline_reason: str = "",
        size: float | None = None,
        sizes: Sequence[float] | None = None,
        unit: str = "",
        title: str = "",
        action: str = "",
        time_budget_s: float = 20.0,
        check: Check | None = answers.equal,
        equivalence_margin: float = 0.03,
        threads: int | None = None,
        seed: int | None = None,
        timeout_s: float = 60.0,
        max_rounds: int = 1000,
        isolate: bool = True,
        only: Sequence[str] = (),
    ):
        """
        name: what is compared, in a word. baseline: the variant that the others are measured against; baseline_reason:
            why it is the best without the technique, to follow its name: "the faster of 1 and 2 threads".
        size or sizes: where on the scaling curve, none by default; unit: what a size counts, as "rows". title: the
            question, as a noun phrase. action: verb template of its recommendation, e.g. "Query with {variant}".
        time_budget_s: time budget of the rounds at one size, 20; setup comes on top, and up to three times as much
            is spent where ten rounds need it.
        check: check(answer, baseline's answer) -> CheckResult or bool; default: equal answers; None: no check.
        equivalence_margin: differences up to this count as equivalent, 0.03 for 3 %.
        threads: allowed to every variant, set before its imports; default: all usable cores.
        seed: of the order in the rounds and of work that draws on chance; default: a random one, kept in the record.
        timeout_s: longest time for one call or one preparation, 60. max_rounds: at one size, 1,000.
        isolate=False: no processes, for debugging.
        only: names of the variants to measure, besides the baseline; empty: all that are declared.

        Raises UserError if an argument makes no sense.
        """
        threads = fingerprint.usable_cores() if threads is None else threads
        seed = secrets.randbits(32) if seed is None else seed
        _check_numbers(name, time_budget_s=time_budget_s, timeout_s=timeout_s, equivalence_margin=equivalence_margin)
        _check_whole(name, 1, max_rounds=max_rounds, threads=threads)
        _check_whole(name, 0, seed=seed)
        got = f"comparison {name!r} got"
        if check is not None and not callable(check):
            raise UserError(f"{got} check={check!r}; it takes a function of two answers, or None")
        if action and "{variant}" not in action:
            raise UserError(f"{got} action={action!r}; it contains {{variant}}: 'Query with {{variant}}'")
        self.name, self.baseline, self.unit, self.title, self.action = name, baseline, unit, title, action
        self.baseline_reason = baseline_reason
        self.sizes, self.only = _plain_sizes(name, size, sizes), tuple(only)
        self.result: Result | None = None
        """The newest result; after an interruption, what was measured until then."""
        self._quality, self._isolate, self._takes_sizes = check, isolate, sizes is not None
        self._declared: dict[str, Declared] = {}
        self.how = How(
            kit=metadata.version("ml-scaling-kit"),
            seed=int(seed),
            time_budget_s=float(time_budget_s),
            equivalence_margin=float(equivalence_margin),
            alpha=statistics.ALPHA,
            max_interim_analyses=statistics.MAX_INTERIM_ANALYSES,
            max_rounds=int(max_rounds),
            threads=int(threads),
            timeout_s=float(timeout_s),
            isolated=isolate,
        )

    def variant(
        self,
        name: str,
        function: Callable | None = None,
        *,
        requires: str | Sequence[str] = (),
        skip: str = "",
        label: str = "",
        not_recommended: str = "",
        python: str = "",
    ) -> Callable:
        """Declare a variant, as a decorator or by a direct call, and return its function.

        function: called once in the variant's own process with the arguments of `run`; it prepares and returns the
        callable to time (or `Setup`). requires: names of capabilities (see `kit doctor`) or of importable modules;
        where one is missing, the variant is skipped, with the reason. skip: why it can't take part with this data, in a
        sentence; it is then recorded as skipped. label: noun phrase for it in a recommendation. not_recommended: why it
        is timed but never recommended, e.g. "weak scaling". python: another interpreter or the folder of its
        environment, for packages that want other versions. A cell that declares may be run twice.

        Raises UserError if another function has this name.

        >>> comparison = Comparison("sum", baseline="loop")
        >>> _ = comparison.variant("GPU", lambda: lambda: 42, requires="cupy")
        """
        if not isinstance(name, str):
            raise UserError(f'a variant of {self.name!r} has no name; write @comparison.variant("its name")')
        if function is None:
            return partial(self.variant, name, requires=requires, skip=skip, label=label,
                           not_recommended=not_recommended, python=python)  # fmt: skip
        if name in self._declared and _written_as(self._declared[name].function) != _written_as(function):
            raise UserError(f"comparison {self.name!r} has a variant {name!r} already; give this one another name")
        if name == CONTROL:
            raise UserError(f"{CONTROL!r} is the name of the baseline's own control; give the variant another name")
        requires = (requires,) if isinstance(requires, str) else tuple(requires)
        self._declared[name] = Declared(function, requires, skip, label, not_recommended, python)
        return function

    @property
    def variants(self) -> dict[str, Callable]:
        """The functions that will be measured, by name: of those declared, the baseline and what `only=` names.

        Raise UserError if that is a name that was not declared."""
        return {name: declared.function for name, declared in self._wanted().items()}

    def _wanted(self) -> dict[str, Declared]:
        for unknown in (name for name in self.only if name not in self._declared):
            names = ", ".join(self._declared) or "none"
            raise UserError(f"comparison {self.name!r} has no variant {unknown!r} for only=; it has: {names}")
        wanted = (self.baseline, *self.only) if self.only else self._declared
        return {name: declared for name, declared in self._declared.items() if name in wanted}

    def run(self, *arguments: Any) -> Result:
        """Measure, write the record, and return the result.

        With `size=`: the arguments go to every variant's function. With `sizes=`: give one function of the size that
        returns the argument (or a tuple of them); without it the variants get the size itself.
        A variant that fails costs only itself. Ctrl-C ends the workers; what was measured is kept in `.result` and in
        the record, which is then not complete, and KeyboardInterrupt goes on to the caller.

        Raises UserError if the baseline is not declared or cannot run here, or `only=` names an unknown variant.

        >>> comparison = Comparison("sleep", baseline="short", sizes=[1, 2], unit="ms", time_budget_s=1, isolate=False)
        >>> @comparison.variant("short")
        ... def short(seconds):
        ...     import time
        ...     return lambda: time.sleep(seconds)
        >>> comparison.run(lambda ms: ms / 1000)["short"].verdict
        'baseline'
        """
        self._check_declarations(arguments)
        runs: list[SizeRun] = []
        progress = Progress(self.name, self.unit, run_folder())
        peak: dict[str, float | None] = {}
        complete = False
        try:
            progress.preparing(self.sizes[0], "peak throughput of this machine")
            peak = peaks.measured(peaks.QUICK, self.how.threads)
            for number, size in enumerate(self.sizes):
                runs.append(self._size_run(size, arguments, self.how.seed + 1000 * number, progress))
                runs[-1].run()
                peak |= peaks.measured(runs[-1].peak_names() - peak.keys(), self.how.threads)
            complete = True
        finally:
            with undisturbed():
                self._end([run.point(peak) for run in runs], peak, complete, progress)
        return self.result

    def _end(self, points: list[Point], peak: dict, complete: bool, progress: Progress) -> None:
        """Keep what was measured, whole or not, and say where it is."""
        if not points:
            progress.done("ended before anything was measured")
            return
        self.result = self._keep(points, peak, complete)
        where = f"in .result of the comparison and in {fmt.shown(store.clean(str(self.result.path)), 400)}"
        how = "interrupted" if isinstance(sys.exception(), KeyboardInterrupt) else "ended early"
        outcome = f"measured: kept {where}" if complete else f"{how}: what was measured is kept {where}"
        progress.done(outcome)
        if not complete:
            print(f"{self.name} {outcome}")  # not as a note of the exception: a second Ctrl-C cuts tracebacks short

    def _size_run(self, size: float | None, arguments: tuple, seed: int, progress: Progress) -> SizeRun:
        given, baseline = self._arguments_at(size, arguments), self._declared[self.baseline]
        variants = {name: _ready(name, one, one.function, given) for name, one in self._wanted().items()}
        if isinstance(why := variants[self.baseline], Variant):
            raise UserError(f"the baseline {self.baseline!r} cannot run here: {fmt.note(why)}")
        start = partial(SpawnedWorker, self.how.threads, self.how.timeout_s) if self._isolate else InProcessWorker
        return SizeRun(
            size, variants, self.baseline, _ready(CONTROL, baseline, _own_copy(baseline.function), given),
            rules=Rules(self.how.time_budget_s, self.how.equivalence_margin, self.how.max_rounds), seed=seed,
            start=start, check=self._quality, progress=progress,
        )  # fmt: skip

    def _check_declarations(self, arguments: tuple) -> None:
        if self.baseline not in self._wanted():
            names = ", ".join(self._declared) or "none"
            raise UserError(f"the baseline {self.baseline!r} is not among the variants ({names}); declare it")
        if self._takes_sizes and arguments and (len(arguments) > 1 or not callable(arguments[0])):
            raise UserError(
                f"comparison {self.name!r} has sizes=, so run() takes one function of the size that returns the "
                f"variants' argument, as run(lambda rows: table(rows)); got {len(arguments)} argument(s)"
            )

    def _arguments_at(self, size, arguments: tuple) -> tuple:
        if not self._takes_sizes:
            return arguments
        made = arguments[0](size) if arguments else size
        return made if isinstance(made, tuple) else (made,)

    def _keep(self, points: list[Point], peak: dict[str, float | None], complete: bool) -> Result:
        record = Record(
            id=store.new_id(),
            written=store.now(),
            complete=complete,
            asked=Asked(
                comparison=self.name,
                notebook=notebook_name(),
                title=self.title,
                action=self.action,
                baseline=self.baseline,
                baseline_reason=self.baseline_reason,
                unit=self.unit,
                sizes=list(self.sizes),
                parameters=store.clean(notebook_parameters()),
                sources={name: source(declared.function) for name, declared in self._wanted().items()},
            ),
            machine=replace(fingerprint.machine(), peaks=peak),
            versions=fingerprint.versions(),
            git=fingerprint.git(),
            how=self.how,
            points=[self._labelled(point) for point in points],
            scaling=self._scaling(points) if self._takes_sizes and len(points) > 1 else {},
        )
        return Result(record, store.write(record, records_folder()))

    def _labelled(self, point: Point) -> Point:
        """Return the point with what was declared of its variants next to what was measured."""
        declared = [(variant, self._declared[variant.name]) for variant in point.variants]
        labelled = [replace(one, label=d.label, not_recommended=d.not_recommended) for one, d in declared]
        return replace(point, variants=labelled)

    def _scaling(self, points: list[Point]) -> dict[str, Scaling]:
        found, sizes = {}, [float(point.size) for point in points]
        for position, name in enumerate(self._wanted()):
            at = [point.variants[position] for point in points]
            if all(variant.state == "measured" for variant in at):
                found[name] = statistics.scaling(sizes, [v.effect for v in at], [v.verdict for v in at])
        return found


def _ready(name: str, declared: Declared, function: Callable, arguments: tuple) -> VariantProcess | Variant:
    """Return a variant packed for its process, or its row of the result if it can't run here."""
    if declared.skip:
        return not_run(name, declared.skip)
    if declared.python:  # what it requires is there, not here
        python = capabilities.interpreter(declared.python)
    else:
        python = capabilities.missing(declared.requires) or ""
    if isinstance(python, capabilities.Missing):
        return not_run(name, python.reason, python.remedy)
    try:
        return VariantProcess(name, cloudpickle.dumps((function, arguments)), python)
    except Exception as error:  # what a variant refers to may refuse in any way
        return not_run(name, f"it cannot be sent to its process: {one_line(error)}", state="failed")


def _own_copy(function: Callable) -> Callable:
    """Return a function that a notebook defines once more under another name, as a variant of its own would be, so that
    A/A differs from the baseline in all that two variants differ in; any other callable as it is."""
    if isinstance(function, partial):
        return partial(_own_copy(function.func), *function.args, **function.keywords)
    if not isinstance(function, types.FunctionType) or function.__module__ != "__main__":
        return function
    name = f"{function.__name__}_again"
    code = function.__code__.replace(co_name=name, co_qualname=name)
    copy = types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    copy.__kwdefaults__, copy.__module__, copy.__qualname__ = function.__kwdefaults__, function.__module__, name
    return copy


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
    if size is None and sizes is None:
        return [None]
    given = np.atleast_1d(size if sizes is None else sizes).tolist()
    if size is not None and sizes is not None:
        raise UserError(f"comparison {name!r} got size= and sizes=; give just one of them")
    if not given or not all(isinstance(s, int | float) and 0 < s < math.inf for s in given):
        raise UserError(f"comparison {name!r} got the sizes {given}; give numbers above 0, as sizes=[1_000, 1_000_000]")
    return sorted(set(given))


def _written_as(function: Callable) -> str:
    """Return the name that a function was written under: the same when a notebook's cell is run again."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__qualname__)


def source(function: Callable) -> str:
    """Return the source code of a variant's function, or nothing where it has none."""
    while isinstance(function, partial):
        function = function.func
    try:
        return textwrap.dedent(inspect.getsource(function)).strip()
    except (OSError, TypeError):
        return ""
