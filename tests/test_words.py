"""What a person reads uses the field's terms: none of the words that need a translation."""

import ast
import json
import re
from pathlib import Path

import pytest

from kit import cli

ROOT = Path(__file__).parents[1]
WORDS = (
    r"told|unresolved|can(?:no|')t be told|correctness only|invalid|broke|false calls?|luck|(?<![-.])scatter|readings?"
    r"|ceilings?|weighed|handed over|prepared|preparation|pays off|pays for itself|from \S+(?: \S+)? on|quality held"
    r"|engagement|near by|stay with|foretell|mend(?:s|ed)?|anew|afresh|goes on|beside|in the midst of"
    r"|(?<!your )own data|channels gone|as trained|race|equal time|judged|seat|not to be used"
)
"""Left column of the house's table of words, as far as a word alone shows that it is meant."""


def texts() -> dict[str, str]:
    """Return what a person reads, by name: documents, page, plans, notebooks, help of the command line."""
    patterns = "README.md CONTRIBUTING.md docs/**/*.md benchmarks/*.md benchmarks/plans/*.toml kit/*/*.html".split()
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[path.name] = "\n".join("".join(cell["source"]) for cell in cells)
    return found


@pytest.mark.parametrize("name", sorted(texts()))
def test_a_text_has_no_word_that_needs_a_translation(name):
    """None of the words that this project once had in place of the field's."""
    text = re.sub(r"<style.*?</style>|<script.*?</script>|class=\"[^\"]*\"", "", texts()[name], flags=re.DOTALL)
    found = [line.strip() for line in text.splitlines() if re.search(rf"\b(?:{WORDS})\b", line, re.IGNORECASE)]
    assert not found


@pytest.mark.parametrize("command", ["", "list", "help", "doctor", "plan", "run", "report", "compare"])
def test_the_help_of_a_command_has_none(command, capsys):
    """Nor in what `kit COMMAND --help` prints."""
    assert cli.main([*([command] if command else []), "--help"]) == 0
    assert not re.findall(rf"\b(?:{WORDS})\b", capsys.readouterr().out, re.IGNORECASE)


@pytest.mark.parametrize("path", sorted((ROOT / "kit").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_message_has_none(path):
    """Nor in what a program prints: every text in the code but docstrings and the words of old records."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documents]
    sentences = [text for text in texts if isinstance(text, str) and " " in text]
    found = [text for text in sentences if re.search(rf"\b(?:{WORDS})\b", text, re.IGNORECASE)]
    assert not [text for text in found if path.name != "upgrade.py" and text != "invalid UTF8"]  # pyarrow's own words
