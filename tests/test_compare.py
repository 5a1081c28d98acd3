"""`kit compare`: changes are shown by intervals, what can't be compared is labelled, and nothing is hidden."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from record_factory import Made, machine, make_record

from kit import cli, compare
from kit.compare import render, verdicts
from kit.errors import UserError
from kit.record import store
from kit.record.document import CheckResult, Git, Record

ROOT = Path(__file__).parents[1]
COMMITS = {"a": "a" * 39 + "1", "b": "b" * 39 + "2"}


def record(side: str, ratio: float = 2.0, *, seed: int | None = None, **changes) -> Record:
    """One run of one size, in sets of fresh processes: Polars `ratio` times as fast as pandas, DuckDB three times."""
    variants = changes.pop("variants", {"pandas": Made(), "Polars": Made(ratio=ratio), "DuckDB": Made(ratio=3)})
    asked = {"sizes": [100_000], "rounds": 60, "noise": 0.02, "parameters": {"rows": 100_000}} | changes
    made = make_record(variants, seed=seed or {"a": 1, "b": 2}[side], id=f"{side}-{seed or 0}", **asked)
    sessions = [[msgspec.structs.replace(s, starts=[0, 15, 30, 45]) for s in p.sessions] for p in made.points]
    points = [msgspec.structs.replace(p, sessions=one) for p, one in zip(made.points, sessions, strict=True)]
    return with_probes(msgspec.structs.replace(made, points=points, git=Git(commit=COMMITS[side], dirty=False)))


def with_probes(made: Record, copy: float = 8.4, product: float = 90.0) -> Record:
    rates = {"memory_copy_gib_per_s": copy, "matrix_product_fp32_gflop_per_s": product}
    return msgspec.structs.replace(made, machine=msgspec.structs.replace(made.machine, peaks=rates))


def times(made: Record, factor: float, *names: str) -> Record:
    """Every measurement of these variants (of all, if none is named) took `factor` times as long."""

    def slower(variant_name, measurements):
        if names and variant_name not in names:
            return measurements
        return msgspec.structs.replace(measurements, wall_s=[s * factor for s in measurements.wall_s])

    def session(one):
        return msgspec.structs.replace(one, measurements={n: slower(n, r) for n, r in one.measurements.items()})

    points = [msgspec.structs.replace(p, sessions=[session(s) for s in p.sessions]) for p in made.points]
    return msgspec.structs.replace(made, points=points)


def edited(made: Record, name: str, **changes) -> Record:
    """The record with these fields of one variant."""

    def point(one):
        changed = [msgspec.structs.replace(v, **changes) if v.name == name else v for v in one.variants]
        return msgspec.structs.replace(one, variants=changed)

    return msgspec.structs.replace(made, points=[point(one) for one in made.points])


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Return a function that writes records into the folder of a side; the working directory holds the sides."""
    monkeypatch.chdir(tmp_path)

    def write(side: str, *records: Record) -> str:
        for one in records:
            store.write(one, tmp_path / side / "01_dataframes" / one.id / "records")
        return side

    return write


def rows(changes) -> dict[str, tuple[str, str]]:
    return {row.variant: (row.verdict, row.by) for row in changes.rows}


def test_slower_and_equivalent_are_shown(put):
    """A variant that takes 1.3 times as long is slower, with 1.3 in its interval; the others are not."""
    changes = compare.between(put("a", record("a")), put("b", record("b", ratio=2.0 / 1.3)))
    assert rows(changes)["Polars"] == ("slower", "speed-up")
    polars = next(row for row in changes.rows if row.variant == "Polars")
    assert polars.change.low < 1 / 1.3 < polars.change.high < 1
    assert rows(changes)["DuckDB"][0] in ("equivalent", "inconclusive")
    assert changes.rows[0] is polars, "what matters most comes first"


def test_repeated_runs_are_neither_faster_nor_slower(put):
    """Repeated runs of the same thing are neither faster nor slower."""
    for seed in range(3, 11):
        changes = compare.between(put(f"a{seed}", record("a")), put(f"b{seed}", record("b", seed=seed)))
        assert not {row.verdict for row in changes.rows} & {"faster", "slower"}


