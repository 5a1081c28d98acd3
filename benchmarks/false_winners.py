"""How often does a tool call a winner where there is none, and find one where there is?

The same function against itself, and against copies truly 3, 5 and 10 % slower, by the kit, pytest-benchmark, pyperf
and hyperfine with equal time budgets, in random order on one machine, so that all see the same noise. Every outcome is
appended to a JSONL file at once; an interrupted study goes on where it stood.

    python benchmarks/false_winners.py --minutes 40 --out false_winners.jsonl
    python benchmarks/false_winners.py --report false_winners.jsonl
"""

import argparse
import dataclasses
import json
import math
import os
import random
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import tools
import work

from kit.machine import fingerprint

CASES = {"same": (0, 3), "3": (3, 1), "5": (5, 1), "10": (10, 1)}
"""By name: percent of work that the second has more, and trials in a block. A false call is the rarest event, so the
comparison with itself is made three times as often."""


def main() -> None:
    """Read the arguments, then measure or report."""
    asked = arguments()
    if asked.report:
        print(markdown(read(asked.report)))
        return
    chosen, cases = available(asked.tools.split(",")), known(asked.cases.split(","), CASES)
    try:
        study(asked, chosen, cases)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here")
    lines = read(asked.out)
    asked.out.with_suffix(".md").write_text(markdown(lines) + "\n")
    asked.out.with_suffix(".json").write_text(json.dumps({"summary": summary(lines), "lines": lines}, indent=1))
    print(markdown(lines))


def arguments() -> argparse.Namespace:
    """Return what is asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop before a trial that begins after this")
    parser.add_argument("--trials", type=int, default=25, help="of each slower copy; three times as many of the same")
    parser.add_argument("--budget", type=float, default=4.0, help="measuring seconds of one comparison, both sides")
    parser.add_argument("--iterations", type=int, default=20_000, help="of the work: 20,000 take about 1 ms")
    parser.add_argument("--tools", default=",".join(tools.TOOLS), help="some of " + ", ".join(tools.TOOLS))
    parser.add_argument("--cases", default=",".join(CASES), help="some of " + ", ".join(CASES))
    parser.add_argument("--out", type=Path, default=Path("runs/false_winners.jsonl"), help="where outcomes are added")
    parser.add_argument("--keep", action="store_true", help="keep what the tools wrote in every trial")
    parser.add_argument("--report", type=Path, help="print the table of such a file and measure nothing")
    return parser.parse_args()


def available(names: list[str]) -> list[str]:
    """Return the tools that can be asked here, and say which cannot."""
    for name in known(names, tools.TOOLS):
        if why := tools.TOOLS[name].missing():
            print(f"skipped {name}: it is not installed; to have it: {why}")
    return [name for name in names if not tools.TOOLS[name].missing()]


def known(names: list[str], allowed) -> list[str]:
    """Return the names; stop with the ones there are if one is unknown."""
    for name in names:
        if name not in allowed:
            sys.exit(f"got {name!r}; there are {', '.join(allowed)}")
    return names


def study(asked: argparse.Namespace, chosen: list[str], cases: list[str]) -> None:
    """Make trial after trial, each tool and case in random order, until there are enough or time is up."""
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    lines, end = read(asked.out) if asked.out.exists() else [], time.monotonic() + 60 * asked.minutes
    refuse_mixture(asked, lines)
    append(asked.out, session(asked, chosen))
    done = Counter((line["tool"], line["case"]) for line in lines if line["kind"] == "outcome")
    for tool, case in order(chosen, cases, asked.trials, done):
        if time.monotonic() > end:
            return
        outcome = trial(tool, case, asked)
        append(asked.out, outcome)
        print(f"{outcome['at'][11:19]} {tool:16} {case:>4}  {outcome['call']:6} {outcome['took_s']:5.1f} s", flush=True)


def order(chosen: list[str], cases: list[str], blocks: int, done: Counter):
    """Yield (tool, case): every block in an order of its own, without what is done already."""
    for block in range(1, blocks + 1):
        visits = []
        for tool in chosen:
            for case in cases:
                times = CASES[case][1]
                left = min(times, times * block - done[tool, case])
                visits += [(tool, case)] * left
        random.shuffle(visits)
        for visit in visits:
            done[visit] += 1
            yield visit


def trial(tool: str, case: str, asked: argparse.Namespace) -> dict:
    """Put one question to one tool. What it wrote is kept if it called a winner that is none, or if all is kept."""
    second = round(asked.iterations * (1 + CASES[case][0] / 100))
    at, load, now_s, kept = now(), os.getloadavg()[0], call_s(asked.iterations), None
    with tempfile.TemporaryDirectory(prefix="false_winners_") as folder:
        started = time.monotonic()
        try:
            question = tools.Question(Path(folder), asked.iterations, second, asked.budget, now_s)
            found = dataclasses.asdict(tools.TOOLS[tool].ask(question))
        except Exception as error:  # no answer is an outcome too: it is counted, and told under the table
            found = {
                "call": "broke",
                "measured_s": None,
                "said": {"output": f"{type(error).__name__}: {error}"[-2000:]},
            }
        took_s = time.monotonic() - started
        if asked.keep or found["call"] == "faster" or (found["call"] == "slower" and case == "same"):
            kept = str(asked.out.with_suffix("") / f"{tool}-{case}-{at.replace(':', '')}")
            shutil.copytree(folder, kept)
    return {"kind": "outcome", "tool": tool, "case": case, **found, "at": at, "took_s": took_s, "load": load,
            "call_s": now_s, "kept": kept}  # fmt: skip


def call_s(iterations: int) -> float:
    """Return the seconds of one call now, for the tools that want a number of repeats: the median of 25."""
    took = []
    for _ in range(25):
        start = time.perf_counter()
        work.spend(iterations)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def true_ratios(iterations: int) -> dict[str, float]:
    """Return by case how many bytecode instructions the second executes for one of the first. Counted, not timed."""
    first = instructions(iterations)
    return {case: instructions(round(iterations * (1 + more / 100))) / first for case, (more, _) in CASES.items()}


def instructions(iterations: int) -> int:
    """Return the number of bytecode instructions that one call executes."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work.spend(iterations)
    finally:
        sys.settrace(before)
    return count


