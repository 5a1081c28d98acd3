"""What a record says in words."""

import dataclasses
import math

import msgspec
import pytest
from record_factory import SIZES, USUAL, Made, make_record

from kit.record import words
from kit.record.document import Effect, Engagement, Quality, Scaling, Variant


def effect(speedup: float, low: float | None, high: float | None, rounds: int = 20) -> Effect:
    return Effect(speedup=speedup, low=low, high=high, rounds=rounds, confidence=0.99)


def with_variant(record, **changes):
    """The record with its second variant changed at its only size."""
    point = record.points[0]
    variants = list(point.variants)
    variants[1] = msgspec.structs.replace(variants[1], **changes)
    return msgspec.structs.replace(record, points=[msgspec.structs.replace(point, variants=variants)])


def clause(**changes) -> str:
    record = with_variant(make_record({"pandas": Made(), "Polars": Made(ratio=6)}, sizes=[1_000_000]), **changes)
    return words.sentence(record, record.points[0], record.points[0].variants[1])


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (words.duration, 340e-6, "340 µs"),
        (words.duration, 0.0123, "12.3 ms"),
        (words.duration, 0.9999, "1.00 s"),
        (words.duration, 1.244, "1.24 s"),
        (words.duration, 192, "3.2 min"),
        (words.duration, 5400, "90 min"),
        (words.duration, 9000, "2.5 h"),
        (words.duration, None, "—"),
        (words.mib, 340, "340 MiB"),
        (words.mib, 1229, "1.20 GiB"),
        (words.percent, 0.03, "3 %"),
        (words.percent, 0.008, "0.80 %"),
        (words.plus_minus, 0.03, "±3 %"),
        (words.times, 6.1, "6.1×"),
        (words.times, 1.02, "1.02×"),
        (words.times, 0.42, "0.42×"),
        (words.number, 9.9999, "10.0"),
        (words.number, math.nan, "—"),
        (words.number, 1e300, "1.00e+300"),
    ],
)
def test_numbers_have_units_and_few_digits(function, value, text):
    """Every number is printed in the unit and with the digits that a person reads best."""
    assert function(value) == text


def test_sizes_have_thousands_separated():
    """A size is printed whole, with its unit, and nothing is printed for no size."""
    assert words.count(1_000_000, "rows") == "1,000,000 rows"
    assert words.count(0.5, "load") == "0.500 load"
    assert words.count(1, "samples a request") == "1 sample a request"
    assert [words.count(1, unit) for unit in ("processes", "loss", "ms")] == ["1 process", "1 loss", "1 ms"]
    assert words.count(None, "rows") == ""


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (6.1, 5.8, 6.4, "6.1× [5.8, 6.4]"),
        (1.4, 1.3, 1.5, "1.4× [1.3, 1.5]"),
        (1.02, 0.97, 1.08, "1.02× [0.97, 1.08]"),
        (6.123, 6.119, 6.127, "6.12× [6.12, 6.13]"),
        (130.2, 120.0, 140.0, "130× [120, 140]"),
        (6.1, None, None, "6.1×"),
    ],
)
def test_a_ratio_has_as_many_digits_as_its_interval_deserves(ratio, low, high, text):
    """The digits shown follow the width of the interval."""
    assert words.with_interval(ratio, low, high) == text


def test_absurd_ratios_keep_an_interval_that_says_something():
    """Neither `[0.00, 0.00]` nor hundredths of a millionfold speed-up."""
    assert words.with_interval(3.2e6, 3_126_010.0, 3_357_626.0) == "3,200,000× [3,130,000, 3,360,000]"
    assert words.with_interval(1e-4, 9e-5, 1.2e-4) == "0.00010× [9.00e-05, 0.000120]"


def test_faster_says_ratio_size_and_memory():
    """A faster variant's sentence says how much, with its interval, at what size, and at what memory."""
    said = clause(verdict="faster", effect=effect(6.1, 5.8, 6.4))
    assert said == "Polars is 6.1× [5.8, 6.4] faster than pandas at 1,000,000 rows and uses the same memory"


