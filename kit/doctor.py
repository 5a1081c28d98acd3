"""`kit doctor`: what this machine is, what it can do at best, and which variants of which notebook will run."""

import ast
import json
from pathlib import Path

import msgspec

from kit.machine import capabilities, ceilings, fingerprint
from kit.record import words

VARIANTS = 3
"""In the comparison of which is told what it could see."""


def main(notebooks: dict[str, Path], as_json: bool = False, measure: bool = False) -> int:
    """Print the examination as tables, or as one JSON document; with `measure` the ceilings and the noise of now.
    Return the exit status, 0."""
    found = examine(notebooks)
    if not as_json:
        _print(found)
    if measure:
        _measure(found, as_json)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


def examine(notebooks: dict[str, Path]) -> dict:
    """Return {"machine", "versions", "capabilities", "notebooks"} as plain data.

    notebooks: by name the path. A variant is {"variant", "needs", "will", "because", "remedy", "broken"}.
    """
    return {
        "machine": msgspec.to_builtins(fingerprint.machine()),
        "versions": fingerprint.versions(),
        "capabilities": {name: _state((name,)) for name in capabilities.CAPABILITIES},
        "notebooks": {name: _examined(path) for name, path in notebooks.items()},
    }


def _examined(path: Path) -> list[dict]:
    try:
        return [variant | _state(variant["needs"]) for variant in declared_variants(path)]
    except (OSError, ValueError, KeyError, TypeError) as error:  # one broken notebook hides no other
        because = f"{path.name} is not a whole notebook ({type(error).__name__}: {error})"
        remedy = "open it in JupyterLab and save it again"
        unread = {"variant": "(can't be read)", "needs": [], "will": "skip"}
        return [unread | {"because": because, "remedy": remedy, "broken": True}]


def declared_variants(path: Path) -> list[dict]:
    """Return the variants that a notebook declares by `x.variant("name", …, needs=…)`, read from its code, not run."""
    document = json.loads(path.read_text(encoding="utf-8"))
    cells = ("".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code")
    found: dict[str, dict] = {}
    for code in cells:
        plain = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in code.splitlines())
        try:
            tree = ast.parse(plain)
        except SyntaxError:
            continue
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            variant = _declaration(call)
            if variant:
                found.setdefault(variant["variant"], variant)
    return list(found.values())


def _declaration(call: ast.Call) -> dict | None:
    named = isinstance(call.func, ast.Attribute) and call.func.attr == "variant" and call.args
    if not named or not isinstance(call.args[0], ast.Constant):
        return None
    needs = next((_literal(keyword.value) for keyword in call.keywords if keyword.arg == "needs"), ())
    return {"variant": str(call.args[0].value), "needs": [needs] if isinstance(needs, str) else list(needs or ())}


def _literal(node: ast.expr):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ()


def _state(needs) -> dict:
    missing = capabilities.missing(needs)
    if missing is None:
        return {"will": "run", "because": "", "remedy": "", "broken": False}
    return {"will": "skip", "because": missing.reason, "remedy": missing.remedy, "broken": missing.broken}


def _measure(found: dict, as_json: bool) -> None:
    """Measure the ceilings, then the noise, and print each as soon as it is known, or add it to what was found."""
    from kit import planning
    from kit.measure import planner

    threads = fingerprint.allowed_threads()
    best = ceilings.examined(ceilings.every(), threads)
    if not as_json:
        _print_ceilings(best, threads)
    found["ceilings"] = {name: {"rate": one.rate, "reason": one.reason} for name, one in best.items()}
    found["noise"], found["seen"] = None, []
    if (now := planning.measured_now()) is None:
        return None if as_json else print(f"This machine is {planning.TOO_BUSY}.")
    noise = planning.assumed(now, now.call_s, VARIANTS)
    seen = {seconds: planner.resolvable(noise, seconds) for seconds in planning.BUDGETS_S}
    if not as_json:
        _print_noise(planning.noise_in_words(now), seen, now.call_s)
    found["noise"] = planning.noise_as_data(now)
    found["seen"] = [{"seconds": seconds, "difference": difference} for seconds, difference in seen.items()]
    return None


def _print_ceilings(best: dict[str, ceilings.Found], threads: int) -> None:
    from kit.batch.screen import table

    rows = [[*words.ceiling(name, one.rate), one.reason] for name, one in best.items()]
    table("", ["at best, by " + words.count(threads, "threads"), "", "because"], rows)


def _print_noise(sentences: list[str], seen: dict[float, float | None], call_s: float) -> None:
    from kit.planning import READY_S, in_percent, tell

    for sentence in sentences:
        tell(sentence)
    told = [f"with {s:g} s a comparison you can see {in_percent(d) if d else 'nothing'}" for s, d in seen.items()]
    tell(f"{told[0].capitalize()}, {', '.join(text.replace(' a comparison you can see', '') for text in told[1:])}.")
    call = words.duration(call_s)
    tell(f"That is, {VARIANTS} variants with calls of {call} in processes ready in {READY_S:g} s; for others: kit plan")


def _print(found: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=160)
    this = found["machine"]
    table = Table("machine", "", box=None, header_style="bold", pad_edge=False)
    limit = this["memory_limit_mib"]
    gpus = [f"{gpu['name']}, {gpu['memory_mib'] / 1024:.0f} GiB, driver {gpu['driver']}" for gpu in this["gpus"]]
    for name, value in {
        "processor": this["cpu"],
        "instructions": ", ".join(this["instructions"]) or "not told",
        "cores": f"{this['cores']} usable of {this['cores_total']}",
        "memory": f"{this['memory_mib'] / 1024:.1f} GiB" + (f", limited to {limit / 1024:.1f} GiB" if limit else ""),
        "GPU": "; ".join(gpus) or "none (no NVIDIA driver)",
        "CUDA": this["cuda"] or "none",
        "system": f"{this['system']}, {this['arch']}, Python {this['python']}",
    }.items():
        table.add_row(name, value)
    console.print(table, "")
    libraries = Table("library", "version", box=None, header_style="bold", pad_edge=False)
    for name, version in found["versions"].items():
        libraries.add_row(name, version)
    absent = [name for name in fingerprint.PACKAGES if name not in found["versions"]]
    console.print(libraries)
    console.print(f"not installed: {', '.join(absent)}\n" if absent else "")
    table = Table(
        "notebook", "variant", "here it", "because", "to have it", box=None, header_style="bold", pad_edge=False
    )
    for name, variants in found["notebooks"].items():
        for variant in variants or [{"variant": "(declares none)", "will": "", "because": "", "remedy": ""}]:
            will = f"will {variant['will']}" if variant["will"] else ""
            table.add_row(name, variant["variant"], will, variant["because"], variant["remedy"])
            name = ""
    console.print(table)
