"""Strategies of distributed training, each a short function to read and to lift into your own code.

A strategy is called on every rank with the task and the rank's place (`launch.World`). It builds the model, distributes
it, and returns a `Training`: the step, the modules with this rank's parameters, and its share of each batch. All
strategies train the same model on the same batches, so they must give the losses of one process. What only some need of
torch is imported where it is used: FSDP2 and pipelines take as long to import as torch itself, in every fresh process.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kit.errors import UserError
from kit.techniques.training.launch import World
from kit.techniques.training.workload import Task, layers_of


@dataclass(frozen=True)
class Training:
    """One rank of a training.

    step: (inputs, targets) of this rank's share → its mean loss, or None on a rank that computes none.
    model: holds this rank's parameters. share: (index, number): the part of each batch that this rank takes.
    """

    step: Callable[[Tensor, Tensor], Tensor | None]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    share: tuple[int, int] = (0, 1)


def single(task: Task, world: World) -> Training:
    """One process, one model: the reference for every other strategy."""
    return plain(task, task.build(world.device))


def ddp(task: Task, world: World) -> Training:
    """Every rank holds the whole model and takes its share of the batch; gradients are averaged during backward."""
    mesh = world.mesh(dp=world.size)
    return plain(task, DistributedDataParallel(task.build(world.device), device_mesh=mesh), mesh)


def ddp_accumulated(task: Task, world: World) -> Training:
    """DDP with gradient accumulation: a share in pieces, one averaging after the last; less memory and traffic."""
    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    optimizer, loss_of = task.optimizer(model.parameters()), task.loss(model.module)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        pieces = list(zip(_cut(inputs, task.pieces), _cut(targets, task.pieces), strict=True))
        total = 0.0
        for number, (x, y) in enumerate(pieces, 1):
            with nullcontext() if number == len(pieces) else model.no_sync():
                loss = loss_of(model(x), y) / len(pieces)
                loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return Training(step, model, optimizer, _share(mesh))


def ddp_autocast(task: Task, world: World) -> Training:
    """DDP with matrix products in bfloat16; weights, gradients and their average stay in float32."""
    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    return plain(task, model, mesh, partial(torch.autocast, world.device.type, torch.bfloat16))


def ddp_compressed(task: Task, world: World) -> Training:
    """DDP that sends gradients in float16: half of the bytes, more rounding."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    mesh = world.mesh(dp=world.size)
    model = DistributedDataParallel(task.build(world.device), device_mesh=mesh)
    model.register_comm_hook(mesh.get_group(), fp16_compress_hook)
    return plain(task, model, mesh)


def fsdp(task: Task, world: World) -> Training:
    """FSDP2: every rank holds a slice of each layer, gathers a layer before it is needed, and frees it after."""
    mesh = world.mesh(dp=world.size)
    return plain(task, _shard(task.build(world.device), mesh), mesh)


def fsdp_mixed(task: Task, world: World) -> Training:
    """FSDP2 that gathers and computes in bfloat16; slices, gradient sums and updates stay in float32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    mesh = world.mesh(dp=world.size)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return plain(task, _shard(task.build(world.device), mesh, mp_policy=policy), mesh)


def tensor_parallel(task: Task, world: World) -> Training:
    """Every rank holds some heads and hidden units of each layer, and sees the whole batch."""
    return plain(task, _split(task.build(world.device), world.mesh(tp=world.size)))


def pipeline_gpipe(task: Task, world: World) -> Training:
    """Every rank holds some layers; the batch passes through in pieces: all forward, then all backward."""
    return _pipeline(task, world, world.mesh(pp=world.size), "GPipe")


def pipeline_1f1b(task: Task, world: World) -> Training:
    """A pipeline that takes a piece backward as early as possible: GPipe's bubble, fewer activations in memory."""
    return _pipeline(task, world, world.mesh(pp=world.size), "1F1B")


def ddp_tensor(task: Task, world: World) -> Training:
    """2-D: layers split over pairs of ranks, and DDP over the pairs."""
    mesh = world.mesh(dp=_half(world), tp=2)
    # `replicate` instead of DDP gives wrong gradients here, without an error: tests/test_training.py
    model = DistributedDataParallel(_split(task.build(world.device), mesh["tp"]), device_mesh=mesh["dp"])
    return plain(task, model, mesh["dp"])


def fsdp_tensor(task: Task, world: World) -> Training:
    """2-D: layers split over pairs of ranks, and FSDP2 over the pairs."""
    mesh = world.mesh(dp=_half(world), tp=2)
    return plain(task, _shard(_split(task.build(world.device), mesh["tp"]), mesh["dp"]), mesh["dp"])


def pipeline_fsdp(task: Task, world: World) -> Training:
    """2-D: two pipeline stages, FSDP2 over the half of the ranks that holds each."""
    return _pipeline(task, world, world.mesh(pp=2, dp=_half(world)), "1F1B")