def test_memory_is_a_multiple_of_the_baselines():
    """The memory named is the highest resident memory relative to the baseline's."""
    record = make_record({"pandas": Made(), "Polars": Made(ratio=6, memory=0.4)}, sizes=[1_000_000])
    assert words.headline(record).endswith("and uses 0.4× the memory.")


def test_slower_turns_ratio_and_interval_round():
    """A slower variant is told by how much it is slower, the ends of the interval in ascending order."""
    assert clause(verdict="slower", effect=effect(1 / 1.4, 1 / 1.5, 1 / 1.3), memory=None) == (
        "Polars is 1.4× [1.3, 1.5] slower than pandas at 1,000,000 rows"
    )


def test_unresolved_names_the_noise_floor():
    """What can't be told apart says the ratio, its interval and the noise floor."""
    said = clause(verdict="unresolved", effect=effect(1.02, 0.97, 1.08))
    assert said.startswith(
        "Polars can't be told apart from pandas at 1,000,000 rows: 1.02× [0.97, 1.08], the "
    )
    assert "noise floor is" in said


def test_too_few_rounds_are_named():
    """Without an interval the sentence says that the rounds were too few."""
    assert "6 rounds are too few for an interval" in clause(verdict="unresolved", effect=effect(1.02, None, None, 6))


def test_same_is_not_unresolved():
    """A variant known to be as fast is not called unresolved."""
    assert clause(verdict="same", effect=effect(1.0, 0.99, 1.01)).startswith("Polars is as fast as pandas")


def test_invalid_says_what_differed_or_what_ran_instead():
    """An invalid variant is never given a speed: its sentence says why it does not count."""
    broken = clause(verdict="invalid", quality=Quality(state="broken", measure="equal tables", note="3 rows differ"))
    assert broken == "Polars is invalid at 1,000,000 rows: its answer differs: 3 rows differ"
    fell = clause(verdict="invalid", engagement=Engagement(state="fell back", note="pandas on the CPU"))
    assert fell.endswith("it fell back to pandas on the CPU")


def test_failed_and_skipped_say_why():
    """A failed or skipped variant's sentence holds the reason."""
    assert clause(state="failed", verdict="failed", reason="killed by SIGKILL.") == (
        "Polars failed at 1,000,000 rows: killed by SIGKILL"
    )
    assert clause(state="skipped", verdict="skipped", reason="no NVIDIA driver") == (
        "Polars was not run: no NVIDIA driver"
    )


def test_skipped_variants_with_one_reason_are_told_together():
    """Variants skipped for the same reason share one clause at the end."""
    record = make_record(sizes=[1_000_000])
    assert words.at_point(record, record.points[0]).endswith("; cuDF and Dask-cuDF were not run: no NVIDIA driver.")


def correctness_record(**changes):
    crowded = Made(correctness_only="oversubscribed: 4 ranks on 2 cores", **changes)
    return make_record(
        {"one process": Made(), "two ranks": Made(ratio=1.6), "four ranks": crowded}, sizes=[2, 4], unit="ranks"
    )


def test_correctness_only_says_why_and_never_a_speed():
    """Where no speed may be claimed, every text says that and why, and none says faster or slower."""
    record = correctness_record()
    point = record.points[-1]
    said = words.sentence(record, point, point.variants[2])
    assert said == (
        "four ranks answers correctly at 4 ranks, and no speed is claimed of it: oversubscribed: 4 ranks on 2 cores"
    )
    assert said + "." in words.sentences(record)
    cells = dict(zip(words.COLUMNS, words.cells(words.rows(record, point)[2]), strict=True))
    assert cells["verdict"] == "correctness only: oversubscribed: 4 ranks on 2 cores"
    assert cells["median"] == cells["speedup"] == "—" and cells["quality"] == "equal tables"


def test_correctness_only_is_neither_failed_nor_skipped():
    """What was checked for correctness only is not told among what was not run, nor counted as lost."""
    record = correctness_record()
    assert "was not run" not in words.summary(record) and "failed" not in words.summary(record)
    alone = make_record({"a": Made(), "b": Made(correctness_only="oversubscribed")}, sizes=[4], unit="ranks")
    assert words.headline(alone) == "b ran at 4 ranks for correctness only: oversubscribed."
    beside = make_record({"a": Made(), "b": Made(correctness_only="x"), "c": Made(ratio=0.5)}, sizes=[4])
    assert words.headline(beside) == "Nothing was shown to beat a at 4 rows: 1 correctness only, 1 slower."


