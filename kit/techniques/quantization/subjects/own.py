"""An own model, tried on its data before it is kept: an ONNX file, or a function that returns a PyTorch module."""

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import UserError
from kit.techniques.address import call, resolve
from kit.techniques.quantization.subjects import data as own_data
from kit.techniques.quantization.subjects import onnx_files
from kit.techniques.quantization.subjects.data import Found
from kit.techniques.quantization.subjects.trained import Trained, exported, same
from kit.techniques.quantization.work import Inputs

if TYPE_CHECKING:
    from torch import nn


def file(model: str, data: str, calibration: int, evaluation: int) -> Trained:
    """Take an ONNX file as it is, but for its batch dimension, which is made free. `UserError` if it can't be used."""
    path = Path(model).expanduser()
    if not path.exists():
        raise UserError(f"there is no file {path}; give the path of an ONNX file")
    free = onnx_files.freed(path)
    found = own_data.own(data, _named(onnx_files.kinds(free), path))
    divided = own_data.divide(found, calibration, evaluation)
    onnx_files.runs_in_any_batch(free, divided.evaluation, str(path))
    content = free.SerializeToString(deterministic=True)
    return Trained(
        name=path.stem,
        divided=divided,
        write=lambda target: target.write_bytes(content),
        stamp=content,
        holds=partial(same, content=content),
        note=_origin(found, data),
    )


def module(model: str, data: str, calibration: int, evaluation: int) -> Trained:
    """Take what a function "package.module:build" returns, and export it. Raise `UserError` if it can't be used."""
    build = partial(_build_own, model)
    built = build()
    names = _inputs(built)
    read = partial(own_data.own, data, _named(dict.fromkeys(names), model))
    found = read()
    divided = own_data.divide(found, calibration, evaluation)
    _runs(built, divided.evaluation, model)
    return Trained(
        name=model.partition(":")[0].split(".")[-1],
        divided=divided,
        **exported(build, divided.evaluation),
        build=build,
        train=partial(own_data.fine_tuning, read) if len(found) == 2 and len(names) == 1 else None,
        note=_origin(found, data),
    )


def _inputs(module: "nn.Module") -> list[str]:
    """Return the names of what the forward must be given."""
    parameters = inspect.signature(module.forward).parameters.values()
    placed = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [one.name for one in placed if one.default is one.empty]


def _build_own(address: str) -> "nn.Module":
    """Return the user's trained module in eval mode. Raise `UserError` if it is none, or not FP32."""
    import torch

    module = call(resolve(address), {})
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{address} returned {type(module).__name__}; let it return a trained torch.nn.Module")
    kinds = {str(one.dtype).removeprefix("torch.") for one in module.parameters() if one.is_floating_point()}
    if kinds - {"float32"}:
        raise UserError(f"{address} holds weights in {', '.join(sorted(kinds))}; return it .float()")
    return module.cpu().eval()


def _runs(module: "nn.Module", samples: Inputs, address: str) -> None:
    """Try a module on two samples. Raise `UserError` if it can't take them or doesn't return one tensor."""
    import torch

    few = [torch.from_numpy(values[:2]) for values in samples.values()]
    told = ", ".join(f"{name} {list(values[:2].shape)} of {values.dtype}" for name, values in samples.items())
    try:
        with torch.inference_mode():
            output = module(*few)
    except Exception as error:  # each layer has errors of its own
        raise UserError(f"{address} can't take {told}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape[:1] != (2,):
        got = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"{address} returned {got} for two samples; let its forward return one tensor [N, …]")


def _named(kinds: dict[str, Any], model: Any) -> dict[str, Any]:
    if not kinds or "targets" in kinds:
        raise UserError(
            f"{model} takes {', '.join(kinds) or 'no input'}; it must take some, none of them named targets"
        )
    return kinds


def _origin(found: Found, data: str) -> str:
    if len(found) == 2:
        return f"calibrated with the training half of {Path(data).name}, judged by the other"
    return f"{Path(data).name}, divided by a hash of each sample; nothing to fine-tune with"
