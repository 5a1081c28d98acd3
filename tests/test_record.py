"""Records are never lost, never half-written, never trusted when read, and hold no secrets."""

import json
import os
import re
import subprocess
import sys

import jsonschema
import msgspec
import numpy as np
import pytest
from record_factory import Made, make_record

from kit import Chart, Comparison, Measurement, Series, Table, UserError, read
from kit.machine import peaks
from kit.record import store
from kit.record.document import VERSION, Record

SCHEMA = msgspec.json.schema(Record)


def with_parameters(**parameters) -> Record:
    return make_record({"a": Made(), "b": Made(ratio=2)}, sizes=[10], parameters=parameters)


def document(**changes) -> bytes:
    return json.dumps(msgspec.to_builtins(make_record(sizes=[1000])) | changes).encode()


def conforms(path) -> None:
    """The JSON Schema that msgspec makes of the classes is valid itself, and the file satisfies it."""
    jsonschema.validate(json.loads(path.read_text()), SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "variants",
    [
        {"a": Made(), "b": Made(ratio=2)},
        {"a": Made(), "b": Made(broken="43 instead of 42"), "c": Made(fell_back="pandas")},
        {"a": Made(), "b": Made(not_timed="oversubscribed")},
        {"a": Made(), "b": Made(state="failed", reason="SIGKILL"), "c": Made(state="skipped", reason="no GPU")},
    ],
)
@pytest.mark.parametrize(("sizes", "rounds"), [([None], 1), ([10, 1000.5], 12)])
def test_every_written_record_satisfies_the_schema(tmp_path, variants, sizes, rounds):
    """Whatever came out, what is written satisfies the schema, and is read back as it was."""
    record = make_record(variants, sizes=sizes, rounds=rounds)
    path = store.write(record, tmp_path)
    conforms(path)
    assert read(path) == msgspec.convert(store.clean(msgspec.to_builtins(record)), Record)


def test_a_measured_record_satisfies_the_schema(monkeypatch):
    """What a real comparison writes, with numbers of NumPy, NaN and failures in it, satisfies the schema."""
    monkeypatch.setattr(peaks, "measured", lambda names, threads: {"memory_copy_gib_per_s": np.float64(8.0)})
    comparison = Comparison("real", baseline="a", sizes=[1, 2], time_budget_s=0.2, threads=1)
    comparison.variant("a", lambda size: lambda: Measurement(0.01 * size, {"loss": float("nan")}, 1))
    comparison.variant("b", lambda size: lambda: Measurement(np.float64(0.02), {"loss": np.float32(0.5)}, 1))
    comparison.variant("c", lambda size: 1 / 0)
    comparison.variant("d", lambda size: None, requires="no_such_module_anywhere")
    conforms(comparison.run().path)


# --- artifacts -------------------------------------------------------------------------------------------------------

CURVE = Chart(
    "Efficiency", "ranks", "%", [Series("DDP", np.array([1, 2]), [np.float32(100), float("nan")])], log_x=True
)
STACK = Chart("Step", "strategy", "ms", [Series("forward", ["DDP", "FSDP2"], [1.5, 2], style="modelled")], "stacked")
TABLE = Table("Expect", ["devices", "step, ms", "real"], [[2, np.float64(1.5), True], ["64", float("inf"), None]])


def test_artifacts_are_written_and_read_back(tmp_path):
    """Charts and tables, with numbers of NumPy and NaN in them, satisfy the schema and come back as they were."""
    record = store.with_artifacts(make_record(sizes=[10]), [CURVE, STACK, TABLE])
    path = store.write(record, tmp_path)
    conforms(path)
    assert read(path).artifacts == record.artifacts == [CURVE, STACK, TABLE]
    assert CURVE.series[0].y == [100.0, None] and CURVE.series[0].x == [1, 2]
    assert TABLE.rows == [[2, 1.5, True], ["64", None, None]]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Series("a", [1, 2], [1]), "series 'a' has 1 y for 2 x; give one for each"),
        (lambda: Series("a", [1], [1], [1, 2], [1]), "2 low for 1 x"),
        (lambda: Series("a", [1], [1], low=[1]), "just one of low= and high="),
        (lambda: Series("a", [float("nan")], [1]), "an x that is no number"),
        (lambda: Series("a", [1], ["fast"]), "'fast' in y; it takes numbers"),
        (lambda: Series("a", [1], [1], style="guessed"), "style='guessed'; it is one of measured, modelled, ideal"),
        (lambda: Chart("c", "x", "y", []), "no series"),
        (lambda: Chart("c", "x", "y", [Series("a", [1], [1])], "pie"), "shape='pie'; it is one of lines"),
        (lambda: Chart("c", "x", "y", [Series("a", [1], [1])] * 2), "two series of one name"),
        (lambda: Chart("c", "x", "y", [Series("a", ["p"], [1])]), 'lines need numbers; use shape="bars"'),
        (lambda: Chart("c", "x", "y", [Series("a", ["p"], [1])], "points"), 'points need numbers; use shape="bars"'),
        (lambda: Chart("c", "x", "y", [Series("a", [0], [1])], "points", log_x=True), "not above 0, which log_x=True"),
        (lambda: Chart("c", "x", "y", [Series("a", ["p"], [-1])], "stacked"), "a part below 0"),
        (lambda: Chart("c", "x", "y", [Series("a", [0], [1])], log_x=True), "not above 0, which log_x=True"),
        (lambda: Table("t", [], []), "no columns"),
        (lambda: Table("t", ["a", "b"], [[1, 2], [1]]), "1 cells in row 2 for 2 columns"),
        (lambda: Table("t", ["a"], [[[1]]]), "a cell is a text or a number"),
    ],
)
def test_an_artifact_that_makes_no_sense_is_told_at_once(make, told):
    """What can't be drawn is one clear sentence where it is made, not a broken report later."""
    with pytest.raises(UserError, match=re.escape(told)):
        make()


