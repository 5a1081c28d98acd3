"""A pruned module, built again. PyTorch is imported only when it is: an artefact that names this way must not bring
200 MiB into the process of an engine that has no use for them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def rebuilt(build: "Callable[[], nn.Module]", file: Path) -> "nn.Module":
    """Return a pruned module, in eval mode: the one that `build` returns, without the channels that were removed, and
    with the weights of `file`, of which nothing is unpickled but tensors and plain values."""
    import torch

    found = torch.load(file, weights_only=True)
    module = build().eval()
    if found["removed"]:
        dependencies(module, found["example"]).load_pruning_history(found["removed"])
    module.load_state_dict(found["weights"])
    return module


def dependencies(module: "nn.Module", example: "Tensor"):
    """Return torch-pruning's graph of which channels depend on each other. example: inputs of one sample."""
    import torch
    import torch_pruning

    with torch.enable_grad():  # it reads the graph that autograd keeps
        return torch_pruning.DependencyGraph().build_dependency(module, example)
