"""What is trained: one model, one dataset, one order of batches, the same for every strategy and every rank."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kit.errors import UserError


@dataclass(frozen=True)
class Task:
    """A training task. Plain values only, so that it travels to ranks on any machine.

    model, data: built-in names of `models` and `data`, or "package.module:function"; their options go to the function.
    batch: samples a step over all ranks together. steps: how many steps one call takes.
    lr, momentum: of plain SGD, on purpose: Adam divides a gradient that is wrong by a factor away, so parity would
        not see it. pieces: parts into which accumulation and pipelines cut a rank's share of the batch.
    precision: "fp32" or "bf16"; which tolerance the losses must hold. compile: torch.compile each layer.
    """

    model: str = "image_classifier"
    data: str = "mnist"
    batch: int = 128
    steps: int = 10
    lr: float = 0.05
    momentum: float = 0.9
    pieces: int = 4
    seed: int = 0
    compile: bool = False
    model_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in dict(batch=1, steps=1, pieces=1).items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name}={value!r} of a training task must be a whole number, at least {least}")
        if not 0 < self.lr < float("inf"):
            raise UserError(f"lr={self.lr!r} of a training task must be a number above 0")

    def build(self, device: Any = "cpu") -> Any:
        """Return the model with the weights that the seed gives, on `device`: the same on every rank."""
        import torch

        from kit.techniques.address import call
        from kit.techniques.training import models

        torch.manual_seed(self.seed)
        model = call(self.builder(), self.model_options)
        models.check(model)
        for layer in getattr(model, "layers", [model]) if self.compile else []:
            layer.compile()
        return model.to(device)

    def builder(self) -> Any:
        """Return the function that builds the model."""
        from kit.techniques.address import resolve
        from kit.techniques.training import models

        return resolve(self.model if ":" in self.model else f"{models.__name__}:{self.model}")

    def loss(self, model: Any) -> Any:
        """Return the model's loss as a function of (logits, targets): the mean over all samples."""
        from kit.techniques.training import models

        return models.loss_of(model)

    def optimizer(self, parameters: Iterable[Any]) -> Any:
        """Return the optimizer over `parameters`."""
        import torch

        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def dataset(self) -> Any:
        """Return the dataset, checked."""
        from kit.techniques.training import data

        return data.load(self.data, self.data_options)

    def batches(self, inputs: Any, targets: Any, share: tuple[int, int] = (0, 1)) -> list[tuple[Any, Any]]:
        """Return this task's `steps` batches of (inputs, targets) in seeded order, begun anew when the data ends.

        share: (index, number): which part of each batch to take. Raise UserError if a batch does not divide.
        """
        import torch

        index, number = share
        if self.batch % number:
            raise UserError(f"batch={self.batch} does not divide among {number} ranks; take a multiple of {number}")
        if self.batch > len(inputs):
            raise UserError(f"batch={self.batch} is more than the {len(inputs)} samples there are; take a smaller one")
        generator = torch.Generator().manual_seed(self.seed)
        needed, order = self.batch * self.steps, []
        while sum(map(len, order)) < needed:
            order.append(torch.randperm(len(inputs), generator=generator))
        rows = torch.cat(order)[:needed].view(self.steps, number, self.batch // number)[:, index]
        return [(inputs[part], targets[part]) for part in rows]
