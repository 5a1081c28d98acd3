"""magika's model as a PyTorch module, its weights read out of the ONNX file that the package brings.

The file multiplies a one-hot matrix with a table; here its rows are looked up (`nn.Embedding`). The numbers are the
same, and a sample costs 333 million multiplications instead of 367 million. All else is as in the file, to rounding,
which the first norm makes up to a thousand times larger where a channel is nearly the same in all positions (its
variance is then little beside eps=1e-6): probabilities differ by less than 1e-6 on most files, by up to 1e-3 on a few.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import UserError
from kit.techniques.quantization.subjects.files import BEGINNING, END, PADDING, labels, magika_folder


class Magika(nn.Module):
    """Bytes int32 or int64 [N, 2048], 256 standing for none → probabilities [N, 214] of the labels."""

    def __init__(self, dim: int = 64, width: int = 512, joined: int = 4, labels: int = 214) -> None:
        super().__init__()
        self.joined = joined  # bytes that make a position
        self.embed = nn.Embedding(PADDING + 1, dim)
        self.norm = nn.LayerNorm((BEGINNING + END) // joined, eps=1e-6)  # over positions, each channel alone
        self.conv = nn.Conv1d(joined * dim, width, 5)
        self.pooled_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, labels)

    def forward(self, bytes: Tensor) -> Tensor:
        x = F.gelu(self.embed(bytes), approximate="tanh")
        x = x.unflatten(1, (-1, self.joined)).flatten(2).transpose(1, 2)  # [N, 4 · 64, 512]
        x = F.gelu(self.conv(self.norm(x)), approximate="tanh").amax(2)
        return self.head(self.pooled_norm(x)).softmax(1)


WEIGHTS = {
    "embed.weight": "Const:0",
    "embed.bias": "MagikaV2/Dense_0/Reshape:0",
    "norm.weight": "MagikaV2/LayerNorm_0/Reshape_2:0",
    "norm.bias": "MagikaV2/LayerNorm_0/Reshape_3:0",
    "conv.weight": "MagikaV2/Conv_0/transpose_3:0",
    "conv.bias": "const_fold_opt__209",
    "pooled_norm.weight": "MagikaV2/LayerNorm_1/Reshape_2:0",
    "pooled_norm.bias": "MagikaV2/LayerNorm_1/Reshape_3:0",
    "head.weight": "Const_24:0",
    "head.bias": "MagikaV2/Dense_1/Reshape:0",
}
"""Parameter → how the name of the file's initializer ends."""


def build() -> Magika:
    """Return the trained model in eval mode. Raise `UserError` if magika's file is another than the one known here."""
    import onnx

    graph = onnx.load(magika_folder() / "model.onnx").graph
    file = {tensor.name: tensor for tensor in graph.initializer}
    try:
        names = {ours: next(name for name in file if name.endswith(theirs)) for ours, theirs in WEIGHTS.items()}
        weights = {ours: torch.tensor(onnx.numpy_helper.to_array(file[name])) for ours, name in names.items()}
        weights["embed.weight"] += weights.pop("embed.bias").view(-1)
        weights["head.weight"] = weights["head.weight"].T
        model = Magika(labels=len(labels()))
        model.load_state_dict({name: weights[name].reshape(old.shape) for name, old in model.state_dict().items()})
    except (StopIteration, RuntimeError) as error:
        raise UserError(f"magika's model is not the one known here ({error}); pip install magika==1.0.3") from None
    return model.eval()
