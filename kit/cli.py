"""The command line: `kit list | help | doctor | plan | run | report | compare`, each importing its own room only."""

import argparse
import sys
from importlib import metadata

from kit.errors import UserError
from kit.record.masking import masked


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for a user's mistake, 130 when interrupted."""
    parser = _parser()
    asked, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(asked, "names")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes notebooks from one place only, and they may stand on both sides of an option
        asked.names += rest
    try:
        return asked.command(asked)
    except UserError as error:
        print(f"kit: {masked(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kit", description="Which scaling technique pays off on my data, my model and my machine?"
    )
    parser.add_argument("--version", action="version", version=metadata.version("ml-scaling-kit"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _command(commands, "list", _list, "list the notebooks, with the runs that are kept of each")

    help_ = _command(commands, "help", _help, "show a notebook's parameters: types, defaults, what they mean")
    help_.add_argument("notebook", nargs="?", metavar="NOTEBOOK", help="a name in notebooks/, or a path")
    help_.set_defaults(parser=parser)

    doctor = _command(commands, "doctor", _doctor, "say what this machine is, and what will run on it")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of tables")
    doctor.add_argument("--measure", action="store_true", help="measure its ceilings, and how noisy it is now")

    plan = _command(commands, "plan", _plan, "say what time it takes to see a difference on this machine")
    plan.add_argument("notebook", nargs="?", metavar="NOTEBOOK", help="plan by what its kept runs have shown")
    plan.add_argument("--resolve", type=_share, metavar="3%", help="the difference to be seen")
    plan.add_argument("--seconds", type=_seconds, metavar="S", help="a comparison's budget: which difference it shows")
    plan.add_argument("--variants", type=int, default=3, metavar="N", help="in a comparison (default: 3)")
    plan.add_argument("--runs", metavar="DIR|URL", help="where runs are kept (default: runs/)")

    run = _command(commands, "run", _run, "execute notebooks and keep what they find")
    run.epilog = (
        "A plan is a TOML file of [[run]] tables, each with a notebook and, if wanted, a timeout in seconds, a table "
        "`parameters`, and a table `grid` whose lists give one run for each combination; `resources` (as { gpu = 1 }) "
        "name what a worker of a cluster must declare. A timeout above all tables holds for all."
    )
    _run_options(run)

    report = _command(commands, "report", _report, "write a report of what runs found")
    report.add_argument("runs", nargs="*", metavar="RUNS", help="folders or URLs of runs (default: runs/)")
    report.add_argument("-o", "--out", default="report", metavar="DIR", help="folder to write to (default: report/)")
    report.add_argument(
        "--price", action="append", default=[], metavar="[MACHINE=]PRICE", help='of an hour of a machine, as "3.20 EUR"'
    )

    compare = _command(commands, "compare", _compare, "say what became faster or slower between two sets of runs")
    compare.add_argument(
        "a",
        metavar="A",
        help="before: a folder, record, URL or pytest-benchmark JSON; or a commit, machine or day",
    )
    compare.add_argument("b", metavar="B", help="after: likewise")
    compare.add_argument("--runs", metavar="DIR|URL", help="where commits and machines are looked up (default: runs/)")
    compare.add_argument("-o", "--out", metavar="DIR", help="write report.md and index.html into this folder")
    compare.add_argument(
        "--fail-on",
        choices=["slower"],
        help="exit with 1 if anything became slower beyond chance, failed, answers wrongly, or is not run or checked "
        "any more, and if nothing could be compared (speed-ups on another machine are never judged)",
    )
    return parser


def _command(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=function)
    return command


def _run_options(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add("names", nargs="*", metavar="NOTEBOOK", help="a name in notebooks/, a path, or a plan (.toml)")
    add("--plan", action="append", default=[], help="smoke, quick, full, or a TOML file; notebooks select from it")
    add("-p", dest="given", action="append", default=[], metavar="NAME=VALUE", help="set a parameter; wins over a plan")
    add("--runs", metavar="DIR|URL", help="where runs are kept: a folder, or any fsspec URL (default: runs/)")
    add("--cluster", metavar="tcp://HOST:PORT", help="execute on the workers of this Dask cluster, one run each")
    add("--timeout", type=_seconds, metavar="S", help="seconds that one run may take; wins over a plan")
    add("--force", action="store_true", help="execute finished runs again, beside the old ones")
    add("--report", metavar="DIR", help="write the report anew into this folder after each run")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a difference above 0 % and up to 100 %, as 3%")
    return value


def _list(asked: argparse.Namespace) -> int:
    from kit.batch.listing import print_list

    print_list()
    return 0


def _help(asked: argparse.Namespace) -> int:
    if asked.notebook is None:
        asked.parser.print_help()
        return 0
    from kit.batch.listing import print_help

    print_help(asked.notebook)
    return 0


def _doctor(asked: argparse.Namespace) -> int:
    from kit import doctor
    from kit.batch import notebooks

    return doctor.main(notebooks.known(), asked.json, asked.measure)


def _plan(asked: argparse.Namespace) -> int:
    from kit import places, planning

    place = asked.runs or str(places.project() / "runs")
    return planning.main(asked.notebook, place, asked.resolve, asked.seconds, asked.variants)


def _run(asked: argparse.Namespace) -> int:
    from kit.batch import plans

    plan_files = [name for name in asked.names if name.endswith(".toml")]
    names = [name for name in asked.names if name not in plan_files]
    todo = plans.asked(names, asked.plan + plan_files, asked.given, asked.timeout)

    from kit import places
    from kit.batch import run, runs

    place = asked.runs or str(places.project() / "runs")
    if asked.cluster:
        from kit.batch import cluster

        return cluster.execute(todo, runs.at(place), asked.cluster, asked.force, asked.report)
    return run.execute(todo, runs.at(place), asked.force, asked.report)


def _report(asked: argparse.Namespace) -> int:
    from kit import places, report

    return report.main(asked.runs or [str(places.project() / "runs")], asked.out, asked.price)


def _compare(asked: argparse.Namespace) -> int:
    from kit import compare, places

    place = asked.runs or str(places.project() / "runs")
    return compare.main(asked.a, asked.b, place, asked.out, asked.fail_on == "slower")


if __name__ == "__main__":
    sys.exit(main())
