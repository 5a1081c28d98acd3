"""Turns records into what the page shows: plain text and numbers, ready for the template, which escapes them."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

from kit.record import advice, document, words
from kit.record.document import Machine, Point, Record, Variant
from kit.report import prices
from kit.report.prices import Price
from kit.stored import choose
from kit.stored.choose import Brief, Shelf

MOST_ROWS = 60
MOST_SIZES = 12
MOST_PARAMETERS = 40
MOST_OLDER = 30
MOST_EXHIBITS = 24
MOST_TABLE_ROWS = 200
MOST_TABLE_COLUMNS = 24


@dataclass(frozen=True)
class Strip:
    """One variant's interval on a small logarithmic scale: places in percent of the width."""

    dot: float
    low: float
    high: float
    one: float


@dataclass(frozen=True)
class Choice:
    """What to do about one comparison, as the first screen says it, with the numbers that speak for it."""

    do: str
    condition: str
    change: list[str]
    """What could change it, a clause each."""
    verdict: str
    """Of the variant that is recommended; empty where the baseline stays."""
    numbers: list[tuple[str, str]]
    """Name and value: speed-up, from what size on, memory, quality, cost."""
    strip: "Strip | None"
    place: int


@dataclass(frozen=True)
class Line:
    """One variant of a verdict: how it came out at one size."""

    variant: str
    """Its name as the record has it."""
    name: str
    """The same for people."""
    verdict: str
    speedup: str
    said: str
    memory: str
    quality: str
    since: str
    place: int
    """Which of the page's colours it has."""
    strip: Strip | None
    cost: str


@dataclass(frozen=True)
class Result:
    """One variant at one size, in the table of all results."""

    technique: str
    anchor: str
    comparison: str
    size: str
    row: words.Row
    memory: str
    where: str
    measured: str


@dataclass(frozen=True)
class Table:
    """All variants at one size."""

    at: str
    rows: list[words.Row]
    more: int
    """Rows that are left out."""
    metrics: list[str]
    metric_rows: list[list[str]]
    said: str


@dataclass(frozen=True)
class Growth:
    """How one variant's time grows with size."""

    name: str
    exponent: str
    since: str


@dataclass(frozen=True)
class Drawn:
    """A figure as themed SVG, and what must be known to read it."""

    svg: str
    note: str = ""


@dataclass(frozen=True)
class OwnTable:
    """A table of the technique, as text."""

    title: str
    columns: list[tuple[str, bool]]
    """Heading, and whether it holds numbers."""
    rows: list[list[str]]
    note: str
    more: int
    """Rows that are left out."""


@dataclass(frozen=True)
class Section:
    """One comparison, in full."""

    anchor: str
    technique: str
    title: str
    label: str
    """What tells it from others of the same name."""
    where: str
    """The machine, where there are several."""
    headline: str
    choice: Choice
    answers: list[list[str]]
    """The technique's own answers: question and answer."""
    results: list[Result]
    sentences: list[str]
    lines: list[Line]
    not_run: list[tuple[str, str]]
    """Clause and remedy."""
    tables: list[Table]
    more_sizes: int
    growth: list[Growth]
    parameters: list[tuple[str, str]]
    winner: tuple[str, str] | None
    """Name and source code of the variant that is recommended."""
    sources: list[tuple[str, str]]
    priced: str
    """Of how many calls the costs are, and at what price; empty without one."""
    facts: list[str]
    """How this one was measured, with its own numbers."""
    warnings: list[str]
    older: list[Brief]
    more_older: int
    elsewhere: list[Brief]
    notebook_page: str
    own_tables: list[OwnTable]
    charts: list[str]
    """Titles of the technique's own charts."""
    more_exhibits: int
    written: str
    is_compared: bool
    """Whether variants took turns, so that there is something to recommend: not in another tool's times."""
    run: tuple[str, str]
    """Of which run it is: its folder and a hash of its parameters."""
    history: list[str] = field(default_factory=list)
    """What became of each variant over the dated runs, a sentence each."""
    timeline: list[Drawn] = field(default_factory=list)
    figures: list[Drawn] = field(default_factory=list)


