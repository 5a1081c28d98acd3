"""What each strategy sends and holds at sizes that are not here: counted with torch's fake process group.

The fake group has any number of ranks and moves nothing. One process takes the place of one rank, builds the strategy
as that rank would, takes real steps on random samples, and counts. The numbers are exact; no time is told by them.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import cloudpickle

from kit.errors import UserError
from kit.techniques.training.beyond.shape import heads
from kit.techniques.training.task import Task

PIPELINES = ("pipeline_gpipe", "pipeline_1f1b", "pipeline_interleaved")
"""Strategies with as many stages as ranks."""


@dataclass(frozen=True)
class Count:
    """One strategy at one size. rank: the one counted, the busiest: in a pipeline one in the middle, else the first.

    calls, num_bytes: of a step by kind of operation, as in `communication.Traffic`. held: parameters on this rank.
    state_bytes: of its weights and optimizer. reason: why there is nothing to count; then the rest is empty.
    """

    strategy: str
    ranks: int
    rank: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    num_bytes: dict[str, int] = field(default_factory=dict)
    held: int = 0
    parameters: int = 0
    state_bytes: int = 0
    reason: str = ""


def counts(
    strategies: Sequence[Callable],
    task: Task,
    ranks: Iterable[int] = (8, 64, 512),
    *,
    samples: int = 8,
    limit_s: float = 60.0,
) -> list[Count]:
    """Return what each strategy sends and holds at each number of ranks, counted in a process of its own.

    samples: of each rank, so that the batch grows with the ranks; a pipeline gets as many pieces as it has stages, if
    the task has fewer. What can't be had says why in `reason`, and so does what is not counted after `limit_s` seconds.
    """
    if samples < 1 or any(size < 2 for size in ranks):
        raise UserError("counting takes at least 1 sample a rank and 2 ranks")
    asked = [(strategy, size) for size in ranks for strategy in strategies]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    with tempfile.TemporaryFile() as found, tempfile.TemporaryFile() as said:
        ended = f"not counted within {limit_s:g} s; take fewer samples or a higher limit"
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = subprocess.run(
                [sys.executable, "-P", "-m", "kit.techniques.training.beyond.counts"],
                input=cloudpickle.dumps((asked, task, samples)),
                stdout=found,
                stderr=said,
                env=environment | {"OMP_NUM_THREADS": "1"},
                timeout=limit_s,
            ).returncode
            ended = f"the counting process ended with status {status}: {_last_line(said)}"
        found.seek(0)
        done = [Count(**json.loads(line)) for line in found if line.endswith(b"\n")]
    return done + [Count(strategy.__name__, size, reason=ended) for strategy, size in asked[len(done) :]]


def pieces(strategy: str, ranks: int, asked: int) -> int:
    """Return how many pieces a rank's batch is cut into: in a pipeline at least as many as there are stages."""
    return -(-max(asked, ranks) // ranks) * ranks if strategy in PIPELINES else asked


def misfit(strategy: str, ranks: int, heads: int | None) -> str:
    """Return why a strategy does not go with a number of ranks or heads, or nothing."""
    split = {"tensor_parallel": ranks, "ddp_tensor": 2, "fsdp_tensor": 2}.get(strategy, 1)
    if split > 1 and heads is not None and heads % split:
        return f"{heads} heads do not divide among {split} ranks"
    if strategy in ("ddp_tensor", "fsdp_tensor", "pipeline_fsdp") and ranks % 2:
        return f"{ranks} ranks do not divide into two halves"
    return ""


def _last_line(file: Any) -> str:
    file.seek(0)
    return (file.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:200]


def _counted(strategy: Callable, ranks: int, task: Task, samples: int) -> Count:
    """Count in this process, which must have no process group yet."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from kit.measure.worker import one_line

    name = strategy.__name__
    rank = ranks // 2 if name.startswith("pipeline") else 0
    if reason := misfit(name, ranks, heads(task)):
        return Count(name, ranks, rank, reason=reason)
    task = replace(task, batch=samples * ranks, pieces=pieces(name, ranks, task.pieces), compile=False)
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        return _steps(strategy, task, rank, ranks)
    except UserError as error:
        return Count(name, ranks, rank, reason=str(error))
    except Exception as error:  # whatever torch says of a split that is not possible
        return Count(name, ranks, rank, reason=one_line(error))
    finally:
        dist.destroy_process_group()


def _steps(strategy: Callable, task: Task, rank: int, ranks: int) -> Count:
    """Take three steps and count the third: DDP arranges its buckets during the first two."""
    import torch
    from torch.distributed.tensor import DTensor

    from kit.techniques.training.communication import counted
    from kit.techniques.training.world import World

    training = strategy(task, World(rank, ranks, torch.device("cpu"), silent=True))
    parameters = [parameter for module in training.modules for parameter in module.parameters()]
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    data = task.dataset().train
    rows = torch.arange(task.batch // training.share[1]) % len(data[0])
    batch = [tensor[rows] for tensor in data]
    for module in training.modules:
        _answer(module)
    training.step(*batch)
    training.step(*batch)
    traffic = counted(lambda: training.step(*batch))
    states = [t for o in training.optimizers for state in o.state.values() for t in state.values()]
    tensors = [t.to_local() if isinstance(t, DTensor) else t for t in (*parameters, *states) if torch.is_tensor(t)]
    return Count(
        strategy=strategy.__name__,
        ranks=ranks,
        rank=rank,
        calls=traffic.calls,
        num_bytes=traffic.num_bytes,
        held=held,
        parameters=sum(p.numel() for p in task.build("meta").parameters()),
        state_bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def _answer(module: Any) -> None:
    """Have DDP ask for its all-reduce through Python, where `_replies` can answer: the fake group's own answer to it
    is None, which DDP takes for an error."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(module, DistributedDataParallel) and not module._comm_hooks:
        module.register_comm_hook(module.process_group, allreduce_hook)


class _Done:
    """An all-reduce that is over: what DDP's hooks wait for."""

    def __init__(self, tensor: Any):
        self.tensor = tensor

    def wait(self) -> bool:
        return True

    def get_future(self) -> Any:
        import torch

        future = torch.futures.Future()
        future.set_result([self.tensor])
        return future


def _replies() -> None:
    """Let asynchronous all-reduces of the fake group return their tensor, in this process only."""
    import torch.distributed as dist

    silent = dist.all_reduce

    def all_reduce(tensor: Any, *arguments: Any, async_op: bool = False, **options: Any) -> _Done | None:
        silent(tensor, *arguments, **options)
        return _Done(tensor) if async_op else None

    dist.all_reduce = all_reduce


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def main() -> None:
    """Count what standard input asks for; print a line of JSON for each, as soon as it is known."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed is no result
    asked, task, samples = cloudpickle.loads(sys.stdin.buffer.read())
    import torch

    torch.set_num_threads(1)
    _replies()
    for strategy, ranks in asked:
        print(json.dumps(asdict(_counted(strategy, ranks, task, samples))), file=results)


if __name__ == "__main__":
    main()
