"""What `kit list` and `kit help NOTEBOOK` print."""

import shlex
from pathlib import Path

from kit import places
from kit.batch import notebooks, parameters
from kit.batch.screen import table
from kit.errors import UserError


def print_list() -> None:
    """Print the project's notebooks with their titles and how many runs are kept of each."""
    found = notebooks.known()
    if not found:
        raise UserError("there is no notebooks/ folder with notebooks here or above: go to a checkout of the kit")
    runs = places.project() / "runs"
    counts = {name: sum(1 for _ in (runs / name).glob("[!.]*/status.json")) for name in found}
    rows = ([name, _title(path), str(counts[name] or "")] for name, path in found.items())
    table("", ["notebook", "title", "runs"], rows)


def _title(path: Path) -> str:
    try:
        return notebooks.read(path).title
    except UserError as error:
        return str(error)


def print_help(name: str) -> None:
    """Print a notebook's parameters."""
    notebook = notebooks.read(notebooks.find(name))
    found = parameters.read(notebook)
    if not found:
        print(f"{notebook.name}: {notebook.title}\n\nIt takes no parameters: no cell is tagged `parameters`.")
        return
    rows = [[p.name, p.type, parameters.as_text(p.default) or "(empty)", p.comment] for p in found]
    table(f"{notebook.name}: {notebook.title}", ["parameter", "type", "default", "meaning"], rows)
    print(f"kit run {shlex.quote(name)} -p {shlex.quote(f'{found[0].name}={parameters.example(found[0])}')}")
