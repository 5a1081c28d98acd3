"""Renders an executed notebook as a page to read, by nbconvert: cells tagged "hide-input" folded, nothing trusted.

A notebook may be hostile. Secrets are redacted, pictures become images from data (in which scripts don't run and
nothing is loaded), the whole body passes bleach's list of allowed elements, and the page's Content-Security-Policy
forbids everything else. What is longer than a reader reads is cut first, so that no parser gets to work for minutes.
"""

import base64
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record.redaction import impersonal

LONGEST = {"markdown": 30_000, "code": 20_000, "output": 100_000}
"""Characters of one cell or one output that are shown."""
LARGEST_PICTURE = 8 * 2**20
MOST_CELLS = 500
MOST_OUTPUTS = 100
KINDS = ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain")
"""Of an output's forms the first one is shown."""

TAGS = frozenset(
    "a abbr b blockquote br caption code dd del details div dl dt em h2 h3 h4 h5 h6 hr i img kbd li ol p pre s small "
    "span strong sub summary sup table tbody td tfoot th thead tr u ul".split()
)
ATTRIBUTES = {"*": ["class"], "th": ["scope", "colspan", "rowspan"], "td": ["colspan", "rowspan"]}
_TEMPLATE = """{% extends 'basic/index.html.j2' %}
{% block input_group %}{% if cell.metadata.folded %}<details class="code">
<summary>{{ cell.source.strip().split('\n')[0][:90] | e }}</summary>{{ super() }}</details>
{% else %}{{ super() }}{% endif %}{% endblock %}"""
FOLDED = "parameters", "hide-input"
"""Tags of cells whose code is folded; the second is Jupyter Book's."""
_UNPRINTABLE = re.compile(
    "[^\t\n\x1b\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]|[\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
_PICTURE = re.compile(r"data:image/(?:png|jpeg|svg\+xml);base64,[A-Za-z0-9+/=\s]*")


def body(document: bytes) -> tuple[str, str]:
    """Return a notebook's title and its body as safe markup. Raise UserError if it is not a notebook."""
    from nbformat import v4

    try:
        cells = json.loads(document)["cells"]
        kept = [cell for cell in (_cut(cell) for cell in cells[:MOST_CELLS]) if cell]
        title = _title(kept)
        notebook = v4.new_notebook(cells=kept, metadata={"language_info": {"name": "python"}})
        html, _ = _exporter().from_notebook_node(notebook)
    except Exception as error:  # whatever a library raises at an odd document
        raise UserError(f"it is not a notebook that can be rendered: {fmt.shown(error)}") from None
    more = f"<p>{len(cells) - MOST_CELLS:,} more cells are left out.</p>" if len(cells) > MOST_CELLS else ""
    return title, cleaned(html) + more


@cache
def _exporter():
    from nbconvert.exporters import HTMLExporter

    exporter = HTMLExporter(sanitize_html=True, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.raw_template = _TEMPLATE
    exporter.anchor_link_text = " "
    exporter.register_filter("clean_html", lambda html: str(html))  # the whole body is cleaned at the end
    return exporter


def cleaned(html: str) -> str:
    """Return markup with nothing in it but the allowed elements and attributes; the rest is dropped."""
    import bleach

    attributes = ATTRIBUTES | {
        "img": lambda _, name, value: name in ("alt", "class") or (name == "src" and bool(_PICTURE.fullmatch(value)))
    }
    return bleach.clean(html, tags=TAGS, attributes=attributes, protocols=["data"], strip=True)


def code(source: str) -> str:
    """Return Python source as highlighted, escaped markup."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(_text(source, "code"), PythonLexer(), HtmlFormatter(nowrap=True))


# ------------------------------------------------------------------------------------------------ before rendering


def _title(cells: list) -> str:
    """Return the heading that the first cell begins with, and take it out: the page has it as its own."""
    first = cells[0] if cells else {}
    found = re.match(r"\s*#[ \t]+(.{1,400})", first.get("source", "")) if first.get("cell_type") == "markdown" else None
    if not found:
        return ""
    first["source"] = first["source"][found.end() :]
    return fmt.shown(re.sub(r"[*_`]", "", found[1]), 160)


def _text(value: Any, kind: str) -> str:
    """Return a text of a notebook, without secrets and without what can't be printed, cut where it is long."""
    text = _joined(value)
    cut = text[: LONGEST[kind]] + ("\n… (cut)" if len(text) > LONGEST[kind] else "")
    return re.sub(r"[ \t]+$", "", impersonal(_UNPRINTABLE.sub("", cut)), flags=re.MULTILINE)  # blanks slow lexers down


def _cut(cell: Any) -> dict | None:
    """Return a cell with nothing but what is rendered; None for one of another kind."""
    from nbformat import v4

    kind = cell.get("cell_type") if isinstance(cell, dict) else None
    if kind == "markdown":
        return v4.new_markdown_cell(_text(cell.get("source"), "markdown"))
    if kind != "code":
        return None
    found = cell.get("outputs") if isinstance(cell.get("outputs"), list) else []
    outputs = [_output(output) for output in found[:MOST_OUTPUTS] if isinstance(output, dict)]
    tags = cell["metadata"].get("tags") if isinstance(cell.get("metadata"), dict) else None
    folded = isinstance(tags, list) and any(tag in FOLDED for tag in tags)
    source, kept = _text(cell.get("source"), "code"), [output for output in outputs if output]
    return v4.new_code_cell(source, outputs=kept, metadata={"folded": folded})


def _output(output: dict) -> dict | None:
    """Return an output with its best form only; None where it has none that can be shown."""
    from nbformat import v4

    if output.get("output_type") == "stream":
        return v4.new_output("stream", name="stdout", text=_terminal(output.get("text")))
    if output.get("output_type") == "error":
        return v4.new_output("error", traceback=[_terminal(output.get("traceback"), "\n")])
    data = output.get("data") if isinstance(output.get("data"), dict) else {}
    kind = next((kind for kind in KINDS if kind in data), "")
    value = _joined(data.get(kind))
    if not value or (kind.startswith("image/") and len(value) > LARGEST_PICTURE):
        return None
    if kind == "text/html":
        value = _with_pictures(value)
    elif kind == "image/svg+xml":
        kind, value = "text/html", _picture(value)
    elif not kind.startswith("image/"):
        value = _text(value, "markdown" if kind == "text/markdown" else "output")
    return v4.new_output("display_data", data={kind: value}, metadata={kind: {"alt": "picture in the notebook"}})


def _joined(value: Any, between: str = "") -> str:
    """Return a notebook's text, which may be a string or a list of lines."""
    return between.join(part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str))


def _terminal(text: Any, between: str = "") -> str:
    """Return terminal output as it looks at the end: of overwritten lines the last state."""
    kept = _joined(text, between)[: 4 * LONGEST["output"]]
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in kept.split("\n"))
    return _text("\n".join(lines), "output")