@dataclass(frozen=True)
class Trouble:
    """A variant that failed or whose answer was wrong."""

    anchor: str
    comparison: str
    at: str
    variant: str
    verdict: str
    reason: str


def technique(notebook: str) -> str:
    """Return a notebook's name for people: `01_dataframes` is `Dataframes`."""
    bare = re.sub(r"^\d+[_-]*", "", words.shown(notebook, 80)).replace("_", " ").strip()
    return bare[:1].upper() + bare[1:] if bare else "Outside a notebook"


def slug(*parts: str) -> str:
    """Return a name that is safe as anchor and file name; where a part can't stand as it is, a hash tells it apart."""
    bare = [re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-")[:40] for part in parts]
    if bare != [part.lower() for part in parts]:
        bare.append(hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=3).hexdigest())
    return "-".join(bare).strip("-") or "unnamed"


def _sources(record: Record) -> list[tuple[str, str]]:
    """Return the code of the variants, each once, with the names of those that share it."""
    names: dict[str, list[str]] = {}
    for name, code in list(record.asked.sources.items())[:MOST_ROWS]:
        names.setdefault(code, []).append(name)
    return [(words.listing(sharing), code) for code, sharing in names.items() if code.strip()]


def section(
    record: Record, brief: Brief, shelf: Shelf, label: str, where: str, look: dict, page: str, price: Price | None
) -> Section:
    """Return one comparison as the page tells it. label: what tells it from its like; where: the machine, or empty;
    look: the variants' colours; page: of its notebook, or empty; price: of an hour of its machine."""
    point = words.largest(record)
    older, asked = shelf.older(brief), record.asked
    anchor = slug("c", brief.notebook, brief.comparison, brief.parameters[:6], brief.machine[:8])
    to_do = advice.of(record)
    told = lines(record, point, look, price) if point else []
    sources = _sources(record)
    return Section(
        anchor=anchor,
        technique=technique(asked.notebook),
        title=words.shown(asked.title or asked.comparison, 160),
        label=label,
        where=where,
        headline=words.headline(record),
        choice=_choice(record, to_do, look, price),
        answers=_answers(record),
        results=_results(record, anchor, where),
        sentences=words.sentences(record),
        lines=told,
        not_run=words.not_run_and_remedy(point) if point else [],
        tables=_tables(record),
        more_sizes=max(0, len(record.points) - MOST_SIZES),
        growth=_growth(record),
        parameters=[(words.shown(n, 60), choose.value(v)) for n, v in list(asked.parameters.items())[:MOST_PARAMETERS]],
        winner=(words.shown(to_do.variant, 60), code) if (code := asked.sources.get(to_do.variant)) else None,
        sources=sources,
        priced=_priced(record, point, price) if point and price else "",
        facts=_facts(record),
        warnings=_warnings(record),
        older=older[:MOST_OLDER],
        more_older=max(0, len(older) - MOST_OLDER),
        elsewhere=shelf.elsewhere(brief),
        notebook_page=page,
        own_tables=[
            _own_table(e)
            for e in record.exhibits[:MOST_EXHIBITS]
            if isinstance(e, document.Table) and e.title != advice.WHAT_TO_DO
        ],
        charts=[words.shown(e.title, 160) for e in charts(record)],
        more_exhibits=max(0, len(record.exhibits) - MOST_EXHIBITS),
        written=words.shown(record.written, 30),
        is_compared="tool" not in record.extra,
        run=(brief.file.folder, brief.parameters),
    )


