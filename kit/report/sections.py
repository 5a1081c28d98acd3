"""The parts of a report: a section per comparison, a card per technique and per run that did not finish, machines."""

import hashlib
import math
import re
from dataclasses import dataclass, field

from kit.record import formatting as fmt
from kit.record import recommendation
from kit.record.document import Machine, Point, Record, Table, Variant
from kit.record.recommendation import Recommendation
from kit.runs.files import Status, Unreadable

MOST_SIZES = 12
MOST_ROWS = 60


@dataclass(frozen=True)
class Drawn:
    """A figure as themed SVG, and its note."""

    svg: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One comparison, in full."""

    record: Record
    anchor: str
    label: str
    """The parameters that distinguish it from others of the same name."""
    where: str
    """The machine, where there are several."""
    recommendation: Recommendation
    older: int
    """Older records of the same question."""
    notebook_page: str
    run: tuple[str, str]
    """Its run's folder and a hash of its parameters."""
    figures: list[Drawn] = field(default_factory=list)

    @property
    def technique(self) -> str:
        """The notebook's name for people: `01_dataframes` is `Dataframes`."""
        return technique(self.record.asked.notebook)

    @property
    def title(self) -> str:
        """The comparison's title, with what distinguishes it from others of the same name."""
        parts = (self.record.asked.title or self.record.asked.comparison, self.label, self.where)
        return ", ".join(fmt.shown(part, 160) for part in parts if part)

    @property
    def baseline(self) -> str:
        """Why the baseline is no straw man, in a sentence without a full stop; empty where nobody stated it."""
        asked = self.record.asked
        reason = fmt.shown(asked.baseline_reason).rstrip(".")
        return f"Baseline: {fmt.shown(asked.baseline, 60)}, {reason}" if reason else ""

    @property
    def points(self) -> list[Point]:
        """The sizes to list, the largest first."""
        return sorted(self.record.points, key=lambda point: -(point.size or 0))[:MOST_SIZES]

    @property
    def tables(self) -> list[Table]:
        """The technique's own tables."""
        found = (artifact for artifact in self.record.artifacts if isinstance(artifact, Table))
        return [found for found in found if found.title != recommendation.WHAT_TO_DO][:24]

    @property
    def answers(self) -> list[tuple[str, str]]:
        """The technique's own answers."""
        return recommendation.answered(self.record)

    @property
    def evidence(self) -> Variant | None:
        """The variant whose interval is drawn beside the recommendation: the fastest that is recommended, else the
        fastest that may be."""
        best = self.recommendation
        point = next((p for p in self.record.points if p.size == best.size), fmt.largest(self.record))
        variants = point.variants if point else []
        timed = [variant for variant in variants if fmt.claimed(variant) and not variant.not_recommended]
        named = [variant for variant in timed if variant.name in best.variants]
        return max(named or timed, key=lambda variant: variant.effect.speedup, default=None)


@dataclass(frozen=True)
class OnMachine:
    """One machine, and how much was measured on it."""

    machine: Machine
    records: int
    days: str

    @property
    def line(self) -> str:
        """`Intel Xeon …, 2 of 8 cores, 15.5 GiB of memory, no GPU`."""
        m = self.machine
        cores = fmt.count(m.cores, "cores") if m.cores == m.cores_total else f"{m.cores} of {m.cores_total} cores"
        limit = f" (limit {fmt.mib(m.memory_limit_mib)})" if m.memory_limit_mib else ""
        gpus = fmt.listing(gpu.name for gpu in m.gpus[:8]) or "no GPU"
        known = [fmt.shown(m.cpu, 80), cores if m.cores else ""]
        if m.memory_mib:  # unknown in a JSON of pytest-benchmark, as its GPUs are
            known += [f"{fmt.mib(m.memory_mib)} of memory{limit}", gpus]
        return ", ".join(filter(None, known))

    @property
    def details(self) -> list[tuple[str, str]]:
        """What else is known of it, by name."""
        m = self.machine
        system = fmt.shown(f"{m.system}, {m.arch}, Python {m.python}", 120)
        peaks = [fmt.peak(name, rate) for name, rate in list(m.peaks.items())[:24]]
        gpus = [("GPU", f"{g.name}, {fmt.mib(g.memory_mib)}, driver {g.driver}") for g in m.gpus[:8]]
        cuda = [("CUDA", m.cuda)] if m.cuda else []
        return [("System", system), *((f"Peak {name}", rate) for name, rate in peaks), *gpus, *cuda]


@dataclass(frozen=True)
class FailedRun:
    """A run that did not finish: its status, and the page of its notebook."""

    status: Status
    notebook_page: str

    @property
    def technique(self) -> str:
        """The notebook's name for people."""
        return technique(self.status.run.partition("/")[0])

    @property
    def headline(self) -> str:
        """`Run failed`, `Run cancelled`; `Run not finished` for one that is under way, or whose machine went off."""
        return f"Run {'not finished' if self.status.state == 'running' else self.status.state}"

    @property
    def line(self) -> str:
        """The last line of what went wrong."""
        return self.status.line or (self.status.log or ["no line in its status"])[-1]

    @property
    def command(self) -> str:
        """The command that runs it again."""
        name = self.status.run.partition("/")[0]
        return f"kit run {name}" if re.fullmatch(r"[\w-]+", name) else ""


@dataclass(frozen=True)
class Card:
    """The first screen's answer for one technique: its main comparison, and how many others are below."""

    section: Section
    others: list[Section]


