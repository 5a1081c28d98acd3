"""Two sets of runs: what became faster, slower, the same, or cannot be told; and a comparison over its dates."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.compare.found import Changes


def changes(a: str, b: str, runs: str | None = None) -> "Changes":
    """Return what became faster, slower or the same from A to B, by intervals.

    a, b: a folder of runs, a run, a record, a JSON of pytest-benchmark, or a URL of one; or a commit, a machine's key
    (both from four characters on) or a day as 2026-11-23, which are looked up in `runs` (default: the project's
    `runs/`). Raise UserError where one names nothing, or where both have no comparison in common.
    """
    from kit import places
    from kit.compare import found

    return found.between(str(a), str(b), str(runs or places.project() / "runs"))


def main(a: str, b: str, place: str, out: str | None = None, fail_on_slower: bool = False) -> int:
    """Print what changed from A to B, write it into `out` if that is given, and return the exit status.

    With `fail_on_slower` it is 1 if something became slower beyond chance, failed, answers wrongly, or is not run or
    not checked any more (`Changes.failing`, `Changes.missing`), and if nothing could be compared; a sentence on stderr
    says which, and how much was judged."""
    import sys

    from kit.compare import found, tell

    told = found.between(a, b, place)
    tell.terminal(told)
    if out:
        print(f"\n{found.write(told, out)}")
    if not fail_on_slower:
        return 0
    passes, sentence = tell.gate(told)
    print(f"kit: {sentence}", file=sys.stderr)
    return 0 if passes else 1
