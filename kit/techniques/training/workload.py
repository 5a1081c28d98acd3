"""The workload: one model, one dataset, one order of batches, the same for every strategy and every rank.

Your own model is a function that returns a `torch.nn.Module` whose forward takes one tensor and returns logits
[..., classes]. Whole copies of it can be trained, and its parameters sharded as one unit. With more, more is possible:

- `embed`, `layers` (a ModuleList) and `head`, with `forward(x) == head(layers[-1](… layers[0](embed(x))))`: it can be
  cut into the stages of a pipeline, and sharded layer by layer;
- `tensor_parallel_plan()`, torch's plan for `parallelize_module` of one of the `layers`: these can be split;
- `loss(logits, targets)`, a scalar, the mean over the batch: instead of cross entropy over the last dimension.

Its weights must be a function of torch's seed alone. Your own data is a function that returns (inputs, targets),
tensors or arrays with the samples along the first dimension, or a `Dataset`; of (train, test) halves the first counts.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kit.common import datasets
from kit.common.address import call, resolve
from kit.common.parameters import at_least, one_of, positive
from kit.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """inputs, targets: of equal length. item: what throughput counts, `items_per_sample` of it in each sample: images,
    or the tokens of a line of text."""

    inputs: Tensor
    targets: Tensor
    item: str = "samples"
    items_per_sample: int = 1


@dataclass(frozen=True)
class Task:
    """A training task; it is sent to every rank.

    model, data: names in `MODELS` and `DATASETS`, "package.module:function", or a function, also one of a notebook.
    batch: samples per step, over all ranks. steps: of one measurement. check_steps: of the training that is checked.
    lr, momentum: of plain SGD, on purpose: Adam divides by the size of a gradient, and would hide a wrong factor.
    pieces: parts into which accumulation and pipelines cut a rank's share of a batch.
    """

    model: str | Callable[[], nn.Module] = "image_classifier"
    data: str | Callable[[], Any] = "mnist"
    batch: int = 128
    steps: int = 3
    check_steps: int = 20
    lr: float = 0.05
    momentum: float = 0.9
    pieces: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in dict(batch=1, steps=1, check_steps=2, pieces=1).items():
            at_least(getattr(self, name), least, name, whole=True)
        positive(self.lr, "lr")

    def build(self, device: Any = "cpu") -> nn.Module:
        """Return the model with the weights that the seed gives, the same on every rank, on `device`."""
        torch.manual_seed(self.seed)
        return _trainable(call(_function(self.model, MODELS, "model"), {})).to(device)

    def loss(self, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the model's own loss(logits, targets), or cross entropy: the mean over all samples, in nats."""
        return getattr(model, "loss", cross_entropy)

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Return SGD over `parameters`."""
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def dataset(self) -> Dataset:
        """Return the dataset as float32 and int64 tensors. Raise UserError if the model can't be trained on it."""
        dataset = _loaded(self.data)
        _check_fit(self.build(), dataset.inputs, dataset.targets)
        return dataset

    def batches(self, dataset: Dataset, share: tuple[int, int] = (0, 1)) -> list[tuple[Tensor, Tensor]]:
        """Return the batches (inputs, targets) of all steps in seeded order; the data is repeated if it is too short.

        share: (index, number): the part of each batch to take. Raise UserError if a batch can't be divided.
        """
        inputs, targets, (index, number) = dataset.inputs, dataset.targets, share
        if self.batch % number:
            raise UserError(f"batch={self.batch} can't be divided among {number} ranks; give a multiple of {number}")
        if self.batch > len(inputs):
            raise UserError(f"batch={self.batch} is above the {len(inputs)} samples of the data; give a smaller one")
        generator, needed = torch.Generator().manual_seed(self.seed), self.batch * max(self.steps, self.check_steps)
        epochs = -(-needed // len(inputs))
        order = torch.cat([torch.randperm(len(inputs), generator=generator) for _ in range(epochs)])
        rows = order[:needed].view(-1, number, self.batch // number)[:, index]
        return [(inputs[part], targets[part]) for part in rows]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of logits [..., classes] to targets [...], in nats."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def flops(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor) -> int:
    """Return the floating-point operations of a forward and backward pass: those of matrix products and convolutions.

    A multiplication and an addition count as two; causal attention counts in full, as is usual for model FLOP
    utilisation (MFU).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # the counter has no formula for the CPU's fused attention
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.autograd.grad(loss(model(inputs), targets), trained, allow_unused=True)
    return counter.get_total_flops()


# ------------------------------------------------------------------------------------------------------------ models


class Layer(nn.Module):
    """A pre-norm transformer layer: self-attention, then an MLP four times as wide."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.head_dim, self.causal = dim // heads, causal
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # [batch, length, heads · 3 · head_dim] → 3 × [batch, heads, length, head_dim], of the heads of this rank
        heads = self.qkv(self.attention_norm(x)).unflatten(2, (-1, 3, self.head_dim)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(*heads.unbind(3), is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Embed(nn.Module):
    """Square patches of images [batch, 1, size, size], or tokens [batch, length] → [batch, length, dim]."""

    def __init__(self, content: nn.Module, dim: int, length: int, patch: int = 0) -> None:
        super().__init__()
        self.content, self.patch = content, patch
        self.position = nn.Parameter(torch.randn(length, dim) / 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2) if self.patch else x
        return self.content(x) + self.position[: x.shape[1]]


class Head(nn.Module):
    """Logits of each position, or, `pooled`, of the mean of all positions."""

    def __init__(self, dim: int, classes: int, pooled: bool) -> None:
        super().__init__()
        self.pooled, self.norm, self.logits = pooled, nn.LayerNorm(dim), nn.Linear(dim, classes, bias=False)
        nn.init.normal_(self.logits.weight, std=0.1 * dim**-0.5)  # the first guess is near uniform

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.norm(x.mean(1) if self.pooled else x))


class Transformer(nn.Module):
    """A transformer: embed → layers → head. Without dropout, so that all strategies compute the same."""

    def __init__(self, embed: nn.Module, layers: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.embed, self.layers, self.head = embed, nn.ModuleList(layers), head

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def tensor_parallel_plan(self) -> dict[str, Any]:
        """Return torch's plan for one layer: every rank holds some of the heads and some of the MLP's width."""
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

        return {"qkv": ColwiseParallel(), "out": RowwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}


def image_classifier(dim: int = 64, layers: int = 8, heads: int = 4, patch: int = 14) -> Transformer:
    """Return a small vision transformer: images [batch, 1, 28, 28] → logits [batch, 10]."""
    embed = Embed(nn.Linear(patch * patch, dim, bias=False), dim, (28 // patch) ** 2, patch)
    return Transformer(embed, [Layer(dim, heads, causal=False) for _ in range(layers)], Head(dim, 10, pooled=True))


def language_model(dim: int = 128, layers: int = 8, heads: int = 4, context: int = 64) -> Transformer:
    """Return a causal language model of bytes: tokens [batch, length] → logits [batch, length, 256] of the next."""
    embed = Embed(nn.Embedding(256, dim), dim, context)
    return Transformer(embed, [Layer(dim, heads, causal=True) for _ in range(layers)], Head(dim, 256, pooled=False))


MODELS: dict[str, Callable[..., nn.Module]] = {"image_classifier": image_classifier, "language_model": language_model}


# -------------------------------------------------------------------------------------------------------------- data


def mnist() -> Dataset:
    """Return 4,000 handwritten digits: images [N, 1, 28, 28], targets [N]."""
    (images, labels), _ = datasets.mnist()
    return Dataset(torch.from_numpy(images), torch.from_numpy(labels), "images")


def text(context: int = 64) -> Dataset:
    """Return Python's language reference as bytes, about half a million: inputs [N, context], targets moved on by one.
    The text depends on Python's version."""
    stream = torch.frombuffer(bytearray(datasets.text().encode()), dtype=torch.uint8).long()
    number = (len(stream) - 1) // context
    inputs, targets = (stream[start : start + number * context].view(number, context) for start in (0, 1))
    return Dataset(inputs, targets, "tokens", context)


DATASETS: dict[str, Callable[..., Dataset]] = {"mnist": mnist, "text": text}


# ------------------------------------------------------------------------------------------------- your own, checked


@functools.lru_cache(maxsize=1)
def _loaded(data: str | Callable) -> Dataset:
    return _checked(call(_function(data, DATASETS, "data"), {}))


def _function(named: str | Callable, known: dict[str, Callable], what: str) -> Callable:
    """Return the function of a built-in name, an address, or the function itself."""
    if callable(named):
        return named
    return resolve(named) if ":" in named else known[one_of(named, known, what)]


def _trainable(model: Any) -> nn.Module:
    """Return the model. Raise UserError for one that can't be the same on every rank."""
    if not isinstance(model, nn.Module):
        raise UserError(f"the model is of type {type(model).__name__}; let its function return a torch.nn.Module")
    for name, module in model.named_modules():
        where = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise UserError(f"{where} depends on the samples that a rank sees; use LayerNorm, GroupNorm or .eval()")
        share = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0)
        if isinstance(share, int | float) and share:
            raise UserError(f"{where} drops {share:g} of its values, different ones on every rank; set it to 0")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the model has no parameter with requires_grad, so there is nothing to train; set some")
    return model


def _check_fit(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Try the model on the first two samples, before it fails on every rank. Raise UserError if they don't fit."""
    try:
        logits = model(inputs[:2])
        loss = getattr(model, "loss", cross_entropy)(logits, targets[:2])
    except Exception as error:  # each kind of layer has its own
        pair = f"inputs {list(inputs.shape)} ({inputs.dtype}) and targets {list(targets.shape)} ({targets.dtype})"
        raise UserError(
            f"the model can't be trained on {pair}, {type(error).__name__}: {error}; give logits [..., classes] for "
            "integers [...], or the model a method loss(logits, targets)"
        ) from error
    if not hasattr(model, "loss") and targets.max() >= logits.shape[-1]:
        raise UserError(f"a target is {targets.max()}, and the model has {logits.shape[-1]} classes; give it more")
    if not isinstance(loss, Tensor) or loss.dim() or not loss.isfinite():
        raise UserError(f"the loss of the first samples is {loss}; it must be a scalar tensor with a finite number")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    if unused := [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]:
        raise UserError(f"{unused[0]} gets no gradient from the loss; use it in forward, or set requires_grad=False")


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the model's `layers`; none if it has no list of modules by that name."""
    layers = getattr(model, "layers", None)
    if isinstance(layers, nn.ModuleDict):
        return list(layers.values())
    return list(layers) if isinstance(layers, nn.ModuleList | nn.Sequential) else []


def _checked(found: Any) -> Dataset:
    """Return a dataset as tensors. Raise UserError for data that can't be trained on."""
    pair = (found.inputs, found.targets) if isinstance(found, Dataset) else found
    pair = pair[0] if isinstance(pair, tuple) and pair and isinstance(pair[0], tuple) else pair
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise UserError(f"the data's function returned {type(found).__name__}; let it return (inputs, targets)")
    inputs, targets = _tensor(pair[0], "inputs"), _tensor(pair[1], "targets")
    if len(inputs) != len(targets):
        raise UserError(f"the data has {len(inputs)} inputs and {len(targets)} targets; give one target per input")
    known = found if isinstance(found, Dataset) else Dataset(inputs, targets)
    return replace(known, inputs=inputs, targets=targets)


def _tensor(values: Any, name: str) -> Tensor:
    """Return values as a float32 or int64 tensor on the CPU. Raise UserError for what can't be trained on."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise UserError(f"{name} are of type {array.dtype}; give a torch tensor or NumPy array of numbers")
        values = torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
    values = values.detach().cpu().to(torch.float32 if values.is_floating_point() else torch.int64)
    if values.dim() == 0 or values.numel() == 0:
        raise UserError(f"{name} have shape {list(values.shape)}; give at least one sample, along the first dimension")
    if wrong := int((~values.isfinite()).sum()):
        raise UserError(f"{wrong} of {values.numel()} values in {name} are NaN or infinite; drop or fill them")
    return values
