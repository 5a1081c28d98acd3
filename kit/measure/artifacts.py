"""Shows tables, charts and figures: drawn in a notebook, as plain text in a terminal."""

from collections.abc import Sequence
from html import escape
from io import StringIO
from typing import Any

from kit.record import formatting as fmt
from kit.record.document import Chart, Table

_IN_JUPYTER = """<style>
.jp-OutputArea .kit { --ink: var(--jp-content-font-color1); --muted: var(--jp-content-font-color2);
  --grid: var(--jp-border-color2); --band: var(--jp-layout-color2); --paper: var(--jp-layout-color0); }
.kit { color: var(--ink, inherit); overflow-x: auto; }
.kit table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .2em 0 1em; }
.kit caption { text-align: left; font-weight: 600; padding: .5em 0; }
.kit th, .kit td { text-align: left !important; padding: .3em .9em .3em 0; border-bottom: 1px solid var(--grid, #8884);
  background: none; vertical-align: top; white-space: nowrap; }
.kit .n { text-align: right !important; }
.kit td.wide { white-space: normal; min-width: 14em; max-width: 30em; }
.kit th { font-weight: 500; color: var(--muted, inherit); }
.kit p { max-width: 60em; margin: .3em 0; line-height: 1.5; }
.kit svg { max-width: 46em; width: 100%; height: auto; display: block; margin: .8em 0; }
</style>"""
"""Colours come from JupyterLab's theme there; elsewhere from the page, else from the figure itself."""

MOST_ROWS = 200
"""Rows of a table that are shown."""
LONG = 24
"""Longer cells break their lines."""


class Artifacts:
    """Charts and tables that show themselves, and figures of matplotlib. They need no record: `Artifacts(chart, table)`
    at the end of a cell. In a terminal a table is text, and a chart its title."""

    def __init__(self, *artifacts: Any, look: dict[str, tuple[str, str]] | None = None, notes: Sequence[str] = ()):
        """look: colour and marker of variants by name, as `figures.looks` gives; notes: paragraphs below them."""
        self.artifacts, self.look, self.notes = artifacts, look, list(notes)

    def _repr_html_(self) -> str:
        html = "".join(map(self._html, self.artifacts)) + _paragraphs(self.notes)
        return f'{_IN_JUPYTER}<div class="kit">{html}</div>'

    def __repr__(self) -> str:
        return "\n".join([*map(_text, self.artifacts), *self.notes])

    def _html(self, artifact: Any) -> str:
        if isinstance(artifact, Table):
            return _html_table(artifact) + _paragraphs(_note(artifact))
        from kit.charts import chart, style

        if isinstance(artifact, Chart):
            return style.to_svg(chart.draw(artifact, self.look), themed=True) + _paragraphs(_note(artifact))
        return style.to_svg(artifact, themed=True)


def _note(artifact: Chart | Table) -> list[str]:
    return [fmt.shown(artifact.note, 600)] if artifact.note else []


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _html_table(table: Table) -> str:
    numeric = _numeric(table)
    heads = [_html_cell("th", fmt.shown(name, 60), right) for name, right in zip(table.columns, numeric, strict=True)]
    rows = [
        "".join(_html_cell("td", fmt.cell(value), right) for value, right in zip(row, numeric, strict=True))
        for row in table.rows[:MOST_ROWS]
    ]
    body = "".join(f"<tr>{row}</tr>" for row in ["".join(heads), *rows])
    more = len(table.rows) - MOST_ROWS
    left_out = _paragraphs([f"{more:,} more rows are in the record."]) if more > 0 else ""
    return f"<table><caption>{escape(fmt.shown(table.title))}</caption>{body}</table>{left_out}"


def _html_cell(tag: str, text: str, numeric: bool) -> str:
    kind = ' class="n"' if numeric else ' class="wide"' if len(text) > LONG and tag == "td" else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _numeric(table: Table) -> list[bool]:
    return [fmt.is_numeric(row[place] for row in table.rows) for place in range(len(table.columns))]


def _text(artifact: Any) -> str:
    if isinstance(artifact, Chart):
        return "\n".join([f"Chart: {fmt.shown(artifact.title)}", *_note(artifact)])
    if not isinstance(artifact, Table):
        return "Figure, drawn in a notebook"
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(title=fmt.shown(artifact.title), title_justify="left", box=None, pad_edge=False)
    for column, numeric in zip(artifact.columns, _numeric(artifact), strict=True):
        drawn.add_column(fmt.shown(column, 60), max_width=48, justify="right" if numeric else "left")
    for row in artifact.rows[:MOST_ROWS]:
        drawn.add_row(*map(fmt.cell, row))
    plain = {"highlight": False, "markup": False, "emoji": False, "force_jupyter": False, "force_terminal": False}
    page = Console(file=StringIO(), width=200, **plain)
    page.print(drawn)
    lines = [line.rstrip() for line in page.file.getvalue().splitlines()]
    more = [f"and {len(artifact.rows) - MOST_ROWS:,} more"] if len(artifact.rows) > MOST_ROWS else []
    return "\n".join([*lines, *more, *_note(artifact), ""])
