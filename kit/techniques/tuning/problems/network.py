"""A small network for tables: standardized numbers beside an embedding of each code, then plain layers."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.techniques.tuning.problem import Setting
from kit.techniques.tuning.problems.tables import Table

WIDEST_CODE = 16


class Net(nn.Module):
    """Numbers float32 [N, numbers] and codes int64 [N, columns], 0 standing for none → [N, outputs]."""

    def __init__(self, numbers: int, codes: list[int], outputs: int, width: int, layers: int, dropout: float) -> None:
        """codes: of each column, how many there are."""
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n + 1, min(WIDEST_CODE, n // 2 + 1)) for n in codes)
        inputs = numbers + sum(one.embedding_dim for one in self.embeddings)
        hidden = [
            part
            for layer in range(layers)
            for part in (nn.Linear(width if layer else inputs, width), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.body = nn.Sequential(*hidden, nn.Linear(width, outputs))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        embedded = [embed(column) for embed, column in zip(self.embeddings, codes.unbind(1), strict=True)]
        return self.body(torch.cat([numbers, *embedded], 1))


class Training:
    """A network in training on a table, epoch by epoch. torch's own generator and threads are left as they were."""

    def __init__(self, table: Table, setting: Setting, seed: int, threads: int) -> None:
        """seed: of weights, order and dropout."""
        self.classes, self.seed, self.threads, self.epochs = len(table.classes), seed, threads, 0
        self.batch = setting["batch"]
        self._standardize(table)
        self.inputs = self._inputs(table)
        codes = [table.codes[column] for column in table.categorical]
        with self._alone(0):
            self.net = Net(
                self.inputs[0].shape[1],
                codes,
                max(1, self.classes),
                setting["width"],
                setting["layers"],
                setting["dropout"],
            )
        targets = table.labels if self.classes else (table.labels - self.middle) / self.spread
        self.targets = torch.tensor(targets, dtype=torch.int64 if self.classes else torch.float32)
        rate, decay = setting["learning_rate"], setting["weight_decay"]
        self.optimizer = torch.optim.AdamW(self.net.parameters(), rate, weight_decay=decay)

    def epoch(self) -> None:
        """Go through all rows once, in a new order."""
        self.epochs += 1
        self.net.train()
        with self._alone(self.epochs):
            for rows in torch.randperm(len(self.targets)).split(self.batch):
                out = self.net(*(one[rows] for one in self.inputs))
                wrong = (
                    F.cross_entropy(out, self.targets[rows])
                    if self.classes
                    else F.mse_loss(out[:, 0], self.targets[rows])
                )
                self.optimizer.zero_grad()
                wrong.backward()
                self.optimizer.step()

    @torch.no_grad()
    def predict(self, table: Table) -> np.ndarray:
        """Return probabilities float64 [rows, classes], or numbers [rows]."""
        self.net.eval()
        with self._alone(0):
            out = self.net(*self._inputs(table)).double()
        return out.softmax(1).numpy() if self.classes else out[:, 0].numpy() * self.spread + self.middle

    def _standardize(self, table: Table) -> None:
        """Learn means and spreads, of this table alone."""
        self.numbers = [column for column, codes in enumerate(table.codes) if not codes]
        values = np.ma.masked_invalid(table.features[:, self.numbers].astype(np.float64))
        self.means = values.mean(0).filled(0.0)
        spreads = values.std(0).filled(0.0)
        self.spreads = np.where(spreads > 0, spreads, 1.0)
        if not self.classes:
            self.middle, self.spread = table.labels.mean(), table.labels.std() or 1.0

    def _inputs(self, table: Table) -> tuple[Tensor, Tensor]:
        """Return numbers, the missing ones as the mean, and codes from 1 on, 0 for a missing one."""
        numbers = np.nan_to_num((table.features[:, self.numbers] - self.means) / self.spreads)
        codes = np.nan_to_num(table.features[:, table.categorical] + 1)
        return torch.tensor(numbers, dtype=torch.float32), torch.tensor(codes, dtype=torch.int64)

    @contextmanager
    def _alone(self, epoch: int) -> Iterator[None]:
        """Have a chance of one's own, and so many threads."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1000 * self.seed + epoch)
                yield
        finally:
            torch.set_num_threads(before)
