"""What a step sends. Apart from the counting, so that it can be spoken of without importing torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """What one rank does in a step: by kind of operation the number of calls, and the bytes of the tensors handed over
    (for an all-gather and a reduce-scatter, of the whole tensor)."""

    calls: dict[str, int]
    num_bytes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Bytes over all operations but `receive`, whose bytes the sender counts."""
        return sum(count for kind, count in self.num_bytes.items() if kind != "receive")

    def in_words(self) -> str:
        """Say the calls, as "2 all-reduce, 9 all-gather"; without any, "none"."""
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.calls.items())) or "none"
