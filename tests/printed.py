"""Collects the command lines that a document prints: in code blocks without a language, and within sentences."""

import json
import re
from pathlib import Path

PROGRAMS = "kit make pip python pytest conda dask jupyter papermill source".split()
SHELL = ("", "sh", "bash", "shell", "console")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")
COMMENT = re.compile(r"\s{2,}#.*")
COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)})\s+\S")


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code blocks of a text in these languages, by default those that show a terminal."""
    return [code for language, code in FENCED.findall(text) if language in (languages or SHELL)]


def in_blocks(text: str) -> list[str]:
    """Return the command lines of a text's code blocks, without prompt and comment; what ends in \\ goes on below."""
    lines = (line for block in blocks(text) for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines())
    return [bare for line in lines if COMMAND.match(bare := COMMENT.sub("", line).removeprefix("$ ").strip())]


def in_sentences(text: str) -> list[str]:
    """Return what reads as a command line between backticks, also where a line ends within it."""
    return [" ".join(quoted.split()) for quoted in QUOTED.findall(FENCED.sub("", text)) if COMMAND.match(quoted)]


def shown_below(text: str, command: str) -> str:
    """Return what a code block shows below a command with a prompt, up to the next prompt."""
    block = next(block for block in blocks(text) if f"$ {command}\n" in block)
    return block.partition(f"$ {command}\n")[2].partition("\n$ ")[0].strip()


def of_notebook(path: Path) -> str:
    """Return the Markdown of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
