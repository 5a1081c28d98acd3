"""The prefix cache of a language-model server, simulated: what blocks of a prompt it need not read again.

Before a model answers it reads the whole prompt (prefill). A server keeps what it has read in blocks of 16 tokens, each
known by a hash of its tokens and of the block before it, so that prompts that begin alike share blocks. There is no
model here: prompts are generated, their time is tokens × a stated cost, and all that is said is named simulated.

Source: Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023; blocks
by their hash, evicted least recently used, the end of a prompt first: vLLM's automatic prefix caching.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from kit.errors import UserError

BLOCK = 16
"""Tokens of a block, as in vLLM."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a server is asked, in order: for each prompt its tokens. shared: tokens of the system prompts, for show."""

    tokens: list[np.ndarray]
    note: str

    @property
    def total(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt) for prompt in self.tokens)


def conversations(
    number: int = 500,
    *,
    systems: int = 8,
    system_tokens: int = 600,
    turns: float = 4.0,
    turn_tokens: float = 150.0,
    at_once: int = 50,
    seed: int = 0,
) -> Prompts:
    """Return the prompts of so many conversations, `at_once` of which go on at the same time, in random turn.

    Each begins with one of a few system prompts (popular ones more often, Zipf), and has some turns (geometric, mean
    `turns`); a turn's prompt is all that was said before and new tokens (log-normal, mean `turn_tokens`). Generated.
    """
    if min(number, systems, system_tokens, at_once) < 1 or turns < 1 or turn_tokens < 1:
        raise UserError("conversations, systems, turns and their tokens are numbers from 1 on; give no less")
    chance = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, systems + 1)
    heads = [_words(chance, system_tokens) for _ in range(systems)]
    waiting = iter(chance.choice(systems, number, p=popularity / popularity.sum()).tolist())
    going = [heads[system] for system in islice(waiting, at_once)]
    prompts: list[np.ndarray] = []
    while going:
        place = int(chance.integers(len(going)))
        said = chance.lognormal(np.log(turn_tokens) - 0.32, 0.8, 2)  # a question, and the answer that the next turn has
        prompt = np.concatenate([going[place], _words(chance, said[0])])
        prompts.append(prompt)
        if chance.random() < 1 / turns:
            system = next(waiting, None)
            going[place : place + 1] = [] if system is None else [heads[system]]
        else:
            going[place] = np.concatenate([prompt, _words(chance, said[1])])
    note = f"{number:,} generated conversations, {at_once} at once, {systems} system prompts of {system_tokens} tokens"
    return Prompts(prompts, note)


def _words(chance: np.random.Generator, tokens: float) -> np.ndarray:
    return chance.integers(0, 50_000, max(1, round(tokens)), dtype=np.int32)


def blocks(prompt: np.ndarray) -> Iterator[int]:
    """Yield the hash of each full block of a prompt, which stands for all tokens up to its end."""
    before, prompt = 0, np.asarray(prompt, np.int64)
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        before = hash((before, prompt[start : start + BLOCK].tobytes()))
        yield before


@dataclass(frozen=True)
class Prefill:
    """What a prefix cache of so many blocks saved, simulated. tokens: of all prompts; known: of them, not read again.

    saved_s, without_s: at the stated cost a token.
    """

    capacity: int
    tokens: int
    known: int
    us_a_token: float

    @property
    def hit_ratio(self) -> float:
        """Share of the tokens that needed no reading."""
        return self.known / self.tokens

    @property
    def without_s(self) -> float:
        """Seconds of reading without a cache."""
        return self.tokens * self.us_a_token / 1e6

    @property
    def saved_s(self) -> float:
        """Seconds of reading that the cache saved."""
        return self.known * self.us_a_token / 1e6


def simulate(prompts: Prompts, capacity: int, us_a_token: float = 100.0) -> Prefill:
    """Return what a cache of `capacity` blocks saves on these prompts, in their order.

    us_a_token: cost of reading one token, microseconds; stated, not measured: 100 is some 10,000 tokens a second. The
    last token of a prompt is always read, for the answer begins with it. Raise `UserError` for a capacity below 1.
    """
    if capacity < 1:
        raise UserError(f"a prefix cache of {capacity} blocks holds nothing; give 1 or more, as 10_000")
    held: OrderedDict[int, None] = OrderedDict()
    known = 0
    for prompt in prompts.tokens:
        chain = list(blocks(prompt))
        usable = (len(prompt) - 1) // BLOCK
        found = next((place for place, block in enumerate(chain) if block not in held), len(chain))
        known += min(found, usable) * BLOCK
        for block in reversed(chain):  # the end of a prompt is the least likely to be shared, and goes first
            held[block] = None
            held.move_to_end(block)
        while len(held) > capacity:
            held.popitem(last=False)
    return Prefill(capacity, prompts.total, known, us_a_token)


def curve(prompts: Prompts, capacities: Sequence[int], us_a_token: float = 100.0) -> list[Prefill]:
    """Return `simulate` at each capacity."""
    return [simulate(prompts, capacity, us_a_token) for capacity in capacities]
