"""The model of a step is fitted, and checked on a batch that it has not seen."""

import random

import pytest

from kit import Comparison, UserError
from kit.measure.artifacts import Artifacts
from kit.measure.work import Measurement, Setup, verified
from kit.techniques.training import figures, scaling_model
from kit.techniques.training.scaling_model import line


def test_a_line_is_found_through_noise():
    """A small point weighs as much as a large one; seconds that fall have no slope; too few points are refused."""
    noise = random.Random(1)
    fixed, slope = line({x: (0.01 + 0.002 * x) * noise.uniform(0.97, 1.03) for x in (1, 2, 4, 8, 16, 32, 64)})
    assert fixed == pytest.approx(0.01, rel=0.15) and slope == pytest.approx(0.002, rel=0.1)
    assert line({1: 3.0, 2: 2.0, 4: 1.0})[1] == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="can't be fitted"):
        line({1: 1.0, 2: 2.0})


def compared(batches, off=1.0, answer=1):
    """A comparison whose steps follow the model, the largest batch `off` times as long: 2 ranks, 4 ms exposed. answer:
    of the two ranks; one process has 1."""

    def variant(ranks):
        def of(batch):
            own_s = 0.002 + 0.001 * batch / ranks
            step_s = (own_s + (0.004 if ranks > 1 else 0)) * (off if batch == max(batches) else 1)
            costs = {"own_step_s": own_s, "step_s": step_s}
            proof = lambda: verified(costs=costs)  # noqa: E731
            return Setup(
                lambda: Measurement(step_s, {"tokens_per_s": 64 * batch / step_s}, answer if ranks > 1 else 1), proof
            )

        return of

    comparison = Comparison(
        "modelled", baseline="1 process", sizes=batches, time_budget_s=0.1, max_rounds=6, isolate=False
    )
    comparison.variant("1 process", variant(1))
    comparison.variant("DDP", variant(2))
    return comparison.run()


def test_a_step_is_predicted_at_a_batch_that_no_fit_has_seen():
    """What follows the model is predicted; what does not shows its error; too few batches are refused."""
    *seen, unseen = scaling_model.predict_ddp(compared([4, 8, 16, 32]), "DDP")
    assert all(abs(one.error) < 0.01 for one in seen)
    assert unseen.batch == 32 and abs(unseen.error) < 0.01
    result = compared([4, 8, 16, 32], off=1.25)
    wrong = scaling_model.predict_ddp(result, "DDP")
    assert wrong[-1].error == pytest.approx(-0.2, abs=0.01)
    assert "the error is -20 %" in repr(Artifacts(scaling_model.prediction_chart(wrong)))
    with pytest.raises(UserError, match="at least 4"):
        scaling_model.predict_ddp(compared([4, 8, 16]), "DDP")


def test_efficiency():
    """Strong scaling is paired within rounds, weak scaling compares two batches."""
    result = compared([4, 8])
    strong, weak, ideal = figures.efficiency(result, "1 process", "DDP", 2).series
    assert strong.y[0] == pytest.approx(0.006 / (2 * (0.004 + 0.004))) and ideal.y == [1, 1]
    assert weak.y == [pytest.approx(0.006 / (0.006 + 0.004)), None]


def test_what_the_check_rejects_is_in_no_table_and_no_model():
    """DDP whose losses differ at every batch has neither an efficiency nor a prediction, nor a speed in a sentence."""
    result = compared([4, 8, 16, 32], answer=2)
    assert result["DDP"].verdict == "rejected"
    assert not any(one.y for one in figures.efficiency(result, "1 process", "DDP", 2).series)
    assert "faster" not in result.sentence and "as fast" not in result.sentence
    with pytest.raises(UserError, match="0 batches"):
        scaling_model.predict_ddp(result, "DDP")
