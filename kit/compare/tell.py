"""Tells what changed: on a terminal, as Markdown for a pull request, as a page, and in a notebook."""

from collections import Counter
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from kit.compare.rows import ELSEWHERE, ORDER, WORSE, Pair, Row, of_row
from kit.record import comment, words

if TYPE_CHECKING:
    from kit.compare.found import Changes

MARKS = {verdict: verdict for verdict in ORDER} | {"broke": "answer broke"}
STYLES = {verdict: "bold red" for verdict in WORSE} | {"slower": "red", "faster": "green", "mended": "green"}
LONGEST_COMMENT = 58_000
"""Characters of a comment on GitHub: a little under its 65,536, for what a tool puts around it."""
LONGEST_TEXT = 600
MOST_SAID = 12
HOW = (
    "A change is told by its interval, never by its middle: of the speed-up over the baseline of the same run where "
    "that stayed the same, else of the time itself, and that only on one machine whose probes agree. The interval "
    "holds the noise of the rounds, the luck of fresh processes and what lasts for a run; “same” is known to ±10 %. "
    "On another machine only speed-ups are compared, and nothing is called slower."
)


def tally(changes: "Changes") -> str:
    """Return how often each verdict was given: `1 slower, 2 faster, 5 same`."""
    return _counted(changes.rows)


def _counted(rows: list[Row]) -> str:
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[v]} {MARKS[v]}" for v in ORDER if counts[v]) or "nothing in common"


def heading(pair: Pair) -> str:
    """Return the name of a comparison: `01_dataframes · delays`."""
    return " · ".join(part for part in (pair.notebook, pair.comparison) if part)


def where(row: Row, pair: Pair) -> str:
    """Return a row's variant with its size: `Polars, 1,000,000 rows`."""
    at = words.count(row.size, pair.unit)
    return f"{row.variant}, {at}" if at else row.variant


def cells(row: Row) -> tuple[str, str, str]:
    """Return the verdict, the change that it stands on, and the times."""
    seconds = " → ".join(words.duration(s) for s in row.seconds) if any(row.seconds) else "—"
    return MARKS[row.verdict], of_row(row), seconds


def grounds(pair: Pair) -> list[str]:
    """Return what limits or explains all rows of one comparison, a sentence each."""
    on, said = pair.ground, []
    if on.units and not pair.rows:
        said.append(f"Nothing in common: {on.units}.")
    elif not pair.rows and not pair.skipped:
        said.append("Nothing in common: no size was measured both before and after.")
    if on.baseline:
        said.append(f"Baseline changed: {on.baseline}.")
    if on.alone:
        said.append("Each was measured by itself, not in turns with the others, so it is judged by its time.")
    if on.why_not:
        said.append(f"Times are not comparable: {on.why_not}.")
    if on.said:
        more = f", and {len(on.said) - MOST_SAID} more" if len(on.said) > MOST_SAID else ""
        said.append(f"Different: {'; '.join(on.said[:MOST_SAID])}{more}.")
    if max(pair.repeats) > 1:
        said.append(f"{pair.repeats[0]} and {pair.repeats[1]} runs are taken together.")
    for reason, names in pair.skipped.items():
        said.append(f"Run on neither side: {words.listing(names)}{': ' + reason if reason else ''}.")
    for names, side in ((pair.gone, "before"), (pair.new, "after")):
        if names:
            said.append(f"Only {side}: {words.listing(names)}.")
    return said


def unpaired(changes: "Changes") -> list[str]:
    """Return what only one side asked, and what could not be read, a sentence each."""
    said = [
        f"Only {side}: {words.listing(names, 10)}."
        for names, side in ((changes.gone, "before"), (changes.new, "after"))
        if names
    ]
    failing = {id(row) for row in changes.failing}
    if doubtful := [row for row in changes.worse if id(row) not in failing]:
        said.append(
            f"{words.listing(row.variant for row in doubtful)}: slower, but among {len(changes.judged)} rows one such "
            "is by chance more often than once in twenty; --fail-on slower does not fail on it. More runs would tell."
        )
    if changes.identical:
        said.append(f"The same run on both sides: {words.listing(changes.identical, 10)}.")
    said += [f"{file.file} can't be read: {file.reason}." for file in changes.unreadable[:MOST_SAID]]
    return said


# ------------------------------------------------------------------------------------------------ terminal


