"""A trained module → a pruned one, fine-tuned, exported: zeros anywhere, two zeros in each four weights, or channels
removed. Only the last is less work on a CPU. The unpruned baseline is fine-tuned for as many epochs.

Sources: magnitude pruning, Han et al. 2015 (arXiv 1506.02626); channels that depend on each other, DepGraph, Fang et
al. 2023 (arXiv 2301.12900); 2:4, Mishra et al. 2021 (arXiv 2104.08378).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from kit.common.parameters import at_least, one_of
from kit.errors import UserError
from kit.record import formatting
from kit.techniques.quantization.onnx_files import export
from kit.techniques.quantization.workload import Model, ModelFile, cached_file

BATCH, LARGEST_GRADIENT = 64, 1.0
LAYERS = nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear


def ways(shares: Sequence[float]) -> dict[str, tuple[str, float]]:
    """Return (method, share) by the name of its variant: zeros and channels at each share, and 2:4."""
    if not all(0 < share < 1 for share in shares):
        raise UserError(f"pruning={list(shares)} must be shares above 0 and below 1, e.g. [0.5, 0.9]")
    sparse = {f"{formatting.percent(share)} unstructured": ("unstructured", share) for share in shares}
    channels = {f"{formatting.percent(share)} of channels": ("channels", share) for share in shares}
    return sparse | {"2:4 sparsity": ("2:4", 0.5)} | channels


def pruned(model: Model, method: str, share: float, epochs: int = 2) -> ModelFile:
    """Return the model pruned by `share`, fine-tuned for `epochs` and exported as an FP32 ONNX file.

    method: "none", "unstructured" (the share of all weights that become zero, the smallest ones), "channels" (the share
    of each layer's channels that go, with all that depends on them) or "2:4" (the two smallest of each four weights
    along the input channels become zero). The evaluation is not read. Raise `UserError` where there is nothing to prune
    or to train on.
    """
    one_of(method, PRUNE, "method")
    at_least(epochs, 0, "epochs", whole=True)
    if model.build is None or model.train is None or len(model.calibration) != 1:
        raise UserError(
            f"{model.name} can't be pruned: it takes a module with one input (model='package.module:build') and "
            "training data (data='package.module:load' that returns two halves)"
        )

    def make(path: Path) -> dict[str, float]:
        (inputs, targets), module = model.train(), model.build()
        if not _layers(module):
            raise UserError(f"{model.name} has neither a convolution nor a linear layer; there is nothing to prune")
        PRUNE[method](module, inputs[:1], share)
        fine_tune(module, inputs, targets, epochs)
        for layer in filter(prune.is_pruned, _layers(module)):
            prune.remove(layer, "weight")
        path.write_bytes(export(lambda: module, model.calibration).SerializeToString())
        return numbers(module, inputs[:1])

    name = f"pruned-{method.replace(':', '-')}-{share:g}"
    return cached_file(model, name, make, "FP32", method=method, share=share, epochs=epochs)


def numbers(module: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the parameters of a module, the share of zeros among the weights of its layers, and the multiplications
    for one sample, [1, …], those with zeros too: a dense kernel does them all."""
    weights = [layer.weight for layer in _layers(module)]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(example)
    parameters = sum(one.numel() for one in module.parameters())
    return {"parameters": parameters, "zeros": zeros, "multiplications": counter.get_total_flops() // 2}


# Ways to prune --------------------------------------------------------------------------------------------------------


def unstructured(module: nn.Module, example: Tensor, share: float) -> None:
    """Set the smallest weights of all layers together to zero."""
    prune.global_unstructured([(layer, "weight") for layer in _layers(module)], prune.L1Unstructured, amount=share)


def two_of_four(module: nn.Module, example: Tensor, share: float) -> None:
    """Set the two smallest of each four weights to zero, along the input channels, as sparse tensor cores want it, in
    layers with a multiple of four (torch.ao.pruning's WeightNormSparsifier counts along the kernel)."""
    for layer in [layer for layer in _layers(module) if layer.weight.shape[1] % 4 == 0]:
        by_input = layer.weight.detach().abs().movedim(1, -1)
        fours = by_input.reshape(-1, 4)
        mask = torch.zeros_like(fours).scatter_(1, fours.topk(2).indices, 1)
        prune.custom_from_mask(layer, "weight", mask.view(by_input.shape).movedim(-1, 1))


def channels(module: nn.Module, example: Tensor, share: float) -> None:
    """Remove the channels of least norm, the same share of each layer's (rounded up), and all that depends on them.
    Shares that leave multiples of 8 channels gain most: kernels work on that many at once."""
    import torch_pruning

    last = _layers(module)[-1]  # its channels are the classes
    least = min((layer.weight.shape[0] for layer in _layers(module) if layer is not last), default=0)
    if least and int(least * (1 - share)) < 1:  # torch-pruning would leave the layer whole without a word
        raise UserError(f"share={share:g} leaves none of a layer's {least} channels; give at most {1 - 1 / least:.3g}")
    wanted, frozen = module(example).shape, {name for name, one in module.named_parameters() if not one.requires_grad}
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    try:
        pruner = torch_pruning.BasePruner(module, example, importance, pruning_ratio=share, ignored_layers=[last])
        pruner.step()
        assert module(example).shape == wanted, "its outputs would change"
    except Exception as error:  # whatever a module's forward does with fewer channels
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"this module's channels can't be removed ({reason}); use unstructured or 2:4") from error
    for name, parameter in module.named_parameters():  # the smaller ones are new
        parameter.requires_grad_(name not in frozen)
    if not pruner.pruning_history():
        raise UserError("this module has no channels that nothing else depends on; use unstructured or 2:4")


PRUNE: dict[str, Callable[[nn.Module, Tensor, float], None]] = {
    "none": lambda *_: None, "unstructured": unstructured, "2:4": two_of_four, "channels": channels,
}  # fmt: skip


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, LAYERS)]


# Fine-tuning ----------------------------------------------------------------------------------------------------------


def fine_tune(module: nn.Module, inputs: Tensor, targets: Tensor, epochs: int, rate: float = 0.02) -> None:
    """Train the module further, at a rate that falls to 0, and leave it in eval mode. Masks stay: torch multiplies each
    weight by its mask at every call."""
    learning = [one for one in module.parameters() if one.requires_grad]
    if not learning:
        raise UserError("the module has no parameter with requires_grad, so that it can't be fine-tuned; set some")
    optimizer = torch.optim.SGD(learning, rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs * -(-len(inputs) // BATCH)))
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine and not layer.weight.requires_grad:
            layer.eval()  # a frozen one keeps its statistics too
    with torch.random.fork_rng([]):  # the caller's own random numbers stay as they were
        torch.manual_seed(0)
        for batch in (part for _ in range(epochs) for part in torch.randperm(len(inputs)).split(BATCH)):
            optimizer.zero_grad()
            _loss(module(inputs[batch]), targets[batch]).backward()
            nn.utils.clip_grad_norm_(learning, LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
    module.eval()


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point() or logits.shape[:-1] != targets.shape:
        raise UserError(
            f"fine-tuning uses cross entropy; got outputs {list(logits.shape)} and targets {list(targets.shape)} of "
            f"{targets.dtype}: give logits [..., classes] and classes as int64"
        )
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())