@dataclass(frozen=True)
class Report:
    """Everything that the report shows, for the page and for Markdown."""

    sections: list[Section]
    more: int
    """Comparisons that are not shown in full."""
    records: int
    machines: list[OnMachine]
    failed: list[FailedRun]
    unreadable: list[Unreadable]

    @property
    def techniques(self) -> dict[str, list[Section]]:
        """The sections by technique, its main comparison first."""
        cards = {card.section.technique: [card.section, *card.others] for card in self.cards}
        times = [section for section in self.sections if "tool" in section.record.extra]
        return cards | ({"Times by other tools": times} if times else {})

    @property
    def cards(self) -> list[Card]:
        """One answer per technique: of its main notebook's newest run the comparison with the technique's own
        conclusion, else with a recommendation's verb, else the one that was measured first."""
        grouped: dict[str, list[Section]] = {}
        for section in self.sections:
            if "tool" not in section.record.extra:
                grouped.setdefault(_family(section.record.asked.notebook), []).append(section)
        cards = []
        for sections in grouped.values():
            notebook = min((section.record.asked.notebook for section in sections), key=len)
            own = [section for section in sections if section.record.asked.notebook == notebook]
            newest = max(own, key=lambda section: section.record.written)
            run = [section for section in own if section.run == newest.run]
            main = min(run, key=lambda s: (not s.answers, not s.record.asked.action, s.record.written))
            cards.append(Card(main, [section for section in sections if section is not main]))
        return cards

    @property
    def axis(self) -> tuple[float, float]:
        """Ends of the one logarithmic axis that all cards' intervals share."""
        ends = [end for card in self.cards if (v := card.section.evidence) for end in _ends(v)]
        return min([0.8, *ends]), max([1.25, *ends])

    def strip(self, variant: Variant | None) -> dict[str, float] | None:
        """Return the places of a variant's interval on that axis, in percent of its width."""
        places = [self._place(end) for end in _ends(variant)] if variant else []
        if not places:
            return None
        return {"dot": places[0], "low": min(places), "width": round(max(0.6, max(places) - min(places)), 2)}

    @property
    def ticks(self) -> list[tuple[str, float]]:
        """Two to seven round ratios on that axis, 1× among them, and their places, in percent of its width."""
        low, high = self.axis
        digits = (1, 1.2, 1.5, 2, 3, 5, 7) if high / low < 6 else (1, 2, 5) if high / low < 100 else (1,)
        steps = [float(f"{digit}e{power}") for power in range(-6, 7, 1 + (high / low > 1e6)) for digit in digits]
        return [(f"{step:g}×", self._place(step)) for step in steps if low <= step <= high]

    def _place(self, ratio: float) -> float:
        low, high = self.axis
        return round(4 + 92 * math.log(ratio / low) / math.log(high / low), 2)

    @property
    def rejected(self) -> list[tuple[Section, str, Variant]]:
        """Every variant that failed or was rejected, with the sizes at which it did so for the same reason."""
        found: dict[tuple, tuple[Section, list, Variant]] = {}
        for section in self.sections:
            for point in section.record.points:
                for variant in point.variants:
                    if variant.verdict in ("failed", "rejected"):
                        key = section.anchor, variant.name, variant.verdict, fmt.note(variant)
                        found.setdefault(key, (section, [], variant))[1].append(point.size)
        return [(one, recommendation.at_sizes(one.record, sizes, ""), v) for one, sizes, v in found.values()]

    @property
    def commits(self) -> str:
        """The one commit of all that is shown, or how many there are: then runs are no one report's."""
        found = sorted({commit for commit, _ in self.software})
        return f"commit {found[0]}" if len(found) == 1 else fmt.count(len(found), "commits")

    @property
    def software(self) -> dict[tuple[str, str], int]:
        """Commit and package versions, with how many of the comparisons have them."""
        found: dict[tuple[str, str], int] = {}
        for section in self.sections:
            record = section.record
            commit = (
                f"{record.git.commit[:10]}{' with changes' if record.git.dirty else ''}" if record.git else "unknown"
            )
            packages = ", ".join(f"{name} {version}" for name, version in list(record.versions.items())[:24])
            found[commit, packages] = found.get((commit, packages), 0) + 1
        return found


def _ends(variant: Variant) -> list[float]:
    effect = variant.effect
    found = [effect.speedup, effect.low, effect.high] if effect else []
    return [end for end in found if end is not None and 1e-6 < end < 1e6]


def caption(record: Record, point: Point) -> str:
    """Return how one size was measured: `1,000,000 rows: 20 rounds in 21.5 s, noise floor 3 %`."""
    rounds = max((len(session.order) for session in point.sessions), default=0)
    floors = [session.noise_floor for session in point.sessions if session.noise_floor is not None]
    floor = f", {fmt.floor_name(point)} {fmt.percent(max(floors))}" if floors else ""
    at = fmt.count(point.size, record.asked.unit) or "All variants"
    return f"{at}: {fmt.count(rounds, 'rounds')} in {fmt.duration(point.seconds)}{floor}"


def _family(notebook: str) -> str:
    """Return what the notebooks of one technique share: `05_caching` and `05_cache_policies` begin alike."""
    found = re.match(r"\d+_\w{4}", notebook)
    return found[0] if found else notebook


def technique(notebook: str) -> str:
    """Return a notebook's name for people."""
    bare = re.sub(r"^\d+[_-]*", "", fmt.shown(notebook, 80)).replace("_", " ").strip()
    return PROPER.get(bare, bare[:1].upper() + bare[1:]) if bare else "Outside a notebook"


PROPER = {"pds h": "PDS-H"}
"""Names that a notebook's file can't spell."""


def anchor(*parts: str) -> str:
    """Return a name that is safe as anchor and file name; where a part can't be used as it is, with a hash of it."""
    bare = [re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-")[:40] for part in parts]
    if bare != [part.lower() for part in parts]:
        bare.append(hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=3).hexdigest())
    return "-".join(bare).strip("-") or "unnamed"
