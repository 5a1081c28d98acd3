"""A trained module → a pruned one, fine-tuned, exported: zeros strewn over the weights, zeros in fixed places, or
channels really gone. Only the last is less work on a CPU; what zeros are worth there, an engine has to show.

Sources: magnitude pruning, Han et al. 2015 (arXiv 1506.02626); channels that depend on each other, DepGraph, Fang et
al. 2023 (arXiv 2301.12900); two of four, Mishra et al. 2021 (arXiv 2104.08378).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from kit.errors import UserError
from kit.record import words
from kit.techniques.quantization.smaller.finetuning import check_classes, judged, tuned
from kit.techniques.quantization.smaller.rebuilt import rebuilt
from kit.techniques.quantization.subjects.nets import save
from kit.techniques.quantization.subjects.onnx_files import export
from kit.techniques.quantization.work import Artefact, Subject, kept

METHODS = {
    "unstructured": "the smallest weights become zero, wherever they are: the share is one of the weights",
    "structured": "the smallest channels go, with all that depends on them: the share is one of each layer's channels",
    "2:4": "the two smallest of each four weights along the input channels become zero: the share is a half",
}
"""What pruning there is, and what its share is a share of."""

Removed = list[list]
"""torch-pruning's history: [name of a layer, whether output channels went, which ones], in order."""

LAYERS = nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear


@dataclass(frozen=True)
class Size:
    """How much a module holds, and how much it computes for one sample.

    zeros: share of the weights of convolutions and linear layers, 0 to 1. multiplications: in products and
    convolutions, those with zeros counted too, for a dense kernel does them all.
    """

    parameters: int
    zeros: float
    multiplications: int


@dataclass(frozen=True)
class Pruning:
    """What a pruning did: a row of a table. The accuracies are on the validation part of the training data."""

    method: str
    share: float
    epochs: int
    zeros: float
    parameters: int
    parameters_before: int
    multiplications: int
    multiplications_before: int
    validation: float
    validation_before: float


def pruned(subject: Subject, method: str, share: float, epochs: int, folder: Path) -> Artefact:
    """Return the subject's module pruned by `share`, fine-tuned for `epochs` and exported: an FP32 ONNX file.

    method: of METHODS, which says what the share is one of. Of all epochs, and of the state before the first, the one
    that does best on the validation part of `Subject.train` stays; evaluation data is not read. The artefact's `build`
    returns the pruned module. Structured shares that leave multiples of 8 channels gain most: kernels work on that many
    at once. Raise `UserError` where there is nothing to prune or to fine-tune with.
    """
    _checked(subject, method, share, epochs)
    name = f"pruned-{method.replace(':', '-of-')}-{share:g}-{epochs}-epochs"
    module = folder / f"{name}.pt"
    make = partial(_make, subject, method, share, epochs, module)
    source = hashlib.sha256(subject.onnx.read_bytes()).hexdigest()
    for _ in range(2):
        made = kept(folder, name, ".onnx", make, "FP32", source=source, method=method, share=share, epochs=epochs)
        if _sha256(module) == made.settings["module"]:
            break
        made.path.unlink()  # the module beside the file is lost or damaged: make both again
    return Artefact(made.path, "FP32", made.settings, made.made_s, partial(rebuilt, subject.build, module))


@dataclass(frozen=True)
class Way:
    """One way to prune, by its method and share (see METHODS), fine-tuned for so many epochs."""

    method: str
    share: float
    epochs: int = 2

    def __call__(self, subject: Subject) -> Artefact:
        """Return the subject's model pruned so, in FP32."""
        return pruned(subject, self.method, self.share, self.epochs, subject.folder / "made")


def ways(shares: Sequence[float]) -> dict[str, Way]:
    """Return the ways to prune that are worth a look, by their names: zeros and channels at each share, and 2:4."""
    for share in shares:
        if not 0 < share < 1:
            raise UserError(f"pruning={list(shares)} are shares, each above 0 and below 1, as [0.5, 0.9]")
    zeros = {f"{words.percent(share)} zeros": Way("unstructured", share) for share in shares}
    channels = {f"{words.percent(share)} of the channels gone": Way("structured", share) for share in shares}
    return zeros | ({"2:4 zeros": Way("2:4", 0.5)} if shares else {}) | channels


def numbers(artefact: Artefact) -> Pruning:
    """Return what a pruning did, from the settings of what `pruned` returned."""
    return Pruning(**{field.name: artefact.settings[field.name] for field in fields(Pruning)})