def test_correctness_only_with_a_wrong_answer_is_invalid():
    """That no speed is claimed does not excuse a wrong answer."""
    assert "four ranks is invalid" in words.summary(correctness_record(broken="loss differs by 0.03"))


@pytest.mark.parametrize(
    ("scaling", "text"),
    [
        ({"overtakes": "always"}, "is faster at every size measured"),
        ({"overtakes": "never"}, "does not overtake pandas within the sizes measured"),
        ({"overtakes": "unresolved"}, "may overtake pandas, but from what size on can't be told"),
        (
            {"overtakes": "between", "from_size": 40_120.0, "from_low": 30_300.0, "from_high": 54_900.0},
            "overtakes pandas from about 40,000 rows [30,000, 55,000]",
        ),
    ],
)
def test_overtaking_names_the_size(scaling, text):
    """The size from which on a variant wins is told with its interval, or that there is none."""
    full = Scaling(exponent=None, exponent_low=None, exponent_high=None, **scaling)
    assert words.overtaking(full, "pandas", "rows") == text


def test_the_summary_covers_every_variant_over_the_sizes():
    """The summary tells every variant once, at the largest size, with the size from which on it wins."""
    said = words.summary(make_record())
    assert all(said.count(f"{name} is") == 1 for name in ("Polars", "DuckDB", "Dask"))
    assert f"{SIZES[-1]:,} rows" in said and "DuckDB" in said and "overtakes pandas from about" in said


def test_the_headline_is_the_fastest_valid_variant():
    """An invalid variant is never the headline, however fast."""
    record = make_record({"pandas": Made(), "Right": Made(ratio=3), "Wrong": Made(ratio=9, broken="x")}, sizes=[1000])
    assert words.headline(record).startswith("Right is ")


def test_the_headline_admits_that_nothing_won():
    """Without a faster variant the headline says so, and counts what came out instead."""
    record = make_record({"pandas": Made(), "Slow": Made(ratio=0.5)}, sizes=[1000])
    assert words.headline(record) == "Nothing was shown to beat pandas at 1,000 rows: 1 slower."


def test_rows_are_plain_text_in_declared_order():
    """A table row is text only, one a variant, skipped ones too, with the reason and the remedy."""
    record = make_record(sizes=[1_000_000])
    rows = words.rows(record, record.points[0])
    assert [row.variant for row in rows] == list(USUAL)
    assert all(isinstance(value, str) for row in rows for value in dataclasses.asdict(row).values())
    assert rows[4].note == "no NVIDIA driver; to have it: a machine with an NVIDIA GPU and its driver"
    assert set(words.COLUMNS) <= {field.name for field in dataclasses.fields(words.Row)}


def test_break_even_counts_calls():
    """Break-even is told in whole calls, `at once` without extra cost, `never` without a saving."""
    plain = {"name": "x", "state": "measured", "verdict": "faster", "effect": effect(2, 1.9, 2.1)}
    assert words.break_even(Variant(**plain, breakeven_calls=46.2)) == "after 47 calls"
    assert words.break_even(Variant(**plain, breakeven_calls=0)) == "at once"
    assert words.break_even(Variant(**plain, breakeven_calls=None)) == "never"


def test_shown_text_is_one_safe_line():
    """Control characters, direction marks and line breaks never reach a page or a terminal; long text is cut."""
    assert words.shown("a\u202eb\x1b[31m\n c\u2066") == "ab[31m c"
    assert len(words.shown("x" * 10_000_000, 50)) == 50
    assert words.shown("\ud800ok") == "ok"


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e308, 5e-324, math.inf, math.nan])
def test_absurd_numbers_never_raise(bad):
    """Whatever number a record holds, it is said in some words."""
    record = with_variant(
        make_record(sizes=[1_000_000]), effect=effect(bad, bad, bad), breakeven_calls=bad, warm_s=bad, prepare_s=bad
    )
    record = msgspec.structs.replace(record, points=[msgspec.structs.replace(record.points[0], size=bad)])
    assert words.summary(record) and words.rows(record, record.points[0]) and words.headline(record)
