"""Shows one question in all four idioms, side by side, as it stands in the source."""

import ast
import html
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kit.techniques.dataframes.questions import QUESTIONS, workload

IDIOMS = {"pandas": "in_pandas", "Polars": "in_polars", "Dask": "in_dask", "SQL": "in_sql"}


@dataclass(frozen=True)
class SideBySide:
    """A question's source in each idiom: a table of columns in a notebook, one after the other in a terminal."""

    question: str
    sources: dict[str, str]

    def __repr__(self) -> str:
        parts = [f"# {idiom}\n{source}" for idiom, source in self.sources.items()]
        return "\n\n".join([f"# {self.question}: {QUESTIONS[self.question]}", *parts])

    def _repr_html_(self) -> str:
        cells = "".join(_cell(idiom, source) for idiom, source in self.sources.items())
        return (
            f"<p><b>{html.escape(self.question)}</b>: {html.escape(QUESTIONS[self.question])}</p>"
            f'<div style="display:flex;gap:2em;overflow-x:auto;align-items:flex-start;padding:.5em 0 1em">{cells}</div>'
        )


def side_by_side(question: str) -> SideBySide:
    """Return the source of `question` in pandas, Polars, Dask and SQL, with the functions of the idiom that it calls.

    No engine is imported for it. Raise `UserError` if there is no such question.
    """
    workload(question)
    return SideBySide(question, {idiom: _source(module, question) for idiom, module in IDIOMS.items()})


def _source(module: str, question: str) -> str:
    """Return the source of a question and of what it calls in its module, in the order of the file."""
    text = Path(find_spec(f"{__package__}.{module}").origin).read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    wanted, more = set(), {question}
    while more:
        wanted |= more
        names = {node.id for name in more for node in ast.walk(functions[name]) if isinstance(node, ast.Name)}
        more = (names & functions.keys()) - wanted
    first = [question, *(name for name in functions if name in wanted - {question})]
    return "\n\n\n".join(ast.get_source_segment(text, functions[name]) for name in first)


_FONT = "font:0.9em/1.4 var(--jp-code-font-family, ui-monospace), monospace"


def _cell(idiom: str, source: str) -> str:
    """Return one idiom as HTML. Its colours are of middle lightness, so that they can be read on white and on black."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    code = highlight(
        source, PythonLexer(), HtmlFormatter(noclasses=True, nobackground=True, nowrap=True, style=_style())
    )
    pre = f'<pre style="margin:0;background:transparent;color:inherit;{_FONT}">{code}</pre>'
    return f'<div style="flex:none"><div><b>{html.escape(idiom)}</b></div>{pre}</div>'


def _style() -> type:
    from pygments.style import Style
    from pygments.token import Comment, Keyword, Name, Number, Operator, String

    class Middle(Style):
        styles = {  # noqa: RUF012
            Keyword: "#9a5fd0",
            Name.Function: "#2f86d6",
            Name.Builtin: "#2f86d6",
            String: "#2e9a4c",
            String.Doc: "italic #808080",
            Comment: "italic #808080",
            Number: "#c9701e",
            Operator.Word: "#9a5fd0",
        }

    return Middle
