"""Checkpoints that are whole or not there, through torch.distributed.checkpoint, and the restart from them.

Each rank writes what it holds under the names of the whole model, so that another number of ranks, or another strategy,
can read it. A checkpoint is written beside its place and renamed when all ranks are done: what has the name is whole.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from kit.errors import UserError
from kit.techniques.training.ranks.launch import Launch
from kit.techniques.training.task import Task

_NAME = re.compile(r"step-(\d+)")
_TASK = "task.json"


def tensors(parameters: dict[str, Tensor], optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return this rank's weights and momenta by name, sharing their memory. A momentum that is not there yet becomes 0,
    which to SGD is the same."""
    names = {parameter: name for name, parameter in parameters.items()}
    found = {name: _spread(parameter, parameter) for name, parameter in parameters.items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else []:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
                found[f"momentum.{names[parameter]}"] = _spread(state["momentum_buffer"], parameter)
    return found


def _spread(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor that is spread as its parameter is: between steps DDP keeps a DTensor as its local part only."""
    tensor = tensor.detach()
    spec = getattr(parameter, "_st_info", None)
    if spec is None or isinstance(tensor, DTensor):
        return tensor
    return DTensor.from_local(tensor, spec.mesh, spec.placements, run_check=False, shape=spec.shape, stride=spec.stride)


def newest(folder: str | Path) -> int:
    """Return the step of the newest complete checkpoint in a folder; 0 if there is none."""
    found = [_NAME.fullmatch(path.name) for path in Path(folder).glob("step-*")]
    return max((int(match[1]) for match in found if match), default=0)


def save(folder: str | Path, held: dict[str, Tensor], step: int, task: Task) -> None:
    """Save what all ranks hold after `step` steps, then remove older checkpoints. All ranks must call this.

    Raise UserError if a rank can't see the folder: several machines must share it.
    """
    import torch.distributed.checkpoint as dcp  # takes a while, and most ranks never save

    place, partial = Path(folder, f"step-{step}"), Path(folder, f"step-{step}.partial")
    first = dist.get_rank() == 0
    if first:
        for left in Path(folder).glob("*.partial"):
            shutil.rmtree(left)
        partial.mkdir(parents=True)
    dist.barrier()
    _check_shared(partial)
    dcp.save(held, storage_writer=dcp.FileSystemWriter(partial, sync_files=True))
    if first:
        Path(partial, _TASK).write_text(json.dumps(asdict(task)))
        _rename(partial, place)
        for old in Path(folder).glob("step-*"):
            if old != place:
                shutil.rmtree(old)
    dist.barrier()


def _rename(partial: Path, place: Path) -> None:
    if place.exists():  # of an earlier attempt at the same step
        shutil.rmtree(place)
    partial.rename(place)
    entry = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(entry)  # or the name may be lost with the power
    finally:
        os.close(entry)


def resume(folder: str | Path, held: dict[str, Tensor], task: Task) -> int:
    """Read the newest complete checkpoint into what this rank holds, and return its step; without one, return 0. All
    ranks must call this; rank 0 decides which it is.

    Raise UserError if it is of another task or model, or if a rank can't see it.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    told = [_chosen(Path(folder), task) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told)
    step, wrong = told[0]
    if wrong:
        raise UserError(wrong)
    if step:
        place = Path(folder, f"step-{step}")
        _check_shared(place)
        try:
            dcp.load(held, storage_reader=dcp.FileSystemReader(place))
        except CheckpointException as error:
            reasons = {str(wrapped[0]) for wrapped in error.failures.values()}
            raise UserError(
                f"{place} can't be read into this model: {'; '.join(sorted(reasons))}; take an empty folder"
            ) from None
    return step


def _chosen(folder: Path, task: Task) -> tuple[int, str]:
    """Return the step to go on from, and what is wrong with it."""
    step = newest(folder)
    if not step:
        return 0, ""
    theirs, own = json.loads(Path(folder, f"step-{step}", _TASK).read_text()), json.loads(json.dumps(asdict(task)))
    other = [f"{name}={theirs.get(name)!r}" for name in own if name != "steps" and theirs.get(name) != own[name]]
    if other:
        return 0, f"the checkpoint in {folder} is of a task with {', '.join(other)}; take an empty folder"
    if step > task.steps:
        return 0, f"the checkpoint in {folder} is of step {step}, the task has {task.steps}; take an empty folder"
    return step, ""


def _check_shared(path: Path) -> None:
    if not path.is_dir():
        raise UserError(f"rank {dist.get_rank()} can't see {path.parent}; give a folder that all machines share")


@dataclass(frozen=True)
class Restart:
    """What became of a run in which a rank was killed. Losses are a step: `uninterrupted` of all steps without the
    kill, `restarted` of those after `resumed_from`. killed_at: the step in which the rank was killed."""

    uninterrupted: list[float]
    restarted: list[float]
    killed_at: int
    resumed_from: int

    @property
    def max_difference(self) -> float:
        """The largest difference of a loss after the restart to the same step's without the kill."""
        pairs = zip(self.uninterrupted[self.resumed_from :], self.restarted, strict=True)
        return max(abs(one - other) for one, other in pairs)


def restart_shown(task: Task, strategy: Any, *, ranks: int = 2, every: int = 3, **options: Any) -> Restart:
    """Train a task, then again with the last rank killed by SIGKILL half way: torch's launcher starts all ranks anew,
    and they go on from the last checkpoint. every: steps from one to the next. options: of `Launch`.

    Raise UserError if no checkpoint lies before the kill, RankFailed if the restart fails.
    """
    killed_at = task.steps // 2 + 1
    if not 1 <= every < killed_at:
        raise UserError(f"every={every} saves nothing before step {killed_at}, where a rank is killed; take less")
    with (
        tempfile.TemporaryDirectory(prefix="kit-checkpoint-") as folder,
        Launch(ranks, restarts=1, **options) as launch,
    ):
        launch.order("begin", strategy=strategy, task=task)
        whole = launch.order("train")[0]["losses"]
        die_at = (ranks - 1, killed_at)
        after = launch.order("train_saving", folder=folder, every=every, die_at=die_at)[0]
    return Restart(whole, after["losses"], killed_at, after["began"])