def _choice(record: Record, to_do: advice.Advice, look: dict, price: Price | None) -> Choice:
    """Return the recommendation with the numbers of the variant that it names, or else of the best that was seen."""
    point = next((point for point in record.points if point.size == to_do.size), None)
    told = lines(record, point, look, price) if point else []
    best = next((line for line in told if line.variant == to_do.variant), None)
    seen = best or next((line for line in told if line.strip and line.verdict not in ("failed", "invalid")), None)
    at = words.count(point.size, record.asked.unit) if point else ""
    numbers = _numbers(record, best, at) if best else _best_seen(point, seen) if seen else []
    if price and point:
        numbers.append(("Cost", _cost_beside(record, point, best, price)))
    return Choice(
        do=to_do.do,
        condition=to_do.condition,
        change=list(to_do.change),
        verdict=seen.verdict if seen else "",
        numbers=[(name, value) for name, value in numbers if value and value != "—"],
        strip=seen.strip if seen else None,
        place=seen.place if seen else 0,
    )


def _best_seen(point: Point, seen: Line) -> list[tuple[str, str]]:
    effect = words.find(point, seen.variant).effect
    if effect is None:
        return []
    told = words.speed(effect) if effect.low is not None else f"{words.times(effect.speedup)} so far"
    return [("Best seen", f"{seen.name}, {told}")]


def _numbers(record: Record, best: Line, at: str) -> list[tuple[str, str]]:
    numbers = [("Speed-up", best.speedup), ("Shown at", at)]
    numbers += [("Faster from", best.since)] if record.scaling else []
    return [*numbers, ("Memory", best.memory), ("Quality", best.quality)]


def _cost_beside(record: Record, point: Point, best: Line | None, price: Price) -> str:
    """Return what the recommended variant costs beside the baseline."""
    reference = words.find(point, record.asked.baseline)
    if reference is None or reference.warm_s is None:
        return "—"
    many = prices.calls(reference.warm_s)
    base = prices.cost(price, reference.warm_s, many)
    told = f"{best.cost} instead of {base}" if best and best.verdict == "faster" else base
    return f"{told} {_per(many)}"


def _per(many: float) -> str:
    return {1.0: "a call", 1e3: "per 1,000 calls", 1e6: "per million calls", 1e9: "per billion calls"}[many]


def _priced(record: Record, point: Point, price: Price) -> str:
    reference = words.find(point, record.asked.baseline)
    hour = f"{words.number(price.amount)} {words.shown(price.currency, 8)}".strip()
    return f"Cost {_per(prices.calls(reference.warm_s if reference else None))}, at {hour} an hour of this machine."


def _answers(record: Record) -> list[list[str]]:
    """Return what a technique itself says to do: question and answer."""
    found = [e for e in record.exhibits if isinstance(e, document.Table) and e.title == advice.WHAT_TO_DO]
    return [[words.cell(cell) for cell in row[:2]] for table in found[:1] for row in table.rows[:20] if len(row) >= 2]


def _results(record: Record, anchor: str, where: str) -> list[Result]:
    """Return every variant at every size, the largest first."""
    points = sorted(record.points, key=lambda point: point.size or 0, reverse=True)[:MOST_SIZES]
    return [
        _result(record, point, variant, anchor, where) for point in points for variant in point.variants[:MOST_ROWS]
    ]


def _result(record: Record, point: Point, variant: Variant, anchor: str, where: str) -> Result:
    row, ratio = words.row(record, point, variant), words.memory_ratio(point, variant, record.asked.baseline)
    return Result(
        technique=technique(record.asked.notebook),
        anchor=anchor,
        comparison=words.shown(record.asked.title or record.asked.comparison, 80),
        size=words.count(point.size, record.asked.unit),
        row=row,
        memory=words.mib(words.memory_mib(variant.memory)) + (f" ({words.times(ratio)})" if ratio else ""),
        where=where,
        measured=words.shown(record.written, 30)[:10],
    )


def has_noise(record: Record) -> bool:
    """Return whether the baseline ran against itself at every size that took rounds."""
    return all(session.noise is not None for point in record.points for session in point.sessions)


def charts(record: Record) -> list[document.Chart]:
    """Return the technique's own charts that the page has room for."""
    return [exhibit for exhibit in record.exhibits[:MOST_EXHIBITS] if isinstance(exhibit, document.Chart)]