def session(asked: argparse.Namespace, chosen: list[str]) -> dict:
    """Return the line that says on what and how the outcomes after it were found."""
    commit = fingerprint.git()
    return {
        "kind": "session",
        "at": now(),
        "commit": commit and commit.commit[:12] + (" with changes" if commit.dirty else ""),
        "machine": fingerprint.in_words(fingerprint.machine()),
        "python": fingerprint.machine().python,
        "versions": {name: tools.TOOLS[name].version() for name in chosen},
        "budget_s": asked.budget,
        "iterations": asked.iterations,
        "ratios": true_ratios(asked.iterations),
        "command": shlex.join(["python", "benchmarks/false_winners.py", *sys.argv[1:]]),
    }


def refuse_mixture(asked: argparse.Namespace, lines: list[dict]) -> None:
    """Stop if the file holds outcomes of another budget or another amount of work."""
    for line in lines:
        if line["kind"] == "session" and (line["budget_s"], line["iterations"]) != (asked.budget, asked.iterations):
            sys.exit(
                f"{asked.out} holds outcomes with --budget {line['budget_s']:g} --iterations {line['iterations']}; "
                "go on with the same, or give another --out"
            )


def now() -> str:
    """Return the time, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def append(path: Path, line: dict) -> None:
    """Add one line to the file, below whatever a crash left half-written there."""
    whole = not path.exists() or path.read_bytes().endswith(b"\n")
    with open(path, "a") as file:
        file.write(("" if whole else "\n") + json.dumps(line) + "\n")


def read(path: Path) -> list[dict]:
    """Return the lines of the file; a last one cut short by a crash is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            print(f"{path}: left out a line that is not whole", file=sys.stderr)
    return lines


def summary(lines: list[dict]) -> dict[str, dict[str, dict]]:
    """Return by tool and case: trials, calls of slower and of faster, what broke."""
    outcomes = [line for line in lines if line["kind"] == "outcome"]
    found = {}
    for tool in tools.TOOLS:
        for case in CASES:
            calls = Counter(o["call"] for o in outcomes if (o["tool"], o["case"]) == (tool, case))
            if calls:
                trials = calls.total() - calls["broke"]
                counts = {"trials": trials, "slower": calls["slower"], "faster": calls["faster"]}
                found.setdefault(tool, {})[case] = counts | {"broke": calls["broke"]}
    return found


