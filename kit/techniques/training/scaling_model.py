"""A model of DDP's step, fitted to this machine and checked on a batch that no fit has seen: fixed + samples × rate +
exposed communication."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.errors import UserError
from kit.measure.result import Result
from kit.record.document import Chart, Series


@dataclass(frozen=True)
class Prediction:
    """A modelled and a measured step of DDP at one batch."""

    batch: float
    modelled_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Relative error: 0.1 is 10 % too long."""
        return self.modelled_s / self.measured_s - 1


def line(points: Mapping[float, float]) -> tuple[float, float]:
    """Return (fixed, slope) of seconds = fixed + slope · x, both at least 0: least squares of relative errors.

    Raise UserError for fewer than three points. Seconds that don't grow, as on a busy machine, have no slope.
    """
    import numpy as np
    from scipy.optimize import nnls

    if len(points) < 3:
        raise UserError(f"{len(points)} points can't be fitted to a line; give at least 3")
    x, seconds = np.array(list(points)), np.array(list(points.values()))
    (fixed, slope), _ = nnls(np.stack([1 / seconds, x / seconds], 1), np.ones(len(x)))
    return float(fixed), max(float(slope), 1e-15)


def predict_ddp(result: Result, name: str) -> list[Prediction]:
    """Fit DDP's step to all batches of a comparison but the largest, and predict each, the largest unseen.

    Computing is fitted to the steps without communication, as the execution proof has them; exposed communication is
    the smallest batch's, since a step sends the same gradients at any. Raise UserError for fewer than four batches.
    """
    points = [(point.size, v) for point in result.record.points for v in point.variants if v.name == name]
    found = {size: v for size, v in points if v.median_s and v.verdict != "rejected"}
    costs = {size: v.execution_proof.costs for size, v in sorted(found.items()) if v.execution_proof}
    if len(costs) < 4:
        raise UserError(f"{len(costs)} batches with a measured step of {name} are too few for a model; give at least 4")
    *fitted, _ = costs
    fixed_s, sample_s = line({size: costs[size]["own_step_s"] for size in fitted})
    exposed_s = max(0.0, costs[fitted[0]]["step_s"] - costs[fitted[0]]["own_step_s"])
    return [Prediction(size, fixed_s + size * sample_s + exposed_s, found[size].median_s) for size in costs]


def prediction_chart(predictions: Sequence[Prediction]) -> Chart:
    """Return modelled and measured steps over the batch."""
    batches = [p.batch for p in predictions]
    return Chart(
        "Step time of DDP by batch: model and measurement (lower is better)",
        "samples/step",
        "milliseconds",
        [
            Series("measured", batches, [1e3 * p.measured_s for p in predictions]),
            Series("model", batches, [1e3 * p.modelled_s for p in predictions], style="modelled"),
        ],
        log_x=True,
        log_y=True,
        note=f"Fitted to all batches but the largest; there the error is {100 * predictions[-1].error:+.0f} %.",
    )
