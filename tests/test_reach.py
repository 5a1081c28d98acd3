"""What share of the machine's ceilings a variant reached: worked out, said, shown, and kept."""

import msgspec
import pytest
from record_factory import Made, make_record

from kit import Comparison, Prepared, Reading
from kit.measure import reach
from kit.measure.result import Result
from kit.measure.work import TIME, Ceiling
from kit.record import words
from kit.record.document import Reach
from kit.report import table

GIB = 2**30


def record_with(found: Reach | None, seconds: float = 0.5):
    """A record whose second variant takes `seconds` and says this of its reach."""
    record = make_record({"pandas": Made(), "Polars": Made(ratio=6)}, sizes=[1_000])
    point = record.points[0]
    changed = msgspec.structs.replace(point.variants[1], warm_s=seconds, reach=found)
    return msgspec.structs.replace(
        record, points=[msgspec.structs.replace(point, variants=[point.variants[0], changed])]
    )


def shared(bound: Ceiling, seconds: float, ceilings: dict[str, float | None], **metrics: float) -> Reach | None:
    """What a variant's ceiling becomes when its call takes `seconds`."""
    points = reach.with_shares(record_with(reach.of(bound, metrics), seconds).points, ceilings)
    return points[0].variants[1].reach


# --- the share --------------------------------------------------------------------------------------------------------


def test_a_share_is_work_over_time_over_ceiling():
    """2 GiB in half a second are 4 GiB/s: half of a memory that copies 8."""
    found = shared(Ceiling("memory_copy_gib_per_s", 2), 0.5, {"memory_copy_gib_per_s": 8.0})
    assert found.share == pytest.approx(0.5)


def test_a_ceiling_that_was_not_measured_gives_no_share():
    """Where the machine has no such ceiling, the work is kept and no share is told."""
    found = shared(Ceiling("matrix_product_int8_gop_per_s", 2), 0.5, {"matrix_product_int8_gop_per_s": None})
    assert (found.amount, found.share, words.reach(found)) == (2, None, "—")


@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf"), "no such metric"])
def test_no_work_is_held_against_no_ceiling(amount):
    """A variant whose work comes to nothing, or is not known, has no share: not one of 0 %."""
    assert reach.of(Ceiling("memory_copy_gib_per_s", amount), {}) is None


def test_an_amount_may_be_a_metric():
    """Where the work differs from call to call, its median over the rounds counts."""
    found = shared(Ceiling(TIME, "in trials s"), 0.5, {}, **{"in trials s": 0.4})
    assert found.share == pytest.approx(0.8)


def test_the_whole_time_is_a_ceiling_that_nobody_measures():
    """A second holds one second of work: no probe is asked for that."""
    found = Reach(ceiling=TIME, amount=0.4)
    assert reach.names(record_with(found).points) == set()
    assert reach.names(record_with(msgspec.structs.replace(found, ceiling="disk_read_mib_per_s")).points) == {
        "disk_read_mib_per_s"
    }


def test_a_comparison_says_what_share_its_variants_reached(tmp_path, monkeypatch):
    """From the variant to the record: what it said of its work, divided by its own median seconds."""
    monkeypatch.setenv("KIT_RUN", str(tmp_path))
    monkeypatch.setenv("KIT_PROBE_S", "0")

    def half_at_work():
        return Prepared(
            lambda: Reading(0.2, {"at work s": 0.1}, 1), ceiling=Ceiling(TIME, "at work s", "sums, the rest waits")
        )

    comparison = Comparison("halves", baseline="quiet", seconds=0.2, isolate=False)
    comparison.variant("quiet", lambda: lambda: 1)
    comparison.variant("half", half_at_work)
    result = comparison.run()
    quiet, half = result.record.points[0].variants
    assert quiet.reach is None
    assert (half.reach.share, half.reach.note) == (pytest.approx(0.5), "sums, the rest waits")
    assert "50 % of its time in sums" in repr(result)
    assert result["half"].reach == "50 % of its time in sums: 100 ms of 200 ms; counted: sums, the rest waits"
    assert result["quiet"].reach == ""


# --- in words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "unit"),
    [
        ("memory_copy_gib_per_s", "memory copy", "GiB/s"),
        ("disk_read_mib_per_s", "disk read", "MiB/s"),
        ("matrix_product_fp32_gflop_per_s", "FP32 matrix product", "GFLOP/s"),
        ("matrix_product_int8_gop_per_s", "INT8 matrix product", "GOP/s"),
        ("loopback_round_trips_per_s", "loopback round trips", "/s"),
        ("device_copy_gib_per_s", "device copy", "GiB/s"),
        (TIME, "its time", "s/s"),
        ("something_else", "something else", ""),
    ],
)
def test_ceilings_have_names_for_people(name, label, unit):
    """Page, doctor and tables call a ceiling the same, with its unit."""
    assert words.ceiling_name(name) == (label, unit)