def size(module: nn.Module, inputs: Tensor) -> Size:
    """Return what a module holds and computes; inputs: one sample, [1, …]."""
    weights = [layer.weight for layer in _layers(module)]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(inputs)
    return Size(sum(one.numel() for one in module.parameters()), zeros, counter.get_total_flops() // 2)


def _checked(subject: Subject, method: str, share: float, epochs: int) -> None:
    if method not in METHODS:
        raise UserError(f"there is no pruning called {method!r}; it is one of {', '.join(METHODS)}")
    if not 0 < share < 1:
        raise UserError(f"share={share:g} must lie between 0 and 1; 0.5 prunes a half")
    if method == "2:4" and share != 0.5:
        raise UserError(f"2:4 prunes two of each four weights, got share={share:g}; give 0.5")
    if epochs < 0:
        raise UserError(f"epochs={epochs} must be 0, which leaves the module as pruned, or more; 3 is usual")
    if subject.build is None:
        raise UserError(
            f"{subject.name} is an ONNX file, and pruning needs a module; give model='package.module:build'"
        )
    if subject.train is None:
        raise UserError(f"{subject.name} comes without training data, which a pruned model is fine-tuned with; give it")
    if len(subject.calibration) != 1:
        names = ", ".join(subject.calibration)
        raise UserError(f"{subject.name} takes {names}; only a model with one input can be pruned here")


def _make(subject: Subject, method: str, share: float, epochs: int, beside: Path, path: Path) -> dict:
    """Write the ONNX file at `path` and the module's weights `beside`; return what is known of both."""
    train, validation = subject.train()
    (values,) = subject.calibration.values()
    example = torch.from_numpy(values[:1].copy())
    module = subject.build().eval()
    if not _layers(module):
        raise UserError(f"{subject.name} has neither a convolution nor a linear layer; there is nothing to prune")
    check_classes(subject, module, *validation)
    before, validation_before = size(module, example), judged(module, *validation)[0]
    removed = PRUNE[method](module, example, share)
    accuracy = tuned(module, train, validation, epochs)
    for layer in _layers(module):
        if prune.is_pruned(layer):
            prune.remove(layer, "weight")
    save(beside, {"example": example, "removed": removed, "weights": module.state_dict()})
    export(module, subject.calibration, path)
    after = size(module, example)
    return {
        "zeros": after.zeros,
        "parameters": after.parameters,
        "parameters_before": before.parameters,
        "multiplications": after.multiplications,
        "multiplications_before": before.multiplications,
        "validation": accuracy,
        "validation_before": validation_before,
        "module": _sha256(beside),
    }


def _smallest(module: nn.Module, example: Tensor, share: float) -> Removed:
    weights = [(layer, "weight") for layer in _layers(module)]
    prune.global_unstructured(weights, prune.L1Unstructured, amount=share)
    return []


def _two_of_four(module: nn.Module, example: Tensor, share: float) -> Removed:
    """Mask layers in the order that sparse tensor cores want: fours of input channels, for each place of a kernel.

    torch.ao.pruning's WeightNormSparsifier counts its fours along kernels, which they can't use in a convolution.
    """
    fitting = [layer for layer in _layers(module) if layer.weight.shape[1] % 4 == 0]
    if not fitting:
        raise UserError("2:4 needs a layer whose input channels are a multiple of four; this module has none")
    for layer in fitting:
        by_input = layer.weight.detach().abs().movedim(1, -1)
        fours = by_input.reshape(-1, 4)
        mask = torch.zeros_like(fours).scatter_(1, fours.topk(2).indices, 1)
        prune.custom_from_mask(layer, "weight", mask.view(by_input.shape).movedim(-1, 1))
    return []


def _channels(module: nn.Module, example: Tensor, share: float) -> Removed:
    """Remove the channels of least norm, the same share of each layer's (rounded up), and all that depends on them."""
    import torch_pruning

    last = _last(module, example)  # its channels are the classes
    _some_stay([layer.weight.shape[0] for layer in _layers(module) if layer is not last], share)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    with torch.no_grad():
        wanted = module(example).shape
    try:
        pruner = torch_pruning.BasePruner(module, example, importance, pruning_ratio=share, ignored_layers=[last])
        pruner.step()
        with torch.no_grad():
            got = module(example).shape
    except Exception as error:  # whatever a module's forward does with channels that are gone
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"this module's channels can't be removed ({reason}); use unstructured or 2:4") from error
    if got != wanted:
        raise UserError(f"without channels the module returns {list(got)}, not {list(wanted)}; use unstructured or 2:4")
    if not (history := pruner.pruning_history()):
        raise UserError("this module has no channels that nothing else counts on; use unstructured or 2:4")
    return [[name, outwards, [int(index) for index in indices]] for name, outwards, indices in history]


def _some_stay(widths: list[int], share: float) -> None:
    """Raise `UserError` if a layer would lose all its channels, which torch-pruning leaves whole in silence."""
    least = min(widths, default=0)
    if least and int(least * (1 - share)) < 1:
        raise UserError(f"share={share:g} leaves none of a layer's {least} channels; give at most {1 - 1 / least:.3g}")


PRUNE: dict[str, Callable[[nn.Module, Tensor, float], Removed]] = {
    "unstructured": _smallest,
    "structured": _channels,
    "2:4": _two_of_four,
}


def _layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, LAYERS)]


def _last(module: nn.Module, example: Tensor) -> nn.Module:
    """Return the layer that ran last."""
    ran: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in _layers(module)]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    return ran[-1]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
