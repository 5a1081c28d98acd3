"""What was asked for, in its order: real traces from packages, generated ones, and the user's own."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trace:
    """Requests in their order.

    keys: shape (requests,), int64: which object each request is for, as a number from 0 to `objects` − 1.
    times: shape (requests,), seconds from the first request, never falling; None where they are not known.
    sizes: shape (objects,), bytes of each object; None where all count as 1.
    """

    name: str
    keys: np.ndarray
    times: np.ndarray | None = None
    sizes: np.ndarray | None = None
    note: str = ""

    @property
    def objects(self) -> int:
        return int(self.keys.max()) + 1

    @property
    def request_sizes(self) -> np.ndarray:
        return np.ones(len(self.keys), int) if self.sizes is None else self.sizes[self.keys]
