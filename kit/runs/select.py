"""Selects what is shown in full: the newest record of each comparison, on each machine, with each set of parameters."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kit.record import formatting as fmt
from kit.record.document import Machine, Record
from kit.runs import files
from kit.runs.files import File

LONGEST_VALUE = 120


def question(record: Record) -> tuple[str, str, str, str]:
    """Return what a record answers, and where: notebook, comparison, a hash of the parameters, machine's key."""
    asked = record.asked
    names = fmt.shown(asked.notebook, 80), fmt.shown(asked.comparison, 120)
    return *names, fingerprint(asked.parameters), fmt.shown(record.machine.key, 40)


@dataclass(frozen=True)
class Brief:
    """Kept of each question's newest record while all are read: little, for there may be ten thousand."""

    file: File
    order: tuple[str, str]
    """When it was written, and its id."""
    question: tuple[str, str, str, str]


@dataclass
class Shelf:
    """What all records are, as they are read: the newest of each question, and how many there are."""

    briefs: dict[tuple, Brief] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    """Records of each question."""
    machines: dict[str, tuple[Machine, list[str]]] = field(default_factory=dict)
    """Each machine, and when its records were written."""

    def add(self, file: File, record: Record) -> None:
        """Keep what is needed of one record."""
        new = _brief(file, record)
        self.briefs[new.question] = max(self.briefs.get(new.question, new), new, key=lambda one: one.order)
        self.counts[new.question] += 1
        self.machines.setdefault(record.machine.key, (record.machine, []))[1].append(new.order[0])

    def newest(self) -> list[Brief]:
        """Return the newest of each question on each machine, in the order of notebooks and comparisons."""
        return sorted(self.briefs.values(), key=lambda one: (one.question[0] or "~", *one.question))


def read_again(briefs: list[Brief]) -> list[tuple[Brief, Record]]:
    """Return these records, each with its brief; one that has gone since is left out."""
    found = ((one, record) for one in briefs for _, record in files.read_records([one.file], []))
    return [(one, record) for one, record in found if _brief(one.file, record) == one]


def _brief(file: File, record: Record) -> Brief:
    return Brief(file, (fmt.shown(record.written, 30), fmt.shown(record.id, 80)), question(record))


def fingerprint(parameters: dict[str, Any]) -> str:
    """Return a short hash of all parameters, whatever their order."""
    text = json.dumps(parameters, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def value(parameter: Any) -> str:
    """Return a parameter's value as text, cut for display: `1,000,000`, `min-max, entropy`."""
    if isinstance(parameter, list):
        listed = ", ".join(value(item) for item in parameter[:20])
        return fmt.shown(listed + (", …" if len(parameter) > 20 else ""), LONGEST_VALUE)
    grouped = isinstance(parameter, int) and not isinstance(parameter, bool)
    return fmt.shown(f"{parameter:,}" if grouped else parameter, LONGEST_VALUE)


def differing(sets: list[dict[str, Any]]) -> list[str]:
    """Return the names of the parameters that are not the same in all sets."""
    names = dict.fromkeys(name for parameters in sets for name in parameters)
    texts = {name: {json.dumps(p.get(name), sort_keys=True) for p in sets} for name in names}
    return [name for name, found in texts.items() if len(found) > 1]