def test_a_slow_machine_does_not_make_a_variant_slower(put):
    """Where the whole session took twice as long, the change against the baseline of the same run is none."""
    changes = compare.between(
        put("a", record("a")), put("b", with_probes(times(record("b"), 2.0), copy=4.2, product=45.0))
    )
    assert not [row for row in changes.rows if row.verdict in ("faster", "slower")]
    assert changes.pairs[0].ground.probes is None
    assert "in another state" in changes.pairs[0].ground.why_not


def test_between_machines_the_change_of_speed_ups_is_listed_and_not_tested(put, capsys):
    """On another machine nothing is comparable, a smaller speed-up is no slower variant, and a gate that tested nothing
    fails and says so; the change of each speed-up is listed."""
    on = machine(cpu="Other CPU", cores=64)
    a, b = put("a", record("a")), put("b", record("b", ratio=1.0, on=on))
    changes = compare.between(a, b)
    assert set(rows(changes).values()) == {("not comparable", "")} and not changes.failing
    polars = next(row for row in changes.rows if row.variant == "Polars")
    assert polars.change.low < 0.5 < polars.change.high < 1 and "another machine" in " ".join(polars.notes)
    assert render.sentence(changes).startswith("Nothing could be compared")
    assert "another machine" in " ".join(repr(changes).split())
    assert compare.main(a, b, "runs", None, fail_on_slower=True) == 1
    assert "tested 0 of 3 rows, so it fails: nothing could be compared" in capsys.readouterr().err


def test_a_baseline_that_changed_is_said(put):
    """If the baseline itself became faster on one machine, it is said, and times are tested."""
    changes = compare.between(put("a", record("a")), put("b", times(record("b"), 1 / 3, "pandas", "A/A")))
    verdicts = rows(changes)
    assert verdicts["pandas"] == ("faster", "time")
    assert verdicts["Polars"][1] == "time" and verdicts["Polars"][0] != "slower"
    assert "the baseline itself changed, 3." in " ".join(repr(changes).split())


def test_changed_code_of_the_baseline_is_said(put):
    """If the baseline's code changed, speed-ups are not compared, and on another machine nothing is claimed."""
    other = record("b", ratio=4.0, on=machine(cpu="Other CPU"))
    sources = other.asked.sources | {"pandas": "def pandas_(tables): ..."}
    other = msgspec.structs.replace(other, asked=msgspec.structs.replace(other.asked, sources=sources))
    changes = compare.between(put("a", record("a")), put("b", other))
    assert {row.verdict for row in changes.rows} == {"not comparable"}
    assert "Speed-ups are not comparable: the code of the baseline, pandas, changed." in render.grounds(
        changes.pairs[0]
    )


def test_broken_answers_are_worse_than_slow(put, capsys):
    """A variant whose answer is wrong now is listed first, and fails the gate even if it is faster."""
    broken = CheckResult(state="failed", metric="equal tables", note="3 rows differ")
    after = edited(record("b", ratio=8.0), "Polars", check=broken, verdict="rejected")
    a, b = put("a", record("a")), put("b", after)
    row = compare.between(a, b).rows[0]
    assert (row.verdict, render.of_row(row)) == ("rejected", "—")
    assert compare.main(a, b, "runs", None, fail_on_slower=True) == 1
    assert "3 rows differ" in capsys.readouterr().out
    assert rows(compare.between(b, a))["Polars"][0] == "fixed"


def test_changes_of_memory_and_check_are_notes(put):
    """Memory that doubled and a quality that fell are notes of the row."""
    held = CheckResult(state="passed", metric="accuracy", value=0.98, threshold=0.97)
    before = edited(record("a"), "Polars", check=held)
    memory = before.points[0].variants[1].memory
    more = msgspec.structs.replace(memory, peak_mib=2 * (memory.peak_mib + memory.after_setup_mib))
    after = edited(record("b"), "Polars", check=msgspec.structs.replace(held, value=0.975), memory=more)
    notes = next(r for r in compare.between(put("a", before), put("b", after)).rows if r.variant == "Polars").notes
    assert "accuracy 0.9800 → 0.9750" in notes
    assert any(note.startswith("memory ") and "→" in note for note in notes)


