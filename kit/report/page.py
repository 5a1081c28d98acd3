"""Renders the report's pages: everything printed is cut, redacted and escaped on the way."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from markupsafe import Markup

from kit.charts.style import BAND, BASELINE, GRID, INK, MUTED, PALETTE, PAPER
from kit.record import formatting as fmt
from kit.report import notebook as notebooks
from kit.report.markdown import INTERVALS
from kit.report.sections import Report, caption
from kit.runs import select

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is loaded and nothing is run, whatever a record or a notebook holds, but one script of the page's own, which
is named by its hash."""
LONGEST = 1200
"""Characters of any one text on the page."""


def index(report: Report) -> str:
    """Return the page."""
    script = _text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"{POLICY}; script-src 'sha256-{digest}'"
    return _template("page.html").render(report=report, script=Markup(script), policy=policy, **_common())


def notebook(document: bytes, name: str) -> str:
    """Return the page of an executed notebook. Raise UserError if it is none."""
    title, body = notebooks.body(document)
    return _template("notebook.html").render(
        title=title or name, name=name, body=Markup(body), policy=POLICY, **_common()
    )


def _common() -> dict:
    names = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER, "baseline": BASELINE, "band": BAND}
    names |= {f"series-{place}": colour for place, colour in enumerate(PALETTE, start=1)}
    colours = "".join(f"--{name}:{colour};" for name, colour in names.items())
    return {"style": Markup(f":root{{{colours}}}\n{_text('style.css')}")}


def _code(source: str) -> Markup:
    return Markup(notebooks.code(source))


def _printed(value: object) -> object:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"(?<=\d) (?=%|(?:ns|µs|ms|s|min|h|MiB|GiB)\b)", "\N{NO-BREAK SPACE}", fmt.shown(value, LONGEST))


@cache
def _template(name: str):
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printed
    )
    filters = ("duration", "count", "cell", "percent", "number")
    environment.filters |= {"code": _code, "svg": Markup, "value": select.value} | {n: getattr(fmt, n) for n in filters}
    environment.globals |= {"cells": fmt.cells, "columns": fmt.COLUMNS, "note": fmt.note, "label": fmt.label}
    environment.globals |= {"caption": caption, "intervals": INTERVALS}
    return environment.from_string(_text(name))


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
