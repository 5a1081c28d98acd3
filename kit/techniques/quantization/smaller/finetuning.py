"""A few more epochs for a module that was pruned: the best one stays, by a validation part of the training data."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import UserError
from kit.techniques.quantization.subjects.nets import Pair
from kit.techniques.quantization.work import Subject

RATE, BATCH, LARGEST_GRADIENT = 0.02, 64, 1.0


def tuned(module: nn.Module, train: Pair, validation: Pair, epochs: int) -> float:
    """Train on and leave the module, in eval mode, as it was when it did best on the validation; return how well.

    Masks stay: torch multiplies each weight by its mask whenever the module is called.
    """
    best, state = judged(module, *validation), copy.deepcopy(module.state_dict())
    steps = epochs * -(-len(train[0]) // BATCH)
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    with torch.random.fork_rng([]):  # the caller's own random numbers stay as they were
        torch.manual_seed(0)
        for _ in range(epochs):
            _epoch(module, *train, optimizer, schedule)
            if (reached := judged(module, *validation)) > best:
                best, state = reached, copy.deepcopy(module.state_dict())
    module.load_state_dict(state)
    return best[0]


def _epoch(module: nn.Module, inputs: Tensor, targets: Tensor, optimizer, schedule) -> None:
    module.train()
    for batch in torch.randperm(len(inputs)).split(BATCH):
        optimizer.zero_grad()
        _loss(module(inputs[batch]), targets[batch]).backward()
        nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
    module.eval()


def judged(module: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the accuracy, 0 to 1, and the loss below zero, which orders what is equally accurate."""
    with torch.inference_mode():
        logits = torch.cat([module(part) for part in inputs.split(4 * BATCH)])
        accuracy = (logits.argmax(-1) == targets).double().mean()
        return float(accuracy), -float(_loss(logits, targets))


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def check_classes(subject: Subject, module: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Raise `UserError` if cross entropy is no measure of what the module does."""
    with torch.inference_mode():
        logits = module(inputs[:2])
    if not isinstance(logits, Tensor) or targets.is_floating_point() or logits.shape[:-1] != targets[:2].shape:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"{subject.name}: for targets {list(targets[:2].shape)} of {targets.dtype} the module returned {got}; "
            "fine-tuning is by cross entropy: let it return logits [..., classes], and targets be classes as int64"
        )