@pytest.mark.parametrize(("ratio", "status"), [(2.0, 0), (1.2, 1), (4.0, 0)])
def test_exit_status_for_ci(put, ratio, status):
    """`--fail-on slower` gives exit 1 where something became slower, and 0 otherwise; without it always 0."""
    a, b = put("a", record("a")), put("b", record("b", ratio=ratio))
    assert cli.main(["compare", a, b, "--fail-on", "slower"]) == status
    assert cli.main(["compare", a, b]) == 0


def without(made: Record, name: str) -> Record:
    points = [msgspec.structs.replace(p, variants=[v for v in p.variants if v.name != name]) for p in made.points]
    return msgspec.structs.replace(made, points=points)


UNCHECKED = CheckResult(state="not checked", metric="equal tables", note="the check raised KeyError", asked=True)


@pytest.mark.parametrize(
    ("after", "verdict", "why"),
    [
        (lambda made: without(made, "Polars"), "no longer runs", "it is not in the run after"),
        (lambda made: edited(made, "Polars", state="skipped", verdict="skipped", reason="no module polars"),
         "no longer runs", "no module polars"),
        (lambda made: edited(made, "Polars", check=UNCHECKED, verdict="inconclusive"),
         "no longer checked", "the check raised KeyError"),
    ],
)  # fmt: skip
def test_what_is_not_measured_any_more_fails_the_gate(put, capsys, after, verdict, why):
    """A variant that is dropped, skipped or unchecked now is worse, with the reason, and fails the gate."""
    a, b = put("a", record("a")), put("b", after(record("b")))
    row = compare.between(a, b).rows[0]
    assert (row.variant, row.verdict) == ("Polars", verdict) and why in row.notes
    assert compare.main(a, b, "runs", None, fail_on_slower=True) == 1
    assert f"tested 2 of 3 rows and fails on Polars, 100,000 rows: {verdict}" in capsys.readouterr().err


def test_a_comparison_or_a_size_that_is_missing_fails_the_gate(put, capsys):
    """A comparison or a size that was measured before and is not after fails the gate, which names it."""
    two = put("two", record("a", sizes=[10_000, 100_000]), record("a", seed=9, comparison="joins"))
    assert compare.main(two, put("b", record("b")), "runs", None, fail_on_slower=True) == 1
    said = capsys.readouterr()
    assert "joins: not measured after and 01_dataframes · delays at 10,000 rows: not measured after" in said.err
    assert compare.main("b", "two", "runs", None, fail_on_slower=True) == 0, "what is new fails nothing"
    assert "1 comparison only before" in render.sentence(compare.between("two", "b"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sizes": [5]}, "no size was measured both before and after"),
        ({"unit": "MiB"}, "Only after: 100,000 MiB"),
    ],
)
def test_nothing_in_common_is_said(put, tmp_path, capsys, changed, said):
    """Without a size in common, or with sizes of another unit, nothing is compared, and that is the headline."""
    after = record("b", sizes=changed.get("sizes", [100_000]))
    after = msgspec.structs.replace(after, asked=msgspec.structs.replace(after.asked, **changed))
    a, b = put("a", record("a")), put("b", after)
    assert compare.main(a, b, "runs", str(tmp_path / "out"), fail_on_slower=False) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "report.md").read_text().startswith("## Nothing could be compared")
    assert said in (tmp_path / "out" / "report.md").read_text()
    assert compare.main(a, b, "runs", None, fail_on_slower=True) == 1
    assert "nothing" in capsys.readouterr().out.lower()


def test_a_folded_title_has_no_escapes_of_markdown(put):
    """The line of a folded comparison is HTML: no backslash shows in it, and no name acts."""
    a, b = (put(side, record(side, comparison="a_b <i> @all")) for side in "ab")
    summary = re.search("<summary>.*</summary>", render.markdown(compare.between(a, b)))[0]
    assert "01_dataframes · a_b &lt;i&gt; &#64;all" in summary and "\\" not in summary


