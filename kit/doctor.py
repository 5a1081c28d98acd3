"""`kit doctor`: what this machine is, its peak throughput, and which variants of which notebook will run."""

import ast
from contextlib import suppress
from pathlib import Path

from kit.batch import notebooks as batch
from kit.batch.screen import Screen, paragraph, table
from kit.errors import UserError
from kit.machine import capabilities, fingerprint, peaks
from kit.machine.capabilities import Missing
from kit.record import formatting as fmt


def main(measure: bool = False) -> int:
    """Print the machine, the libraries and what will run; with `measure` the peaks and the noise of now. Return 0."""
    _print_machine()
    _print_variants({name: examined(path) for name, path in batch.known().items()})
    if measure:
        _measure()
    return 0


def examined(path: Path) -> dict[str, Missing | None]:
    """Return the variants that a notebook declares, each with what it lacks here, if anything."""
    try:
        return {name: capabilities.missing(requires) for name, requires in declared_variants(path).items()}
    except UserError as error:  # one broken notebook hides no other
        return {"(can't be read)": Missing(str(error), "open it in JupyterLab and save it again")}


def declared_variants(path: Path) -> dict[str, list[str]]:
    """Return what each variant requires that a notebook declares by `x.variant("name", …, requires=…)`."""
    found = {}
    for code in (cell["source"] for cell in batch.read(path).document["cells"] if cell["cell_type"] == "code"):
        plain = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in code.splitlines())
        with suppress(SyntaxError):
            for node in ast.walk(ast.parse(plain)):
                match node:
                    case ast.Call(func=ast.Attribute(attr="variant"), args=[first, *_]):
                        name = first.value if isinstance(first, ast.Constant) else "those chosen by parameters"
                        texts = [n for one in node.keywords if one.arg == "requires" for n in ast.walk(one.value)]
                        found.setdefault(str(name), [n.value for n in texts if isinstance(n, ast.Constant)])
    return found


def _measure() -> None:
    from kit import planning

    threads = fingerprint.allowed_threads()
    Screen().say("measuring the peak throughput of this machine", passing=True)
    rows = [[*fmt.peak(n, one.rate), one.reason] for n, one in peaks.examined(peaks.every(), threads).items()]
    table("", [f"peak by {fmt.count(threads, 'threads')}", "", "because"], rows)
    print("\n".join(map(paragraph, planning.this_machine())))


def _print_machine() -> None:
    this, versions = fingerprint.machine(), fingerprint.versions()
    limit = f", limited to {this.memory_limit_mib / 1024:.1f} GiB" if this.memory_limit_mib else ""
    gpus = "; ".join(f"{gpu.name}, {gpu.memory_mib / 1024:.0f} GiB, driver {gpu.driver}" for gpu in this.gpus)
    rows = [
        ["processor", f"{this.cpu}, {this.cores} of {this.cores_total} cores usable"],
        ["instructions", ", ".join(this.instructions) or "not reported"],
        ["memory", f"{this.memory_mib / 1024:.1f} GiB{limit}"],
        ["GPU", f"{gpus} (CUDA {this.cuda})" if gpus else "none (no NVIDIA driver)"],
        ["system", f"{this.system}, {this.arch}, Python {this.python}"],
    ]
    table("", ["machine", ""], rows)
    print(paragraph("installed: " + ", ".join(f"{name} {version}" for name, version in versions.items())) + "\n")


def _print_variants(found: dict[str, dict[str, Missing | None]]) -> None:
    """Print the variants that will run by notebook, and those that will be skipped by their reason."""
    rows, skipped = [], {}
    for notebook, variants in found.items():
        runs = [variant for variant, missing in variants.items() if missing is None]
        rows.append([notebook, "; ".join(runs) or "—"])
        for variant in sorted(variants.keys() - set(runs)):
            skipped.setdefault(variants[variant], {}).setdefault(notebook, []).append(variant)
    table("", ["notebook", "variants that run here"], rows)
    for missing, notebooks in skipped.items():
        print(paragraph(f"skipped: {missing.reason}; to run them: {missing.remedy}"))
        print("\n".join(paragraph(f"{name}: {'; '.join(variants)}", "    ") for name, variants in notebooks.items()))
