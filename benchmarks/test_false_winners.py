"""What the study of false positives promises: that it counts rightly, resumes, and asks each tool fairly."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import false_winners
import pytest
import tools
import work


def outcome(tool: str, case: int, found: str, ms: float = 2.0) -> dict:
    """Return an outcome as the study writes it."""
    return {"kind": "outcome", "tool": tool, "work": "zlib", "ms": ms, "case": case, "found": found, "took_s": 2.0,
            "load": 1.0, "at": "2026-11-29T10:20:30Z"}  # fmt: skip


def asked(**changes) -> argparse.Namespace:
    """Return what the command line asks for."""
    usual = dict(budget=1.0, trials=1, tools=["kit"], kinds=["zlib"], lengths=[2.0], cases=[0], note="")
    return argparse.Namespace(**usual | changes)


def executed(call) -> int:
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
        call()
    finally:
        sys.settrace(before)
    return count


def test_a_slower_copy_does_as_much_more_as_it_says():
    """The Python loop's true ratio, counted in executed instructions, is right to a part in a thousand."""
    first, second = (executed(work.python_loop(amount)) for amount in (20_000, 21_000))
    assert second / first == pytest.approx(1.05, abs=1e-3)


@pytest.mark.parametrize("kind", work.KINDS)
def test_every_kind_of_work_can_do_five_per_cent_more(kind):
    """Each kind runs, and the amount of a short call allows 5 % more."""
    amount = work.amount_for(kind, 1e-4)
    assert round(1.05 * amount) > amount and work.KINDS[kind](round(1.05 * amount))() is not None


def test_every_finding_is_counted_where_it_belongs():
    """A difference among equals is false, slower is detected, faster has the wrong sign; a broken trial is none."""
    outcomes = [outcome("kit", *one) for one in ((0, "slower"), (0, "faster"), (0, "none"), (10, "slower"))]
    outcomes += [outcome("kit", 10, "faster"), outcome("kit", 10, "broke")]
    assert false_winners.false_positives(outcomes).startswith("2 of 3 = 67%")
    assert false_winners.detected(outcomes, 10).startswith("1 of 2 = 50%")
    assert "Trials without an answer, not counted above: kit 1." in false_winners.broken({"kit": outcomes})
    by_length = false_winners.by_length({"kit": [*outcomes, outcome("kit", 0, "none", ms=0.02)]})
    assert "| kit | 0 of 1 = 0% [0, 79] | 2 of 3 = 67%" in by_length


def test_the_interval_of_a_share_is_wilsons():
    """0 of 100 is up to 3.7 %, and 5 of 10 lies between 23.7 and 76.3 %."""
    assert false_winners.wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert false_winners.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_a_study_resumes():
    """What is done already is not done again."""
    both = asked(tools=["kit", "pyperf"], cases=[0, 10], trials=2)
    done = Counter({("kit", "zlib", 2.0, 0): 2, ("kit", "zlib", 2.0, 10): 1})
    left = Counter(visit for visit in false_winners.order(both, done))
    assert left[("kit", "zlib", 2.0, 0)] == 0 and left[("pyperf", "zlib", 2.0, 0)] > 0


def test_outcomes_of_different_budgets_are_not_mixed():
    """A file that holds outcomes of another budget is refused, with what to do."""
    with pytest.raises(SystemExit, match="--budget 4"):
        false_winners.refuse_mixture(asked(out="x"), [{"kind": "session", "budget_s": 4.0}])


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    """The outcomes before it and after it are read."""
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(outcome("kit", 0, "none")) + '\n{"kind": "outc')
    false_winners.append(path, outcome("kit", 10, "slower"))
    assert [line["case"] for line in false_winners.read(path)] == [0, 10]


@pytest.mark.parametrize("tool", tools.TOOLS)
def test_each_tool_detects_three_times_the_work(tool, tmp_path):
    """Each tool really runs, and its finding is read rightly."""
    if why := tools.TOOLS[tool].missing():
        pytest.skip(f"{tool} is not installed; to have it: {why}")
    question = tools.Question(tmp_path, "Python loop", 10_000, 30_000, budget_s=4.0, call_s=1e-3)
    found = tools.TOOLS[tool].ask(question)
    assert found.call == "slower", found
    assert found.measured_s > 0


def test_a_tool_that_breaks_is_counted_as_broken(monkeypatch):
    """No answer is an outcome: neither a difference nor none."""
    broken = tools.Tool(lambda question: 1 / 0, lambda: "", lambda: "1", "")
    monkeypatch.setitem(tools.TOOLS, "failed", broken)
    found = false_winners.trial("failed", "zlib", 2.0, 0, 3000, asked(out=Path("x")))
    assert found["found"] == "broke" and "ZeroDivisionError" in found["said"]["output"]
