"""What A and B name: a place with runs, or a commit, a machine or a day among the runs that are kept."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from kit.errors import UserError
from kit.record import store, words
from kit.record.document import Record
from kit.stored import choose, gather, index
from kit.stored.gather import File, Unreadable

DAY = re.compile(r"\d{4}-\d\d(-\d\d)?")
HEX = re.compile(r"[0-9a-fA-F]{4,64}")
MOST_REPEATS = 8
"""Records of one commit and question that are taken together: the newest."""
MOST_NAMED = 6


@dataclass(frozen=True)
class Held:
    """A record of a side, without its readings, and where it lies."""

    file: File
    record: Record

    @property
    def question(self) -> tuple[str, str]:
        return self.record.asked.notebook, self.record.asked.comparison

    @property
    def order(self) -> tuple[bool, str, str]:
        """Whole records before interrupted ones, then the newest last."""
        return self.record.complete, self.record.written, self.record.id


@dataclass
class Side:
    """All records that A or B names."""

    name: str
    kind: str
    """As `commit`, or nothing for a place."""
    held: list[Held] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def newest(self) -> list[list[Held]]:
        """Return for each question, set of parameters and machine the newest record, and after it the ones that repeat
        it: of the same clean commit, with the same packages."""
        alike: dict[tuple, list[Held]] = {}
        for held in self.held:
            asked = held.record.asked
            key = (*held.question, choose.fingerprint(asked.parameters), held.record.machine.key)
            alike.setdefault(key, []).append(held)
        return [_with_repeats(sorted(group, key=lambda held: held.order, reverse=True)) for group in alike.values()]

    def in_words(self) -> str:
        """Return what stands on this side: `runs-a: 3 records of 23 November 2026, commit 153ad88`."""
        days = sorted({held.record.written[:10] for held in self.held})
        commits = {held.record.git.commit[:7] for held in self.held if held.record.git}
        machines = {held.record.machine.key for held in self.held}
        span = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
        parts = [f"{words.count(len(self.held), 'records')} of {span}"]
        parts += [f"commit {words.listing(sorted(commits), 3)}"] if commits and self.kind != "commit" else []
        parts += [f"{len(machines)} machines"] if len(machines) > 1 else []
        return words.shown(f"{self.kind} {_short(self.name)}: ".lstrip() + ", ".join(parts), 200)


def _short(name: str) -> str:
    """Return a name as it was given, of a path from the root only its end: what is published names no one's folders."""
    path = PurePath(name)
    return words.shown("/".join(path.parts[-2:]) if path.is_absolute() else store.clean(name), 60)


def _with_repeats(group: list[Held]) -> list[Held]:
    newest = group[0].record
    repeats = [held for held in group[1:] if newest.complete and _repeats(held.record, newest)]
    return [group[0], *repeats[: MOST_REPEATS - 1]]


def _repeats(record: Record, newest: Record) -> bool:
    one_commit = record.git is not None and record.git == newest.git and not newest.git.dirty
    return one_commit and record.complete and (record.versions, record.how.kit) == (newest.versions, newest.how.kit)


def both(a: str, b: str, place: str) -> tuple[Side, Side]:
    """Return the sides that A and B name; `place` is where commits, machines and days are looked up.

    Raise UserError where one names nothing, or both the same."""
    if a == b:
        raise UserError(f"A and B are both {store.clean(a)!r}; give two, as two folders of runs or two commits")
    sides = {name: _at(name) for name in (a, b) if _is_place(name)}
    wanted = [name for name in (a, b) if name not in sides]
    if wanted:
        sides |= _among(wanted, place)
    for side in sides.values():
        if not side.held:
            raise UserError(_nothing(side))
    return sides[a], sides[b]


def _nothing(side: Side) -> str:
    why = f"; {side.unreadable[0].file}: {side.unreadable[0].reason}" if side.unreadable else ""
    return f"{store.clean(side.name)}: there is no record in it{why}; give a folder of runs, a run, a record or a URL"


def _is_place(name: str) -> bool:
    """Return whether a name is a URL or a path: what could be a commit, machine or day and is no file is neither."""
    return "://" in name or Path(name).exists() or not (HEX.fullmatch(name) or DAY.fullmatch(name))


def _at(place: str) -> Side:
    side = Side(place, "")
    side.held = [Held(file, record) for file, record in _records(place, side.unreadable)]
    return side


def _records(place: str, unreadable: list[Unreadable]) -> Iterable[tuple[File, Record]]:
    return index.read_records([place], gather.find([place]).records, unreadable)


def _among(names: list[str], place: str) -> dict[str, Side]:
    """Return the sides that these commits, machines and days name among the runs at `place`, which is read once."""
    found = {name: {kind: Side(name, kind) for kind in KINDS} for name in names}
    seen: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for file, record in _records(place, []):
        for kind, told in KINDS.items():
            text = told(record)
            seen[kind].setdefault(text[: 7 if kind == "commit" else 10])
            for name in names:
                if text and text.startswith(name.lower()):
                    found[name][kind].held.append(Held(file, record))
    return {name: _one(name, sides, seen, place) for name, sides in found.items()}


KINDS: dict[str, Callable[[Record], str]] = {
    "commit": lambda record: record.git.commit.lower() if record.git else "",
    "machine": lambda record: record.machine.key.lower(),
    "day": lambda record: record.written[:10],
}


def _one(name: str, sides: dict[str, Side], seen: dict[str, dict[str, None]], place: str) -> Side:
    told = [side for side in sides.values() if side.held]
    full = {side.kind: {KINDS[side.kind](held.record) for held in side.held} for side in told}
    if len(told) > 1 or any(len(texts) > 1 and kind != "day" for kind, texts in full.items()):
        matches = words.listing(f"{kind} {text[:12]}" for kind, texts in full.items() for text in sorted(texts))
        raise UserError(f"{name} could be {matches}; give more of it")
    if told:
        return told[0]
    named = (f"{kind}s {words.listing(list(values)[-MOST_NAMED:])}" for kind, values in seen.items() if any(values))
    there = "; ".join(named) or "no record at all"
    raise UserError(
        f"{name} is no file, and no commit, machine or day of a record in {store.clean(place)}, which has {there}"
    )


def whole(held: list[Held]) -> list[Record]:
    """Return the records with their readings, the newest first; one that has gone since is left out."""
    records = []
    for one in held:
        try:
            records.append(gather.again(one.file, one.record.id))
        except UserError:
            continue
    return records
