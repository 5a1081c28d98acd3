"""The built-in model that is trained here: a small net for MNIST's digits."""

from pathlib import Path
from typing import TYPE_CHECKING

from kit.common.datasets import mnist
from kit.techniques.quantization.workload import cached_folder

if TYPE_CHECKING:
    from torch import nn

WIDTHS, EPOCHS, RATE = (32, 48, 96, 128), 4, 0.05


def digits() -> "nn.Module":
    """Return the network in eval mode, trained once within seconds: images [batch, 1, 28, 28] → logits [batch, 10].

    Four convolutions of 3 × 3 with batch norms, and a linear layer: 16 million multiplications per image.
    """
    import torch

    from kit.techniques.quantization.pruning import fine_tune

    def train(folder: Path) -> None:
        with torch.random.fork_rng([]):  # the caller's own random numbers stay as they were
            torch.manual_seed(0)
            net = _digits_net().to(memory_format=torch.channels_last)  # the faster one to train in, by a fifth
        fine_tune(net, *map(torch.from_numpy, mnist()[0]), EPOCHS, RATE)
        torch.save(net.state_dict(), folder / "net.pt")

    module = _digits_net()
    folder = cached_folder("digits-net", (WIDTHS, EPOCHS, RATE), train)
    module.load_state_dict(torch.load(folder / "net.pt", weights_only=True))
    return module.eval()


def _digits_net() -> "nn.Module":
    from torch import nn

    parts: list[nn.Module] = []
    for width, channels, pooled in zip((1, *WIDTHS), WIDTHS, (True, False, True, True), strict=False):
        parts += [nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(WIDTHS[-1] * 3 * 3, 10))
