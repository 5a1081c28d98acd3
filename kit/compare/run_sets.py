"""The two sets of runs: a place with runs, or a commit or a day among the stored runs."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record import store
from kit.record.document import Record
from kit.runs import files, select
from kit.runs.files import Unreadable

DAY_OR_COMMIT = re.compile(r"\d{4}-\d\d-\d\d|[0-9a-fA-F]{4,64}")
MOST_REPEATS = 8
"""Records of one commit and question that are pooled: the newest."""
MOST_NAMED = 6


@dataclass(frozen=True)
class Side:
    """All records that A or B names."""

    name: str
    records: list[Record]
    unreadable: list[Unreadable]

    def newest(self) -> list[list[Record]]:
        """Return for each question, set of parameters and machine the newest record, a whole one before any that was
        interrupted, and after it the ones that repeat it: of the same clean commit, with the same packages."""
        alike: dict[tuple, list[Record]] = {}
        for record in sorted(self.records, key=lambda r: (r.complete, r.written, r.id), reverse=True):
            alike.setdefault(select.question(record), []).append(record)
        return [[first, *_repeats(first, rest)] for first, *rest in alike.values()]

    def in_words(self) -> str:
        """Return what this side is: `runs-a: 3 records of 2026-11-23, commit 153ad88`."""
        days = sorted(set(map(_day, self.records)))
        commits = sorted({_commit(record)[:7] for record in self.records} - {""})
        parts = [f"{fmt.count(len(self.records), 'records')} of {' to '.join(dict.fromkeys((days[0], days[-1])))}"]
        parts += [f"commit {fmt.listing(commits, 3)}"] if commits else []
        path = PurePath(self.name)  # of a path from the root only its end: what is published names no one's folders
        name = "/".join(path.parts[-2:]) if path.is_absolute() else store.clean(self.name)
        return f"{fmt.shown(name, 60)}: {', '.join(parts)}"


def _commit(record: Record) -> str:
    return record.git.commit.lower() if record.git else ""


def _day(record: Record) -> str:
    return record.written[:10]


def _repeats(newest: Record, rest: list[Record]) -> list[Record]:
    if not newest.complete or newest.git is None or newest.git.dirty:
        return []
    same = (True, newest.git, newest.versions, newest.how.kit)
    return [r for r in rest if (r.complete, r.git, r.versions, r.how.kit) == same][: MOST_REPEATS - 1]


def side(name: str, place: str) -> Side:
    """Return the runs that A or B names; `place` is where commits and days are looked up. Raise UserError if none."""
    if DAY_OR_COMMIT.fullmatch(name) and not Path(name).exists():
        return Side(name, _looked_up(name.lower(), place), [])
    unreadable: list[Unreadable] = []
    records = [record for _, record in files.read_records(files.find([name]).records, unreadable)]
    if not records:
        why = f"; {unreadable[0].file}: {unreadable[0].reason}" if unreadable else ""
        raise UserError(f"{store.clean(name)}: no record in it{why}; give a folder of runs, a run, a record or a URL")
    return Side(name, records, unreadable)


def _looked_up(name: str, place: str) -> list[Record]:
    """Return the stored records of a day, or of the start of a commit."""
    records, days, commits = [], set(), set()
    for _, record in files.read_records(files.find([place]).records, []):
        day, commit = _day(record), _commit(record)
        days.add(day)
        commits.add(commit[:12])
        if name == day or commit.startswith(name):
            records.append(record)
    named = sorted(commit for commit in commits if commit.startswith(name[:12]))
    if len(named) > 1:
        raise UserError(f"{name} could be commit {fmt.listing(named, last='or')}; give more of it")
    if not records:
        known = fmt.listing(sorted({commit[:7] for commit in commits} - {""})[-MOST_NAMED:])
        there = f"commits {known}; days {fmt.listing(sorted(days)[-MOST_NAMED:])}" if days else "no record at all"
        among = f"no commit or day of a record in {store.clean(place)}, which has {there}"
        raise UserError(f"{name} is no file, and {among}")
    return records
