"""What an hour of a machine costs, as a person says it, and what a number of calls costs by it."""

import re
from dataclasses import dataclass

from kit.errors import UserError
from kit.record import words

_PRICE = re.compile(
    r"(?:(?P<machine>[0-9a-f]{4,40})=)?\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<currency>[^\d\s=<>&]{0,8})\s*"
)


@dataclass(frozen=True)
class Price:
    """Of an hour. machine: the beginning of a machine's key, empty for every machine."""

    machine: str
    amount: float
    currency: str


def read(texts: list[str]) -> list[Price]:
    """Return prices from texts as `3.20 EUR` or `8a1f2b=3.20 EUR`. Raise UserError for anything else."""
    found = []
    for text in texts:
        match = _PRICE.fullmatch(text)
        if match is None or not float(match["amount"]) > 0:
            raise UserError(
                f"--price got {words.shown(text, 60)!r}; it takes what an hour of a machine costs, as '3.20 EUR', "
                "or for one of several machines its key before it, as '8a1f2b=3.20 EUR'"
            )
        found.append(Price(match["machine"] or "", float(match["amount"]), match["currency"]))
    return found


def of(machine: str, prices: list[Price]) -> Price | None:
    """Return the price of the machine with this key: its own before that of every machine; None without one."""
    own = [price for price in prices if price.machine and machine.startswith(price.machine)]
    return next(iter(own or [price for price in prices if not price.machine]), None)


def calls(baseline_s: float | None) -> float:
    """Return the round number of calls whose cost is told: what the baseline does within some hours."""
    return next((many for many in (1.0, 1e3, 1e6) if (baseline_s or 1e9) * many > 360), 1e9)


def cost(price: Price, seconds: float | None, many: float) -> str:
    """Return what so many calls of so many seconds cost: `0.12 EUR`."""
    if seconds is None:
        return "—"
    return f"{words.number(price.amount / 3600 * seconds * many, 2)} {words.shown(price.currency, 8)}".strip()