def arithmetic(found: Reach, seconds: float) -> str:
    return words.reach_arithmetic(record_with(found, seconds).points[0].variants[1])


def test_a_share_is_said_with_its_arithmetic():
    """The cell names share and ceiling; the note holds all that the share was worked out from, in units to read."""
    found = Reach(ceiling="memory_copy_gib_per_s", amount=1.2, share=0.4082, note="columns read once")
    assert words.reach(found) == "41 % of memory copy"
    assert arithmetic(found, 0.35) == (
        "1.20 GiB in 350 ms = 3.43 GiB/s of 8.40 GiB/s (memory copy, measured in the same session); "
        "counted: columns read once"
    )


@pytest.mark.parametrize(
    ("ceiling", "amount", "text"),
    [
        ("memory_copy_gib_per_s", 16_000 / GIB, "15.6 KiB in"),
        ("memory_copy_gib_per_s", 100 / GIB, "100 B in"),
        ("disk_read_mib_per_s", 2048, "2.00 GiB in"),
        ("matrix_product_fp32_gflop_per_s", 0.000_25, "250 kFLOP in"),
        ("matrix_product_int8_gop_per_s", 2_500, "2.50 TOP in"),
        ("loopback_round_trips_per_s", 1, "1 in"),
    ],
)
def test_work_is_said_in_the_unit_that_reads_best(ceiling, amount, text):
    """Nobody has to read 0.0000149 GiB."""
    assert arithmetic(Reach(ceiling=ceiling, amount=amount, share=0.5), 0.1).startswith(text)


def test_more_than_all_is_told_plainly():
    """A share above 100 % is neither cut nor hidden: the cell and the note say how it can be."""
    found = Reach(ceiling="memory_copy_gib_per_s", amount=1.2, share=1.1)
    assert words.reach(found) == "110 % of memory copy: from caches"
    assert "above 100 %: from the processor's caches" in arithmetic(found, 0.35)
    faster = Reach(ceiling="matrix_product_fp32_gflop_per_s", amount=1.2, share=1.1)
    assert words.reach(faster) == "110 % of FP32 matrix product"
    assert "above 100 %: the ceiling is what one library reached" in arithmetic(faster, 0.35)


def test_next_to_nothing_is_called_so():
    """Nobody compares thousandths of a percent; the arithmetic has them all the same."""
    found = Reach(ceiling="memory_copy_gib_per_s", amount=1e-6, share=0.000_007)
    assert words.reach(found) == "under 0.1 % of memory copy"
    assert "1.05 KiB in" in arithmetic(found, 0.35)


@pytest.mark.parametrize("share", [1e-300, 1e300, -1.0, 0.0])
@pytest.mark.parametrize("amount", [1e-300, 1e300, -1.0])
def test_absurd_records_are_told_without_an_error(share, amount):
    """Whatever numbers a stranger's record holds, words come out, on one line."""
    found = Reach(ceiling="memory_copy\n_gib_per_s", amount=amount, share=share, note="a\nb")
    assert "\n" not in words.reach(found) + arithmetic(found, 1e-9)


# --- where it is shown ------------------------------------------------------------------------------------------------


FOUND = Reach(ceiling="memory_copy_gib_per_s", amount=2.0, share=0.5, note="<b>columns</b>")


def test_tables_show_the_share_behind_the_proof():
    """The notebook's table and the terminal's say it in the cell of the engagement, the former with its arithmetic."""
    result = Result(record_with(FOUND))
    assert "; 50 % of memory copy" in words.cells(words.rows(result.record, result.record.points[0])[1])[5]
    html = result._repr_html_()
    assert 'title="2.00 GiB in 500 ms = 4.00 GiB/s of 8.00 GiB/s' in html
    assert "&lt;b&gt;columns" in html and "<b>columns" not in html
    assert "memory copy" not in Result(record_with(None))._repr_html_()


def test_results_parquet_has_the_share():
    """Whoever computes with results finds ceiling, work and share as columns; empty where a variant has none."""
    none, some = table.rows(record_with(FOUND))
    assert {name: some[name] for name in ("reach_ceiling", "reach_amount", "reach_share")} == {
        "reach_ceiling": "memory_copy_gib_per_s", "reach_amount": 2.0, "reach_share": 0.5,
    }  # fmt: skip
    assert "reach_share" not in none and {"reach_ceiling", "reach_amount", "reach_share"} <= set(table.COLUMNS)
