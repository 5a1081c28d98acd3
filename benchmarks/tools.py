"""Four tools that say which of two functions is faster, each asked the same question with the same budget.

The budget is measuring time of one comparison, both sides together; process starts and warm-ups come on top. A tool's
own rule decides: nothing here softens or sharpens it.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Question:
    """Is the second faster or slower than the first? folder: to work in; kind, first, second: of work and its amounts;
    call_s: about what one first call takes."""

    folder: Path
    kind: str
    first: int
    second: int
    budget_s: float
    call_s: float


@dataclass(frozen=True)
class Finding:
    """What a tool called the second, the seconds that it measured both for, and what it said."""

    call: Literal["faster", "slower", "none"]
    measured_s: float
    said: dict = field(default_factory=dict)


class ToolBroke(Exception):
    """The tool gave no finding; the text is what it said."""


def kit(question: Question) -> Finding:
    """Ask `kit.Comparison`; its budget covers its control run (A/A) too."""
    import work

    from kit import Comparison

    comparison = Comparison("second against first", baseline="first", time_budget_s=question.budget_s, check=None)
    comparison.variant("first", partial(work.KINDS[question.kind], question.first))
    comparison.variant("second", partial(work.KINDS[question.kind], question.second))
    os.environ["KIT_RUN"] = str(question.folder)  # the record goes there, and no bar is drawn
    try:
        result = comparison.run()
    finally:
        del os.environ["KIT_RUN"]
    second, session = result["second"], result.record.points[0].sessions[0]
    calls = {name: statistics.fmean(numbers) for name, numbers in session.calls.items()}
    measured_s = sum(sum(r.wall_s) * calls[name] * session.blocks[name] for name, r in session.measurements.items())
    said = {
        "verdict": second.verdict,
        "reason": second.reason,
        "speedup": second.speedup,
        "interval": second.interval,
        "noise_floor": result.noise_floor,
        "a_a": session.noise.speedup if session.noise else None,
        "rounds": len(session.order),
        "starts": len(session.starts),
        "calls": session.calls,
    }
    return Finding(second.verdict if second.verdict in ("faster", "slower") else "none", measured_s, said)


def pytest_benchmark(question: Question) -> Finding:
    """Save the first, then run the second against it with the gate `median:5%`.

    The gate knows slower only. So that its calls in the other direction are seen too, the same 5 % is held against
    its two saved medians with the sides exchanged.
    """
    saved = []
    for name, amount in (("first", question.first), ("second", question.second)):
        gate = ["--benchmark-compare", "--benchmark-compare-fail=median:5%"] if saved else []
        output, status = _run(
            [sys.executable, "-m", "pytest", str(HERE / "work.py"), "-p", "no:cacheprovider", "-q",
             f"--benchmark-storage=file://{question.folder}", f"--benchmark-save={name}",
             f"--benchmark-max-time={question.budget_s / 2}", *gate],
            {"WORK_KIND": question.kind, "WORK_AMOUNT": str(amount)},
            allowed=(0, 1),
        )  # fmt: skip
        path = next(question.folder.glob(f"*/*_{name}.json"), None)
        if path is None or (status and "Performance has regressed" not in output):
            raise ToolBroke(output)
        saved.append(json.loads(path.read_text())["benchmarks"][0]["stats"])
    first, second = saved
    faster = not status and first["median"] > 1.05 * second["median"]
    said = {"status": status, "medians": [first["median"], second["median"]], "rounds": [s["rounds"] for s in saved]}
    return Finding("slower" if status else "faster" if faster else "none", first["total"] + second["total"], said)


def pyperf(question: Question) -> Finding:
    """Run both with pyperf's 20 processes of one warm-up and three values, then `pyperf compare_to`.

    Only the length of a value is shortened to the budget. Called: what `compare_to` finds significant, unless it says
    "1.00x" itself.
    """
    loops = max(1, round(question.budget_s / 2 / (20 * 3) / question.call_s))
    files = []
    for name, amount in (("first", question.first), ("second", question.second)):
        files.append(str(question.folder / f"{name}.json"))
        _run(
            [sys.executable, "-m", "pyperf", "timeit", "--quiet", f"--loops={loops}", "--name=work",
             "--inherit-environ=PYTHONPATH", "-o", files[-1],
             "-s", f"import work; call = work.KINDS[{question.kind!r}]({amount})", "call()"],
            {"PYTHONPATH": str(HERE)},
        )  # fmt: skip
    line = _run([sys.executable, "-m", "pyperf", "compare_to", *files])[0].strip()
    told = re.search(r": (\d+\.\d+)x (slower|faster)", line)
    if not told and "not significant" not in line and "no change" not in line:
        raise ToolBroke(line)
    measured_s = sum(sum(_pyperf_values(path)) * loops for path in files)
    return Finding(told[2] if told and told[1] != "1.00" else "none", measured_s, {"line": line, "loops": loops})


def _pyperf_values(path: str) -> list[float]:
    runs = json.loads(Path(path).read_text())["benchmarks"][0]["runs"]
    return [value for run in runs for value in run.get("values", [])]


def hyperfine(question: Question) -> Finding:
    """Run both commands ten times each (its default minimum) after one warm-up; the work fills each run.

    Called: Welch's test on the exported times, p < 0.05, which is the rule of the `welch_ttest.py` that hyperfine
    ships.
    """
    from scipy.stats import ttest_ind

    runs, path = 10, question.folder / "hyperfine.json"
    calls = max(1, round(question.budget_s / 2 / runs / question.call_s))
    python = f"{sys.executable} {HERE / 'work.py'} '{question.kind}'"
    _run(
        ["hyperfine", "-N", "--style=none", "--warmup=1", f"--runs={runs}", f"--export-json={path}",
         *(f"{python} {amount} {calls}" for amount in (question.first, question.second))]
    )  # fmt: skip
    first, second = (result["times"] for result in json.loads(path.read_text())["results"])
    p, ratio = float(ttest_ind(first, second, equal_var=False).pvalue), sum(second) / sum(first)
    call = "none" if p >= 0.05 else "slower" if ratio > 1 else "faster"
    return Finding(call, sum(first) + sum(second), {"p": p, "ratio": ratio, "calls": calls})


def _run(command: list[str], environment: dict[str, str] | None = None, allowed=(0,)) -> tuple[str, int]:
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True)
    if done.returncode not in allowed:
        raise ToolBroke(done.stdout + done.stderr)
    return done.stdout + done.stderr, done.returncode


@dataclass(frozen=True)
class Tool:
    """ask: put the question to it; missing: why it cannot be asked here, or nothing; rule: how, in a sentence."""

    ask: Callable[[Question], Finding]
    missing: Callable[[], str]
    version: Callable[[], str]
    rule: str


def _package(name: str) -> tuple[Callable[[], str], Callable[[], str]]:
    from importlib.metadata import version

    module = name.replace("-", "_")
    return lambda: "" if find_spec(module) else f"pip install {name}", lambda: version(name)


TOOLS = {
    "kit": Tool(
        kit,
        lambda: "",
        lambda: _package("ml-scaling-kit")[1](),
        "`Comparison(time_budget_s=BUDGET)`, which covers its control (A/A) too and ends early once all is settled; "
        "called: its verdict is faster or slower",
    ),
    "pytest-benchmark": Tool(
        pytest_benchmark,
        *_package("pytest-benchmark"),
        "`--benchmark-max-time=BUDGET/2` a side, the first saved, the second with "
        "`--benchmark-compare-fail=median:5%`; called slower: the gate fails; it knows no faster, so the same 5 % is "
        "held against its saved medians the other way round",
    ),
    "pyperf": Tool(
        pyperf,
        *_package("pyperf"),
        "its 20 processes × 3 values (and a warm-up) a side, `--loops` so that the values fill BUDGET/2; called: "
        "`compare_to` finds it significant and does not say 1.00x",
    ),
    "hyperfine": Tool(
        hyperfine,
        lambda: "" if shutil.which("hyperfine") else "apt-get install hyperfine",
        lambda: _run(["hyperfine", "--version"])[0].split()[-1],
        "`--warmup=1 --runs=10` a side, each run repeats the work to fill BUDGET/20; called: Welch's test on the "
        "exported times, p < 0.05, as its own `welch_ttest.py` does",
    ),
}
