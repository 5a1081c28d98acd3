"""Renders an executed notebook as a page to read: prose and results open, code folded, nothing in it trusted.

What a notebook holds may be hostile. Secrets are masked, text is escaped, markup in prose is shown as text, tables are
written anew from a short list of elements without attributes, pictures become images from data (in which scripts don't
run and nothing is loaded), and the page's Content-Security-Policy forbids everything else. All of it is read in time
that grows with its length.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape, unescape
from typing import Any

from markupsafe import Markup

from kit.errors import UserError
from kit.record import words
from kit.record.masking import impersonal

LONGEST_TEXT = 100_000
"""Characters of one cell's text or one output's text that are shown."""
LONGEST_PROSE = 30_000
"""Of Markdown, whose brackets may take time that grows with their square."""
LONGEST_CODE = 20_000
LARGEST_PICTURE = 8 * 2**20
MOST_CELLS = 500
MOST_OUTPUTS = 100

_HEADING = re.compile(r"\s*#[ \t]+(.{1,400})")
_ANSI = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_UNPRINTABLE = re.compile(
    "[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]"
    "|[\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


@dataclass(frozen=True)
class Cell:
    """One cell of the page: prose, or code with what it gave."""

    prose: Markup | None = None
    summary: str = ""
    code: Markup | None = None
    outputs: list[Markup] = field(default_factory=list)


def cells(document: bytes) -> tuple[str, list[Cell]]:
    """Return a notebook's title and its cells as safe markup. Raise UserError if it is not a notebook."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not a notebook: {words.shown(error)}") from None
    listed = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise UserError("it is not a notebook: it has no list of cells")
    title = _title(listed)
    shown = [_cell(cell, place == 0) for place, cell in enumerate(listed[:MOST_CELLS]) if isinstance(cell, dict)]
    if len(listed) > MOST_CELLS:
        shown.append(Cell(prose=Markup(f"<p>{len(listed) - MOST_CELLS:,} more cells are left out.</p>")))
    return title, [cell for cell in shown if cell.prose or cell.code or cell.outputs]


def _title(listed: list) -> str:
    """Return the heading that the first cell begins with: the page's title, which is not printed twice."""
    first = listed[0] if listed and isinstance(listed[0], dict) else {}
    found = _HEADING.match(_text(first.get("source"))) if first.get("cell_type") == "markdown" else None
    return words.shown(re.sub(r"[*_`]", "", found[1]), 160) if found else ""


def _text(value: Any) -> str:
    """Return a notebook's text, which may be a string or a list of lines, without what can't be printed."""
    parts = value if isinstance(value, list) else [value]
    joined = "".join(part for part in parts if isinstance(part, str))
    cut = joined[:LONGEST_TEXT] + ("\n… (cut)" if len(joined) > LONGEST_TEXT else "")
    return impersonal(_UNPRINTABLE.sub("", cut))


def _cell(cell: dict, is_first: bool) -> Cell:
    source = _text(cell.get("source"))
    if cell.get("cell_type") == "markdown":
        return Cell(prose=prose(_HEADING.sub("", source, count=1) if is_first else source))
    if cell.get("cell_type") != "code":
        return Cell()
    outputs = cell.get("outputs") if isinstance(cell.get("outputs"), list) else []
    shown = [_output(output) for output in outputs[:MOST_OUTPUTS] if isinstance(output, dict)]
    return Cell(
        summary=_first_line(source),
        code=code(source) if source.strip() else None,
        outputs=[text for text in shown if text],
    )


def _first_line(source: str) -> str:
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return words.shown(lines[0], 90) if lines else ""


