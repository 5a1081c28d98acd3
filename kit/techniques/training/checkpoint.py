"""Checkpoints by `torch.distributed.checkpoint` that are complete or absent, and the restart from the newest one.

Each rank writes the parts that it holds, under their names in the whole model, so that other ranks can read them. A
checkpoint is written under another name and renamed when all ranks are done.
"""

import os
import re
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from kit.errors import UserError
from kit.record.document import Chart, Series
from kit.techniques.training.launch import RankFailed, Ranks, World, in_worker
from kit.techniques.training.strategies import Training
from kit.techniques.training.workload import Task


def state(training: Training) -> dict[str, Any]:
    """Return this rank's weights and momenta by their names in the whole model, sharing their memory."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(flatten_optimizer_state_dict=True)
    weights, momenta = get_state_dict(training.model, training.optimizer, options=options)
    return weights | momenta


def newest(folder: str | Path) -> int:
    """Return the step of the newest complete checkpoint in a folder; 0 if there is none."""
    names = [re.fullmatch(r"step-(\d+)", path.name) for path in Path(folder).glob("step-*")]
    return max((int(match[1]) for match in names if match), default=0)


def save(folder: str | Path, training: Training, step: int, task: Task) -> None:
    """Save the state of all ranks after `step` steps, then remove other checkpoints. All ranks must call this."""
    import torch.distributed.checkpoint as dcp  # slow to import, and most ranks never save

    place, partial = Path(folder, f"step-{step}"), Path(folder, f"step-{step}.partial")
    dcp.save(state(training), storage_writer=dcp.FileSystemWriter(partial, sync_files=True))
    if dist.get_rank() == 0:
        Path(partial, "task").write_text(_description(task))
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        for old in Path(folder).glob("step-*"):
            if old != place:
                shutil.rmtree(old)
    dist.barrier()


def resume(folder: str | Path, training: Training, task: Task) -> int:
    """Load the newest complete checkpoint into a training and return its step; 0 if there is none. All ranks must call
    this; rank 0 chooses it. Raise UserError if it is of another task."""
    import torch.distributed.checkpoint as dcp

    chosen = [newest(folder)]
    dist.broadcast_object_list(chosen)
    place = Path(folder, f"step-{chosen[0]}")
    if chosen[0]:
        if Path(place, "task").read_text() != _description(task):
            raise UserError(f"the checkpoint in {folder} is of another task; give an empty folder")
        dcp.load(state(training), storage_reader=dcp.FileSystemReader(place))
    return chosen[0]


def _description(task: Task) -> str:
    return re.sub(r" at 0x\w+", "", repr(replace(task, steps=1, check_steps=2)))  # functions have addresses


def restart(task: Task, strategy: Any, *, ranks: int = 2, every: int = 3) -> Chart:
    """Train a task with the last rank killed by SIGKILL half way, resume from the last checkpoint, and train it whole.

    every: steps from one checkpoint to the next. Return the losses of both trainings, with the end of the launch.
    """
    killed_at = task.check_steps // 2 + 1
    if not 1 <= every < killed_at:
        raise UserError(f"every={every} saves nothing before step {killed_at}, where a rank is killed; give less")
    with tempfile.TemporaryDirectory(prefix="kit-checkpoint-") as folder:
        reason = "the kill ended no rank"
        try:
            in_worker(_launched, ranks, strategy, task, every, (folder, killed_at))
        except RankFailed as error:
            reason = str(error)
        after, whole = in_worker(_launched, ranks, strategy, task, every, (folder, 0), (f"{folder}/whole", 0))
    start, steps = after["resumed_from"], list(range(1, task.check_steps + 1))
    difference = max(abs(one - other) for one, other in zip(whole["losses"][start:], after["losses"], strict=True))
    return Chart(
        f"A rank killed in step {killed_at}: training resumes after step {start}",
        "step",
        "loss (nats)",
        [Series("uninterrupted", steps, whole["losses"]), Series("after the restart", steps[start:], after["losses"])],
        note=f"The launch ended: {reason}. Largest difference after the restart: {difference:.0e}.",
    )


def _launched(ranks: int, strategy: Any, task: Task, every: int, *trainings: tuple[str, int]) -> list[dict[str, Any]]:
    with Ranks(ranks) as launched:
        return [launched.order(train_saving, strategy, task, every, *training)[0] for training in trainings]


def train_saving(world: World, strategy: Any, task: Task, every: int, folder: str, die_at: int) -> dict[str, Any]:
    """Train `check_steps` steps on this rank, from the newest checkpoint in `folder` if there is one; save one every so
    many steps. Return `resumed_from` and the `losses` since. die_at: the step in which the last rank is killed."""
    from kit.techniques.training.bench import Bench

    bench = Bench(world, strategy, task)
    start, losses = resume(folder, bench.training, task), []
    for number, batch in enumerate(bench.batches[start : task.check_steps], start + 1):
        if number == die_at and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append(bench.training.step(*batch))
        if number % every == 0:
            save(folder, bench.training, number, task)
    return {"resumed_from": start, "losses": bench.mean_over_ranks(losses)}
