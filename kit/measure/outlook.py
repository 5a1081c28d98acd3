"""A comparison as it shows itself: its variants, what will be skipped here and why, its sizes and its budget."""

from collections.abc import Mapping
from html import escape
from typing import Any

from kit.machine import capabilities
from kit.measure.exhibits import in_jupyter, text_table
from kit.record import words

HEADINGS = ("variant", "needs", "here")


def rows(comparison: Any) -> list[list[str]]:
    """Return a row for each declared variant: its name, what it needs, and whether it will run on this machine."""
    told = comparison.declared
    missing = [[comparison.baseline, "", "not declared yet: the baseline"]] if comparison.baseline not in told else []
    return missing + [
        [words.shown(name, 60), ", ".join(declared.needs), words.shown(_here(comparison, name, told), 200)]
        for name, declared in told.items()
    ]


def _here(comparison: Any, name: str, declared: Mapping[str, Any]) -> str:
    if comparison.only and name not in (comparison.baseline, *comparison.only):
        return "left out by only="
    if declared[name].skip:
        return f"skipped: {declared[name].skip}"
    if missing := capabilities.missing(declared[name].needs):
        return f"skipped: {missing.reason}" + (f"; {missing.remedy}" if missing.remedy else "")
    return "baseline, twice: also as its own control A/A" if name == comparison.baseline else "runs"


def lines(comparison: Any) -> list[str]:
    """Return what is asked, in sentences: sizes, budget, and where the newest result is."""
    sizes = [words.count(size, comparison.unit) for size in comparison.sizes if size is not None]
    how = comparison.how
    budget = f"{how.seconds:g} s of rounds" + (" a size" if len(sizes) > 1 else "")
    total = f", {how.seconds * len(sizes):g} s over {len(sizes)} sizes" if len(sizes) > 1 else ""
    return [
        f"At {words.listing(sizes)}." if sizes else "No size given.",
        f"Budget: {budget}{total}; preparation comes on top. Threads: {how.threads} for each variant.",
        _state(comparison),
    ]


def _state(comparison: Any) -> str:
    if comparison.result is None:
        return "Not run yet: .run(…) measures it."
    how = "Measured" if comparison.result.record.complete else "Interrupted; what was measured until then is kept"
    return f"{how}: .result shows it."


def as_text(comparison: Any) -> str:
    """Return the comparison for a terminal."""
    table = text_table(_title(comparison), list(HEADINGS), rows(comparison), {"here"}, set())
    return "\n".join([table, *lines(comparison)])


def as_html(comparison: Any) -> str:
    """Return the comparison for a notebook."""
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows(comparison))
    told = "".join(f"<p>{escape(line)}</p>" for line in lines(comparison))
    return in_jupyter(f"<table><caption>{escape(_title(comparison))}</caption><tr>{heads}</tr>{body}</table>{told}")


def _title(comparison: Any) -> str:
    title = f": {words.shown(comparison.title)}" if comparison.title else ""
    return f"Comparison {words.shown(comparison.name, 60)}{title}"


def _cell(text: str) -> str:
    wide = ' class="wide"' if len(text) > 24 else ""
    return f"<td{wide}>{escape(text)}</td>"
