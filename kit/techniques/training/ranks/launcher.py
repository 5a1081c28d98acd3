"""Torch's own elastic launcher, in a process that ends with its parent and notes which ranks failed.

`python -m kit.techniques.training.ranks.launcher` takes the options of `python -m torch.distributed.run`. Ranks are
forked from a server that has imported what they need and nothing else: a launch of four comes up in half of the time.
"""

import json
import os
import sys
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path

from kit.techniques.training.ranks.control import PARENT, Job, be_a_rank, die_with_parent


def main(arguments: list[str]) -> int:
    """Launch the ranks and wait for them. Return 0, or 1 if one failed."""
    job = Job.from_environment()
    die_with_parent(job, keeper=True)
    del os.environ[PARENT]  # the ranks' parent is the server
    set_forkserver_preload(["kit.techniques.training.ranks.rank"])
    forkserver.ensure_running()  # it imports while this process does
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    try:
        elastic_launch(_config(job, arguments), be_a_rank)()
    except ChildFailedError as error:
        failed = [{"rank": rank, "exitcode": failure.exitcode} for rank, failure in error.failures.items()]
        Path(job.notes, "failed.json").write_text(json.dumps(failed))
        return 1
    return 0


def _config(job: Job, arguments: list[str]):
    """Return the options as torch's launcher reads them."""
    from torch.distributed import run

    options = run.parse_args([*arguments, "-m", "a rank is a function here"])
    if options.standalone:  # what torch.distributed.run makes of it
        options.rdzv_backend, options.rdzv_endpoint, options.rdzv_id = "c10d", "localhost:0", job.token
    config, _, _ = run.config_from_args(options)
    config.start_method = "forkserver"
    return config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
