"""Storage's layouts: tables equal after each round trip, whole or absent whoever is killed, counted and checked."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_storage import needs_rclone

from kit import Comparison
from kit.charts import chart
from kit.errors import UserError
from kit.techniques.storage import figures, layouts, readers, servers
from kit.techniques.storage.layouts import Layout

ROOT = Path(__file__).parents[1]
AT = [datetime.datetime(2020, 5, 1, 12, tzinfo=datetime.UTC), None]


def odd_table(rows: int = 60) -> pa.Table:
    """All that a round trip may lose: nulls next to NaN and "", decimals, a time zone, keys that look like numbers."""
    take = lambda values: [values[n % len(values)] for n in range(rows)]  # noqa: E731
    return pa.table(
        {
            "number": take([1.5, None, float("nan"), -0.25]),
            "price": pa.array(take([Decimal("1.10"), None, Decimal("2.20")]), pa.decimal128(12, 2)),
            "at": pa.array(take(AT), pa.timestamp("us", "Europe/Paris")),
            "text": take(["", None, "ä/b=c"]),
            "day": pa.array(take([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2), None]), pa.date32()),
            "key": take(["007", "1e5", "a b/c", None, "True"]),
            "small": pa.array(take([1, 2, 3]), pa.int16()),
        }
    )


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> layouts.Stored:
    path = tmp_path_factory.mktemp("odd") / "odd.parquet"
    pq.write_table(odd_table(), path)
    return layouts.Stored(str(path), odd_table(), "day", "key", ("number", "price", "at"), "")


SHAPES = [
    *map(Layout, ("none", "Snappy", "LZ4", "gzip 6", "zstd", "zstd 10")),
    *(Layout(partition=column) for column in ("day", "key", "small")),
    Layout(files=7),
    Layout("zstd 3", row_group=10),
]


@pytest.mark.parametrize("layout", SHAPES, ids=str)
def test_a_table_is_equal_after_a_round_trip(odd, layout, tmp_path):
    """Values, nulls, NaN, decimals, time zones and the types of partition columns come back, whatever the layout; and
    the footers have the codec that was asked for."""
    one = layouts.written(odd, layout, tmp_path)
    read = readers.Read(servers.Bucket("unused"), one, odd.table.schema)
    assert readers.fingerprint(readers.local_disk(read)()) == readers.fingerprint(odd_table())
    name = layouts.codec(layout.codec)[0]
    footer = pq.read_metadata(one.folder / one.first)
    assert footer.row_group(0).column(0).compression == {"NONE": "UNCOMPRESSED"}.get(name, name)
    values = odd_table()[layout.partition].to_pylist() if layout.partition else []
    assert len(one.sizes) == (len(set(values)) or layout.files)
    assert layout.row_group == layouts.ROW_GROUP or footer.num_row_groups == 6
    assert all((one.folder / name).stat().st_size == size for name, size in one.sizes.items())


def test_a_fingerprint_sees_what_differs():
    """Null is not NaN nor "", a time zone and a scale count, and so does which values share a row; the order of rows
    and columns does not."""
    table, found = odd_table(), readers.fingerprint(odd_table())
    assert readers.fingerprint(table.select(table.column_names[::-1]).take([*range(59, -1, -1)])) == found
    others = {
        "number": pa.array([1.5, float("nan"), None, -0.25] * 15),
        "text": pa.array([None, "", "ä/b=c"] * 20),
        "at": table["at"].cast(pa.timestamp("us", "UTC")),
        "price": table["price"].cast(pa.decimal128(12, 3)),
        "small": table["small"].cast(pa.int32()),
        "key": pa.array(["1e5", "007", *table["key"].to_pylist()[2:]]),
    }
    for name, column in others.items():
        changed = table.set_column(table.column_names.index(name), name, column)
        assert readers.fingerprint(changed) != found, name


UNKNOWN = [*map(Layout, ("brotly", "zstd x", "Snappy 3", "gzip 10", "zstd 0", "", "zstd -1")), Layout(partition="dya")]


@pytest.mark.parametrize("layout", UNKNOWN, ids=str)
def test_an_unknown_codec_or_column_is_refused(odd, layout, tmp_path):
    """A codec, level or column that there is not is one sentence with the ones that there are."""
    with pytest.raises(UserError, match=r"codec|level|partition='dya' is unknown"):
        layouts.written(odd, layout, tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_path_that_is_a_file_is_refused(odd, tmp_path):
    """A file in the place of the cache's folder is named, with what to do."""
    (tmp_path / layouts.FOLDER).write_text("mine")
    with pytest.raises(UserError, match=r"can't be written: .*; free space, or remove the file"):
        layouts.written(odd, Layout(), tmp_path)
    assert (tmp_path / layouts.FOLDER).read_text() == "mine"