def _own_table(table: document.Table) -> OwnTable:
    numeric = [words.is_numeric(row[place] for row in table.rows) for place in range(len(table.columns))]
    columns = [(words.shown(name, 60), right) for name, right in zip(table.columns, numeric, strict=True)]
    return OwnTable(
        title=words.shown(table.title, 160),
        columns=columns[:MOST_TABLE_COLUMNS],
        rows=[[words.cell(value) for value in row[:MOST_TABLE_COLUMNS]] for row in table.rows[:MOST_TABLE_ROWS]],
        note=words.shown(table.note, 600),
        more=max(0, len(table.rows) - MOST_TABLE_ROWS),
    )


def lines(record: Record, point: Point, look: dict, price: Price | None = None) -> list[Line]:
    """Return a line for each variant that took part, the fastest first, the ones that do not count last."""
    told = [v for v in point.variants if v.verdict not in ("baseline", "skipped")][:MOST_ROWS]
    rank = {"faster": 0, "same": 1, "unresolved": 1, "slower": 1, "correctness only": 2, "invalid": 3, "failed": 4}
    told.sort(key=lambda v: (rank.get(v.verdict, 5), -(v.effect.speedup if v.effect else 0)))
    scale = _scale(told)
    reference = words.find(point, record.asked.baseline)
    many = prices.calls(reference.warm_s if reference else None)
    costs = [prices.cost(price, variant.warm_s, many) if price else "" for variant in told]
    return [_line(record, point, variant, scale, look, cost) for variant, cost in zip(told, costs, strict=True)]


def _line(record: Record, point: Point, variant: Variant, scale: tuple[float, float], look: dict, cost: str) -> Line:
    effect = variant.effect if variant.verdict != "failed" else None
    ratio = words.memory_ratio(point, variant, record.asked.baseline)
    return Line(
        variant=variant.name,
        name=words.shown(variant.name, 60),
        verdict=variant.verdict,
        speedup=words.with_interval(effect.speedup, effect.low, effect.high) if effect else "—",
        said=words.note(variant),
        memory=words.times(ratio),
        quality=words.quality(variant.quality),
        since=words.from_what_size(record.scaling.get(variant.name), record.asked.unit),
        place=_place(look, variant.name),
        strip=_strip(variant, scale),
        cost=cost,
    )


def _place(look: dict, name: str) -> int:
    from kit.record.style import PALETTE

    colour = look.get(name, ("", ""))[0]
    return PALETTE.index(colour) + 1 if colour in PALETTE else 0


def _ends(variant: Variant) -> list[float]:
    effect = variant.effect if variant.verdict != "failed" else None
    found = [effect.speedup, effect.low, effect.high] if effect else []
    return [end for end in found if end is not None and 1e-300 < end < 1e300]


def _scale(variants: list[Variant]) -> tuple[float, float]:
    ends = [end for variant in variants for end in _ends(variant)]
    return min([0.8, *ends]), max([1.25, *ends])


def _strip(variant: Variant, scale: tuple[float, float]) -> Strip | None:
    from math import log

    ends, (low, high) = _ends(variant), scale
    if not ends:
        return None
    place = lambda ratio: round(4 + 92 * (log(ratio) - log(low)) / (log(high) - log(low)), 2)  # noqa: E731
    return Strip(dot=place(ends[0]), low=place(min(ends)), high=place(max(ends)), one=place(1))


def _tables(record: Record) -> list[Table]:
    """Return the tables of the sizes, the largest first."""
    points = sorted(record.points, key=lambda point: (point.size is not None, point.size or 0), reverse=True)
    return [_table(record, point) for point in points[:MOST_SIZES]]


