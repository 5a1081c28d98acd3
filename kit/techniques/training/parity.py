"""Does a strategy train the same model? The loss of every step against one process, within the rounding of training.

Under plain SGD a step's loss depends on all gradients before it, so a wrong gradient, also one wrong by a factor, moves
the losses within a few steps. The tolerance is measured, not set: one process trains the same task again, with its
additions in another order and in the precision that a strategy uses on purpose; a strategy may differ a few times as
much. Right strategies differ by at most 3 times that rounding, wrong gradients by 100 times and more.
"""

import math
from itertools import accumulate
from typing import Any

import torch

from kit.errors import UserError
from kit.record.document import CheckResult

SAFETY = 8.0
"""How many times the rounding of one process a strategy may differ."""
FLOOR = 16 * 2.0**-23
"""Least tolerance, relative to the loss: some units in the last place of float32."""


def rounding(task: Any, precision: str = "fp32") -> list[float]:
    """Return by step how far rounding alone moves the loss of one process: the largest difference up to that step.

    precision: "fp32"; "fp16" of gradients; "bf16" of matrix products (autocast), or of weights and activations.
    """
    ways = {"fp32": (2, 4, -1), "fp16": (2, 4), "bf16": (1, 2)}[precision]
    modes = ("bf16 autocast", "bf16 weights") if precision == "bf16" else (precision,)
    exact = losses(task)
    found = [losses(task, mode, pieces) for mode in modes for pieces in ways]
    return list(accumulate((max(abs(o - e) for o in others) for e, *others in zip(exact, *found, strict=True)), max))


def losses(task: Any, mode: str = "fp32", pieces: int = 1) -> list[float]:
    """Return the losses of `check_steps` steps of one process that takes each batch in pieces; −1: whole, reversed."""
    model, found = task.build(), []
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer, loss_of = task.optimizer(parameters.values()), task.loss(model)
    for batch in task.batches(task.dataset())[: task.check_steps]:
        inputs, targets = (tensor.flip(0) if pieces < 0 else tensor for tensor in batch)
        total = 0.0
        for x, y in zip(inputs.chunk(abs(pieces)), targets.chunk(abs(pieces)), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16 autocast"):
                logits = _in_bf16(model, x) if mode == "bf16 weights" else model(x)
            loss = loss_of(logits.float(), y) * len(x) / len(inputs)
            gradients = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                if gradient is None:  # DDP would wait for it
                    raise UserError(f"{name} gets no gradient in some steps; use it in each, or freeze it")
                gradient = gradient.half() if mode == "fp16" else gradient
                parameter.grad = gradient.float() if parameter.grad is None else parameter.grad + gradient
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        found.append(total)
    return found


def _in_bf16(model: Any, x: Any) -> Any:
    """Return the logits with weights and activations in bfloat16; gradients arrive in float32."""
    weights = {name: p.bfloat16() for name, p in model.named_parameters()}
    return torch.func.functional_call(model, weights, (x.bfloat16() if x.is_floating_point() else x,))


def same_training(answer: dict, reference: dict) -> CheckResult:
    """Check a variant's training against the baseline's. Both: {"losses", "precision", "rounding"}.

    Value and threshold are those of the step that is nearest to its tolerance, or farthest above it.
    """
    steps = [
        (abs(one - other), max(FLOOR * max(1.0, abs(other)), SAFETY * noise))
        for one, other, noise in zip(
            answer["losses"], reference["losses"], answer["rounding"] or reference["rounding"], strict=True
        )
    ]
    value, tolerance = max(steps, key=lambda step: step[0] / step[1] if math.isfinite(step[0]) else math.inf)
    same = value <= tolerance
    return CheckResult(
        state="passed" if same else "failed",
        metric=f"{answer['precision']} loss difference",
        value=value if math.isfinite(value) else None,
        threshold=tolerance,
        note="" if same else f"a step's loss differs by {value:.1e}, tolerance {tolerance:.1e}",
    )
