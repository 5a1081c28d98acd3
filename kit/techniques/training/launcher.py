"""Torch's own elastic launcher, in a process that ends with its parent and notes which rank failed first.

`python -m kit.techniques.training.launcher` takes the options of `python -m torch.distributed.run` and runs that.
"""

import json
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kit.techniques.training.control import Job, die_with_parent


def main(arguments: list[str]) -> int:
    """Launch the ranks and wait for them. Return 0, or 1 if one failed."""
    job = Job.from_environment()
    die_with_parent(job.limit_s)
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        Path(job.notes, "first.json").write_text(json.dumps({"rank": rank, "how": how(failure.exitcode)}))
        return 1
    return 0


def how(exitcode: int) -> str:
    """Say how a rank ended."""
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = ": most likely the system ran out of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