def test_variance_between_sessions_is_divided_by_runs_alone(put):
    """More process restarts leave what lasts for a whole run; runs that are repeated do not."""
    level = verdicts.Level(0.0, 0.0, 0.0, ((0.0,) * 1000,), (0.0,), 1000, 0.0)
    one = verdicts.change(level, level)
    assert one.high > 1.05
    many = verdicts.pooled([level] * 8)
    assert verdicts.change(many, many).high < 1 + (one.high - 1) / 2


def test_the_gate_counts_rows(put, capsys, monkeypatch):
    """A row that only just counts as slower does not fail the gate among many rows, and that is said."""
    assert verdicts.needed_strength(1) == pytest.approx(1.0)
    a, b = put("a", record("a")), put("b", record("b", ratio=1.2))
    clear = compare.between(a, b).worse[0].change
    assert clear.strength > verdicts.needed_strength(3)
    monkeypatch.setattr(verdicts, "needed_strength", lambda rows: clear.strength * 1.01)
    assert compare.main(a, b, "runs", None, fail_on_slower=True) == 0
    assert "so --fail-on slower passes over it" in " ".join(capsys.readouterr().out.split())


def test_commits_and_days_are_looked_up(put):
    """A and B may be the start of a commit or a day among the stored runs."""
    put("runs", record("a", written="2026-11-20T10:00:00Z"), record("b", ratio=1.0))
    for a, b in (("aaaa", "bbbb"), ("2026-11-20", "2026-11-23")):
        assert rows(compare.between(a, b, "runs"))["Polars"][0] == "slower"
    with pytest.raises(UserError, match=r"cccc is no file, and no commit or day .* commits aaaaaaa and bbbb"):
        compare.between("cccc", "aaaa", "runs")


