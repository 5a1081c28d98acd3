"""Counts what a step sends: collectives and their bytes, in a real group or in torch's fake one."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kit.techniques.training.traffic import Traffic

OPERATIONS = {
    "allreduce": "all-reduce",
    "all_reduce": "all-reduce",
    "reduce_scatter": "reduce-scatter",
    "allgather": "all-gather",
    "all_gather": "all-gather",
    "alltoall": "all-to-all",
    "all_to_all": "all-to-all",
    "broadcast": "broadcast",
    "send": "send",
    "recv": "receive",
}
"""Parts of the names of torch's operators → the field's words."""


def counted(work: Callable[[], Any]) -> Traffic:
    """Call `work` once and return its traffic on this rank."""
    with _Count() as count:
        work()
    return Traffic(count.calls, count.num_bytes)


class _Count(TorchDispatchMode):
    """Sees every operator that reaches torch's dispatcher, DDP's reducer included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.num_bytes: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace in ("c10d", "_c10d_functional"):
            kind = _kind(function.__name__)
            if kind:
                self.calls[kind] = self.calls.get(kind, 0) + 1
                self.num_bytes[kind] = self.num_bytes.get(kind, 0) + _largest_bytes(args)
        return function(*args, **(kwargs or {}))


def _kind(operator: str) -> str | None:
    return next((word for name, word in OPERATIONS.items() if name in operator), None)


def _largest_bytes(arguments: Any) -> int:
    """Return the bytes of the largest tensor (or list of tensors) among an operator's arguments: the whole one."""
    sizes = [0]
    for one in arguments:
        tensors = [t for t in _flat(one) if isinstance(t, Tensor)]
        sizes.append(sum(t.numel() * t.element_size() for t in tensors))
    return max(sizes)


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list | tuple) else [value]
