"""Torch's own elastic launcher, in a process that ends with its parent and notes which ranks failed.

`python -m kit.techniques.training.launcher` takes the options of `python -m torch.distributed.run` and runs that.
"""

import json
import os
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kit.techniques.training.control import PARENT, Job, die_with_parent


def main(arguments: list[str]) -> int:
    """Launch the ranks and wait for them. Return 0, or 1 if one failed."""
    job = Job.from_environment()
    die_with_parent(job, keeper=True)
    os.environ[PARENT] = str(os.getpid())
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        failed = [{"rank": rank, "exitcode": failure.exitcode} for rank, failure in error.failures.items()]
        Path(job.notes, "failed.json").write_text(json.dumps(failed))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
