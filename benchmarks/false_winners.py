"""How often does a tool detect a difference where there is none, and one where there is?

The same function against itself at five lengths of call, and against copies of it that truly do 3, 5 and 10 % more, by
the kit, pytest-benchmark, pyperf and hyperfine with equal time budgets, in random order on one machine, so that all see
the same noise. Every outcome is appended to a JSONL file at once; an interrupted study resumes.

    python benchmarks/false_winners.py --minutes 40 --out runs/false_winners.jsonl
    python benchmarks/false_winners.py --kinds all --cases 0,5 --tools kit --out runs/by_work.jsonl
    python benchmarks/false_winners.py --report runs/false_winners.jsonl
"""

import argparse
import dataclasses
import json
import math
import os
import random
import shlex
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

LENGTHS_MS = (0.02, 0.2, 0.5, 2.0, 20.0)
KINDS = ("Python loop", "zlib")
CASES = (0, 3, 5, 10)
"""Per cent of work that the second function does more; 0: it is the same."""


def main() -> None:
    """Read the arguments, then measure or report."""
    asked = arguments()
    if asked.report:
        print(markdown(read(asked.report)))
        return
    try:
        study(asked)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes")
    lines = read(asked.out)
    asked.out.with_suffix(".md").write_text(markdown(lines) + "\n")
    print(markdown(lines))


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line; stop with what is allowed where one is unknown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop before a trial that begins after this")
    parser.add_argument("--trials", type=int, default=10**6, help="of each tool, kind, length and case")
    parser.add_argument("--budget", type=float, default=10.0, help="measuring seconds of one comparison, both sides")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS_MS)), help="of a call, in ms")
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of " + ", ".join(work.KINDS) + "; or all")
    parser.add_argument("--tools", default=",".join(tools.TOOLS), help="some of " + ", ".join(tools.TOOLS))
    parser.add_argument(
        "--cases", default=",".join(map(str, CASES)), help="per cent of work more, 0: the same function"
    )
    parser.add_argument("--note", default="", help="a word on the machine's state, kept with the outcomes")
    parser.add_argument("--out", type=Path, default=Path("runs/false_winners.jsonl"), help="where outcomes are added")
    parser.add_argument("--report", type=Path, help="print the tables of such a file and measure nothing")
    asked = parser.parse_args()
    asked.kinds = list(work.KINDS) if asked.kinds == "all" else known(asked.kinds.split(","), work.KINDS)
    asked.tools = available(known(asked.tools.split(","), tools.TOOLS))
    asked.lengths = [float(length) for length in asked.lengths.split(",")]
    asked.cases = [int(case) for case in asked.cases.split(",")]
    return asked


def available(names: list[str]) -> list[str]:
    """Return the tools that can be asked here, and print which cannot."""
    for name in names:
        if why := tools.TOOLS[name].missing():
            print(f"skipped {name}: it is not installed; to have it: {why}")
    return [name for name in names if not tools.TOOLS[name].missing()]


def known(names: list[str], allowed) -> list[str]:
    """Return the names; stop with the allowed ones if one is unknown."""
    for name in names:
        if name not in allowed:
            sys.exit(f"got {name!r}; allowed are {', '.join(allowed)}")
    return names


def study(asked: argparse.Namespace) -> None:
    """Make trial after trial, in a random order in each block, until there are enough or time is up."""
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    lines, end = read(asked.out) if asked.out.exists() else [], time.monotonic() + 60 * asked.minutes
    refuse_mixture(asked, lines)
    append(asked.out, session(asked))
    amounts = {(kind, ms): work.amount_for(kind, ms / 1000) for kind in asked.kinds for ms in asked.lengths}
    done = Counter(_visit(line) for line in lines if line["kind"] == "outcome")
    for visit in order(asked, done):
        if time.monotonic() > end:
            return
        outcome = trial(*visit, amounts[visit[1:3]], asked)
        append(asked.out, outcome)
        place = f"{outcome['tool']:16} {outcome['work']:15} {outcome['ms']:5g} ms {outcome['case']:>2} %"
        print(f"{outcome['at'][11:19]} {place}  {outcome['found']:6} {outcome['took_s']:5.1f} s", flush=True)


