"""The inner operations of the dataframes technique, at a small size: one question, four idioms, one group.

pytest-benchmark times them one after the other, which is good for a look at one engine while its code changes; which
engine is faster is a question for the notebook, where all take turns. `pytest benchmarks/test_dataframes.py`
"""

import pytest

from kit.measure import answers
from kit.techniques.dataframes import engines, workload

ROWS = 100_000
ENGINES = {"pandas": engines.pandas, "Polars": engines.polars, "DuckDB": engines.duckdb, "Dask": engines.dask}
QUESTIONS = ["groupby_3", "delay_features"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of each question, by its name."""
    cache = tmp_path_factory.mktemp("tables")
    return {question: workload.tables(question, ROWS, cache=cache) for question in QUESTIONS}


@pytest.fixture(scope="module")
def expected(tables):
    """The baseline's answers, by the name of the question."""
    return {question: answers.portable(engines.pandas(tables[question], question).call()) for question in QUESTIONS}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_question(benchmark, tables, expected, question, engine):
    """Each idiom answers the question as pandas does, in the time that is shown."""
    benchmark.group = f"{question}, {ROWS:,} rows"
    prepared = ENGINES[engine](tables[question], question)
    try:
        answer = benchmark(prepared.call)
    finally:
        if prepared.close:
            prepared.close()
    check = answers.equal(answers.portable(answer), expected[question])
    assert check.state == "passed", check.note