def test_a_record_with_a_broken_artifact_is_refused_by_name(tmp_path):
    """An artifact in a file that does not hold together is told as any other fault of a file."""
    series = {"name": "a", "x": [1, 2], "y": [1]}
    path = tmp_path / "odd.json"
    path.write_bytes(document(artifacts=[{"type": "chart", "title": "c", "x": "x", "y": "y", "series": [series]}]))
    assert "1 y for 2 x" in refused(path) and "odd.json" in refused(path)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
import msgspec
from record_factory import make_record
from kit.record import store
record = make_record(parameters={"writer": int(sys.argv[3])}, sizes=[10])
for _ in range(25):
    store.write(msgspec.structs.replace(record, id=store.new_id()), sys.argv[1])
"""


def test_two_writers_at_once_lose_nothing(tmp_path):
    """Four processes that write into one folder at the same time leave every record, whole."""
    program = [sys.executable, "-c", WRITER, tmp_path / "records", os.path.dirname(__file__)]
    writers = [subprocess.Popen([*program, str(number)]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    paths = list((tmp_path / "records").iterdir())
    assert len(paths) == 100
    counts = [read(path).asked.parameters["writer"] for path in paths]
    assert sorted(counts) == sorted(list(range(4)) * 25)


def test_a_record_is_never_overwritten(tmp_path):
    """A name that is taken is an error, and what stands there stays."""
    record = with_parameters(x=1)
    path = store.write(record, tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        store.write(record, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_dies_leaves_no_half_record(tmp_path):
    """A process killed while it writes leaves nothing that looks like a record."""
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from record_factory import make_record\n"
        "from kit.record import store\n"
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.write(make_record(), sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path, os.path.dirname(__file__)])
    assert done.returncode == -9
    assert list(tmp_path.iterdir())
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("name", ["../../evil", "a/b", "C:\\x", "ü" * 300, "", "\n", "x" * 500])
def test_a_comparisons_name_stays_within_the_folder(tmp_path, name):
    """Whatever a comparison is called, its file lies in the folder and has a name that every file system takes."""
    record = msgspec.structs.replace(
        with_parameters(), asked=msgspec.structs.replace(make_record().asked, comparison=name)
    )
    path = store.write(record, tmp_path)
    assert path.parent == tmp_path
    assert len(path.name) < 120
    assert read(path).asked.comparison == name


ODD_VALUES = [
    float("nan"), float("-inf"), 2**70, np.float64(1.5), np.int8(3), np.bool_(True), np.arange(3), {1, 2}, (1, 2),
    np.datetime64("2013-01-01"), b"bytes", object(), "half a character \udcff", {"deep": [{"deeper": float("inf")}]},
    {3: "three", None: "none"}, range(3), lambda: None,
]  # fmt: skip


def test_any_parameter_can_be_written(tmp_path):
    """What JSON cannot hold becomes null or its text: no value of a parameter costs the record."""
    path = store.write(with_parameters(values=ODD_VALUES, other="kept"), tmp_path)
    conforms(path)
    assert "NaN" not in path.read_text()
    parameters = read(path).asked.parameters
    assert parameters["other"] == "kept" and parameters["values"][:6] == [None, None, 2**70, 1.5, 3, True]


def test_credentials_in_urls_are_masked(tmp_path):
    """Names, passwords and signatures in a URL do not reach the file, wherever in the record the URL stands."""
    text = "could not read simplecache::s3://AKIA123:hunter2@bucket/data.parquet?X-Amz-Signature=deadbeef; try again"
    record = with_parameters(data=text, deep={"list": [text]})
    point = record.points[0]
    failed = msgspec.structs.replace(point.variants[1], reason=f"OSError: {text}", state="failed", verdict="failed")
    point = msgspec.structs.replace(point, variants=[point.variants[0], failed])
    sources = msgspec.structs.replace(record.asked, sources={"a": f'read("{text}")'}, title=text)
    written = store.write(msgspec.structs.replace(record, asked=sources, points=[point]), tmp_path).read_text()
    assert not [secret for secret in ("AKIA123", "hunter2", "deadbeef") if secret in written] and "***" in written


def test_home_and_environment_stay_out(tmp_path):
    """The home folder is written as ~, also between quotes, and no environment variable's value is in the record.
    A path in which the home folder's path stands further inside is another path."""
    home, name = tmp_path / "home" / "alice", "alice"
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from record_factory import make_record\n"
        "from kit.record import store\n"
        "h = os.path.expanduser('~')\n"
        "texts = [h, h + '/data/x.csv', f\"no file '{h}'\", f'file://{h}/x', [f'{h}:{h}/bin'], Path(h) / 'y']\n"
        "texts += [f'/mnt{h}']\n"
        "store.write(make_record(parameters={'texts': texts, 'near': h + 'xander/z'}), sys.argv[1])\n"
    )
    planted = {"HOME": str(home), "MY_API_TOKEN": "planted-8f3a", "AWS_SECRET_ACCESS_KEY": "planted-77"}
    arguments = [sys.executable, "-c", code, tmp_path / "records", os.path.dirname(__file__)]
    subprocess.run(arguments, env=os.environ | planted, check=True)
    (path,) = (tmp_path / "records").iterdir()
    parameters = read(path).asked.parameters
    assert parameters["texts"] == ["~", "~/data/x.csv", "no file '~'", "file://~/x", ["~:~/bin"], "~/y", f"/mnt{home}"]
    assert parameters["near"].endswith("alicexander/z")
    assert "planted-" not in path.read_text()
    assert f"{name}'" not in path.read_text()


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


