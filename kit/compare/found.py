"""Finds what changed between two sides, and writes it down."""

from dataclasses import dataclass
from pathlib import Path

from kit.compare import judged, rows, sides
from kit.compare.rows import WORSE, Pair, Row
from kit.errors import UserError
from kit.record import store
from kit.stored.gather import Unreadable


@dataclass(frozen=True)
class Changes:
    """What became of every variant that both sides measured. Shows itself as tables in a notebook."""

    a: str
    """What stands before, in words."""
    b: str
    pairs: list[Pair]
    """Each comparison that both sides asked, the most important first."""
    gone: list[str]
    """Comparisons that only A has."""
    new: list[str]
    identical: list[str]
    """Comparisons whose newest run is the same one on both sides."""
    unreadable: list[Unreadable]

    @property
    def rows(self) -> list[Row]:
        """Every variant at every size."""
        return [row for pair in self.pairs for row in pair.rows]

    @property
    def worse(self) -> list[Row]:
        """What became slower, failed, answers wrongly, or is not run or not checked any more."""
        return [row for row in self.rows if row.verdict in WORSE]

    @property
    def judged(self) -> list[Row]:
        """What could have been told slower or faster."""
        return [row for row in self.rows if row.is_judged]

    @property
    def missing(self) -> list[str]:
        """Comparisons and sizes that were measured before and not after, in words."""
        sizes = [f"{pair.comparison} at {size}" for pair in self.pairs for size in pair.gone_sizes]
        return [*self.gone, *sizes]

    @property
    def failing(self) -> list[Row]:
        """What `--fail-on slower` fails on: what failed, answers wrongly, or is not run or not checked any more, and
        what became slower by more than one of so many rows would be by chance in one case of twenty."""
        needed = judged.needed_strength(len(self.judged))
        return [row for row in self.worse if row.verdict != "slower" or row.change.strength >= needed]

    def __repr__(self) -> str:
        from io import StringIO

        from rich.console import Console

        from kit.compare import tell

        text = StringIO()
        tell.terminal(self, Console(file=text, width=100, highlight=False))
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        from kit.compare import tell

        return tell.fragment(self)


def between(a: str, b: str, place: str) -> Changes:
    """Return what changed from A to B; see `kit.compare.changes`."""
    before, after = sides.both(a, b, place)
    found = rows.paired(before, after)
    if not found.pairs:
        raise UserError(_nothing(store.clean(a), store.clean(b), found))
    unreadable = before.unreadable + after.unreadable
    return Changes(before.in_words(), after.in_words(), found.pairs, found.gone, found.new, found.identical, unreadable)


def _nothing(a: str, b: str, found: rows.Paired) -> str:
    if found.identical:
        return f"{a} and {b} hold the same runs: {_some(found.identical)}; give another run of it on one side"
    return (
        f"{a} and {b} have no comparison in common: before {_some(found.gone)}, after {_some(found.new)}; give runs of "
        "the same notebooks"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


def write(changes: Changes, out: str) -> Path:
    """Write `report.md` and `index.html` into the folder `out`, each at once; return the path of the page."""
    from kit.compare import tell

    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store.put(folder / "report.md", tell.markdown(changes))
        store.put(folder / "index.html", tell.page(changes))
    except OSError as error:
        raise UserError(f"{out}: it can't be written there: {error.strerror or error}; give another folder") from None
    return folder / "index.html"