def code(source: str, language: str = "python") -> Markup:
    """Return source code as highlighted, escaped markup."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    cut = source[:LONGEST_CODE] + ("\n# … (cut)" if len(source) > LONGEST_CODE else "")
    text = re.sub(
        r"[ \t]+$", "", impersonal(_UNPRINTABLE.sub("", cut)), flags=re.MULTILINE
    )  # many blanks take it minutes
    return Markup(highlight(text, get_lexer_by_name(language), HtmlFormatter(nowrap=True)))


# ------------------------------------------------------------------------------------------------ prose


def prose(text: str) -> Markup:
    """Return Markdown as markup: HTML in it is shown as text, links are named, not followed, pictures are told."""
    import mistune

    class Renderer(mistune.HTMLRenderer):
        def link(self, text, url, title=None):
            address = words.shown(url, 200)
            outside = address.startswith(("https://", "http://")) and address not in text
            return f"{text} <span class='address'>({escape(address)})</span>" if outside else text

        def image(self, text, url, title=None):
            return f"<em>{escape(words.shown(text))}</em>"

        def heading(self, text, level, **attrs):
            tag = f"h{min(max(level, 2), 6)}"  # the page's own title is its only h1
            return f"<{tag}>{text}</{tag}>\n"

        def block_code(self, code, info=None):
            return f"<pre>{escape(code)}</pre>\n"

    render = mistune.create_markdown(escape=True, renderer=Renderer(escape=True), plugins=["table", "strikethrough"])
    return Markup(render(text[:LONGEST_PROSE] + ("\n\n… (cut)" if len(text) > LONGEST_PROSE else "")))


# ------------------------------------------------------------------------------------------------ outputs


def _output(output: dict) -> Markup:
    match output.get("output_type"):
        case "stream":
            return _stream(output)
        case "error":
            return _error(output)
        case "display_data" | "execute_result":
            data = output.get("data")
            return _display(data) if isinstance(data, dict) else Markup()
    return Markup()


def plain(text: str) -> str:
    """Return terminal output as it looks at the end: colours stripped, of overwritten lines the last state."""
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).split("\n")]
    return impersonal(_UNPRINTABLE.sub("", "\n".join(kept)))


def _raw(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    joined = "".join(part for part in parts if isinstance(part, str))
    return joined[:LONGEST_TEXT] + ("\n… (cut)" if len(joined) > LONGEST_TEXT else "")


def _pre(text: str, kind: str = "") -> Markup:
    shown = plain(text).strip("\n")
    return Markup('<pre class="{}">{}</pre>').format(kind, shown) if shown.strip() else Markup()


def _stream(output: dict) -> Markup:
    shown = _pre(_raw(output.get("text")))
    if output.get("name") != "stderr" or not shown:
        return shown
    return Markup("<details><summary>Messages</summary>{}</details>").format(shown)


def _error(output: dict) -> Markup:
    said = f"{words.shown(_raw(output.get('ename')), 80)}: {words.shown(_raw(output.get('evalue')), 400)}"
    trace = output.get("traceback")
    lines = "\n".join(line for line in trace if isinstance(line, str)) if isinstance(trace, list) else ""
    folded = Markup("<details><summary>Traceback</summary>{}</details>").format(_pre(lines[:LONGEST_TEXT]))
    return Markup('<p class="error"><strong>{}</strong></p>{}').format(said, folded if lines else "")


def _display(data: dict) -> Markup:
    """Return the richest form of an output that is safe."""
    for kind, show in (
        ("image/svg+xml", lambda value: vector(_svg_text(value))),
        ("image/png", lambda value: picture(_raw_picture(value), "image/png", b"\x89PNG\r\n")),
        ("image/jpeg", lambda value: picture(_raw_picture(value), "image/jpeg", b"\xff\xd8\xff")),
        ("text/html", lambda value: markup(_svg_text(value))),
        ("text/markdown", lambda value: prose(_text(value))),
        ("text/plain", lambda value: _pre(_raw(value))),
    ):
        if kind in data and (shown := show(data[kind])):
            return shown
    return Markup()


def _whole(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    return "".join(part for part in parts if isinstance(part, str))[:LARGEST_PICTURE]


def _svg_text(value: Any) -> str:
    return impersonal(_whole(value))


def _raw_picture(value: Any) -> str:
    return re.sub(r"\s+", "", _whole(value))


def picture(encoded: str, kind: str, start: bytes) -> Markup:
    """Return a picture in base64 as an image, or nothing if it is not one."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return Markup()
    if not content.startswith(start):
        return Markup()
    return Markup('<img alt="picture in the notebook" src="data:{};base64,{}">').format(kind, encoded)


