"""A notebook's claim, checked part by part."""

from collections.abc import Collection, Iterable, Mapping

from kit.record.document import Effect


def holds(verdict: str, claimed: Collection[str]) -> bool | None:
    """Return whether a verdict is one of those claimed; None where it is inconclusive or the variant was skipped."""
    return None if verdict in ("inconclusive", "skipped") else verdict in claimed


def some(verdicts: Iterable[str]) -> bool | None:
    """Return whether one of the verdicts is faster; None where none is and one is inconclusive or skipped, or
    nothing but the baseline was timed."""
    found = [holds(verdict, ["faster"]) for verdict in verdicts if verdict not in ("baseline", "checked, not timed")]
    return True if True in found else None if None in found or not found else False


def none(verdicts: Iterable[str]) -> bool | None:
    """Return whether no verdict is faster; None where `some` has none."""
    return {True: False, False: True}.get(some(verdicts))


def grows(first: Effect | None, last: Effect | None) -> bool | None:
    """Return whether the last speed-up is larger than the first; None where their intervals overlap or are missing."""
    if first is None or last is None or None in (first.low, last.low):
        return None
    return True if last.low > first.high else False if last.high < first.low else None


def lines(parts: Mapping[str, bool | None]) -> str:
    """Return each part of a claim on its line: ✓ it holds, ✗ it does not, ? it is inconclusive, or was not measured."""
    marks, known = {True: "✓", False: "✗"}, ("inconclusive", "not measured")
    unknown = {name: "?" if any(why in name for why in known) else "? inconclusive:" for name in parts}
    return "\n".join(f"{unknown[name] if held is None else marks[bool(held)]} {name}" for name, held in parts.items())