def test_commits_have_git_names(put, capsys):
    """`kit compare HEAD~1 HEAD` looks up the runs of these commits of the checkout."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    subprocess.run(["git", "init", "-q", "-b", "main"], check=True)
    for side, ratio in (("a", 2.0), ("b", 1.0)):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", side], check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        put("runs", msgspec.structs.replace(record(side, ratio), git=Git(commit=commit, dirty=False)))
    done = subprocess.run([sys.executable, "-m", "kit.cli", "compare", "HEAD~1", "main", "--fail-on", "slower"])
    assert done.returncode == 1
    assert cli.main(["compare", "HEAD~1", "nothing"]) == 2 and "no such folder" in capsys.readouterr().err


def test_the_same_run_on_both_sides_is_said(put):
    """A run that stands on both sides is no change, and is named."""
    put("a", record("a"))
    put("copy", record("a"))
    changes = compare.between("a", "copy")
    assert not changes.rows and "the same run on both sides" in repr(changes) and not changes.gate()[0]


def test_an_ambiguous_start_is_refused(put):
    """A start of two commits names none; the sentence says which they are."""
    twin = msgspec.structs.replace(record("a", seed=7), git=Git(commit="aaaa" + "9" * 36, dirty=False))
    put("runs", record("a"), twin, record("b"))
    with pytest.raises(UserError, match="aaaa could be commit aaaa"):
        compare.between("aaaa", "bbbb", "runs")


def test_repeated_runs_are_taken_together(put):
    """Several runs of one clean commit are one side, and narrow the interval."""
    one = compare.between(put("a", record("a")), put("b", record("b", ratio=1.8)))
    many_a = put("as", *(record("a", seed=s) for s in range(11, 15)))
    many_b = put("bs", *(record("b", ratio=1.8, seed=s) for s in range(21, 25)))
    many = compare.between(many_a, many_b)
    assert many.pairs[0].repeats == (4, 4)

    def width(changes):
        change = next(row for row in changes.rows if row.variant == "Polars").change
        return change.high / change.low

    assert width(many) < width(one)


def test_parameters_that_differ_are_paired_and_labelled(put):
    """A comparison whose parameters differ is paired with what remains, and the parameter is named."""
    other = {"rows": 100_000, "groups": 10}
    changes = compare.between(put("a", record("a")), put("b", record("b", parameters=other)))
    assert "groups: — → 10" in " ".join(render.grounds(changes.pairs[0]))
    both = put("both", record("b", parameters=other), record("b", seed=5))
    assert "groups" not in " ".join(render.grounds(compare.between("a", both).pairs[0]))


def test_what_only_one_side_has_is_named(put):
    """Comparisons and variants of one side alone are named, not dropped."""
    extra = record("a", seed=9, comparison="joins")
    fewer = record("b", variants={"pandas": Made(), "Polars": Made(ratio=2)})
    text = repr(compare.between(put("a", record("a"), extra), put("b", fewer)))
    assert "Only before: 01_dataframes · joins." in text and "no longer runs DuckDB" in text


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("nowhere", "a", "there is no such folder"),
        ("empty", "a", "no record in it"),
        ("a", "else", "have no comparison in common: before 01_dataframes · delays, after 01_dataframes · joins"),
    ],
)
def test_mistakes_are_one_sentence(put, tmp_path, capsys, a, b, said):
    """Each mistake a user can make exits with 2 and one sentence."""
    put("a", record("a"))
    put("else", record("b", comparison="joins"))
    (tmp_path / "empty").mkdir()
    assert cli.main(["compare", a, b]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_the_terminal_fits_80_columns(put, capsys):
    """No line is wider than 80 characters, whatever the names are."""
    long = {"a baseline with a very long name indeed": Made(), "another variant whose name is long, too": Made(ratio=2)}
    a, b = (put(side, record(side, variants=long, comparison="c" * 90)) for side in "ab")
    compare.main(a, b, "runs")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 8 and all(len(line) <= 80 for line in lines)


def test_few_rounds_claim_nothing(put):
    """Under ten rounds nothing is claimed, however large the difference."""
    changes = compare.between(put("a", record("a", rounds=8)), put("b", record("b", ratio=0.2, rounds=8)))
    assert {row.verdict for row in changes.rows} == {"inconclusive"}
    assert "fewer than 10 rounds" in " ".join(repr(changes).split())


HOSTILE = "<script>alert(1)</script> | @everyone `x` [l](http://evil) \u202e"


def test_what_is_written_is_escaped_and_fits(put, tmp_path):
    """The Markdown, which a notebook shows too, fits a comment on GitHub and lets no text of a record act."""
    variants = {"pandas": Made(), **{f"{HOSTILE} {n}": Made(ratio=2 + n / 100) for n in range(300)}}
    slow = {name: Made(ratio=made.ratio / 2) if made.ratio != 1 else made for name, made in variants.items()}
    a = put("a", record("a", variants=variants, title=HOSTILE, rounds=20))
    b = put("b", record("b", variants=slow, title=HOSTILE, rounds=20))
    compare.main(a, b, "runs", str(tmp_path / "out"))
    text = (tmp_path / "out" / "report.md").read_text()
    assert 1_000 < len(text) < 60_000 and compare.between(a, b)._repr_markdown_() == text
    assert "<script" not in text and "@everyone" not in text and "http://evil" not in text and "\u202e" not in text


def test_one_record_file_and_a_url_are_sides(put, tmp_path):
    """A side may be one record's file, or a URL of any kind that fsspec knows."""
    import fsspec

    put("a", record("a"))
    file = next((tmp_path / "a").rglob("*.json"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/compare-test/records/x.json", json.dumps(msgspec.to_builtins(record("b", ratio=1.2))).encode())
    try:
        assert rows(compare.between(str(file), "memory://compare-test"))["Polars"][0] == "slower"
    finally:
        memory.rm("/compare-test", recursive=True)


def test_compare_stays_light(put):
    """`kit compare` imports no engine, no plotting and no notebook library."""
    a, b = put("a", record("a")), put("b", record("b"))
    heavy = "{'torch', 'dask', 'pandas', 'polars', 'matplotlib', 'papermill', 'pyarrow'}"
    check = f"from kit.cli import main; main(['compare', {a!r}, {b!r}, '-o', 'out'])\nimport sys\n"
    check += f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
