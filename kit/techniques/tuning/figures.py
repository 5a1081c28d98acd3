"""Charts, tables and conclusions of the tuning notebooks."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from kit.common import claims
from kit.measure.result import Result
from kit.record import formatting as fmt
from kit.record.document import Chart, Series, Table
from kit.record.recommendation import NO_WINNER, answers
from kit.techniques.tuning import seeds as over
from kit.techniques.tuning.fixed_budget import Evaluated, Predicted
from kit.techniques.tuning.simulation import Scaled, speedups
from kit.techniques.tuning.time_to_target import Target
from kit.techniques.tuning.workers import SIMULATED_S
from kit.techniques.tuning.workload import Problem

Found = Mapping[str, tuple[Predicted, Evaluated]]
"""Of each method with a fixed budget: what it predicted, and how that was evaluated."""
HeldOut = tuple[str, str, bool | None]
"""A method, its result in words without its name, and whether it is better than the defaults; None: inconclusive."""

PAIR = "2 processes, journal file"


# Time to target -------------------------------------------------------------------------------------------------------


def reached(result: Result, target: Target) -> Chart:
    """Return the share of seeds that reached the target over time, with its interval."""
    found = over.of(result)
    series = [Series(name, *map(list, over.share_reached(one))) for name, one in found.items()]
    return Chart(
        f"Seeds at the target loss {target.loss:.3g}, higher is better", "seconds of trials and sampler",
        "share of seeds", series, log_x=True,
        note=f"Kaplan-Meier over {len(next(iter(found.values())).seconds)} seeds, 95 % interval; searches that miss "
        f"the target are censored. The target is the median loss of random search after {target.trials} trials.",
    )  # fmt: skip


def searches(result: Result, problem: Problem) -> Table:
    """Return a row for each search: time to target next to random search, held-out loss next to the defaults."""
    found, default = over.of(result), _default_loss(problem)
    baseline, rows = next(iter(found.values())), []
    for name, one in found.items():
        work, sampler = one.metrics["work s"].mean(), one.metrics["sampler s"].mean()
        less, share = 1 - work / baseline.metrics["work s"].mean(), sampler / (sampler + work)
        row = [name, len(one.seconds), fmt.percent(one.reached.mean()), _finite(over.expected_s(one)[0])]
        row += map(fmt.percent, (less, share))
        if default is not None:
            row += [float(np.nanmedian(_held_out(one))), _percent(over.beats(_held_out(one), default))]
        rows.append(row)
    columns = ["search", "seeds", "reached", "expected s to target", "less trial time", "sampler's share"]
    note = "95 % intervals over seeds. Expected seconds: all seeds' ÷ those at the target. Speed-up: median by seed."
    if default is not None:
        columns += ["held-out loss", "seeds better than the defaults"]
        note += f" The defaults' held-out loss is {default:.3g}."
    return Table("Time to target and held-out loss", columns, rows, note)


def _default_loss(problem: Problem) -> float | None:
    """Return the defaults' held-out loss, where every round has one."""
    return float(problem.held_out(problem.default)) if problem.held_out and problem.default else None


def _held_out(seeds: over.Seeds) -> np.ndarray:
    """Return the held-out loss of each seed's setting; NaN, where no trial was complete."""
    return seeds.metrics.get("held-out loss", np.full(len(seeds.seconds), np.nan))


# Held-out worth -------------------------------------------------------------------------------------------------------


def worth(found: Found, measure: str, budget_s: float) -> tuple[Chart, Table]:
    """Return the difference in held-out loss to the defaults, as a chart and as a table."""
    others = {name: evaluated for name, (_, evaluated) in found.items() if name != "defaults"}
    middle, low, high = ([getattr(one, end) for one in others.values()] for end in ("difference", "low", "high"))
    note = "95 % intervals over held-out rows (paired bootstrap); they do not cover another seed of the search."
    title = f"Held-out {measure} after {budget_s:g} s of search, lower is better"
    series = [Series("difference", list(others), middle, low, high)]
    chart = Chart(title, "method", f"{measure} less the defaults'", series, "bars", note=note)
    rows = [
        [name, answer.trials, answer.validation_loss, evaluated.loss, _difference(evaluated), answer.chosen]
        for name, (answer, evaluated) in found.items()
    ]
    columns = ["method", "trials", "loss by own folds", f"held-out {measure}", "difference to the defaults", "chosen"]
    return chart, Table(f"{budget_s:g} s of search for each method", columns, rows, note)


