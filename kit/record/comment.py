"""Text as a comment on GitHub shows it: nothing in it becomes markup, a mention or a link."""

import re
from html import escape

from kit.record import words


def safe(text: str, most: int) -> str:
    """Return text of at most `most` characters with everything escaped that Markdown, HTML or a mention would make
    something of."""
    shown = words.shown(text, most).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", shown)
    return escaped.replace("@", "&#64;").replace("://", ":&#8203;//")  # last: the # of an entity is not to be escaped


def folded(named: str, told: str) -> str:
    """Return Markdown under a line that opens it. named: the line, as plain text, any length; told: Markdown."""
    # A summary's line is HTML, in which no escape of Markdown counts.
    line = escape(named).replace("@", "&#64;")
    return f"<details><summary>{line}</summary>\n\n{told}\n\n</details>"
