"""The changes between two sets of runs, and the gate that a CI job fails on."""

import sys
from dataclasses import dataclass
from pathlib import Path

from kit import project
from kit.compare import render, rows, run_sets, verdicts
from kit.compare.rows import WORSE, Pair, Row
from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record import store
from kit.runs.files import Unreadable


@dataclass(frozen=True)
class Changes:
    """The change of every variant that both sides measured. Shows itself as Markdown in a notebook."""

    a: str
    """The side before, in words."""
    b: str
    pairs: list[Pair]
    """Each comparison of both sides, the most important first."""
    gone: list[str]
    """Comparisons that only A has."""
    new: list[str]
    unreadable: list[Unreadable]

    @property
    def rows(self) -> list[Row]:
        """Every variant at every size."""
        return [row for pair in self.pairs for row in pair.rows]

    @property
    def tested(self) -> list[Row]:
        """Rows that could have been slower or faster: there is an interval, and it is of one machine."""
        return [row for row in self.rows if row.by]

    @property
    def worse(self) -> list[Row]:
        """What became slower, failed, was rejected, or does not run or is not checked any more."""
        return [row for row in self.rows if row.verdict in WORSE]

    @property
    def failing(self) -> list[Row]:
        """What `--fail-on slower` fails on: `worse`, of the slower rows those that one of so many unchanged
        rows would exceed in one case of twenty (Bonferroni)."""
        needed = verdicts.needed_strength(len(self.tested))
        return [row for row in self.worse if row.verdict != "slower" or row.change.strength >= needed]

    def gate(self) -> tuple[bool, str]:
        """Return whether `--fail-on slower` passes, and the sentence with the reason and how much was tested.

        It fails on `failing`, on comparisons and sizes that are not measured any more, and where nothing is tested."""
        tested = f"--fail-on slower tested {len(self.tested):,} of {fmt.count(len(self.rows), 'rows')}"
        missing = [*self.gone, *(f"{pair.name} at {size}" for pair in self.pairs for size in pair.gone_sizes)]
        why = [f"{row.name}: {row.verdict}" for row in self.failing] + [f"{n}: not measured after" for n in missing]
        if why:
            return False, f"{tested} and fails on {fmt.listing(why)}"
        if not self.tested:
            return False, f"{tested}, so it fails: nothing could be compared"
        return True, f"{tested} and passes"

    def write(self, out: str) -> Path:
        """Write `report.md` into the folder `out`, at once, and return its path."""
        path = Path(out) / "report.md"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            store.put(path, render.markdown(self))
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"{out}: it can't be written there: {why}; give another folder") from None
        return path

    def __repr__(self) -> str:
        return render.text(self)

    def _repr_markdown_(self) -> str:
        return render.markdown(self)


def between(a: str | Path, b: str | Path, runs: str | Path | None = None) -> Changes:
    """Return what became faster, slower or equivalent from A to B, by intervals.

    a, b: a folder of runs, a run, a record, a JSON of pytest-benchmark, or a URL of one; or the start of a commit (from
    four characters on) or a day as 2026-11-23, which are looked up in `runs` (default: the project's `runs/`). Raise
    UserError where one names nothing, or where both have no comparison in common.
    """
    place = str(runs or project.project() / "runs")
    before, after = run_sets.side(str(a), place), run_sets.side(str(b), place)
    pairs, gone, new = rows.paired(before, after)
    if not pairs:
        names = f"before {fmt.listing(gone, 3)}, after {fmt.listing(new, 3)}; give runs of the same notebooks"
        raise UserError(f"{store.clean(str(a))} and {store.clean(str(b))} have no comparison in common: {names}")
    return Changes(before.in_words(), after.in_words(), pairs, gone, new, before.unreadable + after.unreadable)


def main(a: str, b: str, place: str, out: str | None = None, fail_on_slower: bool = False) -> int:
    """Print what changed from A to B, write it into `out` if that is given, and return the exit status.

    With `fail_on_slower` that is 1 where `Changes.gate` fails; its sentence on stderr has the reason."""
    found = between(a, b, place)
    print(repr(found))
    if out:
        print(f"\n{found.write(out)}")
    passes, sentence = found.gate()
    if fail_on_slower:
        print(f"kit: {sentence}", file=sys.stderr)
    return int(fail_on_slower and not passes)
