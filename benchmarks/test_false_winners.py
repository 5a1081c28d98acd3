"""What the study of false winners promises: that it counts rightly, goes on where it stood, and asks fairly."""

import argparse
import json
from collections import Counter
from pathlib import Path

import false_winners
import pytest
import tools


def outcome(tool: str, case: str, call: str) -> dict:
    """Return an outcome as the study writes it."""
    return {"kind": "outcome", "tool": tool, "case": case, "call": call, "measured_s": 1.0, "took_s": 2.0, "load": 1.0,
            "call_s": 1e-3, "at": "2026-11-23T10:20:30Z"}  # fmt: skip


def asked(**changes) -> argparse.Namespace:
    """Return what the command line asks for."""
    usual = {"budget": 1.0, "iterations": 2_000, "minutes": 1.0, "trials": 1, "out": Path("none"), "keep": False}
    return argparse.Namespace(**usual | changes)


def test_a_slower_copy_executes_as_many_more_instructions_as_it_says():
    """The true ratios are counted, and are right to a part in a thousand."""
    ratios = false_winners.true_ratios(20_000)
    assert ratios == pytest.approx({"same": 1.0, "3": 1.03, "5": 1.05, "10": 1.10}, abs=1e-3)


def test_every_call_is_counted_where_it_belongs():
    """A call of a winner among equals is false, of slower right, of faster wrong; a broken trial is no trial."""
    calls = [
        ("same", "slower"),
        ("same", "faster"),
        ("same", "none"),
        ("10", "slower"),
        ("10", "faster"),
        ("10", "broke"),
    ]
    lines = [outcome("pyperf", *call) for call in calls]
    found = false_winners.summary(lines)["pyperf"]
    assert found["same"] == {"trials": 3, "slower": 1, "faster": 1, "broke": 0}
    assert found["10"] == {"trials": 2, "slower": 1, "faster": 1, "broke": 1}
    assert false_winners.cell("same", found["same"]).startswith("2 of 3 = 67%")
    assert false_winners.cell("10", found["10"]).startswith("1 of 2 = 50%")
    assert false_winners.wrong(found).startswith("1 of 2")


def test_the_interval_of_a_share_is_wilsons():
    """0 of 100 is up to 3.7 %, and 5 of 10 lies between 23.7 and 76.3 %."""
    assert false_winners.wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert false_winners.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_a_study_goes_on_where_it_stood():
    """What is done already is not done again, and every tool has the same trials in the end."""
    done = Counter({("kit", "same"): 4, ("kit", "10"): 1})
    left = Counter(false_winners.order(["kit", "pyperf"], ["same", "10"], 2, done))
    assert left == {("kit", "same"): 2, ("kit", "10"): 1, ("pyperf", "same"): 6, ("pyperf", "10"): 2}


def test_outcomes_of_different_budgets_are_not_mixed(tmp_path):
    """A file that holds outcomes of another budget is refused, with what to do."""
    line = {"kind": "session", "budget_s": 4.0, "iterations": 2_000}
    with pytest.raises(SystemExit, match="--budget 4 --iterations 2000"):
        false_winners.refuse_mixture(asked(), [line])


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    """The outcomes before it and after it are read."""
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(outcome("kit", "same", "none")) + '\n{"kind": "outc')
    false_winners.append(path, outcome("kit", "10", "slower"))
    assert [line["case"] for line in false_winners.read(path)] == ["same", "10"]


@pytest.mark.parametrize("tool", tools.TOOLS)
def test_each_tool_sees_that_three_times_the_work_is_slower(tool, tmp_path):
    """Each tool really runs, and its call is read rightly."""
    if why := tools.TOOLS[tool].missing():
        pytest.skip(f"{tool} is not installed; to have it: {why}")
    question = tools.Question(tmp_path, 10_000, 30_000, budget_s=2.0, call_s=1e-3)
    found = tools.TOOLS[tool].ask(question)
    assert found.call == "slower", found
    assert found.measured_s > 0


def test_a_tool_that_breaks_is_counted_as_broken(tmp_path, monkeypatch):
    """No answer is an outcome: neither a call nor none."""
    broken = tools.Tool(lambda question: 1 / 0, lambda: "", lambda: "1", "")
    monkeypatch.setitem(tools.TOOLS, "broken", broken)
    found = false_winners.trial("broken", "same", asked(out=tmp_path / "x.jsonl"))
    assert found["call"] == "broke"
    assert "ZeroDivisionError" in found["said"]["output"]