@pytest.mark.parametrize(
    "version", ["kit.record/3", "kit.record/0", "", None, 1, ["kit.record/2"], {"a": 1}, "x" * 999]
)
def test_a_record_of_another_version_is_refused_in_one_sentence(tmp_path, version):
    """It says which version it got and which it reads, and what to do."""
    path = tmp_path / "other.json"
    path.write_bytes(document(schema=version))
    said = refused(path)
    assert "version" in said
    assert VERSION in said
    assert "other.json" in said


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"kit.record/2"',
        b"\xff\xfe",
        b"{" * 200_000,
        b"[" * 200_000,
        b'{"schema": "kit.record/2"}',
        document(points=None),
        document(points=[{"size": "<script>"}]),
        document(machine="x"),
        document(complete="yes"),
        document(written=float("nan")),
        document(how={"seed": 1e999}),
        document()[:-1],
        document()[: len(document()) // 2],
        document() + b"}",
        document().replace(b'"verdict": "baseline"', b'"verdict": "best"'),
    ],
    ids=range(19),  # else pytest makes names of the texts, which takes minutes
)
def test_what_is_not_a_whole_record_is_refused(tmp_path, text):
    """Empty, cut, wrong, nested without end, not even text: one sentence each, never a traceback."""
    path = tmp_path / "odd.json"
    path.write_bytes(text)
    assert "odd.json" in refused(path)


def test_a_record_cut_anywhere_is_refused(tmp_path):
    """No beginning of a record is taken for a record."""
    whole, path = document(), tmp_path / "cut.json"
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        refused(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    """A folder, a missing file, a pipe that nobody writes to and a file larger than any record are refused unread."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json", "missing.json"):
        assert name in refused(tmp_path / name)
    with open(tmp_path / "giant.json", "wb") as file:
        file.truncate(store.LARGEST_BYTES + 1)
    assert "MiB" in refused(tmp_path / "giant.json")


def test_hostile_text_is_only_text(tmp_path):
    """HTML, control characters and very long texts in a record are read back as what they are."""
    hostile = {"html": "<script>alert(1)</script>", "control": "\x00\x1b[31m", "long": "x" * 2_000_000}
    assert read(store.write(with_parameters(**hostile), tmp_path)).asked.parameters == hostile


def test_a_record_of_version_1_is_read():
    """Its fields and words are those of today, and what is called the same in parameters stays."""
    new = json.loads(document(asked=json.loads(document())["asked"] | {"parameters": {"how": {"seconds": 1}}}))
    old = json.loads(json.dumps(new)) | {"schema": "kit.record/1", "exhibits": new["artifacts"]}
    old["how"]["seconds"] = old["how"].pop("time_budget_s")
    old["machine"]["ceilings"] = old["machine"].pop("peaks")
    for point in old["points"]:
        for session in point["sessions"]:
            session["readings"] = session.pop("measurements")
        for variant in point["variants"]:
            variant["warm_s"] = variant.pop("median_s")
            variant["quality"] = variant.pop("check") and {"state": "held", "measure": "equal tables"}
            variant["verdict"] = {"equivalent": "same"}.get(variant["verdict"], variant["verdict"])
    found = store.decode(json.dumps(old).encode())
    expected = msgspec.convert(new, Record)
    assert found.points[0].sessions == expected.points[0].sessions and found.how == expected.how
    checks = {v.check.state for v in found.points[0].variants if v.check}
    assert checks == {"passed"} and found.asked == expected.asked and found.machine == expected.machine


def test_what_another_kit_has_or_lacks_does_not_hinder():
    """A field that this kit does not know, in a version that it knows, is passed over; artifacts may be missing."""
    old = json.loads(document(added={"later": 1}))
    del old["artifacts"]
    found = store.decode(json.dumps(old).encode())
    assert found.schema == VERSION and found.artifacts == []
