"""Chooses what is told in full: the newest record of each comparison, on each machine, with each set of parameters."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from kit.record import words
from kit.record.document import Machine, Record
from kit.stored.gather import File

LONGEST_VALUE = 120


@dataclass(frozen=True)
class Brief:
    """What is kept of each record while all of them are read: little, for there may be ten thousand."""

    file: File
    notebook: str
    comparison: str
    machine: str
    parameters: str
    """Hash of all parameters."""
    written: str
    id: str
    complete: bool
    at: str
    speedups: dict[str, str]
    """At the largest size, by variant: `6.1× [5.8, 6.4] faster`."""

    @property
    def question(self) -> tuple[str, str, str]:
        """What was asked, wherever it was measured."""
        return self.notebook, self.comparison, self.parameters

    @property
    def order(self) -> tuple[str, str]:
        return self.written, self.id


@dataclass
class Shelf:
    """All records in brief, as they are read: by question and machine, and the machines themselves."""

    briefs: dict[tuple, list[Brief]] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)

    def add(self, file: File, record: Record) -> None:
        """Keep what is needed of one record."""
        brief = shorten(file, record)
        self.briefs.setdefault((*brief.question, brief.machine), []).append(brief)
        self.machines.setdefault(brief.machine, record.machine)

    def newest(self) -> list[Brief]:
        """Return the newest of each question on each machine, in the order of notebooks and comparisons."""
        newest = [max(briefs, key=lambda brief: brief.order) for briefs in self.briefs.values()]
        return sorted(newest, key=lambda b: (b.notebook or "~", b.comparison, b.parameters, b.machine))

    def older(self, brief: Brief) -> list[Brief]:
        """Return what the newest record replaces, newest first."""
        every = self.briefs[(*brief.question, brief.machine)]
        return sorted((b for b in every if b is not brief), key=lambda b: b.order, reverse=True)

    def elsewhere(self, brief: Brief) -> list[Brief]:
        """Return the newest records of the same question on every machine, if there are several."""
        same = [other for other in self.newest() if other.question == brief.question]
        return same if len(same) > 1 else []

    def every(self) -> list[Brief]:
        """Return all of them."""
        return [brief for briefs in self.briefs.values() for brief in briefs]


def shorten(file: File, record: Record) -> Brief:
    """Return a record in brief."""
    point = words.largest(record)
    told = {v.name: _told(v) for v in point.variants[:40] if v.verdict != "baseline"} if point else {}
    return Brief(
        file=file,
        notebook=words.shown(record.asked.notebook, 80),
        comparison=words.shown(record.asked.comparison, 120),
        machine=words.shown(record.machine.key, 40),
        parameters=fingerprint(record.asked.parameters),
        written=words.shown(record.written, 30),
        id=words.shown(record.id, 80),
        complete=record.complete,
        at=words.count(point.size, record.asked.unit) if point else "",
        speedups={words.shown(name, 60): text for name, text in told.items()},
    )


def _told(variant) -> str:
    measured = variant.effect and variant.verdict in ("faster", "slower", "same", "unresolved")
    return f"{words.speed(variant.effect)}" if measured else variant.verdict


def fingerprint(parameters: dict[str, Any]) -> str:
    """Return a short hash of all parameters, whatever their order."""
    text = json.dumps(parameters, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def value(parameter: Any) -> str:
    """Return a parameter's value as text, cut for display."""
    if isinstance(parameter, str):
        return words.shown(parameter, LONGEST_VALUE)
    if isinstance(parameter, bool | int | float):
        return f"{parameter:,}" if isinstance(parameter, int) and not isinstance(parameter, bool) else str(parameter)
    if isinstance(parameter, list) and all(isinstance(item, bool | int | float | str) for item in parameter[:20]):
        listed = ", ".join(value(item) for item in parameter[:20])
        return words.shown(listed + (", …" if len(parameter) > 20 else ""), LONGEST_VALUE)
    return words.shown(json.dumps(parameter, ensure_ascii=False), LONGEST_VALUE)


def differing(sets: list[dict[str, Any]]) -> list[str]:
    """Return the names of the parameters that are not the same in all sets."""
    names = dict.fromkeys(name for parameters in sets for name in parameters)
    texts = {name: {json.dumps(p.get(name), sort_keys=True) for p in sets} for name in names}
    return [name for name, found in texts.items() if len(found) > 1]
