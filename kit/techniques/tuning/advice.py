"""What to do: which search, how many workers, whether tuning pays at all, and what an hour of it brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kit.measure.result import Result
from kit.record import words
from kit.record.document import Table, Variant
from kit.techniques.tuning import show
from kit.techniques.tuning.equal_time import Outcome
from kit.techniques.tuning.race import Race
from kit.techniques.tuning.ranks import Ranking
from kit.techniques.tuning.scaling import Held, Scaled

WORTH_A_WORKER = 0.5
"""A number of workers is advised while each one brings at least so much of what one alone does."""
HALF, AT_LEAST = 0.5, 2.0
"""Claimed: pruning saves so much of the work of a trial, and does not bring the answer so many times as soon."""


def searched(result: Result) -> str:
    """Return the search to use: of those that are shown to be sooner there than the baseline the one of the largest
    speed-up at the largest size, else the baseline."""
    faster = _faster(result)
    return max(faster, key=lambda one: one.effect.speedup).name if faster else result.record.asked.baseline


def _faster(result: Result) -> list[Variant]:
    return [one for one in show.measured(result.record.points[-1]) if one.verdict == "faster"]


def search(result: Result) -> str:
    """Return in a sentence which search to use, and which ones can't be told from it."""
    point, baseline, faster = result.record.points[-1], result.record.asked.baseline, _faster(result)
    if not faster:
        return f"none is shown to be sooner there than {baseline} search; take {baseline}, the simplest."
    (best,) = [one for one in faster if one.name == searched(result)]
    others = [one.name for one in faster if one is not best]
    alike = [name for name in others if not _apart(result, best.name, name)]
    tied = f" Not told apart from it: {words.listing(alike)}." if alike else ""
    found = words.with_interval(best.effect.speedup, best.effect.low, best.effect.high)
    reached = f"what that has after {words.count(point.size, 'trials')}"
    return f"{best.name}, {found} as fast as {baseline} search to {reached}.{tied}"


def _apart(result: Result, name: str, to: str) -> bool:
    pair = result.paired(name, to=to)
    return pair is not None and pair.verdict in ("faster", "slower")


def enough_workers(scaled: Scaled) -> int:
    """Return the largest number of workers of which each is shown to bring the answer at least half as much sooner as
    one does: by the lower end of the interval, where there is one."""
    worth = [
        number
        for number, (middle, low, _) in zip(scaled.workers, scaled.sped_up(scaled.to_target_s), strict=True)
        if (low if low is not None else middle) >= WORTH_A_WORKER * number
    ]
    return max(worth, default=1)


def workers(scaled: Scaled, price_per_hour: float) -> str:
    """Return in a sentence how many workers, and what the largest number asked for brings instead."""
    number, most = enough_workers(scaled), scaled.workers[-1]
    in_trials, in_answers = (
        dict(zip(scaled.workers, scaled.sped_up(seconds), strict=True))
        for seconds in (scaled.a_trial_s, scaled.to_target_s)
    )
    sooner = _times(in_answers[number])
    said = f"up to {number} for {scaled.search} on {scaled.problem}, which bring the answer {sooner} sooner"
    if number == 1:
        said = f"one for {scaled.search} on {scaled.problem}; of the numbers tried none is shown to be worth half"
    if most > number:
        dearer = most / in_answers[most][0] if in_answers[most][0] else np.inf
        what = "price" if price_per_hour else "worker hours"
        said += (
            f"; {most} bring trials {_times(in_trials[most])} sooner and the answer {_times(in_answers[most])}, at "
            f"{words.number(dearer, 2)} times the {what}"
        )
    return f"{said}."


def clock(checked: Sequence[Held]) -> str:
    """Return in a sentence how far the simulated clock, which workers are advised by, was off beside real processes."""
    errors = [f"{np.median(one.errors):+.0%} at {words.count(one.workers, 'workers')}" for one in checked]
    return f"beside real processes it was off by {' and '.join(errors)}; below 0 it promises too much."


def _times(found: tuple[float, float | None, float | None]) -> str:
    return words.times(found[0]) if np.isfinite(found[0]) else "at no known factor"


def pays(outcomes: Sequence[Outcome]) -> str:
    """Return whether tuning pays on the real table: some method beats the defaults on data that no trial saw."""
    tried = [one for one in outcomes if one.judged is not None and one.name != "defaults"]
    if not tried:
        return "not tried here: there is no table to hold data back from."
    best = min(tried, key=lambda one: one.judged.loss)
    paid = [one for one in tried if one.judged.pays]
    spent = words.duration(best.budget_s)
    if not paid:
        return f"it did not pay here within {spent} for each. The best, {best.name}: {_told(best)}"
    said = f" (of {words.count(len(tried), 'methods')} the best by these rows)" if len(tried) > 1 else ""
    others = [one.name for one in paid if one is not best]
    also = f" So do{'es' * (len(others) == 1)} {words.listing(others)}." if others else ""
    lead = best if best.judged.pays else min(paid, key=lambda one: one.judged.loss)
    return f"yes, {lead.name} within {spent}{said}: {_told(lead)}{also if lead is best else ''}"