NAMED = {
    "DDP, accumulated": ddp_accumulated,
    "DDP, bf16 autocast": ddp_autocast,
    "DDP, fp16 gradients": ddp_compressed,
    "FSDP2, bf16": fsdp_mixed,
    "tensor parallel": tensor_parallel,
    "pipeline, GPipe": pipeline_gpipe,
    "pipeline, 1F1B": pipeline_1f1b,
    "DDP × tensor": ddp_tensor,
    "FSDP2 × tensor": fsdp_tensor,
    "pipeline × FSDP2": pipeline_fsdp,
}
PRECISIONS = {"ddp_autocast": "bf16", "ddp_compressed": "fp16", "fsdp_mixed": "bf16"}
"""The lowest precision that a strategy uses on purpose, where that is not float32."""
MESHES_2D = ("ddp_tensor", "fsdp_tensor", "pipeline_fsdp")


def plain(task: Task, model: nn.Module, mesh: Any = None, precision: Callable = nullcontext) -> Training:
    """Return the usual training of a model: loss, backward, step, zero.

    mesh: of the ranks that share each batch. precision: a context of the forward pass.
    """
    optimizer, loss_of = task.optimizer(model.parameters()), task.loss(getattr(model, "module", model))

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        with precision():
            logits = model(inputs)
        loss = loss_of(logits.float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Training(step, model, optimizer, (0, 1) if mesh is None else _share(mesh))


def _half(world: World) -> int:
    if world.size % 2:
        raise UserError(f"a 2-D mesh with a dimension of 2 takes an even number of ranks; got {world.size}")
    return world.size // 2


def _share(mesh: Any) -> tuple[int, int]:
    return mesh.get_local_rank(), mesh.size()


def _cut(tensor: Tensor, pieces: int) -> tuple[Tensor, ...]:
    """Cut into equal pieces: the mean of their means is the mean."""
    if len(tensor) % pieces:
        raise UserError(f"a rank's {len(tensor)} samples don't divide into {pieces} pieces; change batch= or pieces=")
    return tensor.chunk(pieces)


def _shard(model: nn.Module, mesh: Any, **options: Any) -> nn.Module:
    """Shard each layer, then the rest: one all-gather per layer."""
    from torch.distributed.fsdp import fully_shard

    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def _split(model: nn.Module, mesh: Any) -> nn.Module:
    """Split each layer over the mesh by the model's own plan."""
    from torch.distributed.tensor.parallel import parallelize_module

    if not hasattr(model, "tensor_parallel_plan") or not layers_of(model):
        raise UserError(
            f"{type(model).__name__} has no tensor_parallel_plan() for its layers; add torch's plan for one"
        )
    for layer in layers_of(model):
        parallelize_module(layer, mesh, model.tensor_parallel_plan())
    return model


class Stage(nn.Module):
    """Consecutive layers of a model, with its embedding in the first stage and its head in the last. Parameters keep
    their names in the whole model."""

    def __init__(self, model: nn.Module, index: int, number: int):
        super().__init__()
        count = len(model.layers)
        own = range(count * index // number, count * (index + 1) // number)
        self.embed = model.embed if index == 0 else None
        self.layers = nn.ModuleDict({str(i): model.layers[i] for i in own})
        self.head = model.head if index == number - 1 else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embed is None else self.embed(x)
        for layer in self.layers.values():
            x = layer(x)
        return x if self.head is None else self.head(x)


def _pipeline(task: Task, world: World, mesh: Any, schedule: str) -> Training:
    """Cut the model into a stage per rank, shard it over `dp` if the mesh has that, and run it by the schedule."""
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import get_schedule_class

    index, number = _share(mesh["pp"])
    dp = mesh["dp"] if "dp" in mesh.mesh_dim_names else None
    model = task.build(world.device)
    _check_stages(model, number)
    part = Stage(model, index, number)
    if dp is not None:
        _shard(part, dp)
    optimizer = task.optimizer(part.parameters())
    stage = PipelineStage(part, index, number, world.device, group=mesh.get_group("pp"))
    running = get_schedule_class(schedule)(stage, task.pieces, loss_fn=task.loss(model))

    def step(inputs: Tensor, targets: Tensor) -> Tensor | None:
        losses: list[Tensor] = []
        _cut(inputs, task.pieces)
        first = (inputs,) if index == 0 else ()
        last = dict(target=targets, losses=losses) if index == number - 1 else {}
        running.step(*first, **last, return_outputs=False)
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack(losses).mean().detach() if losses else None

    return Training(step, part, optimizer, (0, 1) if dp is None else _share(dp))


def _check_stages(model: nn.Module, stages: int) -> None:
    missing = [name for name in ("embed", "layers", "head") if not isinstance(getattr(model, name, None), nn.Module)]
    if missing:
        raise UserError(f"{type(model).__name__} has no module {missing[0]!r}; a pipeline needs embed, layers and head")
    if len(model.layers) < stages:
        raise UserError(f"{len(model.layers)} layers can't fill {stages} stages; take fewer ranks or more layers")
