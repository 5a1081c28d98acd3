"""The models that are trained: a transformer for images and one for text, and what an own model must be.

A model is a `torch.nn.Module` whose forward takes one tensor of inputs and returns logits [..., classes]. That is
enough to train whole copies of it, or to shard its parameters as one unit. With more, more can be done:

- `embed`, `layers` (a ModuleList) and `head`, with `forward(x) == head(layers[-1](… layers[0](embed(x))))`: it can be
  cut into the stages of a pipeline, and sharded layer by layer;
- `tensor_parallel_plan()`, what torch's `parallelize_module` shall do to one of the `layers`: these can be split;
- `loss(logits, targets)`, a scalar, the mean over the batch: instead of cross entropy over the last dimension.

Its weights must be a function of torch's seed alone: seed before the call, and every process holds the same ones.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kit.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Mix what the positions know, each head for itself."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.head_dim, self.causal = dim // heads, causal
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.by_head(project(x)) for project in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def by_head(self, x: Tensor) -> Tensor:
        """[batch, length, heads · head_dim] → [batch, heads, length, head_dim], of the heads that this rank holds."""
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """Think about each position alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Layer(nn.Module):
    """Attention, then the MLP, each added to what came in (pre-norm)."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, causal)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class EmbedPatches(nn.Module):
    """Cut images [batch, 1, size, size] into square patches, and say of each what it shows and where it lies."""

    def __init__(self, dim: int, patch: int, size: int) -> None:
        super().__init__()
        self.patch = patch
        self.content = nn.Linear(patch * patch, dim, bias=False)
        self.position = nn.Parameter(torch.empty((size // patch) ** 2, dim))

    def forward(self, images: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)
        return self.content(patches) + self.position


class EmbedBytes(nn.Module):
    """Say of each byte [batch, length] what it is and where it stands."""

    def __init__(self, dim: int, vocabulary: int, context: int) -> None:
        super().__init__()
        self.content = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(torch.empty(context, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.content(tokens) + self.position[: tokens.shape[1]]


class Head(nn.Module):
    """Turn what the positions know into logits: one set for each, or, `pooled`, one for all of them."""

    def __init__(self, dim: int, classes: int, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.norm = nn.LayerNorm(dim)
        self.logits = nn.Linear(dim, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.norm(x.mean(1) if self.pooled else x))


class Transformer(nn.Module):
    """A pre-norm transformer: embed → layers → head. No dropout, so that every strategy computes the same."""

    def __init__(self, embed: nn.Module, layers: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.embed, self.layers, self.head = embed, nn.ModuleList(layers), head
        self.apply(_start)
        with torch.no_grad():  # so that the sum of all layers starts about as large as one of them (GPT-2)
            for layer in self.layers:
                for last in (layer.attention.out, layer.mlp.down):
                    last.weight /= math.sqrt(2 * len(self.layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def tensor_parallel_plan(self) -> dict[str, Any]:
        """Return what a rank holds of a layer: some of the heads, and some of the MLP's width."""
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, RowwiseParallel

        whole = PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Replicate())
        return {
            "attention": whole,  # once for q, k and v: their gradients are added up before they travel, not each alone
            "attention.q": ColwiseParallel(),
            "attention.k": ColwiseParallel(),
            "attention.v": ColwiseParallel(),
            "attention.out": RowwiseParallel(),
            "mlp.up": ColwiseParallel(),
            "mlp.down": RowwiseParallel(),
        }


