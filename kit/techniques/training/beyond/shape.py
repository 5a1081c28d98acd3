"""What of a model its speed and memory depend on: sizes only, of the task's own model or of one too large to build."""

from dataclasses import dataclass
from typing import Any

from kit.errors import UserError


@dataclass(frozen=True)
class Shape:
    """A model as layers of one size between an embedding and a head. All values are for one sample.

    layer_parameters: of one layer, of which tensor parallelism splits `split_parameters`. flops, head_flops: of one
    forward and backward pass, of the whole and of what is not layers. boundary: values that go from layer to layer.
    layer_kept, head_kept: bytes kept for the backward pass by a layer, and by the rest. heads: None if not known.
    weight_bytes, gradient_bytes, optimizer_bytes: a parameter; the first two also travel.
    """

    name: str
    layers: int
    layer_parameters: int
    split_parameters: int
    embed_parameters: int
    head_parameters: int
    flops: float
    head_flops: float
    boundary: int
    layer_kept: float
    head_kept: float
    heads: int | None = None
    weight_bytes: int = 4
    gradient_bytes: int = 4
    optimizer_bytes: int = 4
    item: str = "samples"
    items_per_sample: int = 1

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.layers * self.layer_parameters + self.embed_parameters + self.head_parameters

    @property
    def layer_flops(self) -> float:
        """Of all layers together."""
        return self.flops - self.head_flops

    @property
    def kept(self) -> float:
        """Bytes that the whole model keeps for the backward pass."""
        return self.layers * self.layer_kept + self.head_kept

    @staticmethod
    def transformer(
        layers: int, dim: int, vocabulary: int, context: int, heads: int | None = None, name: str = ""
    ) -> "Shape":
        """Return the shape of a language model as `models.language_model` builds it, trained with Adam in bf16.

        A parameter takes 16 bytes: weight and gradient 2 each, and 12 for Adam's two moments and a float32 copy of the
        weight (Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, section 3.1). Operations: six for each weight of a
        matrix product and token, and 12·context·dim a layer and token for attention (Narayanan et al. 2021,
        arXiv:2104.04473, appendix). Kept for backward: 34·dim bytes a layer and token without the attention matrix,
        as fused attention leaves it (Korthikanti et al. 2022, arXiv:2205.05198, equation 2); logits and their
        gradient in float32. heads: dim/128 if not given. Raise UserError for numbers that make no model.
        """
        for what, value in dict(layers=layers, dim=dim, vocabulary=vocabulary, context=context).items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{what}={value!r} of a transformer must be a whole number, at least 1")
        heads = heads or max(1, dim // 128)
        head_flops = 6 * dim * vocabulary * context
        return Shape(
            name=name or f"transformer of {layers} layers, dim {dim}",
            layers=layers,
            layer_parameters=12 * dim**2 + 4 * dim,
            split_parameters=12 * dim**2,
            embed_parameters=(vocabulary + context) * dim,
            head_parameters=(vocabulary + 2) * dim,
            flops=layers * (6 * 12 * dim**2 * context + 12 * dim * context**2) + head_flops,
            head_flops=head_flops,
            boundary=context * dim,
            layer_kept=34 * dim * context,
            head_kept=8 * vocabulary * context,
            heads=heads,
            weight_bytes=2,
            gradient_bytes=2,
            optimizer_bytes=12,
            item="tokens",
            items_per_sample=context,
        )

    @staticmethod
    def of(task: Any) -> "Shape":
        """Return the shape of a task's own model, in float32 with SGD and momentum, as the strategies train it.

        What is kept for the backward pass is what autograd saves for two samples. A model without `layers` counts as
        one layer. Raise UserError if the model does not fit its data.
        """
        from kit.techniques.training import models

        dataset, model = task.dataset(), task.build()
        inputs, targets = (tensor[:2].clone() for tensor in dataset.train)  # not views into all of the data
        models.fits(model, inputs, targets)
        layered = all(hasattr(model, part) for part in ("embed", "layers", "head"))
        layers = list(model.layers) if layered else [model]
        x = model.embed(inputs).detach() if layered else inputs
        flops, kept = models.flops(model, inputs, targets) / 2, _kept(model, lambda: model(inputs)) / 2
        layer_flops = len(layers) * _flops(layers[0], x) / 2 if layered else flops
        layer_kept = _kept(model, lambda: layers[0](x.requires_grad_())) / 2 if layered else kept
        sizes = {part: models.count(getattr(model, part)) if layered else 0 for part in ("embed", "head")}
        return Shape(
            name=task.model.rpartition(":")[2],
            layers=len(layers),
            layer_parameters=models.count(layers[0]),
            split_parameters=_split(model, layers[0]),
            embed_parameters=sizes["embed"],
            head_parameters=sizes["head"],
            flops=flops,
            head_flops=max(0.0, flops - layer_flops),
            boundary=x[0].numel(),
            layer_kept=layer_kept,
            head_kept=max(0.0, kept - len(layers) * layer_kept),
            heads=heads(task),
            item=dataset.item,
            items_per_sample=dataset.items_per_sample,
        )


LARGE = {
    "1B": Shape.transformer(16, 2048, 32_000, 2048, name="1B"),
    "7B": Shape.transformer(32, 4096, 32_000, 4096, name="7B"),
    "70B": Shape.transformer(80, 8192, 128_000, 8192, name="70B"),
}
"""Models of a named size, in the proportions of the well-known ones."""


def heads(task: Any) -> int | None:
    """Return the task's number of attention heads, if its model is built by a function with an option `heads`."""
    import inspect

    option = inspect.signature(task.builder()).parameters.get("heads")
    found = task.model_options.get("heads", option.default if option else None)
    return found if isinstance(found, int) else None


def _flops(layer: Any, x: Any) -> float:
    """Return a layer's operations forward and backward, by the rules of `models.flops`: backward takes two products
    for each one of forward."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        layer(x)
    return 3 * counter.get_total_flops()


def _kept(model: Any, forward: Any) -> int:
    """Return the bytes that autograd saves during `forward`, parameters aside, each storage once."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # kept alive, and with it what it saved: no storage is used twice
    del result
    return sum(storage.nbytes() for pointer, storage in saved.items() if pointer not in own)


def _split(model: Any, layer: Any) -> int:
    """Return how many parameters of a layer the model's own plan splits over ranks."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    if not hasattr(model, "tensor_parallel_plan"):
        return 0
    splits = (ColwiseParallel, RowwiseParallel)
    parts = [name for name, how in model.tensor_parallel_plan().items() if isinstance(how, splits)]
    return sum(layer.get_submodule(name).weight.numel() for name in parts)