def _visit(line: dict) -> tuple:
    return line["tool"], line["work"], line["ms"], line["case"]


def order(asked: argparse.Namespace, done: Counter):
    """Yield (tool, kind, length, case): every block in a random order, without what is done already."""
    visits = [(t, k, ms, c) for t in asked.tools for k in asked.kinds for ms in asked.lengths for c in asked.cases]
    for block in range(1, asked.trials + 1):
        left = [visit for visit in visits if done[visit] < block]
        random.shuffle(left)
        yield from left


def trial(tool: str, kind: str, ms: float, case: int, amount: int, asked: argparse.Namespace) -> dict:
    """Ask one tool one question."""
    second, at, load = round(amount * (1 + case / 100)), now(), os.getloadavg()[0]
    call_s = work.seconds(work.KINDS[kind](amount))
    with tempfile.TemporaryDirectory(prefix="false_winners_") as folder:
        started = time.monotonic()
        try:
            question = tools.Question(Path(folder), kind, amount, second, asked.budget, call_s)
            found = dataclasses.asdict(tools.TOOLS[tool].ask(question))
        except Exception as error:  # no answer is an outcome too: it is counted, and named under the table
            found = {
                "call": "broke",
                "measured_s": None,
                "said": {"output": f"{type(error).__name__}: {error}"[-2000:]},
            }
        took_s = time.monotonic() - started
    return {"kind": "outcome", "tool": tool, "work": kind, "ms": ms, "case": case, "found": found.pop("call"), **found,
            "at": at, "took_s": took_s, "load": load, "call_s": call_s, "note": asked.note}  # fmt: skip


def session(asked: argparse.Namespace) -> dict:
    """Return the line that says on what and how the outcomes after it were found."""
    commit = fingerprint.git()
    return {
        "kind": "session",
        "at": now(),
        "commit": commit and commit.commit[:12] + (" with changes" if commit.dirty else ""),
        "machine": fingerprint.in_words(fingerprint.machine()),
        "python": fingerprint.machine().python,
        "versions": {name: tools.TOOLS[name].version() for name in asked.tools},
        "budget_s": asked.budget,
        "command": shlex.join(["python", "benchmarks/false_winners.py", *sys.argv[1:]]),
    }


def refuse_mixture(asked: argparse.Namespace, lines: list[dict]) -> None:
    """Stop if the file holds outcomes of another budget."""
    for line in lines:
        if line["kind"] == "session" and line["budget_s"] != asked.budget:
            sys.exit(f"{asked.out} holds outcomes with --budget {line['budget_s']:g}; use the same, or another --out")


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


# ------------------------------------------------------------------------------------------------ the tables


def counted(outcomes: list[dict]) -> dict[str, int]:
    """Return numbers of trials (without those that broke), of slower, of faster, and of those that broke."""
    found = Counter(outcome["found"] for outcome in outcomes)
    trials = found.total() - found["broke"]
    return {"trials": trials, "slower": found["slower"], "faster": found["faster"], "broke": found["broke"]}


def false_positives(outcomes: list[dict]) -> str:
    """Return the share of comparisons of a function with itself that found a difference: `2 of 40 = 5 % [1, 17]`."""
    found = counted([outcome for outcome in outcomes if outcome["case"] == 0])
    return share(found["slower"] + found["faster"], found["trials"])


def detected(outcomes: list[dict], case: int) -> str:
    """Return the share of comparisons with so many per cent more work that found it slower."""
    found = counted([outcome for outcome in outcomes if outcome["case"] == case])
    return share(found["slower"], found["trials"])


