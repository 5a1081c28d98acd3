"""Numbers, names and records as text: one form each, whatever a record may hold."""

import math

import pytest
from record_factory import Made, make_record

from kit.record import formatting as fmt
from kit.record.document import CheckResult, Effect, ExecutionProof, PeakShare


def effect(speedup: float, low: float | None, high: float | None) -> Effect:
    return Effect(speedup=speedup, low=low, high=high, rounds=20, confidence=0.95)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1,230"), (0.01234, "0.0123"), (5e-9, "5.00e-09"), (None, "—"), (math.nan, "—"),
     (0.999999, "1.00")],
)  # fmt: skip
def test_a_number_has_three_significant_digits(value, text):
    assert fmt.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(336_776, "337k"), (1_500_000, "1.5M"), (999, "999"), (10_000, "10k"), (0.25, "0.25"), (2e9, "2B"), (999_600,
     "1M")],
)  # fmt: skip
def test_a_short_number_has_its_suffix_without_a_blank(value, text):
    """`336.776 k` was printed once."""
    assert fmt.short(value) == text


@pytest.mark.parametrize(
    ("size", "unit", "text"),
    [(1, "threads", "1 thread"), (2, "threads", "2 threads"), (1, "samples per request", "1 sample per request"),
     (1, "batches", "1 batch"), (1_000_000, "rows", "1,000,000 rows"), (None, "rows", ""), (2.5, "MiB", "2.50 MiB")],
)  # fmt: skip
def test_a_count_agrees_with_its_unit(size, unit, text):
    assert fmt.count(size, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.4e-7, "340 ns"), (1.23e-2, "12.3 ms"), (0.99951, "1.00 s"), (192, "3.2 min"), (5400, "90 min"), (7200,
     "2.0 h"), (None, "—")],
)  # fmt: skip
def test_a_duration_has_the_unit_that_reads_best(seconds, text):
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.03, "3 %"), (0.008, "0.80 %"), (0.123, "12 %"), (0.996, "99.6 %"), (0.9997, "99.97 %"),
    (1, "100 %")]
)  # fmt: skip
def test_a_share_has_one_form(share, text):
    assert fmt.percent(share) == text


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (2.4, 2.0, 2.6, "2.4× (95 % CI 2.0–2.6)"),
        (0.997, 0.98, 1.02, "1.00× (95 % CI 0.98–1.02)"),
        (2.41, 2.38, 2.44, "2.41× (95 % CI 2.38–2.44)"),
        (1.3, 1.04, 1.5, "1.30× (95 % CI 1.04–1.50)"),
        (12.3, 11.7, 14.2, "12× (95 % CI 12–14)"),
        (1.3, 0.04, 7.8, "1.3× (95 % CI 0.040–7.8)"),
        (3.0, None, None, "3.0×"),
    ],
)
def test_a_ratio_and_its_interval_have_one_form(ratio, low, high, text):
    """Two digits, more only where the ends would be the same or look like 1; never `[0.0, 7.8]`."""
    assert fmt.with_interval(ratio, low, high) == text


def test_faster_and_slower_are_worded_by_time():
    assert fmt.speed(effect(2.4, 2.0, 2.6), "pandas") == "2.4× as fast as pandas (95 % CI 2.0–2.6)"
    assert fmt.speed(effect(0.5, 0.4, 0.6), "pandas") == "takes 2.0× as long as pandas (95 % CI 1.7–2.5)"
    assert (fmt.amount(0.4), fmt.amount(1.35), fmt.amount(3.2)) == ("60 % less", "35 % more", "3.2× as much")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (CheckResult(state="passed", metric="accuracy", value=0.981, threshold=0.97),
        "passed: accuracy 0.981, threshold 0.970"),
        (CheckResult(state="failed", metric="equal tables", note="3 rows differ"), "failed: 3 rows differ"),
        (CheckResult(state="not checked", metric="the check", note="it raised"), "not checked: it raised"),
        (CheckResult(state="not checked", metric="not asked", asked=False), "—"),
        (CheckResult(state="reference", metric="equal tables"), "reference: equal tables"),
        (None, "—"),
    ],
)  # fmt: skip
def test_a_check_gives_state_metric_value_and_threshold(found, text):
    assert fmt.check(found) == text