def _start(module: nn.Module) -> None:
    """Draw weights that keep the size of what passes through them, and logits that start near zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, EmbedPatches | EmbedBytes):
        nn.init.normal_(module.position, std=0.5)
    elif isinstance(module, Head):  # comes after its own Linear: `apply` visits children first
        with torch.no_grad():
            module.logits.weight /= 10


def image_classifier(
    dim: int = 64, layers: int = 8, heads: int = 4, patch: int = 14, classes: int = 10, size: int = 28
) -> Transformer:
    """Return a small vision transformer: float images [batch, 1, size, size] → logits [batch, classes].

    patch: the side of a patch in pixels; the default makes four patches of a digit, which is what lets it learn in
    seconds. Raise `UserError` if the numbers don't go together.
    """
    _divides("heads", heads, "dim", dim)
    _divides("patch", patch, "size", size)
    return Transformer(
        EmbedPatches(dim, patch, size),
        [Layer(dim, heads, causal=False) for _ in range(layers)],
        Head(dim, classes, True),
    )


def language_model(
    dim: int = 128, layers: int = 8, heads: int = 4, vocabulary: int = 256, context: int = 64
) -> Transformer:
    """Return a causal language model: tokens [batch, up to `context`] → logits of each next one [batch, …, vocabulary].

    Raise `UserError` if the numbers don't go together.
    """
    _divides("heads", heads, "dim", dim)
    return Transformer(
        EmbedBytes(dim, vocabulary, context),
        [Layer(dim, heads, causal=True) for _ in range(layers)],
        Head(dim, vocabulary, False),
    )


def _divides(part: str, parts: int, whole: str, total: int) -> None:
    if parts < 1 or total % parts:
        raise UserError(f"{part}={parts} does not divide {whole}={total}; give numbers of which one divides the other")


def check(model: Any) -> nn.Module:
    """Return a model that every strategy can train alike. Raise `UserError` for what makes ranks differ."""
    if not isinstance(model, nn.Module):
        raise UserError(f"the model is of type {type(model).__name__}; let its function return a torch.nn.Module")
    for name, module in model.named_modules():
        what = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UserError(f"{what} depends on which samples a rank sees; use LayerNorm or GroupNorm instead")
        if _dropped(module):
            raise UserError(f"{what} drops {_dropped(module):g} of its values, others on every rank; set it to 0")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the model has no parameter with requires_grad, so there is nothing to train; set some")
    return model


def _dropped(module: nn.Module) -> float:
    """Return the share that a module drops: torch's dropouts call it `p`, other layers of torch `dropout`."""
    share = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0)
    return share if isinstance(share, int | float) else 0


def fits(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Try a model on the first two samples, before it fails on every rank, and look through all targets.

    Raise `UserError` if they don't go together, or if embed, layers and head don't make the whole model.
    """
    inputs, every, targets = inputs[:2], targets, targets[:2]
    with torch.no_grad():
        try:
            logits = model(inputs)
        except Exception as error:  # each layer has errors of its own
            raise UserError(f"the model can't take inputs {_shape(inputs)}: {type(error).__name__}: {error}") from error
        if not isinstance(logits, Tensor):
            raise UserError(f"the model's forward returned {type(logits).__name__}; let it return a tensor of logits")
        if not hasattr(model, "loss"):
            _classes(logits, every)
        loss = loss_of(model)(logits, targets)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.isfinite():
            raise UserError(f"the loss of the first samples is {loss}; let it be a scalar tensor with a finite number")
        if all(hasattr(model, part) for part in ("embed", "layers", "head")):
            _parts(model, inputs, logits)


def _classes(logits: Tensor, targets: Tensor) -> None:
    """Raise `UserError` if cross entropy has no meaning for the first samples' logits and all the targets."""
    if targets.is_floating_point() or logits.shape[:-1] != targets[: len(logits)].shape:
        raise UserError(
            f"logits {_shape(logits)} don't go with targets {_shape(targets)}; give logits [..., classes] and whole "
            "numbers [...], or the model a method loss(logits, targets)"
        )
    low, high = targets.min().item(), targets.max().item()
    if low < 0 or high >= logits.shape[-1]:
        raise UserError(
            f"targets lie in {low} … {high}, but the model has {logits.shape[-1]} classes; number them from 0, or "
            "build the model with more"
        )


def _parts(model: nn.Module, inputs: Tensor, logits: Tensor) -> None:
    """Raise `UserError` if embed, layers and head, one after the other, are not the model."""
    remedy = "let forward be head(layers(embed(inputs))) and nothing else, or name the parts otherwise"
    try:
        again = model.head(reduce(lambda x, layer: layer(x), model.layers, model.embed(inputs)))
    except Exception as error:
        raise UserError(f"the model's parts can't run one after the other ({error}); {remedy}") from error
    if again.shape != logits.shape or not torch.allclose(again, logits, rtol=1e-3, atol=1e-5):
        raise UserError(f"the model's embed, layers and head give other logits than its forward; {remedy}")


def _shape(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} ({str(tensor.dtype).removeprefix('torch.')})"


def loss_of(model: nn.Module) -> Loss:
    """Return the model's own `loss(logits, targets)`, or cross entropy over the last dimension of the logits."""
    return getattr(model, "loss", cross_entropy)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of logits [..., classes] to targets [...], in nats."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def count(model: nn.Module) -> int:
    """Return how many parameters a model has. One that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, inputs: Tensor, targets: Tensor) -> int:
    """Return the floating-point operations of one forward and backward pass: those of matrix products and convolutions.

    A multiplication and an addition count as two. Attention counts in full, also where a causal mask halves it, as is
    usual for model FLOP utilisation. The model's gradients stay as they are.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The counter has no formula for the CPU's fused attention, so let attention be plain matrix products here.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.autograd.grad(loss_of(model)(model(inputs), targets), trained, allow_unused=True)
    return counter.get_total_flops()