def share(hits: int, trials: int) -> str:
    """Return a share with its 95 % interval."""
    if not trials:
        return "–"
    low, high = wilson(hits, trials)
    return f"{hits} of {trials} = {hits / trials:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share. Source: Wilson, JASA 22 (1927)."""
    z, found = 1.959964, hits / trials
    middle = (found + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(found * (1 - found) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(rows: list[list[str]]) -> str:
    """Return rows, the first a head, as a table in Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(lines: list[dict]) -> str:
    """Return the tables with everything that is needed to check them."""
    sessions = [line for line in lines if line["kind"] == "session"]
    outcomes = [line for line in lines if line["kind"] == "outcome"]
    if not outcomes:
        return "It ended before its first trial."
    names = [name for name in tools.TOOLS if any(outcome["tool"] == name for outcome in outcomes)]
    of_tool = {name: [outcome for outcome in outcomes if outcome["tool"] == name] for name in names}
    parts = [by_length(of_tool), by_case(of_tool)]
    if len({outcome["work"] for outcome in of_tool.get("kit", [])}) > 1:
        parts.append(by_work(of_tool["kit"]))
    parts += [conditions(sessions, outcomes), *broken(of_tool), rules(names, sessions[-1]["budget_s"])]
    return "\n\n".join(part for part in parts if part)


def by_length(of_tool: dict[str, list[dict]]) -> str:
    """Return the false positives of each tool by length of call, and over all."""
    lengths = sorted({outcome["ms"] for found in of_tool.values() for outcome in found if outcome["case"] == 0})
    rows = [["false positives", *(f"{length:g} ms" for length in lengths), "all"]]
    for name, found in of_tool.items():
        cells = [false_positives([outcome for outcome in found if outcome["ms"] == length]) for length in lengths]
        rows.append([name, *cells, false_positives(found)])
    return table(rows) if lengths else ""


def by_case(of_tool: dict[str, list[dict]]) -> str:
    """Return how often each tool detects a true difference, how often the wrong way, and what a comparison takes."""
    cases = sorted({outcome["case"] for found in of_tool.values() for outcome in found if outcome["case"]})
    rows = [["detected", *(f"{case} % slower" for case in cases), "wrong sign", "a comparison takes"]]
    for name, found in of_tool.items():
        slower = counted([outcome for outcome in found if outcome["case"]])
        took = statistics.median(outcome["took_s"] for outcome in found)
        wrong = share(slower["faster"], slower["trials"])
        rows.append([name, *(detected(found, case) for case in cases), wrong, f"{took:.1f} s"])
    return table(rows) if cases else ""


def by_work(outcomes: list[dict]) -> str:
    """Return false positives and detections of the kit by kind of work."""
    cases = sorted({outcome["case"] for outcome in outcomes if outcome["case"]})
    rows = [["kit, by kind of work", "false positives", *(f"detected: {case} % slower" for case in cases)]]
    for kind in dict.fromkeys(sorted(outcome["work"] for outcome in outcomes)):
        found = [outcome for outcome in outcomes if outcome["work"] == kind]
        rows.append([kind, false_positives(found), *(detected(found, case) for case in cases)])
    return table(rows)


def conditions(sessions: list[dict], outcomes: list[dict]) -> str:
    """Return the paragraph on machine, dates, versions, budget, load and commands."""
    last, loads = sessions[-1], sorted(outcome["load"] for outcome in outcomes)
    tenth = len(loads) // 10
    versions = ", ".join(f"{name} {version}" for one in sessions for name, version in one["versions"].items())
    versions = ", ".join(dict.fromkeys(versions.split(", ")))
    commands = "; ".join(f"`{command}`" for command in dict.fromkeys(one["command"] for one in sessions))
    return (
        f"{last['machine']}, Python {last['python']}; {outcomes[0]['at']} to {outcomes[-1]['at']}; {versions}"
        f"{', commit ' + last['commit'] if last['commit'] else ''}. Budget {last['budget_s']:g} s of measuring a "
        f"comparison. Load average {statistics.median(loads):.1f} (eight in ten: {loads[tenth]:.1f} to "
        f"{loads[-1 - tenth]:.1f}). Brackets: 95 % Wilson intervals, per cent. Commands: {commands}"
    )


def broken(of_tool: dict[str, list[dict]]) -> list[str]:
    """Return a line on trials in which a tool gave no answer, if there are any."""
    counts = [f"{name} {n}" for name, found in of_tool.items() if (n := counted(found)["broke"])]
    return [f"Trials without an answer, not counted above: {', '.join(counts)}."] if counts else []


def rules(names: list[str], budget_s: float) -> str:
    """Return how each tool was given its budget (BUDGET, seconds) and what counts as its finding."""
    return "\n".join(f"- {name}: {tools.TOOLS[name].rule}." for name in names).replace("BUDGET", f"{budget_s:g} s")


if __name__ == "__main__":
    main()