def test_an_execution_proof_gives_its_facts_or_the_fallback():
    assert (
        fmt.execution_proof(ExecutionProof(state="verified", facts={"threads_used": 2, "gpu": False}))
        == "threads used 2, gpu no"
    )
    assert fmt.execution_proof(ExecutionProof(state="fell back", note="pandas")) == "fell back to pandas"
    assert fmt.execution_proof(ExecutionProof(state="unverified")) == "unverified"


@pytest.mark.parametrize(
    ("share", "text"), [(0.41, "41 % of peak memory copy"), (1.7, "100 % of peak memory copy"), (0.0024, "—")]
)
def test_a_share_of_a_peak_is_never_above_100_percent(share, text):
    """Nor printed where the work is too small to mean anything."""
    assert fmt.peak_share(PeakShare(peak="memory_copy_gib_per_s", amount=1.2, share=share)) == text


def test_text_is_one_printable_line_without_secrets():
    """Control characters, marks that reverse text and credentials are left out, and long text is cut."""
    assert fmt.shown("a\n\tb\x1b[31m\u202ec\u200b") == "a b[31mc"
    assert fmt.shown("s3://key:secret@bucket/x") == "s3://***@bucket/x" and len(fmt.shown("x" * 999)) == 200
    assert fmt.listing(["a", "b", "c"]) == "a, b and c" and fmt.listing(["a", "b"], last="or") == "a or b"
    assert fmt.listing(map(str, range(12)), 4) == "0, 1, 2 and 9 more"


@pytest.mark.parametrize(
    ("text", "markdown"),
    [("<b> & [x](y)", "&lt;b> &amp; \\[x\\](y)"), ("a_b *c* `d`", "a_b \\*c\\* \\`d\\`"),
     ("@me https://x.y www.z", "&#64;me https:&#8203;//x.y www&#8203;.z"),
     ("2.4× (2.0–2.6)", "2.4× (2.0–2.6)"), ("1. x", "1\\. x"), ("a | b", "a \\| b"), ("Step time, 2 ranks!",
     "Step time, 2 ranks!")],
)  # fmt: skip
def test_markdown_escapes_what_github_would_render_and_nothing_else(text, markdown):
    assert fmt.markdown(text) == markdown


def test_a_table_row_has_the_reason_next_to_the_verdict():
    record = make_record({"a": Made(), "b": Made(ratio=2, broken="3 rows differ"),
        "c": Made(state="skipped", reason="no GPU", remedy="a GPU")}, sizes=[10])  # fmt: skip
    rows = {v.name: fmt.cells(record, record.points[0], v) for v in record.points[0].variants}
    assert tuple(rows["a"]) == fmt.COLUMNS and rows["a"]["speed-up (95 % CI)"] == "1×"
    assert rows["b"]["verdict"] == "rejected: check failed: 3 rows differ"
    assert rows["c"]["verdict"] == "skipped: no GPU; to run it: a GPU" and rows["c"]["median"] == "—"


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan, 1e308, -1e308, 5e-324, 0.0, -1.0])
def test_no_number_breaks_a_text(odd):
    """Whatever a hostile record holds is text, and never an exception."""
    plain = (fmt.number, fmt.short, fmt.count, fmt.duration, fmt.mib, fmt.percent, fmt.times, fmt.cell)
    assert all(function(odd) for function in plain)
    assert fmt.peak_share(PeakShare(peak="x", amount=odd, share=odd))
    assert fmt.peak("x_per_s", odd) and fmt.with_interval(odd, odd, odd) and fmt.speed(effect(odd, odd, odd))
