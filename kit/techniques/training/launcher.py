"""Torch's own elastic launcher, in a process that ends with its parent and notes which ranks failed.

`python -m kit.techniques.training.launcher` takes the options of `python -m torch.distributed.run` and runs that.
"""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kit.techniques.training.control import PARENT, Job, die_with_parent


def main(arguments: list[str]) -> int:
    """Launch the ranks and wait for them. Return 0, or 1 if one failed."""
    job, parent = Job.from_environment(), int(os.environ[PARENT])
    die_with_parent(job, keeper=True)
    os.environ[PARENT] = str(os.getpid())
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        failed = [{"rank": rank, "exitcode": failure.exitcode} for rank, failure in error.failures.items()]
        with contextlib.suppress(FileNotFoundError):
            Path(job.notes, "failed.json").write_text(json.dumps(failed))
        return 1
    finally:
        if os.getppid() != parent:  # nobody will read the notes
            shutil.rmtree(job.notes, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