def _difference(evaluated: Evaluated) -> str:
    return f"{evaluated.difference:+.2g} (95 % CI {evaluated.low:+.2g} to {evaluated.high:+.2g})"


# Workers --------------------------------------------------------------------------------------------------------------


def clock_error(result: Result) -> float:
    """Return how far the simulated clock is off real processes in a comparison by `workers.Processes`: the largest
    median of relative errors, without its sign."""
    found = [one for one in over.of(result).values() if SIMULATED_S in one.metrics]
    return max((abs(float(np.median(one.metrics[SIMULATED_S] / one.seconds)) - 1) for one in found), default=0.0)


def workers(scaled: Scaled, error: float, result: Result) -> Chart:
    """Return the speed-up in trials and in time to target over workers. error: see `clock_error`; result: of real
    processes, whose speed-up is drawn as measured."""
    trials, target = speedups(scaled.per_trial, error), speedups(scaled.to_target, error)
    numbers, seeds = list(trials), len(scaled.per_trial[1].seconds)
    series = [Series("ideal", numbers, [float(n) for n in numbers], style="ideal")]
    for name, found in (("trials", trials), ("time to target", target)):
        middle, low, high = ([_finite(value) for value in column] for column in zip(*found.values(), strict=True))
        series.append(Series(name, numbers, middle, low, high, style="modelled"))
    if PAIR in result and result[PAIR].verdict != "rejected" and result[PAIR].speedup:
        series.append(Series("trials", [1, 2], [1.0, result[PAIR].speedup]))
    note = (
        f"Modelled: the real sampler on a simulated clock, {scaled.trials} trials, {seeds} seeds; 95 % intervals over "
        f"seeds, widened by the clock's error of {fmt.percent(error)}. Measured: real processes. The target is the "
        f"median loss of random search by one worker after {scaled.trials // 2} trials."
    )
    title, y = f"Parallel workers: {scaled.search} on {scaled.problem}", "× as fast as one worker, higher is better"
    return Chart(title, "workers", y, series, log_x=True, log_y=True, note=note)


# Conclusions ----------------------------------------------------------------------------------------------------------


def conclusion(result: Result, problem: Problem, found: Found) -> tuple[Table, str]:
    """Return the answer to the notebook's question, as reports show them, and its claim part by part."""
    searched, default = over.of(result), _default_loss(problem)
    (first, baseline), *_ = searched.items()
    sound = {name: one for name, one in searched.items() if result[name].verdict != "rejected"}
    than, raced = _label(first), {name: result[name] for name in sound if name != first}
    times = {n: fmt.speed(one.variant.effect, than) for n, one in raced.items()}
    reached = {name: over.beats(1.0 - one.reached, 0.5) for name, one in {first: baseline, **sound}.items()}
    times |= dict.fromkeys((n for n in raced if not sound[n].reached.any()), "not reached")
    often = f"reaches it in {{}} of seeds ({than}: {fmt.percent(reached[first][0])})"
    times |= {n: often.format(_percent(reached[n])) for n in raced if reached[n][2] < reached[first][1]}

    def is_faster(one: str, other: str) -> bool:
        pair = result.paired(one, other)
        return reached[one][1] > reached[other][2] or (pair is not None and pair.verdict == "faster")

    headline, worth_it = advice(held_out(sound, default, problem.name, found), {first: ""} | times, is_faster)
    parts = {"a tuned configuration beats the defaults on held-out data": worth_it}
    parts |= {f"{n} needs less time than {than}": claims.some([raced[n].verdict]) for n in raced if n == "TPE"}
    for name in (name for name in sound if "ASHA" in name):
        work_s, plain_s = (one.metrics["work s"][: len(sound[name].seconds)] for one in (sound[name], baseline))
        share = over.beats(work_s - plain_s / 2, 0.0)
        parts[f"{name} saves half of the trial time in {_percent(share)} of seeds"] = _above(share, 0.5)
    return answers({"Is tuning worth it?": headline}), _marked(parts)


def held_out(searched: Mapping[str, over.Seeds], default: float | None, problem: str, found: Found) -> list[HeldOut]:
    """Return each result on held-out data. default: the defaults' loss on `problem`, where it is known."""
    results = []
    for name, one in searched.items() if default is not None else ():
        share = over.beats(_held_out(one), default)
        text = f"better than the defaults on {problem} in {_percent(share)} of seeds"
        results.append((name, text, _above(share, 0.5)))
    for name, (_, one) in found.items():
        if name != "defaults":
            text = f"loss on the table less the defaults' {_difference(one)}"
            results.append((name, text, _above((-one.difference, -one.high, -one.low), 0.0)))
    return results