WRITER = """
import sys, time
from kit.techniques.storage import layouts
def slow(file):
    print("wrote", flush=True)
    time.sleep(0.2)
write = layouts.ds.write_dataset
layouts.ds.write_dataset = lambda *given, **options: write(*given, **options, file_visitor=slow)
stored = layouts.Stored(sys.argv[1], layouts.pq.read_table(sys.argv[1]), "day", "key", (), "")
layouts.written(stored, layouts.Layout(files=20), sys.argv[2])
"""


def start(code: str, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_a_reader_takes(odd, tmp_path):
    """A writer killed by SIGKILL between its files leaves no folder of the layout's name; the next one writes all."""
    with start(WRITER, odd.stamp, str(tmp_path)) as process:
        for _ in range(3):
            assert process.stdout.readline() == "wrote\n", process.stderr.read()
        process.send_signal(signal.SIGKILL)
    left = list((tmp_path / layouts.FOLDER).iterdir())
    assert left and all(path.name.startswith(".") for path in left)
    assert list(left[0].glob("*.parquet"))  # it was really half-way
    one = layouts.written(odd, Layout(files=20), tmp_path)
    assert len(one.sizes) == 20 and sum(pq.read_metadata(one.folder / name).num_rows for name in one.sizes) == 60


def test_a_full_disk_is_one_sentence(odd, tmp_path):
    """Where no space is left the writer reports it, and leaves nothing of the layout's name."""
    code = WRITER.replace("layouts.written(", "print(end='', flush=True)\nlayouts.written(").replace("0.2", "0")
    inner = f'mount -t tmpfs -o size=32k none {tmp_path} && exec {sys.executable} -c "$0" {odd.stamp} {tmp_path}'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inner, code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()[:80]}")
    assert "UserError" in done.stderr and "No space left on device; free space" in done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def places(odd, cache) -> dict[str, layouts.Written]:
    shapes = {"one file": Layout(), "by day": Layout(partition="day"), "by key": Layout(partition="key")}
    shapes["many small files"] = Layout(files=30)
    return {name: layouts.written(odd, shape, cache) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def server(cache, places):
    needs_rclone()
    with servers.Server(cache / layouts.FOLDER).start() as server:
        yield server


def measured(read: readers.Read, client=readers.pyarrow):
    """Set up one variant in this process, call it, and judge it."""
    setup = readers.reader("x", client)({"x": read})
    found = setup.call()
    return found, setup.execution_proof(), setup


@pytest.mark.parametrize("name", readers.CLIENTS)
def test_every_client_reads_the_same_table(odd, places, server, name):
    """The table of each client is equal in values and types, and the server, the disk or the kernel confirms the read,
    in the second call too: nothing comes from a cache of the client's."""
    read = readers.of_clients(readers.reads(places, server, odd)["one file"])[name]
    setup = readers.reader(name, readers.CLIENTS[name])({name: read})
    answers = [setup.call().answer() for _ in range(2)]
    expected = readers.fingerprint(odd_table())
    if name in ("DuckDB", "Polars"):  # they have no such time zone's type, or name it in another way
        expected["types"], answers[1]["types"] = {}, {}
    assert answers[1] == expected
    judged = setup.execution_proof()
    assert judged.state == "verified" or judged.note == "the page cache"  # on a file system in memory
    assert ("GETs" in judged.facts) == ("disk" not in name)


@pytest.mark.parametrize("selection", readers.SELECTIONS)
@pytest.mark.parametrize("name", ["one file", "by day", "by key", "many small files"])
def test_a_selection_is_the_same_in_every_layout(odd, places, server, name, selection):
    """Whatever is read, each layout gives the rows and types that a filter of the table gives."""
    read = readers.reads(places, server, odd, selection)[name]
    found, judged, _ = measured(read)
    expected = odd_table()
    if read.column:
        expected = expected.filter(pa.compute.equal(expected[read.column], read.value))
    expected = expected.select(read.columns or expected.column_names)
    assert found.answer() == readers.fingerprint(expected)
    assert judged.state == "verified", judged


def test_a_read_beyond_its_partition_falls_back(tmp_path, server):
    """For one day the server sends the files of that day, or their row groups; a reader that gets all files where one
    would do is not verified."""
    noise = pa.table({"day": [n // 50_000 for n in range(200_000)], "noise": [hash((n, 1)) for n in range(200_000)]})
    stored = layouts.Stored("noise", noise, "day", "", ("day",), "")
    shapes = {"by day": Layout(partition="day"), "groups": Layout(row_group=10_000)}
    places = {name: layouts.written(stored, shape, tmp_path) for name, shape in shapes.items()}
    with servers.Server(tmp_path / layouts.FOLDER).start() as other:
        reads = readers.reads(places, other, stored, "one day")
        groups, read = measured(reads["groups"])[1], reads["by day"]
        assert groups.state == "verified" and groups.costs["sent_mib"] < places["groups"].mib / 2
        judged = measured(read)[1]
        assert judged.state == "verified" and judged.facts["GETs"] <= 3 and judged.facts["LISTs"] == 1
        _, judged, _ = measured(read, lambda read: readers.pyarrow(replace(read, column="")))
    assert (judged.state, judged.note) == ("fell back", "more bytes than the files that match have")


def test_other_bytes_than_those_written_fall_back(odd, tmp_path, cache):
    """A file that was changed after it was written is found by its SHA-256, as the server sends it."""
    needs_rclone()
    one = layouts.written(odd, Layout(), tmp_path)
    with servers.Server(tmp_path / layouts.FOLDER).start() as other:
        read = readers.reads({"x": one}, other, odd)["x"]
        pq.write_table(odd_table().take([*range(59, -1, -1)]), one.folder / one.first)
        _, judged, _ = measured(read)
    assert judged.state == "fell back" and "SHA-256" in judged.note


def test_a_cold_read_is_cold(odd, places, server):
    """Where the cache was dropped the kernel counts the file's bytes from the disk, else the read is rejected."""
    read = readers.of_clients(readers.reads(places, server, odd)["one file"])["local disk, cold"]
    _, warm, _ = measured(replace(read, cold=False), readers.local_disk)
    assert warm.state == "verified" and "from the disk" not in warm.facts
    assert readers.proof(read, {"disk_mib": 0.0}).note == "the page cache"
    _, judged, _ = measured(read, readers.local_disk)
    if judged.state != "verified":
        pytest.skip("this file system keeps its files in memory")
    assert judged.costs["disk_mib"] >= read.written.mib


def test_a_server_that_stops_in_mid_read_is_named(odd, cache, places, monkeypatch):
    """The client tries again, and then it is one sentence; no part of the table comes back."""
    needs_rclone()
    monkeypatch.setattr(servers, "TIMEOUT_S", 2.0)
    with servers.Server(cache / layouts.FOLDER).start() as other:
        bucket = layouts.served(places["one file"], other)
        with (
            pytest.raises(UserError, match="does not answer, or stopped during the request; start it and run again"),
            bucket.reached(),
            bucket.pyarrow().open_input_file(bucket.path(places["one file"].first)) as file,
        ):
            assert file.read(4) == b"PAR1"
            other.kill()
            file.read()


UPLOADER = """
import sys
from kit.techniques.storage import layouts, servers
stored = layouts.Stored(sys.argv[1], layouts.pq.read_table(sys.argv[1]), "day", "key", (), "")
one = layouts.written(stored, layouts.Layout(files=60), sys.argv[2])
layouts.served(one, servers.at(sys.argv[3]))
"""


def test_a_killed_upload_is_not_whole_and_is_made_again(odd, tmp_path):
    """An upload killed by SIGKILL has no manifest, so that it is sent again; then all files are as written."""
    needs_rclone()
    (tmp_path / "yours/mine").mkdir(parents=True)
    with servers.Server(tmp_path / "yours").start() as yours:
        bucket = yours.bucket("mine")
        url = f"s3://{bucket.key}:{bucket.secret}@mine/some?endpoint={bucket.endpoint}"
        with start(UPLOADER, odd.stamp, str(tmp_path), url) as process:
            while not list((tmp_path / "yours").rglob("*.parquet")) and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        sent = list((tmp_path / "yours").rglob("*.parquet"))
        assert sent and not list((tmp_path / "yours").rglob(layouts.MANIFEST))
        one = layouts.written(odd, Layout(files=60), tmp_path)
        read = readers.reads({"x": one}, servers.at(url), odd)["x"]
        found, judged, _ = measured(read)
    assert list((tmp_path / "yours").rglob(layouts.MANIFEST)) and judged.state == "verified"
    assert found.answer() == readers.fingerprint(odd_table()) and "GETs" not in judged.facts
    assert url.split("@")[0] not in repr(read)


FLIPS = [(1e6, 0.08, 100), (1e6, -1, float("inf")), (-1e6, 0.1, 0), (-1e6, -0.08, -100)]


@pytest.mark.parametrize(("saved", "slower", "below"), FLIPS)
def test_where_the_answer_flips(saved, slower, below):
    """A megabyte less and 80 ms more pay below 100 Mbit/s; smaller and faster at any, larger and slower at none;
    a megabyte more and 80 ms less above 100 Mbit/s."""
    assert figures.flip(saved, slower) == pytest.approx(below)


def without_costs(record):
    """Return a record as it is of a server that is not ours: nothing was counted."""
    point = record.points[0]
    variants = [msgspec.structs.replace(one, execution_proof=None) for one in point.variants]
    return msgspec.structs.replace(record, points=[msgspec.structs.replace(point, variants=variants)])


def test_results_become_figures(odd, places, cache, server):
    """Codecs and layouts measured here become the tables and charts of the notebook, and the claim its parts."""
    files = {name: layouts.written(odd, Layout(name), cache) for name in ("Snappy", "none", "zstd 3")}
    results = {}
    for selection, baseline, written in (
        ("codecs", "Snappy", files), ("one day", "one file", places), ("one key", "one file", places)
    ):  # fmt: skip
        comparison = Comparison(selection, title=selection, baseline=baseline, time_budget_s=1, isolate=False)
        for name in written:
            comparison.variant(name, readers.reader(name))
        what = "all" if selection == "codecs" else selection
        results[selection] = comparison.run(readers.reads(written, server, odd, what))
    result, found = results.pop("codecs"), results
    assert [row[0] for row in figures.codecs(result, files).rows] == ["Snappy", "none", "zstd 3"]
    assert {series.style for series in figures.bandwidth_map(result, files).series} == {"modelled"}
    assert len(figures.layouts(found, places).rows) == 8
    (kept, *_), (egress, *_) = (figures.cost(found, places, [a, 0, 0, b]).series for a, b in ((1, 0), (0, 1)))
    assert kept.y == pytest.approx([places["one file"].mib * 2**20 / 1e9] * 6)
    assert 0 < egress.y[0] * 10 == pytest.approx(egress.y[1])
    with pytest.raises(UserError, match="prices has 3 entries; give 4"):
        figures.cost(found, places, [1, 0, 0])
    uncounted = {"one day": found["one day"].__class__(without_costs(found["one day"].record))}
    assert "storage alone" in (alone := figures.cost(uncounted, places, [1, 0, 0, 0])).note and chart.draw(alone)
    assert {row[0] for row in figures.answers(result, None, *found.values()).rows} == {"codecs", "one day", "one key"}
    text, without = (figures.claim(result, None, files, some) for some in (found, {}))
    assert text.count("\n") == 3 and "modelled" in text and "by day, one day" in text and "by key: not" in without


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"selections": []}, "number of selections=0 is not allowed; give a number of at least 1"),
        ({"codecs": []}, "number of codecs=0 is not allowed"),
        ({"prices": [1.0, 2.0]}, "number of prices=2 is not allowed; give a number of at least 4"),
        ({"codecs": ["zstd x"]}, "codec 'zstd x' is unknown; did you mean 'zstd 3'"),
        ({"data": "flights x"}, "has no number of rows; give e.g. 'flights 20000'"),
        ({"partition_by": ["dya"]}, "partition_by='dya' is unknown; did you mean 'day'"),
        ({"url": "http://host/x"}, "is no address of a bucket; give e.g. s3://"),
        ({"partition_by": ["date"]}, "'one key' needs a column of your table"),
        ({"url": "s3://A:B@b?endpoint=http://127.0.0.1:1"}, "s3://b/.* can't be used: the server does not answer"),
    ],
)
def test_06_storage_refuses_what_it_cannot_use(given, sentence):
    """Each mistake ends the notebook before anything is measured, by one sentence, for which `kit run` exits with 2."""
    cells = json.loads((ROOT / "notebooks/06_storage.ipynb").read_text())["cells"]
    parameters, *code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    exec(parameters, names := {})
    names |= {"data": "flights 300"} | given
    with pytest.raises(UserError, match=sentence):
        for source in code:
            exec(source, names)