def _table(record: Record, point: Point) -> Table:
    shown = point.variants[:MOST_ROWS]
    metrics = list(dict.fromkeys(name for variant in shown for name in variant.metrics))[:12]
    return Table(
        at=words.count(point.size, record.asked.unit),
        rows=[words.row(record, point, variant) for variant in shown],
        more=len(point.variants) - len(shown),
        metrics=[words.shown(name, 40) for name in metrics],
        metric_rows=[
            [words.shown(v.name, 60), *(words.number(v.metrics.get(n)) for n in metrics)] for v in shown if v.metrics
        ],
        said=_measured(point),
    )


_STOPPED = {
    "settled": "stopped when all was settled",
    "budget": "stopped when the time was spent",
    "rounds": "stopped at the most rounds allowed",
    "interrupted": "interrupted",
    "baseline failed": "ended because the baseline failed",
}


def _measured(point: Point) -> str:
    """Return how many rounds one size took, in what time, and its noise floor."""
    rounds = [len(session.order) for session in point.sessions]
    floors = [session.noise_floor for session in point.sessions if session.noise_floor is not None]
    taken = "1 round" if rounds and max(rounds) == 1 else f"{_span(rounds)} rounds" if rounds else "no rounds"
    parts = [taken, f"{words.duration(point.seconds)} in all"]
    parts += [f"noise floor {words.percent(max(floors))}"] if floors else ["no noise floor"]
    parts += sorted({_STOPPED[session.stopped] for session in point.sessions})
    return ", ".join(parts)


def _span(values: list) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _growth(record: Record) -> list[Growth]:
    return [
        Growth(words.shown(name, 60), _exponent(found), words.from_what_size(found, record.asked.unit))
        for name, found in list(record.scaling.items())[:MOST_ROWS]
    ]


def _exponent(found) -> str:
    if found.exponent is None:
        return "—"
    return f"{found.exponent:.2f} {words.interval(found.exponent_low, found.exponent_high)}".strip()


def _facts(record: Record) -> list[str]:
    """Return on what and how one comparison was measured, in its own numbers."""
    how, git = record.how, record.git
    commit = f"commit {words.shown(git.commit)[:10]}{' with changes' if git.dirty else ''}" if git else ""
    packages = ", ".join(f"{words.shown(n, 40)} {words.shown(v, 20)}" for n, v in list(record.versions.items())[:24])
    memory = next((v.memory.method for p in record.points for v in p.variants if v.memory), "")
    return [
        text
        for text in (
            f"Measured {words.day(record.written)} on {machine_line(record.machine)}.",
            f"Kit {words.shown(how.kit, 20)}{', ' + commit if commit else ''}; {packages}.",
            f"Budget {_whole(how.seconds)} a size, {how.threads} threads a variant, seed {how.seed},"
            f" at most {how.max_looks} looks at the data, {words.percent(how.alpha)} chance of a false call over all.",
            f"Memory read by {words.shown(memory, 60)}." if memory else "",
        )
        if text
    ]


def _whole(seconds: float) -> str:
    return re.sub(r"\.0+(?= )", "", words.duration(seconds))


def _warnings(record: Record) -> list[str]:
    """Return what a reader must know before believing the numbers."""
    if tool := record.extra.get("tool"):
        return [f"Read from {words.shown(tool, 40)}: times of one test after the other, without rounds."]
    found = [] if record.complete else ["Interrupted: what was measured until then is told here."]
    if not record.how.isolated:
        found.append("Measured in one process, for debugging: memory and threads are not each variant's own.")
    if any(not point.together for point in record.points):
        found.append(
            "Memory did not hold all variants at once: each was measured in a session with the baseline alone."
        )
    drifting = {
        words.shown(variant.name, 60)
        for point in record.points
        for variant in point.variants
        if variant.effect and variant.effect.drift_p is not None and variant.effect.drift_p < 0.001
    }
    if drifting:
        found.append(f"The speed-up of {words.listing(sorted(drifting))} drifted over the rounds.")
    steal = [s for point in record.points for session in point.sessions for s in session.steal if s is not None]
    if steal and max(steal) > 0.05:
        found.append(
            f"Up to {words.percent(min(max(steal), 1))} of processor time was taken by other virtual machines."
        )
    return found