def terminal(changes: "Changes", console=None) -> None:
    """Print the changes as tables that fit 80 columns."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    console.print(Text(f"before  {changes.a}\nafter   {changes.b}"), soft_wrap=True)
    for pair in changes.pairs:
        console.print(Text(f"\n{heading(pair)}", style="bold"))
        for line in _lines(pair):
            console.print(line, soft_wrap=True)
        for text in grounds(pair):
            _indented(console, text)
    for text in unpaired(changes):
        console.print(Text(f"\n{text}"))
    console.print(Text(f"\n{tally(changes)}", style="bold"))


LONGEST_NAME = 24
WIDE = 80


def _lines(pair: Pair):
    """Yield the rows of one comparison as lines of at most 80 characters, what is too long under the others."""
    from rich.text import Text

    if not pair.rows:
        return
    told = {id(row): (row.variant + (" (baseline)" if row.is_baseline else ""), *cells(row)) for row in pair.rows}
    name_width, *widths = (max(len(texts[place]) for texts in told.values()) for place in range(3))
    for size in pair.sizes:
        if size is not None:
            yield Text(f"  at {words.count(size, pair.unit)}", style="italic")
        for row in pair.rows:
            if row.size == size:
                yield from _row_lines(row, *told[id(row)], min(name_width, LONGEST_NAME), widths)


def _row_lines(row: Row, name: str, verdict: str, change: str, seconds: str, name_width: int, widths: list[int]):
    from rich.text import Text

    if len(name) > name_width:
        yield Text(f"  {name}")
        name = ""
    line = Text.assemble(f"  {name:{name_width}}  ", (verdict, STYLES.get(row.verdict, "")))
    line.append(f"{'':{widths[0] - len(verdict)}}  {change:{widths[1]}}")
    fits = len(line) + 2 + len(seconds) <= WIDE
    yield line.append(f"  {seconds}") if fits else line
    if not fits:
        yield Text(f"{'':{name_width + 4}}{seconds}")
    if row.notes:
        yield from _wrapped("; ".join(row.notes), name_width + 4)


def _wrapped(text: str, indent: int):
    from textwrap import wrap

    from rich.text import Text

    for line in wrap(words.shown(text, 300), WIDE - indent):
        yield Text(f"{'':{indent}}{line}", style="dim")


def _indented(console, text: str) -> None:
    for line in _wrapped(text, 2):
        console.print(line, soft_wrap=True)


# ------------------------------------------------------------------------------------------------ Markdown


def markdown(changes: "Changes") -> str:
    """Return the changes as GitHub-flavoured Markdown that fits a comment: what matters first, the rest folded."""
    told = sorted(
        ((row, pair) for pair in changes.pairs for row in pair.rows), key=lambda one: ORDER.index(one[0].verdict)
    )
    first = [one for one in told if one[0].verdict in (*WORSE, "faster", "mended", "runs now")]
    parts = [
        f"## {safe(sentence(changes))}",
        f"Before: {safe(changes.a)}  \nAfter: {safe(changes.b)}",
        *([_markdown_table(first)] if first else []),
        *map(safe, unpaired(changes)),
    ]
    end = f"<sub>{safe(HOW)}</sub>\n"
    room = LONGEST_COMMENT - sum(len(part) + 2 for part in parts) - len(end)
    if room < 0:
        parts[2:3] = [_fitting(first, LONGEST_COMMENT - 4_000)]
        room = 500
    for pair in changes.pairs:
        folded = _folded(pair)
        if len(folded) + 120 > room:
            parts.append(f"{len(changes.pairs):,} comparisons in all; the rest stands in `index.html`.")
            break
        parts.append(folded)
        room -= len(folded) + 2
    return "\n\n".join([*parts, end])


def sentence(changes: "Changes") -> str:
    """Return the one line that matters most."""
    if told := changes.worse or [row for row in changes.rows if row.verdict == "faster"] or _elsewhere(changes):
        named = f"{told[0].variant} {_became(told[0])}"
        said = f"{named}; in all {tally(changes)}" if len(changes.rows) > 1 else named
    elif not changes.judged:
        said = f"Nothing could be compared: {tally(changes)}"
    else:
        said = f"Nothing was seen to become slower: {tally(changes)}"
    return f"{said}; {words.count(len(changes.gone), 'comparisons')} only before" if changes.gone else said


def _elsewhere(changes: "Changes") -> list[Row]:
    if changes.judged:
        return []
    return [row for row in changes.rows if row.verdict in ("speed-up smaller", "speed-up larger")]


def _became(row: Row) -> str:
    if row.verdict in ("slower", "faster"):
        return f"became {of_row(row)}"
    if row.verdict in ELSEWHERE.values():
        return f"has a speed-up {of_row(row)} on another machine"
    return {"broke": "answers wrongly now", "failed": "fails now"}.get(row.verdict, row.verdict)


def gate(changes: "Changes") -> tuple[bool, str]:
    """Return whether `--fail-on slower` passes, and the sentence that says why and how much it could judge."""
    judged = len(changes.judged)
    rows = f"judged {judged:,} of {words.count(len(changes.rows), 'rows')}"
    failing = {id(row) for row in changes.failing}
    told = ((row, pair) for pair in changes.pairs for row in pair.rows if id(row) in failing)
    why = [f"{where(row, pair)}: {MARKS[row.verdict]}" for row, pair in told]
    why += [f"{name}: not measured after" for name in changes.missing]
    if why:
        return False, f"--fail-on slower {rows} and fails on {words.listing(why)}"
    if not judged:
        return False, f"--fail-on slower {rows}, so it fails: nothing could be compared"
    return True, f"--fail-on slower {rows} and passes"


def _fitting(rows: list[tuple[Row, Pair]], most: int) -> str:
    while len(text := _markdown_table(rows)) > most:
        rows = rows[: len(rows) * 3 // 4]
    return f"{text}\n\nThe rest stands in `index.html`."


def _markdown_table(rows: list[tuple[Row, Pair]], of_one: bool = False) -> str:
    lines = ["| verdict | variant | change [interval] | time | |", "| --- | --- | --- | --- | --- |"]
    for row, pair in rows:
        verdict, change, seconds = cells(row)
        name = safe(where(row, pair)) + ("" if of_one else f"<br><sub>{safe(heading(pair))}</sub>")
        strong = f"**{verdict}**" if row.verdict in WORSE else verdict
        lines.append(f"| {strong} | {name} | {safe(change)} | {safe(seconds)} | {safe('; '.join(row.notes))} |")
    return "\n".join(lines)


def _folded(pair: Pair) -> str:
    said = "\n".join(f"- {safe(text)}" for text in grounds(pair))
    table = _markdown_table([(row, pair) for row in pair.rows], of_one=True) if pair.rows else ""
    told = "\n\n".join(part for part in (table, said) if part)
    return comment.folded(f"{words.shown(heading(pair), 200)}: {_counted(pair.rows)}", told)


def safe(text: str) -> str:
    """Return text as a comment shows it, cut where it is too long to read there."""
    return comment.safe(text, LONGEST_TEXT)


# ------------------------------------------------------------------------------------------------ pages


def page(changes: "Changes") -> str:
    """Return the changes as one self-contained page, which loads nothing and runs nothing."""
    return _template().render(
        changes=changes, sentence=sentence(changes), colours=_colours(), pairs=[_shown(pair) for pair in changes.pairs],
        unpaired=unpaired(changes), how=HOW,
    )  # fmt: skip


def fragment(changes: "Changes") -> str:
    """Return the changes as a piece of HTML for a notebook."""
    parts = [f"<p><b>{escape(sentence(changes))}</b><br>{escape(changes.a)} → {escape(changes.b)}</p>"]
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("variant", "verdict", "change [interval]", "time", ""))
    for pair in changes.pairs:
        rows = ((where(row, pair), *cells(row), "; ".join(row.notes)) for row in pair.rows)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        said = "".join(f"<p>{escape(text)}</p>" for text in grounds(pair))
        caption = f"<caption>{escape(heading(pair))}</caption>"
        parts.append(f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{said}")
    return "".join(parts + [f"<p>{escape(text)}</p>" for text in unpaired(changes)])


def _shown(pair: Pair) -> dict:
    scale = _scale(pair)
    rows = [
        {"row": row, "name": where(row, pair), "cells": cells(row), "strip": _strip(row, scale)} for row in pair.rows
    ]
    return {"pair": pair, "heading": heading(pair), "rows": rows, "grounds": grounds(pair)}


def _scale(pair: Pair) -> float:
    """Return the log at both ends of the strips of one comparison, at least a factor of 1.25."""
    import math

    ends = [end for row in pair.rows if row.change for end in (row.change.low, row.change.high)]
    return min(max([math.log(1.25), *(1.1 * abs(math.log(end)) for end in ends if end > 0)]), math.log(32))


def _strip(row: Row, scale: float) -> dict | None:
    """Return the places of the ends and the middle of an interval, in percent of the width."""
    import math

    if row.change is None:
        return None
    change = row.change
    at = (50 + 50 * max(-1.0, min(1.0, math.log(value) / scale)) for value in (change.low, change.ratio, change.high))
    low, dot, high = (round(place, 2) for place in at)
    return {"low": low, "dot": dot, "width": max(0.4, round(high - low, 2))}


def _colours():
    from markupsafe import Markup

    from kit.record.style import GRID, INK, MUTED, PAPER

    named = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER}
    return Markup(":root{" + "".join(f"--{name}:{colour};" for name, colour in named.items()) + "}")


@cache
def _template():
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def printed(value):
        return words.shown(value, 600) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=printed
    )
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