def advice(
    results: list[HeldOut], times: Mapping[str, str], is_faster: Callable[[str, str], bool]
) -> tuple[str, bool | None]:
    """Return headline and evidence, and whether tuning is worth it.

    results: decide, on held-out data. times: each search's time to target next to the first one's, in words; searches
    that are better than the defaults are chosen by is_faster(one, other), which counts those that miss the target.
    """
    worse = {name for name, _, better in results if better is False}
    good = list(dict.fromkeys(name for name, _, better in results if better and name not in worse))
    timed = [name for name in good if name in times]
    best = [one for one in timed if not any(is_faster(other, one) for other in timed)] or good
    if not results:
        return "No winner shown: held-out data decides, and there are no defaults with `held_out` and no table", None
    if not best:
        kept = all(better is False for *_, better in results)
        return f"{'Keep the defaults' if kept else 'No winner shown'}: {_listed(results)}", False if kept else None
    compared = any(times[name] not in ("", "not reached") for name in timed)
    tie = "no significant difference between them" if compared else "not compared by time to target"
    headline = f"Tune with {fmt.listing(map(_label, best), last='or')}" + (f" ({tie})" if len(best) > 1 else "")
    evidence = [_listed([one for one in results if one[0] in best and one[2]])]
    for word, names in (("to", best), ("behind at", [name for name in timed if name not in best])):
        if races := ", ".join(f"{_label(name)} {times[name]}" for name in names if times.get(name)):
            evidence.append(f"{word} the target loss: {races}")
    for word, state in (("worse", False), ("inconclusive", None)):
        if left := [one for one in results if one[2] is state]:
            evidence.append(f"{word}: {_listed(left)}")
    return f"{headline}: {'; '.join(evidence)}", True


def _listed(results: Iterable[HeldOut]) -> str:
    """Return results in words, the methods of equal ones together."""
    texts = dict.fromkeys(text for _, text, _ in results)
    return "; ".join(f"{t} ({fmt.listing(_label(name) for name, own, _ in results if own == t)})" for t in texts)


def worker_conclusion(result: Result, scaled: Scaled, error: float) -> tuple[Table, str]:
    """Return the answers of the notebook on workers, and its claim part by part."""
    trials, target = speedups(scaled.per_trial, error), speedups(scaled.to_target, error)
    number = max(trials)
    half = max(n for n, (_, low, _) in target.items() if n == 1 or low >= n / 2)
    measured = result[PAIR].verdict if PAIR in result else "skipped"
    upper = f"up to {half} workers are" if half > 1 else "no number of workers is"
    headline = f"Search with up to {half} workers" if half > 1 and measured == "faster" else NO_WINNER
    told = {
        "How many workers are worth it?": f"{headline}: 2 real processes next to 1: {measured}; modelled "
        f"({scaled.search} on {scaled.problem}), {upper} above half of the ideal speed-up in time to target",
        "What do more bring?": f"{number} workers: trials {_times(trials[number])}, time to target "
        f"{_times(target[number])} as fast; the clock's median error next to real processes is {fmt.percent(error)}",
    }
    less = _above((0.0, trials[number][1] - target[number][2], trials[number][2] - target[number][1]), 0.0)
    parts = {
        "two processes on a journal file are faster than one": claims.holds(measured, ["faster"]),
        f"with {number} workers the answer speeds up less than the trials": less,
    }
    return answers(told), _marked(parts)


def _marked(parts: Mapping[str, bool | None]) -> str:
    return "- " + claims.lines(parts).replace("\n", "\n- ")


def _above(found: over.Estimate, bound: float) -> bool | None:
    """Whether an estimate is above a bound; None where its interval contains the bound."""
    return True if found[1] > bound else False if found[2] < bound else None


def _label(search: str) -> str:
    return search.replace("random", "random search")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _times(found: over.Estimate) -> str:
    """Return `2.4× (95 % CI 2.0–2.6)`; a search that some resample never saw at the target has no upper end."""
    middle, low, high = found
    if not np.isfinite(middle):
        return "not reached"
    return fmt.with_interval(*found) if np.isfinite(high) else f"{fmt.times(middle)} (at least {fmt.times(low)})"


def _percent(found: over.Estimate) -> str:
    share, low, high = (100 * part for part in found)
    return f"{share:.0f} % (95 % CI {low:.0f}–{high:.0f} %)"
