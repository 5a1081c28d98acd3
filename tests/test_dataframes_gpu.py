"""GPU engines ask their CPU twins' questions with the backend switched: what can be tested of that without a GPU, and,
where there is one, that their answers are those of the CPU."""

import sys
from types import SimpleNamespace

import pytest

from kit.machine.capabilities import missing
from kit.techniques.dataframes import QUESTIONS, checks, engines, in_pandas, own, workload


@pytest.fixture
def cudf(monkeypatch):
    """A stand-in for cuDF: pandas under that name, which remembers what was read, and how."""
    import pandas

    read = []

    def read_parquet(path, **options):
        read.append(options)
        return pandas.read_parquet(path, **options)

    module = SimpleNamespace(read_parquet=read_parquet, __version__="0", read=read)
    monkeypatch.setitem(sys.modules, "cudf", module)
    return module


def asked_of(prepared):
    return prepared.call.func


@pytest.mark.parametrize("question", ["delay_features", "groupby_9", "join_4"])
def test_cudf_asks_the_functions_of_pandas(question, cudf, tmp_path):
    """cuDF's variant is pandas' own function, given frames that cuDF has read and no option that is pandas' alone."""
    tables = workload.tables(question, 500, cache=tmp_path)
    prepared = engines.cudf(tables, question)
    assert asked_of(prepared) is in_pandas.QUERIES[question] is asked_of(engines.pandas(tables, question))
    assert prepared.call().equals(engines.cudf(tables, question).call())
    assert cudf.read and all(set(options) <= {"columns"} for options in cudf.read)


def test_polars_on_gpu_never_falls_back_in_silence(tmp_path):
    """Without a GPU the question raises; it is never answered by the CPU instead."""
    if not missing(["polars gpu"]):
        pytest.skip("there is a GPU")
    prepared = engines.polars_gpu(workload.groupby(100, 10, cache=tmp_path), "groupby_1")
    with pytest.raises(Exception, match=r"cudf_polars|CUDA|GPU|gpu"):
        prepared.call()


def test_one_call_on_the_cpu_is_a_fallback():
    """cudf.pandas is engaged only if its profiler saw every call on the GPU; else it says what ran on the CPU."""
    fast = {"DataFrame.groupby": {"gpu": [0.1, 0.1], "cpu": []}}
    slow = {"Series.map": {"cpu": [0.2]}}
    on_gpu = checks.cudf_pandas_engaged(fast, device="some GPU")
    assert (on_gpu.state, on_gpu.facts) == ("verified", {"device": "some GPU", "calls_on_gpu": 2, "fallbacks": 0})
    fell = checks.cudf_pandas_engaged(fast | slow)
    assert (fell.state, fell.note, fell.facts["fallbacks"]) == ("fell back", "pandas on the CPU in Series.map", 1)
    assert checks.cudf_pandas_engaged({}).state == "fell back"


def test_dask_reads_by_its_backend(tmp_path, monkeypatch):
    """Dask's questions read through the backend that is set: with cuDF's, cuDF's own reader is asked, and no other."""
    import dask

    from kit.techniques.dataframes import in_dask

    path = workload.groupby(100, 10, cache=tmp_path).paths["x"]
    assert in_dask.read(path).npartitions == 1
    with dask.config.set({"dataframe.backend": "cudf"}), pytest.raises(Exception, match="cudf"):
        in_dask.read(path)


def tables_of(question, cache):
    if question == "delay_features":
        return workload.tables("delay_features", 50_000, cache=cache)
    if question.startswith("own"):
        return own.tables(
            workload.tables("delay_features", 5_000, cache=cache).paths["flights"],
            ["tailnum", "month"],
            ["dep_delay"],
            cache=cache,
        )
    return workload.tables(question, 20_000, 10, 0.1, cache=cache)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("engine", "requires"),
    [("cudf", "cudf"), ("cudf_pandas", "cudf.pandas"), ("polars_gpu", "polars gpu"), ("dask_cudf", "dask-cudf")],
)
def test_gpu_engines_agree(engine, requires, tmp_path):
    """On a GPU each engine gives pandas' answers and proves that it ran there; Polars' may refuse, never fall back."""
    if lacking := missing([requires]):
        pytest.skip(lacking.reason)
    import kit

    wrong = {}
    for question in QUESTIONS:
        comparison = kit.Comparison("gpu", baseline="pandas", time_budget_s=1)
        comparison.variant("pandas", engines.pandas)
        comparison.variant(engine, getattr(engines, engine), requires=requires)
        found = comparison.run(tables_of(question, tmp_path), question)[engine]
        refused = engine == "polars_gpu" and found.verdict == "failed" and "not supported" in found.reason
        if found.verdict in ("rejected", "failed", "skipped") and not refused:
            wrong[question] = found.reason
    assert not wrong