def _with_pictures(html: str) -> str:
    """Return markup with its SVGs as images, without scripts and styles; an SVG that is never closed is none."""
    plain = re.sub(r"(?is)<(script|style)\b.*?(?:</\1>|\Z)", "", html[:LARGEST_PICTURE])
    parts = re.split(r"(?i)(<svg\b)", plain)
    kept = [_text(parts[0], "output")]
    for rest in parts[2::2]:
        inside, closed, after = rest.partition("</svg>")
        kept += [_picture(f"<svg{inside}</svg>") if closed else "", _text(after, "output")]
    return "".join(kept)


def _picture(svg: str) -> str:
    """Return an SVG as an image from data: as an image it runs no script and loads nothing."""
    from html import escape, unescape

    if "xmlns=" not in svg[:1024]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    label = re.search(r'aria-label="([^"<>]{1,600})"', svg[:4096])
    alt = escape(fmt.shown(unescape(label[1]), 600) if label else "picture in the notebook")
    themed = "var(--ink" in svg  # one of the kit's, which follows light and dark by the page's own colours
    svg = svg.replace(">", f"><style>{_dark_colours()}</style>", 1) if themed else svg
    encoded = base64.b64encode(impersonal(svg).encode("utf-8", "replace")).decode()
    return f'<img alt="{alt}" class="{"chart" if themed else "picture"}" src="data:image/svg+xml;base64,{encoded}">'


@cache
def _dark_colours() -> str:
    """Return the rule of the page's style that sets its colours in the dark."""
    css = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return re.search(r"@media screen and \(prefers-color-scheme: dark\) \{.*?\}\s*\}", css, re.DOTALL)[0]
