"""Who failed first: the notes that ranks and launchers leave, and the one cause among its echoes in other ranks.

A rank that dies breaks the collectives of all others, and one that hangs lets them wait until their timeout: each then
has an error of its own, that of a victim. What tells the cause from these is in the notes of all ranks together.
"""

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Notes = dict[str, Any]
"""What one machine found: {"limit": sentence, "failed": [{rank, exitcode}], "errors": [{rank, attempt, error, details,
time}], "places": [{rank, attempt, stack}]}, plain values, so that it travels."""

_ECHO = re.compile(
    r"gloo/|Gloo |NCCL|^Dist\w*Error|^ConnectionError|^BrokenPipeError|Connection (closed|reset|refused)|Broken pipe",
)
"""Errors of a rank that waited for another."""
_WAITING = ("/torch/distributed/", "/torch/autograd/", "/torch/_ops.py", "/torch/nn/parallel/", "/multiprocessing/")
"""Where the code of a rank is that waits for others or for an order."""
_TIMEOUT = re.compile(r"time[d ]*out", re.IGNORECASE)
_ENDED = (signal.SIGTERM, signal.SIGABRT)
"""Torch's launcher terminates the ranks that are left, and NCCL aborts one that waits too long: victims, unless there
is no other cause."""
_FRAME = re.compile(r'File "(?P<path>.+)", line (?P<line>\d+) in (?P<function>.+)')
_RAISED = re.compile(r"^([\w.]*(?:Error|Exception|Interrupt)\b.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Cause:
    """Why a launch failed: a sentence, and the traceback or output behind it. is_user_error: the user can mend it."""

    reason: str
    details: str = ""
    is_user_error: bool = False


def is_echo(error: str) -> bool:
    """Tell whether an error, in one line, is that of a rank which waited for another."""
    return bool(_ECHO.search(error))


def gather(folder: str) -> Notes:
    """Return the notes in one machine's folder, of the last attempt alone if the ranks were started again."""
    limit, failed = Path(folder, "limit.txt"), Path(folder, "failed.json")
    errors = [json.loads(path.read_text()) for path in Path(folder).glob("error-*.json")]
    places = [_place(path) for path in Path(folder).glob("place-*.txt")]
    last = max((note["attempt"] for note in errors + places), default=0)
    return {
        "limit": limit.read_text() if limit.exists() else "",
        "failed": json.loads(failed.read_text()) if failed.exists() else [],
        "errors": sorted((n for n in errors if n["attempt"] == last), key=lambda note: note["time"]),
        "places": sorted((n for n in places if n["attempt"] == last), key=lambda note: note["rank"]),
    }


def refusal(sentence: str) -> Notes:
    """Return the notes of a machine that takes no part, for a reason that the user can mend."""
    note = {"rank": -1, "attempt": 0, "error": f"UserError: {sentence}", "details": "", "time": 0.0}
    return {"limit": "", "failed": [], "errors": [note], "places": []}


def _place(path: Path) -> Notes:
    _, rank, attempt = path.stem.split("-")
    return {"rank": int(rank), "attempt": int(attempt), "stack": path.read_text(errors="replace")}


def cause(machines: list[Notes], said: str, *, waited: str) -> Cause:
    """Return the cause of a failure from the notes of all machines.

    said: what the launcher printed. waited: how long, in words, for a rank that hangs.
    """
    limits, failed, errors, places = (
        [one for notes in machines for one in ([notes[kind]] if kind == "limit" else notes[kind])]
        for kind in ("limit", "failed", "errors", "places")
    )
    own = [note for note in errors if not is_echo(note["error"])]
    killed = [one for one in failed if one["exitcode"] < 0 and -one["exitcode"] not in _ENDED]
    told = {note["rank"] for note in errors}
    terminated = {one["rank"] for one in failed if one["exitcode"] == -signal.SIGTERM}
    ended = told | {one["rank"] for one in failed} - terminated
    aborted = any(one["exitcode"] == -signal.SIGABRT for one in failed)
    in_vain = not failed or aborted or any(_TIMEOUT.search(note["error"]) for note in errors)
    excused = told | (terminated if in_vain else set())
    return (
        next((Cause(limit) for limit in limits if limit), None)
        or next((Cause(_how(**one), said) for one in killed), None)
        or next(map(_raised, own), None)
        or (_hung([place for place in places if place["rank"] not in ended], waited) if in_vain else None)
        or next((Cause(_how(**one), said) for one in failed if one["rank"] not in excused), None)
        or next(map(_raised, errors), None)
        or Cause(f"the launcher ended before its ranks were up: {_last_error(said)}", said)
    )


def _raised(note: Notes) -> Cause:
    name, _, text = note["error"].partition(": ")
    if name == "UserError":
        return Cause(text, note["details"], is_user_error=True)
    return Cause(f"rank {note['rank']}: {note['error']}", note["details"])


def _how(rank: int, exitcode: int) -> str:
    if exitcode >= 0:
        return f"rank {rank} exited with status {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = ": most likely the system ran out of memory" if name == "SIGKILL" else ""
    return f"rank {rank} was killed by {name}{hint}"


def _hung(places: list[Notes], waited: str) -> Cause | None:
    """Return which rank was somewhere else than where ranks wait; without one, which did not even say where it is."""
    for place in places:
        frames = [match.groupdict() for match in _FRAME.finditer(place["stack"])]
        if frames and not _waits(frames[0]):
            at = "{path}:{line} in {function}".format(**frames[0])
            return Cause(f"rank {place['rank']} hung at {at}, {waited}", place["stack"])
    stopped = [place["rank"] for place in places if not place["stack"].strip()]
    return Cause(f"rank {stopped[0]} hung, {waited}, and can't say where: it may be stopped") if stopped else None


def _waits(frame: dict[str, str]) -> bool:
    serves = frame["path"].endswith("/training/rank.py") and frame["function"] == "serve"
    return serves or any(part in frame["path"] for part in _WAITING)


def _last_error(said: str) -> str:
    """Return the last error that was printed, else the last line."""
    lines = _RAISED.findall(said) or [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
    return lines[-1].strip()[:200]