def troubles(record: Record, section: Section) -> list[Trouble]:
    """Return every variant that failed or is invalid, at every size."""
    return [
        Trouble(
            anchor=section.anchor,
            comparison=section.title,
            at=words.count(point.size, record.asked.unit),
            variant=words.shown(variant.name, 60),
            verdict=variant.verdict,
            reason=words.note(variant),
        )
        for point in record.points
        for variant in point.variants
        if variant.verdict in ("failed", "invalid")
    ]


# ------------------------------------------------------------------------------------------------ machines and dates


def machine_name(machine: Machine) -> str:
    """Return a machine's processor and GPU: `AMD EPYC 9654, NVIDIA H100`."""
    gpus = [words.shown(gpu.name, 40) for gpu in machine.gpus[:1]]
    return ", ".join([words.shown(machine.cpu, 60), *gpus])


def machine_line(machine: Machine) -> str:
    """Return a machine on one line: `Intel Xeon …, 2 of 8 cores, 15.5 GiB of memory, no GPU`."""
    cores = (
        f"{machine.cores} cores"
        if machine.cores == machine.cores_total
        else f"{machine.cores} of {machine.cores_total} cores"
    )
    limit = f" (limit {words.mib(machine.memory_limit_mib)})" if machine.memory_limit_mib else ""
    gpus = Counter(words.shown(gpu.name, 60) for gpu in machine.gpus[:64])
    listed = ", ".join(f"{n} × {name}" if n > 1 else name for name, n in gpus.items()) or "no GPU"
    return f"{words.shown(machine.cpu, 80)}, {cores}, {words.mib(machine.memory_mib)} of memory{limit}, {listed}"


def machine_details(machine: Machine) -> list[tuple[str, str]]:
    """Return what else is known of a machine, by name."""
    details = [
        ("System", words.shown(f"{machine.system}, {machine.arch}, Python {machine.python}", 120)),
        *(words.ceiling(name, found) for name, found in list(machine.ceilings.items())[:24]),
    ]
    for gpu in machine.gpus[:8]:
        details.append(("GPU", words.shown(f"{gpu.name}, {words.mib(gpu.memory_mib)}, driver {gpu.driver}", 120)))
    return [*details, ("CUDA", words.shown(machine.cuda, 20))] if machine.cuda else details


def span_of_days(written: list[str]) -> str:
    """Return the days over which records were written."""
    days = [words.day(text) for text in (min(written), max(written))] if written else []
    return " to ".join(dict.fromkeys(days)) if days else ""


# ------------------------------------------------------------------------------------------------ how it was measured


@dataclass(frozen=True)
class Numbers:
    """The numbers that the explanation of the method names, over all records told in full."""

    rounds: str
    floors: str
    looks: int
    alpha: str
    target: str
    budget: str
    threads: str
    spent: str
    afresh: bool
    """Whether the processes were started anew between looks."""


def numbers(records: list[Record]) -> Numbers | None:
    """Return the method's numbers; None if nothing was measured."""
    points = [point for record in records for point in record.points]
    sessions = [session for point in points for session in point.sessions]
    floors = [session.noise_floor for session in sessions if session.noise_floor is not None]
    if not sessions:
        return None
    hows = [record.how for record in records]
    return Numbers(
        rounds=_span([len(session.order) for session in sessions]),
        floors=" to ".join(dict.fromkeys(words.percent(f) for f in (min(floors), max(floors)))) if floors else "",
        looks=max(how.max_looks for how in hows),
        alpha=words.percent(max(how.alpha for how in hows)),
        target=words.plus_minus(max(how.target for how in hows)),
        budget=_whole(max(how.seconds for how in hows)),
        threads=_span([how.threads for how in hows]),
        spent=words.duration(sum(point.seconds for point in points)),
        afresh=any(len(session.starts) > 1 for session in sessions),
    )