def markdown(lines: list[dict]) -> str:
    """Return the table with everything that is needed to believe it."""
    sessions = [line for line in lines if line["kind"] == "session"]
    outcomes = [line for line in lines if line["kind"] == "outcome"]
    found = summary(lines)
    head = ["tool", "same function: false calls", *(f"{case} % slower: called" for case in CASES if case != "same"),
            "wrong way", "measuring, in all"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for tool, cases in found.items():
        rows.append([tool, *(cell(case, cases.get(case)) for case in CASES), wrong(cases), times(tool, outcomes)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n\n".join([table, conditions(sessions, outcomes), *broken(found), *rules(found, sessions[-1]["budget_s"])])


def cell(case: str, counts: dict | None) -> str:
    """Return the share of false calls (same) or of right calls (slower), with its 95 % interval."""
    if not counts or not counts["trials"]:
        return "–"
    calls = counts["slower"] + (counts["faster"] if case == "same" else 0)
    low, high = wilson(calls, counts["trials"])
    return f"{calls} of {counts['trials']} = {calls / counts['trials']:.0%} [{low:.0%}, {high:.0%}]"


def wrong(cases: dict[str, dict]) -> str:
    """Return how many truly slower copies were called faster."""
    slower = [counts for case, counts in cases.items() if case != "same"]
    calls, trials = sum(c["faster"] for c in slower), sum(c["trials"] for c in slower)
    low, high = wilson(calls, trials) if trials else (0, 1)
    return f"{calls} of {trials} [{low:.0%}, {high:.0%}]"


def times(tool: str, outcomes: list[dict]) -> str:
    """Return the median seconds that one comparison measured, and took with all process starts."""
    own = [o for o in outcomes if o["tool"] == tool and o["call"] != "broke"]
    if not own:
        return "–"
    measured_s, took_s = (statistics.median(o[name] for o in own) for name in ("measured_s", "took_s"))
    return f"{measured_s:.1f} s, {took_s:.1f} s"


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share. Source: Wilson, JASA 22 (1927)."""
    z, share = 1.959964, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def conditions(sessions: list[dict], outcomes: list[dict]) -> str:
    """Return the paragraph on machine, date, versions, budget, true ratios and command."""
    if not sessions or not outcomes:
        return "It ended before its first trial."
    last, loads = sessions[-1], sorted(o["load"] for o in outcomes)
    tenth = len(loads) // 10
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    ratios = ", ".join(f"{ratio:.4f}" for ratio in last["ratios"].values())
    return (
        f"{last['machine']}, Python {last['python']}; {outcomes[0]['at']} to {outcomes[-1]['at']}; {versions}"
        f"{', commit ' + last['commit'] if last['commit'] else ''}. "
        f"Budget {last['budget_s']:g} s of measuring a comparison, one call about "
        f"{statistics.median(o['call_s'] for o in outcomes) * 1000:.2g} ms; executed instructions, second ÷ first: "
        f"{ratios}. Load average {statistics.median(loads):.1f} (eight in ten: {loads[tenth]:.1f} to "
        f"{loads[-1 - tenth]:.1f}). Brackets: 95 % Wilson intervals. Command: `{last['command']}`"
    )


def broken(found: dict) -> list[str]:
    """Return a line on trials in which a tool gave no answer, if there are any."""
    counts = [f"{tool} {n}" for tool, cases in found.items() if (n := sum(c["broke"] for c in cases.values()))]
    return [f"Trials without an answer, not counted above: {', '.join(counts)}."] if counts else []


def rules(found: dict, budget_s: float) -> list[str]:
    """Return how each tool was told its budget (BUDGET, seconds) and what counts as its call."""
    return ["\n".join(f"- {tool}: {tools.TOOLS[tool].rule}." for tool in found).replace("BUDGET", f"{budget_s:g} s")]


if __name__ == "__main__":
    main()
