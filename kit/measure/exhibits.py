"""Shows a technique's own charts and tables: drawn in a notebook, as plain text in a terminal."""

import inspect
from collections.abc import Callable
from html import escape

from kit.record import words
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
.kit .why { text-decoration: underline dotted; text-underline-offset: .2em; cursor: help; white-space: nowrap; }
.kit th { font-weight: 500; color: var(--muted, inherit); }
.kit p { max-width: 60em; margin: .3em 0; line-height: 1.5; }
.kit svg { max-width: 46em; width: 100%; height: auto; display: block; margin: .8em 0; }
.kit .kit-progress { display: flex; align-items: center; gap: 1em;
  padding: .3em 0; font-variant-numeric: tabular-nums; }
.kit progress { flex: none; width: 12em; height: .6em; accent-color: var(--jp-brand-color1, #1f77b4); }
.kit progress[hidden] { display: none; }
</style>"""
"""Colours come from JupyterLab's theme there; elsewhere from the page, else from the figure itself."""

MOST_ROWS = 200
LONG = 48
"""Longer cells break their lines."""
MOST_TOLD = 20
"""Points of a chart that a terminal is told."""


def code(*functions: Callable) -> str:
    """Return the source of functions, to be shown as they are."""
    return "\n\n".join(inspect.getsource(function) for function in functions)


class Exhibits:
    """Charts and tables that show themselves. They need no record: `Exhibits(chart, table)` at the end of a cell."""

    def __init__(self, *exhibits: Chart | Table, look: dict[str, tuple[str, str]] | None = None):
        """look: colour and marker of variants by name, as `figures.looks` gives."""
        self.exhibits = exhibits
        self.look = look

    def _repr_html_(self) -> str:
        return in_jupyter("".join(self._html(exhibit) for exhibit in self.exhibits))

    def __repr__(self) -> str:
        return "\n".join(_text(exhibit) for exhibit in self.exhibits)

    def _html(self, exhibit: Chart | Table) -> str:
        note = f"<p>{escape(words.shown(exhibit.note, 600))}</p>" if exhibit.note else ""
        if isinstance(exhibit, Table):
            return _html_table(exhibit) + note
        from kit.record import charts, style

        return style.to_svg(charts.chart(exhibit, self.look), themed=True) + note


def in_jupyter(html: str) -> str:
    """Return HTML framed for a notebook's output, in the colours of its theme."""
    return f'{_IN_JUPYTER}<div class="kit">{html}</div>'


def text_table(title: str, headings: list[str], rows: list[list[str]], wrapped: set[str], right: set[str]) -> str:
    """Return a table for a terminal. wrapped: headings of columns that may break lines; right: set to the right."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        justify = "right" if heading in right else "left"
        table.add_column(heading, no_wrap=heading not in wrapped, max_width=48, justify=justify)
    for row in rows:
        table.add_row(*row)
    page = Console(file=StringIO(), width=200, highlight=False, markup=False, emoji=False, force_jupyter=False)
    page.print(table)
    return "\n".join(line.rstrip() for line in page.file.getvalue().splitlines()) + "\n"


def _numeric(table: Table) -> list[bool]:
    return [words.is_numeric(row[place] for row in table.rows) for place in range(len(table.columns))]


def _html_table(table: Table) -> str:
    marks = [' class="n"' if numeric else "" for numeric in _numeric(table)]
    heads = "".join(
        f'<th{m} scope="col">{escape(words.shown(c, 60))}</th>' for m, c in zip(marks, table.columns, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_html_cell(m, words.cell(v)) for m, v in zip(marks, row, strict=True))}</tr>"
        for row in table.rows[:MOST_ROWS]
    )
    more = (
        f"<p>{len(table.rows) - MOST_ROWS:,} more rows stand in the record.</p>" if len(table.rows) > MOST_ROWS else ""
    )
    return f"<table><caption>{escape(words.shown(table.title))}</caption><tr>{heads}</tr>{body}</table>{more}"


def _html_cell(mark: str, text: str) -> str:
    wide = ' class="wide"' if len(text) > LONG else ""
    return f"<td{mark or wide}>{escape(text)}</td>"


def _text(exhibit: Chart | Table) -> str:
    """Return one exhibit as plain text: of a chart the numbers that it would draw."""
    table = exhibit if isinstance(exhibit, Table) else _points(exhibit)
    columns = [words.shown(column, 60) for column in table.columns]
    numeric = {c for c, is_number in zip(columns, _numeric(table), strict=True) if is_number}
    most = MOST_ROWS if exhibit is table else MOST_TOLD
    rows = [[words.cell(value) for value in row] for row in table.rows[:most]]
    more = f"and {len(table.rows) - most:,} more\n" if len(table.rows) > most else ""
    note = f"{words.shown(exhibit.note, 600)}\n" if exhibit.note else ""
    return text_table(words.shown(table.title), columns, rows, set(), numeric) + more + note


def _points(chart: Chart) -> Table:
    from kit.record.charts import label

    places = list(dict.fromkeys(x for series in chart.series for x in series.x))
    if all(isinstance(x, int | float) for x in places):
        places.sort()
    found = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    rows = [[x, *(values.get(x) for values in found)] for x in places]
    return Table(f"{chart.title} ({chart.y})", [chart.x, *(label(series) for series in chart.series)], rows)