def _told(one: Outcome) -> str:
    return one.judged.in_words().partition(": ")[2]


@dataclass(frozen=True)
class Gain:
    """What time brought: the median loss at each of these seconds, of the search that is advised."""

    search: str
    seconds: list[float]
    losses: list[float]
    trial_s: float


def gain(result: Result, race: Race, name: str) -> Gain:
    """Return how the loss of one search fell over time at the largest size."""
    point = result.record.points[-1]
    (one,) = [each for each in show.measured(point) if each.name == name]
    drawn = show.curve(one, show.rounds(point, one), race, 0.0, over_time=True)
    return Gain(name, [float(x) for x in drawn.x], drawn.y, race.mean_s)


def break_even(gain: Gain, price_per_hour: float) -> Table:
    """Return what each doubling of the search's time brought, and what it costs."""
    rows = []
    for (before_s, before), (after_s, after) in pairwise(zip(gain.seconds, gain.losses, strict=True)):
        spent, brought = after_s - before_s, before - after
        rows.append(
            [
                words.duration(after_s),
                after,
                brought,
                words.duration(spent / brought) if brought > 0 else "never",
                price_per_hour * spent / 3600 / brought if price_per_hour and brought > 0 else None,
            ]
        )
    columns = ["searched for", "loss", "gained since the row above", "time a unit of loss", "price a unit of loss"]
    if not price_per_hour:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(
        f"What more hours bring: {gain.search}",
        columns,
        rows,
        note="Medians over the rounds, one worker. Go on while a unit of loss is worth more to you than its time; on "
        "your own model multiply by how much longer one of its trials takes than "
        f"{words.duration(gain.trial_s)}.",
    )


def half_gained(gain: Gain) -> str:
    """Return in a sentence when half of the gain was there."""
    when = show.first_half(gain.losses, gain.seconds)
    if when is None:
        return "more of it gained nothing."
    return (
        f"half of what {gain.search} gained after its first trials was there at "
        f"{words.percent(when / gain.seconds[-1])} of the time."
    )


def claim(
    ranking: Ranking, result: Result, scaled: Scaled | None, outcomes: Sequence[Outcome], first: str = "TPE"
) -> str:
    """Return whether what the notebook claims at its top holds here, part by part: each holds, is refuted, or is not
    told by what was measured."""
    parts = [
        _ranks_before(ranking, first, "random"),
        *_pruning(result),
        *_more_workers(scaled),
        *_beats(outcomes, first),
    ]
    states = [state for state, _ in parts]
    whole = "holds" if set(states) == {True} else "does not hold" if False in states else "is not settled"
    marks = {True: "✓", False: "✗", None: "not told:"}
    return f"**The claim {whole} here**: " + "; ".join(f"{marks[state]} {what}" for state, what in parts) + "."


def _ranks_before(ranking: Ranking, name: str, other: str) -> tuple[bool | None, str]:
    told = f"{name} ranks before {other} search over {words.count(len(ranking.ranks), 'problems')}"
    means = ranking.means
    if name not in means or other not in means or other in ranking.tied(name):
        return None, told
    return means[name] < means[other], told


def _pruning(result: Result) -> list[tuple[bool | None, str]]:
    pruned = show.pruning(result)
    if not pruned:
        return []
    names = words.listing([one.name for one in pruned])
    least, most = min(one.saved_low for one in pruned), max(one.saved_high for one in pruned)
    saved = True if least >= HALF else False if any(one.saved_high < HALF for one in pruned) else None
    known = [one.sooner for one in pruned if one.sooner is not None and one.sooner.low is not None]
    if any(one.low >= AT_LEAST for one in known):
        slower = False
    else:
        slower = True if len(known) == len(pruned) and all(one.high < AT_LEAST for one in known) else None
    return [
        (saved, f"{names}: {words.percent(least)} to {words.percent(most)} of the work of a trial saved"),
        (slower, f"and the answer is not there {AT_LEAST:g} times as soon"),
    ]


def _more_workers(scaled: Scaled | None) -> list[tuple[bool | None, str]]:
    if scaled is None or scaled.workers[-1] == 1:
        return []
    number = max(one for one in scaled.workers if one <= 16 or one == min(scaled.workers[1:]))
    at = scaled.workers.index(number)
    trials, answers = scaled.sped_up(scaled.a_trial_s)[at], scaled.sped_up(scaled.to_target_s)[at]
    told = f"{number} workers bring trials {_times(trials)} sooner and the answer {_times(answers)}"
    if None in (*trials, *answers):
        return [(None, told)]
    return [(True if answers[2] < trials[1] else False if answers[1] > trials[2] else None, told)]


def _beats(outcomes: Sequence[Outcome], name: str) -> list[tuple[bool | None, str]]:
    found = next((one.judged for one in outcomes if one.name == name and one.judged), None)
    if found is None:
        return []
    worse = found.low is not None and found.low > 0
    return [(True if found.pays else False if worse else None, f"what {name} finds beats the defaults on unseen data")]