def vector(svg: str) -> Markup:
    """Return an SVG as an image from data: as an image it runs no script and loads nothing."""
    if "<svg" not in svg[:4096]:
        return Markup()
    if "xmlns=" not in svg[: svg.index("<svg") + 1024]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    label = re.search(r'aria-label="([^"<>]{1,600})"', svg[:4096])
    encoded = base64.b64encode(svg.encode("utf-8", "replace")).decode()
    shown = (
        words.shown(label[1], 600).replace("&quot;", '"').replace("&amp;", "&") if label else "picture in the notebook"
    )
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(shown, encoded)


def markup(html: str) -> Markup:
    """Return what is safe of an HTML output, written anew: tables and text, and its SVGs as images."""
    parts = _apart(_without_comments(html))
    return Markup("").join(vector(part) if part[:4].lower() == "<svg" else _tables(part) for part in parts)


def _without_comments(html: str) -> str:
    kept, at = [], 0
    while (begin := html.find("<!--", at)) >= 0:
        kept.append(html[at:begin])
        end = html.find("-->", begin + 4)
        at = end + 3 if end >= 0 else len(html)
    return "".join([*kept, html[at:]])


def _apart(html: str) -> Iterator[str]:
    """Yield what stands between the SVGs, and each SVG; one that is never closed is no SVG."""
    low, at = html.lower(), 0
    if len(low) != len(html):  # a letter that is two in lower case, of which there are few
        low = html
    while (begin := low.find("<svg", at)) >= 0 and (end := low.find("</svg>", begin)) >= 0:
        yield html[at:begin]
        yield html[begin : end + 6]
        at = end + 6
    yield html[at:]


_KEPT = frozenset("table caption thead tbody tfoot tr th td p b strong i em code pre sub sup ul ol li dl dt dd".split())
_HELD = frozenset("style script title template noscript iframe object math select textarea head".split())
_TAG = re.compile(r"""<(/?)([a-zA-Z][\w:-]*+)((?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)>|<[!?/][^<>]*+>""")
"""A tag, read in one pass: Python's own parser takes minutes for some kilobytes of tags that never end."""
_SPAN = re.compile(r"""\s(colspan|rowspan|scope)\s*=\s*["']?([0-9]{1,3}|col|row)(?=["'\s/]|$)""", re.IGNORECASE)


def _harmless(name: str, value: str) -> bool:
    return value.isdigit() if name in ("colspan", "rowspan") else value in ("col", "row")


class _Safe:
    """Writes anew the few elements that are kept, closed in order; of attributes only spans and scope."""

    def __init__(self):
        self.parts: list[str] = []
        self.open: list[str] = []
        self.held = 0
        self.said = False

    def feed(self, html: str) -> None:
        """Write what `html` holds. Whatever is no tag is text."""
        at = 0
        for found in _TAG.finditer(html):
            self._text(html[at : found.start()])
            at = found.end()
            if found[2] and found[1]:
                self._end(found[2].lower())
            elif found[2]:
                self._start(found[2].lower(), found[3])
        self._text(html[at:])

    def _start(self, tag: str, attributes: str) -> None:
        if tag in _HELD:
            self.held += not attributes.endswith("/")
        elif tag == "br" and not self.held:
            self.parts.append("<br>")
        elif tag in _KEPT and not self.held and len(self.open) < 64:
            given = dict.fromkeys((name.lower(), value.lower()) for name, value in _SPAN.findall(attributes))
            kept = {name: value for name, value in given if _harmless(name, value)}
            self.open.append(tag)
            spans = "".join(f' {name}="{value}"' for name, value in kept.items())
            self.parts.append(f"<{tag}{spans}>")

    def _end(self, tag: str) -> None:
        if tag in _HELD:
            self.held = max(0, self.held - 1)
        elif tag in self.open:
            while (closed := self.open.pop()) != tag:
                self.parts.append(f"</{closed}>")
            self.parts.append(f"</{tag}>")

    def _text(self, text: str) -> None:
        if text and not self.held:
            self.parts.append(escape(_UNPRINTABLE.sub("", unescape(text))))
            self.said = self.said or bool(text.strip())


def _tables(html: str) -> Markup:
    safe = _Safe()
    safe.feed(html[: 4 * LONGEST_TEXT])
    closing = "".join(f"</{tag}>" for tag in reversed(safe.open))
    inner = Markup("".join(safe.parts) + closing)
    return Markup('<div class="scroll" tabindex="0">{}</div>').format(inner) if safe.said else Markup()
