"""What `kit list`, `kit help NOTEBOOK` and `kit copy NOTEBOOK` do."""

import shlex
import shutil
from pathlib import Path

from kit import project
from kit.batch import notebooks, parameters
from kit.batch.screen import table
from kit.errors import UserError


def print_list() -> int:
    """Print the project's notebooks with their titles and how many runs are kept of each."""
    rows = []
    for name, path in notebooks.known().items():
        try:
            title = notebooks.read(path).title
        except UserError as error:
            title = str(error)
        count = sum(1 for _ in (project.project() / "runs" / name).glob("[!.]*/status.json"))
        rows.append([name, title, str(count or "")])
    table("", ["notebook", "title", "runs"], rows)
    return 0


def print_help(name: str) -> int:
    """Print a notebook's parameters."""
    notebook = notebooks.read(notebooks.find(name))
    if not (found := parameters.read(notebook)):
        print(f"{notebook.name}: {notebook.title}\n\nIt takes no parameters: no cell is tagged `parameters`.")
        return 0
    rows = [[p.name, p.type or "can't be set", parameters.as_text(p.default) or "(empty)", p.comment] for p in found]
    for row in rows:
        names = [one for one in notebook.choices.get(row[0], []) if isinstance(one, str) and "*" not in one]
        row[-1] += f"; known: {parameters.as_text(names)}" if names else ""
    table(f"{notebook.name}: {notebook.title}", ["parameter", "type", "default", "meaning"], rows)
    shown = next((p for p in found if p.default not in (None, "", [])), found[0])  # an empty one has no example
    print(f"kit run {shlex.quote(name)} -p {shlex.quote(f'{shown.name}={parameters.as_text(shown.default)}')}")
    return 0


def copy(notebook: str) -> int:
    """Copy a notebook into the working directory, never over another file."""
    path = Path(notebooks.find(notebook).name)
    if path.exists():
        raise UserError(f"{path} is here already: rename or remove it, then copy again")
    shutil.copyfile(notebooks.find(notebook), path)
    print(f"kit run {shlex.quote(str(path))}")
    return 0
