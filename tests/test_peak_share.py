"""What share of the machine's peaks a variant reached: worked out, said, shown, and kept."""

import msgspec
import pytest
from record_factory import Made, make_record

from kit import Comparison, Measurement, Setup
from kit.machine import peaks
from kit.measure.result import Result
from kit.measure.work import TIME, Peak
from kit.record import formatting as fmt
from kit.record.document import PeakShare
from kit.report import table

GIB = 2**30


def record_with(found: PeakShare | None, seconds: float = 0.5):
    """A record whose second variant takes `seconds` and says this of its share of the peak."""
    record = make_record({"pandas": Made(), "Polars": Made(ratio=6)}, sizes=[1_000])
    point = record.points[0]
    changed = msgspec.structs.replace(point.variants[1], median_s=seconds, peak_share=found)
    return msgspec.structs.replace(
        record, points=[msgspec.structs.replace(point, variants=[point.variants[0], changed])]
    )


def shared(bound: Peak, seconds: float, peaks: dict[str, float | None], **metrics: float) -> PeakShare | None:
    """What a variant's peak becomes when its call takes `seconds`."""
    return bound.share(metrics, seconds, peaks)


def test_a_share_is_work_over_time_over_ceiling():
    """2 GiB in half a second are 4 GiB/s: half of a memory that copies 8."""
    found = shared(Peak("memory_copy_gib_per_s", 2), 0.5, {"memory_copy_gib_per_s": 8.0})
    assert found.share == pytest.approx(0.5)


def test_a_ceiling_that_was_not_measured_gives_no_share():
    """Where the machine has no such peak, the work is kept and no share is told."""
    found = shared(Peak("matrix_product_int8_gop_per_s", 2), 0.5, {"matrix_product_int8_gop_per_s": None})
    assert (found.amount, found.share, fmt.peak_share(found)) == (2, None, "—")


@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf"), "no such metric"])
def test_no_work_is_held_against_no_ceiling(amount):
    """A variant whose work comes to nothing, or is not known, has no share: not one of 0 %."""
    assert shared(Peak("memory_copy_gib_per_s", amount), 1.0, {"memory_copy_gib_per_s": 8.0}) is None


def test_an_amount_may_be_a_metric():
    """Where the work differs from call to call, its median over the rounds counts."""
    found = shared(Peak(TIME, "in trials s"), 0.5, {}, **{"in trials s": 0.4})
    assert found.share == pytest.approx(0.8)


def test_a_comparison_says_what_share_its_variants_reached(tmp_path, monkeypatch):
    """From the variant to the record: what it said of its work, divided by its own median seconds. A peak that only a
    variant names is measured; the whole time, of which a second holds one second of work, is not."""
    monkeypatch.setenv("KIT_RUN", str(tmp_path))
    monkeypatch.setenv("KIT_PROBE_S", "0")

    def half_at_work():
        return Setup(
            lambda: Measurement(0.2, {"at work s": 0.1}, 1), peak=Peak(TIME, "at work s", "sums, the rest waits")
        )

    comparison = Comparison("halves", baseline="quiet", time_budget_s=0.2, isolate=False)
    comparison.variant("quiet", lambda: lambda: 1)
    comparison.variant("half", half_at_work)
    comparison.variant("bf16", lambda: Setup(lambda: 1, peak=Peak("matrix_product_bf16_gflop_per_s", 1)))
    result = comparison.run()
    quiet, half, bf16 = result.record.points[0].variants
    assert set(result.record.machine.peaks) == {*peaks.QUICK, bf16.peak_share.peak}
    assert quiet.peak_share is None
    assert (half.peak_share.share, half.peak_share.note) == (pytest.approx(0.5), "sums, the rest waits")
    assert "50 % of its time" in repr(result)


@pytest.mark.parametrize(
    ("name", "label", "unit"),
    [
        ("memory_copy_gib_per_s", "memory copy", "GiB/s"),
        ("disk_read_mib_per_s", "disk read", "MiB/s"),
        ("matrix_product_fp32_gflop_per_s", "FP32 matrix product", "GFLOP/s"),
        ("matrix_product_int8_gop_per_s", "INT8 matrix product", "GOP/s"),
        ("loopback_round_trips_per_s", "loopback round trips", "/s"),
        ("device_copy_gib_per_s", "device copy", "GiB/s"),
        ("something_else", "something else", ""),
    ],
)
def test_ceilings_have_names_for_people(name, label, unit):
    """Page, doctor and tables call a peak the same, with its unit."""
    assert fmt.peak(name, 8.4) == (label, f"8.40 {unit}".rstrip()) and fmt.peak(name, None)[1] == "—"


@pytest.mark.parametrize("share", [1e-300, 1e300, -1.0, 0.0])
@pytest.mark.parametrize("amount", [1e-300, 1e300, -1.0])
def test_absurd_records_are_told_without_an_error(share, amount):
    """Whatever numbers a stranger's record holds, words come out, on one line."""
    found = PeakShare(peak="memory_copy\n_gib_per_s", amount=amount, share=share, note="a\nb")
    assert "\n" not in fmt.peak_share(found)


FOUND = PeakShare(peak="memory_copy_gib_per_s", amount=2.0, share=0.5, note="<b>columns</b>")


def test_tables_show_the_share_behind_the_proof():
    """The cell of the execution proof has it, escaped like any text."""
    result = Result(record_with(FOUND))
    point = result.record.points[0]
    assert fmt.cells(result.record, point, point.variants[1])["ran on"].endswith("; 50 % of peak memory copy")
    assert "50 % of peak memory copy" in result._repr_html_()
    assert "memory copy" not in Result(record_with(None))._repr_html_()


def test_results_parquet_has_the_share():
    """Whoever computes with results finds peak, work and share as columns; empty where a variant has none."""
    none, some = table.rows(record_with(FOUND))
    assert {name: some[name] for name in ("peak", "peak_amount", "peak_share")} == {
        "peak": "memory_copy_gib_per_s", "peak_amount": 2.0, "peak_share": 0.5,
    }  # fmt: skip
    assert "peak_share" not in none and {"peak", "peak_amount", "peak_share"} <= set(table.COLUMNS)
