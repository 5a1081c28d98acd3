"""The command line: `kit list | help | copy | doctor | plan | run | report | compare`, each importing its own room."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module, metadata
from typing import TextIO

from kit import project
from kit.errors import UserError
from kit.record.redaction import masked


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for a user's mistake, 130 when interrupted."""
    sys.stdout, sys.stderr = (one or open(os.devnull, "w") for one in (sys.stdout, sys.stderr))  # noqa: SIM115 (>&-)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or a pipe that is not UTF-8 shows what it can
            stream.reconfigure(errors="replace")
    status = 2
    with suppress(OSError):  # standard error takes nothing
        status = _status(arguments)
    return max(status, _flushed(sys.stdout), _flushed(sys.stderr))


def _status(arguments: list[str] | None) -> int:
    try:
        parser = _parser()
        asked, rest = parser.parse_known_args(arguments)
        if any(word.startswith("-") for word in rest) or (rest and not hasattr(asked, "names")):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:  # argparse takes notebooks from one place only, and they may stand on both sides of an option
            asked.names += rest
        return asked.command(asked)
    except SystemExit as end:  # of argparse, or of rich with 1, where the reader of our output went away
        return 141 if end.code == 1 else int(end.code or 0)
    except UserError as error:
        print(f"kit: {masked(str(error))}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does; 1 would mean that something failed
        return 141
    except Exception as error:  # 1 would mean that something failed or became slower
        if isinstance(error, OSError) and error.errno and not error.filename:  # not of a file, but of our output
            print(f"kit: its output can't be written ({error.strerror}); give it another place", file=sys.stderr)
        else:
            traceback.print_exc()
    return 2


def _flushed(stream: TextIO) -> int:
    """Return 0 if a stream took everything; else the exit status, 141 or 2, and nothing reaches it any more."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141 if isinstance(error, BrokenPipeError) else 2
    return 0


def _parser() -> argparse.ArgumentParser:
    try:
        place = str(project.project() / "runs")
    except FileNotFoundError:
        raise UserError("the working directory was deleted; go to one that exists") from None
    parser = argparse.ArgumentParser(prog="kit", description="Which scaling technique is worth it on my machine?")
    parser.add_argument("--version", action="version", version=metadata.version("ml-scaling-kit"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _command(commands, "list", "kit.batch.listing:print_list", "list the notebooks, with the runs kept of each")

    help_ = _command(commands, "help", _help, "show a notebook's parameters: type, default, meaning")
    help_.add_argument("notebook", nargs="?", metavar="NOTEBOOK", help="a name in notebooks/, or a path")

    copy = _command(commands, "copy", "kit.batch.listing:copy", "copy one of the kit's notebooks here, to edit it")
    copy.add_argument("notebook", metavar="NOTEBOOK", help="a name in notebooks/")

    doctor = _command(commands, "doctor", "kit.doctor:main", "show this machine and the variants that run on it")
    doctor.add_argument("--measure", action="store_true", help="measure its peak throughput and its noise now")

    plan = _command(commands, "plan", "kit.planning:main", "minimum detectable effect of a time budget")
    plan.add_argument("notebook", metavar="NOTEBOOK", help="plan by what its kept runs measured")
    plan.add_argument("--resolve", type=_share, metavar="3%", help="the difference to detect")
    plan.add_argument("--runs", metavar="DIR|URL", default=place, help="where runs are kept (default: runs/)")

    run = _command(commands, "run", _run, "execute notebooks and keep their records")
    _run_options(run, place)

    report = _command(commands, "report", "kit.report:main", "write the report of runs")
    report.add_argument("runs", nargs="*", metavar="RUNS", default=[place], help="folders or URLs (default: runs/)")
    report.add_argument("-o", "--out", default="report", metavar="DIR", help="folder to write to (default: report/)")

    compare = _command(commands, "compare", _compare, "list what became faster or slower between two sets of runs")
    compare.add_argument("a", metavar="A", help="before: a folder, record, URL, pytest-benchmark JSON, day, commit")
    compare.add_argument("b", metavar="B", help="after: likewise; a commit may have a name, as HEAD~1")
    compare.add_argument("--runs", metavar="DIR|URL", default=place, help="where days and commits are (default: runs/)")
    compare.add_argument("-o", "--out", metavar="DIR", help="write report.md into this folder")
    gate = "exit with 1 if anything became slower beyond chance, is wrong, or fails or is not measured any more"
    compare.add_argument("--fail-on", choices=["slower"], help=f"{gate}, and if nothing could be compared")
    return parser


def _command(commands, name: str, function: Callable | str, text: str) -> argparse.ArgumentParser:
    """Add a command. function: what executes it, or "module:function" that takes its arguments by their names."""
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=partial(_call, function) if isinstance(function, str) else function)
    return command


def _call(address: str, asked: argparse.Namespace) -> int:
    module, _, name = address.partition(":")
    given = {key: value for key, value in vars(asked).items() if key != "command"}
    return getattr(import_module(module), name)(**given)


def _run_options(run: argparse.ArgumentParser, place: str) -> None:
    add = run.add_argument
    add("names", nargs="*", metavar="NOTEBOOK", help="a name in notebooks/, a path, or a plan (.toml)")
    add("--plan", action="append", default=[], help="smoke, quick, full, or a TOML file; notebooks select from it")
    add("-p", dest="given", action="append", default=[], metavar="NAME=VALUE", help="set a parameter; wins over a plan")
    add("--runs", metavar="DIR|URL", default=place, help="where runs are kept: a folder or fsspec URL (default: runs/)")
    add("--cluster", metavar="tcp://HOST:PORT", help="execute on the workers of this Dask cluster, one run each")
    add("--timeout", type=_seconds, metavar="S", help="seconds for each run (default: two hours); wins over a plan")
    add("--force", action="store_true", help="execute finished runs again, next to the old ones")
    add("--report", metavar="DIR", help="write the report again into this folder after each run")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text.removesuffix("%")) <= 100:
            return float(text.removesuffix("%")) / 100
    raise argparse.ArgumentTypeError(f"{text} is not a difference above 0 % and up to 100 %, as 3%")


def _help(asked: argparse.Namespace) -> int:
    from kit.batch.listing import print_help

    if asked.notebook:
        return print_help(asked.notebook)
    _parser().print_help()
    return 0


def _run(asked: argparse.Namespace) -> int:
    from kit.batch import plans, runs
    from kit.batch.run import Batch

    todo = plans.asked(asked.names, asked.plan, asked.given, asked.timeout)
    batch = Batch(runs.at(asked.runs), asked.force, asked.report)
    if asked.cluster:
        from kit.batch import cluster

        return cluster.execute(todo, batch, asked.cluster)
    return batch.execute(todo)


def _compare(asked: argparse.Namespace) -> int:
    from kit import compare
    from kit.machine.fingerprint import git

    a, b = (one if os.path.exists(one) else getattr(git(one), "commit", one) for one in (asked.a, asked.b))
    return compare.main(a, b, asked.runs, asked.out, asked.fail_on == "slower")


if __name__ == "__main__":
    sys.exit(main())
