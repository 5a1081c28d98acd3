"""Does a strategy train the same model? Losses against one process on the same batches, and held-out accuracy.

Under plain SGD every step's loss depends on all gradients before it, so a gradient that is wrong in any way, also by a
mere factor, moves the losses within a few steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kit.errors import UserError
from kit.measure.comparison import run_folder
from kit.measure.progress import Progress
from kit.record.document import Quality
from kit.techniques.training.ranks.launch import Launch, RankFailed
from kit.techniques.training.strategies import single
from kit.techniques.training.task import Task
from kit.techniques.training.variants import Where

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 2e-2}
"""Largest difference of a step's loss (nats), by the lowest precision that a strategy uses on purpose. In float32 what
differs is the order of additions, some 1e-6; a wrong gradient shows as 1e-2 and more within five steps."""

SETTLED = 20
"""Steps until rounding to half precision, which each step passes on, may have grown to the whole tolerance. Gradients
that were never averaged differ by 1e-2 after five steps only, so that a quarter is allowed there."""

ACCURACY_BOUND = 0.02
"""Largest difference of the held-out accuracy, two standard errors of a thousand images at 90 %; with few samples, two
of them may fall otherwise."""


@dataclass(frozen=True)
class Proof:
    """What one strategy did at one number of ranks, held against one process.

    difference: largest of a step's loss, in nats. curve: (steps, accuracy). scored: held-out items. apart: difference
    of the accuracy at the end, None where one process was not scored at that step. reason: why it did not run; failed:
    not because it can't be spread so, but because a rank failed.
    """

    strategy: str
    ranks: int
    precision: str
    losses: list[float] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    difference: float | None = None
    accuracy: float | None = None
    scored: int = 0
    apart: float | None = None
    reason: str = ""
    failed: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether losses and accuracy are equal within what is allowed; None if it did not run."""
        if self.difference is None:
            return None
        near = (self.apart or 0.0) <= accuracy_bound(self.scored)
        return near and self.difference <= allowed(self.precision, len(self.losses))


def allowed(precision: str, steps: int) -> float:
    """Return the largest difference that a step's loss may have by then."""
    settled = 1.0 if precision == "fp32" else min(1.0, max(0.25, steps / SETTLED))
    return TOLERANCE[precision] * settled


def accuracy_bound(scored: int) -> float:
    """Return the largest difference that the accuracy on so many held-out items may have."""
    return max(ACCURACY_BOUND, 2 / scored) if scored else ACCURACY_BOUND


def same_training(answer: dict, reference: dict) -> Quality:
    """Check a variant's answer against the baseline's: the quality check of the training comparisons.

    answer: {"losses", "accuracy", "scored", "precision", "alone"}. A variant with another batch than the baseline's
    brings in `alone` the losses that one process has with that batch.
    """
    precision = answer["precision"]
    expected = answer["alone"] or reference["losses"]
    difference, bound = largest_difference(answer["losses"], expected), allowed(precision, len(expected))
    apart = 0.0 if answer["alone"] else abs(answer["accuracy"] - reference["accuracy"])
    state, note = "held", f"held-out accuracy {answer['accuracy']:.3f}"
    if not difference <= bound:
        state, note = "broken", f"a step's loss differs by {difference:.2g}, allowed {bound:g}"
    elif not apart <= accuracy_bound(answer.get("scored", 0)):
        state, note = "broken", f"{note}, one process has {reference['accuracy']:.3f}"
    elif len(expected) < 2:
        state, note = "unchecked", "the first loss knows no gradient yet; take at least 2 steps"
    return Quality(state=state, measure=f"{precision} loss difference", value=difference, bound=bound, note=note)


def largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Return the largest difference of two lists of losses, step by step: infinite if one is not a number.

    Raise ValueError if one list is shorter.
    """
    differences = [abs(one - other) for one, other in zip(losses, expected, strict=True)]
    return max(d if math.isfinite(d) else math.inf for d in differences)  # max() alone would let a NaN pass


def prove(
    task: Task,
    variants: dict[str, Callable],
    where: Where,
    *,
    every: int = 0,
    brief: int = 8,
) -> list[Proof]:
    """Train the task by each strategy at each number of ranks, and hold the losses against one process.

    variants: by name, as `Where.spread` gives them (`comparison.variants`); each strategy is taken once. every: score
    the held-out samples each so many steps. brief: steps at those numbers of ranks at which speed is not measured.
    All strategies of a number of ranks share one launch; one that fails ends it, and the rest get a new one. The first
    proof is the single process; raise UserError if that fails, or takes too few steps to show a gradient.
    """
    if task.steps < 2:
        raise UserError(f"steps={task.steps} proves nothing: the first loss knows no gradient yet; take at least 2")
    strategies: dict[Callable, tuple[str, str]] = {}
    for name, variant in variants.items():
        strategies.setdefault(variant.strategy, (name, variant.precision))
    strategies.pop(single, None)
    proofs: list[Proof] = []
    progress = Progress("proof", "ranks", run_folder())
    try:
        for number in sorted({1, *where.ranks}):
            own = replace(task, steps=task.steps if number == where.most else min(brief, task.steps))
            asked = [(Proof("1 process", 1, "fp32"), single, task)] if number == 1 else []
            if number in where.ranks:
                asked += [(Proof(name, number, how), way, own) for way, (name, how) in strategies.items()]
            _prove(where, number, asked, every, progress, proofs)
    finally:
        progress.done()
    return proofs


def _prove(where: Where, ranks: int, asked: list[tuple], every: int, progress: Progress, proofs: list[Proof]) -> None:
    """Append the proofs at one number of ranks."""
    while asked:
        try:
            launch = where.launch(ranks)
        except UserError as error:  # there are no GPUs for so many, or they don't divide among the machines
            proofs += [replace(proof, reason=str(error)) for proof, _, _ in asked]
            return
        with launch:
            while asked and not launch.over:
                proof, strategy, task = asked.pop(0)
                progress.preparing(ranks, proof.strategy)
                proofs.append(_proven(launch, proof, strategy, task, every, proofs[0] if proofs else None))
                if proofs[0].reason:
                    raise UserError(f"one process can't train this, so no strategy can be proven: {proofs[0].reason}")


def _proven(launch: Launch, proof: Proof, strategy: Callable, task: Task, every: int, reference: Proof | None) -> Proof:
    """Return the proof with what was found; reference: that of one process, None if this is it."""
    try:
        launch.order("begin", strategy=strategy, task=task)
        found = launch.order("evaluate", every=every)[0]
    except UserError as error:  # it can't be spread over so many ranks
        return replace(proof, reason=str(error))
    except RankFailed as error:
        return replace(proof, reason=str(error), failed=True)
    proof = replace(proof, **found)
    reference = reference or proof
    difference = largest_difference(proof.losses, reference.losses[: task.steps])
    scored = dict(reference.curve).get(len(proof.losses))
    apart = None if scored is None else abs(proof.accuracy - scored)
    return replace(proof, difference=difference, apart=apart)
