"""Sets what the report says into its pages. Everything printed is cut, cleaned and escaped on the way."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from kit.record import words
from kit.record.style import BAND, BASELINE, GRID, INK, MUTED, PALETTE, PAPER
from kit.report import notebook as notebooks
from kit.report import view
from kit.stored.gather import Status, Unreadable

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is loaded and nothing is run, whatever a record or a notebook holds, but one script of the page's own, which
is named by its hash."""

LONGEST = 1200
"""Characters of any one text on the page."""
MOST_TROUBLES = 200
MOST_RESULTS = 1_500
"""Rows of the table of all results."""
MOST_ALSO = 5
"""Further comparisons of a technique that the first screen names."""


@dataclass(frozen=True)
class OnMachine:
    """One machine, and what was measured on it."""

    key: str
    name: str
    """Processor and GPU."""
    line: str
    details: list[tuple[str, str]]
    records: int
    days: str


@dataclass(frozen=True)
class Screen:
    """What the first screen says of one technique: its main comparison, further ones, and how many more there are."""

    main: view.Section
    also: list[view.Section]
    more: int


@dataclass(frozen=True)
class Report:
    """All that the report says, for the page and for Markdown."""

    sections: list[view.Section]
    untold: int
    """Comparisons that are not told in full."""
    records: int
    days: str
    machines: list[OnMachine]
    troubles: list[view.Trouble]
    failed: list[tuple[Status, str]]
    """Each failed run with the link to its notebook."""
    unreadable: list[Unreadable]
    numbers: view.Numbers | None
    variants: int
    """At the largest sizes."""
    measured: int
    """Of these how many were timed."""
    is_paired: bool
    """Whether every comparison told here took turns in processes of their own, the baseline against itself too."""

    @property
    def machine_names(self) -> dict[str, str]:
        """Each machine's number on the page and its name, by its key."""
        return {machine.key: f"{place}: {machine.name}" for place, machine in enumerate(self.machines, start=1)}

    @property
    def techniques(self) -> dict[str, list[view.Section]]:
        """The sections by technique, in order."""
        grouped: dict[str, list[view.Section]] = {}
        for section in self.sections:
            grouped.setdefault(section.technique, []).append(section)
        return grouped

    @property
    def screens(self) -> list[Screen]:
        """What the first screen says, a technique each. Of its newest run the comparison that answers what to do, else
        the one that was measured first, is the main one."""
        found = []
        compared = {name: [s for s in sections if s.is_compared] for name, sections in self.techniques.items()}
        for sections in filter(None, compared.values()):
            newest = max(sections, key=lambda section: section.written)
            run = [section for section in sections if section.run == newest.run]
            main = min(run, key=lambda section: (not section.answers, section.written))
            others = [section for section in sections if section is not main]
            found.append(Screen(main, others[:MOST_ALSO], len(others[MOST_ALSO:])))
        return found

    @property
    def results(self) -> list[view.Result]:
        """Every variant of every comparison at every size."""
        return [result for section in self.sections for result in section.results]


def index(report: Report) -> str:
    """Return the page."""
    script = _text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    given = _common() | {"script": Markup(script), "policy": f"{POLICY}; script-src 'sha256-{digest}'"}
    given |= {"most": MOST_TROUBLES, "most_results": MOST_RESULTS}
    return _template("page.html").render(report=report, slug=view.slug, day=words.day, count=_count, **given)


def notebook(document: bytes, run: tuple[str, ...]) -> str:
    """Return the page of one executed notebook. Raise UserError if it is none."""
    title, cells = notebooks.cells(document)
    name = "/".join(run)
    return _template("notebook.html").render(title=title or name, name=name, cells=cells, **_common())


def _count(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"


def _common() -> dict:
    return {"policy": POLICY, "style": Markup(_text("style.css")), "colours": Markup(_colours())}


def _colours() -> str:
    """Return the figures' colours as the page's light ones; dark ones stand in the style sheet."""
    named = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER, "baseline": BASELINE, "band": BAND}
    named |= {f"series-{place}": colour for place, colour in enumerate(PALETTE, start=1)}
    return ":root{" + "".join(f"--{name}:{colour};" for name, colour in named.items()) + "}"


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@cache
def _template(name: str):
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    environment.filters["code"] = notebooks.code
    environment.filters["svg"] = Markup
    environment.filters["capital"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template(name)


def _printed(value):
    """Cut and clean every text on its way to the page, so that no template can forget it."""
    return words.shown(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value
