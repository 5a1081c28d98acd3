"""One task in training by one strategy, as each rank holds it: trained, timed, counted.

`begin` and `ask` are orders for `launch.Ranks`: all ranks carry them out, so that a collective finds all.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from kit.techniques.training import workload
from kit.techniques.training.launch import World
from kit.techniques.training.strategies import Training
from kit.techniques.training.workload import Task


def begin(world: World, key: str, strategy: Callable, task: Task) -> dict[str, Any]:
    """Build the task's model by a strategy and keep it as `key`. Return this rank's share of the parameters
    (`held_share`), the operations of a step over all ranks (`step_flops`), and `item`, `items_per_sample`."""
    world.state.pop(key, None)
    gc.collect()
    bench = world.state[key] = Bench(world, strategy, task)
    whole, sample = task.build(), (bench.dataset.inputs[:1], bench.dataset.targets[:1])
    held = sum(_local(parameter).numel() for parameter in bench.parameters.values())
    return {
        "held_share": held / sum(parameter.numel() for parameter in whole.parameters()),
        "step_flops": workload.flops(whole, task.loss(whole), *sample) * task.batch,
        "item": bench.dataset.item,
        "items_per_sample": bench.dataset.items_per_sample,
    }


def ask(world: World, key: str, name: str, *arguments: Any) -> Any:
    """Call a method of the bench `key` on this rank and return its answer."""
    return getattr(world.state[key], name)(*arguments)


class Bench:
    """A strategy's training of one task on this rank. Each measurement starts from the first weights."""

    def __init__(self, world: World, strategy: Callable, task: Task):
        self.world, self.task, self.strategy, self.dataset = world, task, strategy, task.dataset()
        self.training: Training = strategy(task, world)
        # by their names in the whole model, before the first step: DDP over tensor parallelism then replaces them
        self.parameters = dict(getattr(self.training.model, "module", self.training.model).named_parameters())
        self.first = {name: _local(p).detach().clone() for name, p in self.parameters.items()}
        batches = task.batches(self.dataset, self.training.share)
        self.batches = [(x.to(world.device), y.to(world.device)) for x, y in batches]

    def reset(self) -> None:
        """Put the first weights back and forget the momentum."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                _local(parameter).copy_(self.first[name])
        self.training.optimizer.state.clear()

    def train(self, steps: int) -> dict[str, Any]:
        """Train from the first weights. Return `seconds` of all steps on the slowest rank, and the `losses`."""
        self.reset()
        losses: list[Tensor | None] = []
        seconds = _slowest(self.world, lambda: losses.extend(self.training.step(*b) for b in self.batches[:steps]))
        return {"seconds": seconds, "losses": self.mean_over_ranks(losses)}

    def mean_over_ranks(self, losses: list[Tensor | None]) -> list[float]:
        """Return the loss of each step over the whole batch: the mean over the ranks that computed one."""
        seen = [[0.0, 0.0] if loss is None else [float(loss), 1.0] for loss in losses]
        total = torch.tensor(seen, dtype=torch.float64, device=self.world.device)
        dist.all_reduce(total, group=self.world.group)
        return (total[:, 0] / total[:, 1]).tolist()

    def state_mib(self) -> float:
        """Return the model state on this rank after a step, by its sizes: weights, gradients and optimizer (MiB)."""
        self.train(1)
        states = self.training.optimizer.state.values()
        tensors = [tensor for state in states for tensor in state.values() if torch.is_tensor(tensor)]
        for parameter in self.parameters.values():
            tensors += [parameter, parameter] if parameter.requires_grad else [parameter]  # its gradient is as large
        return sum(_local(tensor).numel() * tensor.element_size() for tensor in tensors) / 2**20

    def communication(self) -> dict[str, Any]:
        """Return the `operations` of one step on this rank, calls by kind, and their `num_bytes`: of whole tensors."""
        self.reset()
        with _Communication() as found:
            self.training.step(*self.batches[0])
        return {"operations": found.operations, "num_bytes": found.num_bytes}

    def exposed(self, steps: int, repeats: int = 3) -> dict[str, float]:
        """Return of DDP the share of a step that is exposed communication, 1 − t(no_sync) ÷ t(sync), with `step_s` and
        `own_step_s` without communication: medians of paired repeats in random order. Nothing of other strategies."""
        model = self.training.model
        if not isinstance(model, DistributedDataParallel):
            return {}
        order, pairs = random.Random(self.task.seed), []  # the same order on every rank
        for _ in range(repeats + 1):
            first = order.random() < 0.5
            found = {quiet: self._round(model.no_sync if quiet else nullcontext, steps) for quiet in (first, not first)}
            pairs.append((found[False] / steps, found[True] / steps))
        real, own = zip(*pairs[1:], strict=True)  # the first pair is warm-up
        share = statistics.median(1 - quiet / step for step, quiet in pairs[1:])
        return {"exposed_share": share, "step_s": statistics.median(real), "own_step_s": statistics.median(own)}

    def _round(self, context: Callable, steps: int) -> float:
        with context():
            return _slowest(self.world, lambda: [self.training.step(*batch) for batch in self.batches[:steps]])


_KINDS = ("all-reduce", "reduce-scatter", "all-gather", "broadcast", "send")
"""The field's words for torch's operators; the sender counts what is received."""


class _Communication(TorchDispatchMode):
    """Counts collectives and messages. torch's own CommDebugMode counts neither messages nor bytes, and the forward
    pass of a pipeline fails under it (torch 2.13)."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: dict[str, int] = {}
        self.num_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace in ("c10d", "_c10d_functional"):
            kind = next((kind for kind in _KINDS if kind.replace("-", "") in function.__name__.replace("_", "")), "")
            if kind:
                self.operations[kind] = self.operations.get(kind, 0) + 1
                self.num_bytes += max(map(_num_bytes, args), default=0)
        return function(*args, **(kwargs or {}))


def _num_bytes(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(_num_bytes, value))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _slowest(world: World, work: Callable[[], Any]) -> float:
    """Return the seconds that the slowest rank takes for `work`, started together."""
    synchronize = torch.cuda.synchronize if world.device.type == "cuda" else lambda: None
    dist.barrier(world.group)
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64, device=world.device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX, world.group)
    return float(seconds)
