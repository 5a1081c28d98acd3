"""One recommendation per record, in one grammar: verb, noun phrase, ties, evidence, cost, caveats, next command."""

import pytest
from msgspec.structs import replace
from record_factory import Made, make_record

from kit.record import recommendation, store
from kit.record.document import CONTROL

TEN, MANY = [10], [10_000, 100_000, 1_000_000, 10_000_000]


def at(record, size, name, **changes):
    """Return the record with one variant at one size changed."""
    points = list(record.points)
    for place, point in enumerate(points):
        if point.size == size:
            changed = [replace(v, **changes) if v.name == name else v for v in point.variants]
            points[place] = replace(point, variants=changed)
    return replace(record, points=points)


def of(variants: dict[str, Made], sizes=TEN, **changes):
    return recommendation.of(make_record(variants, sizes=sizes, **changes))


def everything(found) -> str:
    return " ".join([found.headline, found.note, found.evidence, found.cost, *found.caveats, found.command])


def test_a_winner_is_recommended_with_its_evidence():
    """Ratio, baseline, size, interval, check and memory, in that order."""
    found = of({"pandas": Made(), "Polars": Made(ratio=6.1, memory=0.4)}, [1_000_000])
    assert found.headline == "Use Polars" and found.variants == ("Polars",) and found.size == 1_000_000
    assert found.evidence.startswith("6.1× as fast as pandas at 1M rows (95 % CI ")
    assert found.evidence.endswith("; check passed (equal tables); uses 60 % less memory")


def test_the_verb_and_the_labels_are_the_comparisons_own():
    record = make_record({"pandas": Made(), "polars_lazy": Made(ratio=6)}, sizes=TEN)
    record = replace(record, asked=replace(record.asked, action="Query with {variant}"))
    assert (
        recommendation.of(at(record, 10, "polars_lazy", label="Polars (lazy)")).headline == "Query with Polars (lazy)"
    )


def test_ties_are_in_the_headline():
    found = of({"pandas": Made(), "DuckDB": Made(ratio=2.4), "Polars": Made(ratio=2.39), "Dask": Made(ratio=1.3)})
    assert found.headline == "Use DuckDB or Polars" and found.note == "statistically tied"
    assert found.evidence.startswith("2.4") and "× and 2.4" in found.evidence and "Dask" not in found.headline


def test_a_tie_is_judged_by_the_rounds_that_both_took():
    """Two variants whose intervals against a noisy baseline overlap still differ where their own rounds do."""
    record = make_record({"a": Made(), "b": Made(ratio=2.0), "c": Made(ratio=1.7)}, sizes=TEN, noise=0.02)
    point = record.points[0]
    wide = [replace(v, effect=replace(v.effect, low=1.1, high=3.0)) if v.effect else v for v in point.variants]
    session = replace(point.sessions[0], noise_floor=0.01)
    assert len(recommendation.winners(replace(point, variants=wide, sessions=[session]))) == 1
    assert len(recommendation.winners(replace(point, variants=wide, sessions=[]))) == 2
    lows = {"b": 1.9, "c": 1.6}  # nor do intervals that lie apart make a tie, whatever the noise floor
    apart = [replace(v, effect=replace(v.effect, low=low, high=low + 0.2)) for v in wide if (low := lows.get(v.name))]
    assert len(recommendation.winners(replace(point, variants=apart, sessions=[replace(session, noise_floor=9)]))) == 1


def test_a_baseline_that_was_not_beaten_is_no_winner():
    """With the minimum detectable effect, and the command that would settle it; never "Stay with"."""
    record = at(
        make_record({"a": Made(), "b": Made(ratio=1.02)}, sizes=TEN, noise=0.3), 10, "b", verdict="inconclusive"
    )
    found = recommendation.of(record)
    assert found.headline == "No winner shown" and not found.variants and "Stay with" not in everything(found)
    assert "minimum detectable effect in this budget: " in found.evidence and found.command == "kit plan 01_dataframes"
    few = of({"a": Made(), "b": Made(ratio=2)}, rounds=3)  # `kit plan` computes nothing from these
    assert few.evidence.endswith("; 3 rounds, and 10 are needed for a verdict: raise time_budget_s") and not few.command
    assert few.evidence.startswith("Against a at 10 rows: ")  # the size is said, also where it is the only one
    hostile = replace(record, asked=replace(record.asked, notebook="x; rm -r ."))
    assert recommendation.of(hostile).command == ""
    wide = at(record, 10, "b", effect=replace(record.points[0].variants[1].effect, low=0.8, high=1.25))
    sessions = [replace(wide.points[0].sessions[0], noise_floor=0.1)]
    found = recommendation.of(replace(wide, points=[replace(wide.points[0], sessions=sessions)]))
    assert found.evidence.endswith(": 54 %")  # 10 %, half of ±25 % and 1.28 standard errors, as `kit plan` counts


def test_a_baseline_that_beats_all_others_is_recommended():
    """Where all others are slower, or equivalent: those are ties."""
    record = at(make_record({"a": Made(), "b": Made(ratio=0.5), "c": Made()}, sizes=TEN), 10, "c", verdict="equivalent")
    found = recommendation.of(record)
    assert (found.headline, found.note) == ("Use a or c", "equivalent within ±3 %") and "b takes " in found.evidence


def test_weak_scaling_is_never_recommended():
    """Another batch per step is other work than the baseline's, however fast it is."""
    made = {"one process": Made(), "weak": Made(ratio=1.8, not_recommended="twice the batch")}
    assert of(made).headline == "No result: no comparable variant was timed"
    found = of(made | {"DDP": Made(ratio=1.2)})
    assert found.headline == "Use DDP" and any("twice the batch" in text for text in found.caveats)


def test_what_is_rejected_failed_skipped_or_not_timed_is_a_caveat_and_never_a_winner():
    found = of({"a": Made(), "b": Made(ratio=2), "c": Made(ratio=9, broken="3 rows differ"),
        "d": Made(ratio=9, fell_back="pandas"),
                "e": Made(state="failed", reason="no memory left"),
                    "f": Made(state="skipped", reason="no NVIDIA driver"),
                "g": Made(state="skipped", reason="no NVIDIA driver"),
                    "h": Made(not_timed="oversubscribed")})  # fmt: skip
    assert found.headline == "Use b"
    assert found.caveats[-4:] == (
        "Rejected: c (check failed: 3 rows differ); d (fell back to pandas)", "Failed: e (no memory left)",
        "Checked, not timed: h (oversubscribed)", "Not tested: f and g (no NVIDIA driver)",
    )  # fmt: skip


def test_conditions_at_other_sizes_are_never_dropped():
    """Who is ahead at a smaller size, and where the winner is not faster; the headline then names its own size."""
    found = of({"pandas": Made(), "DuckDB": Made(ratio=4, fixed_s=0.001), "Polars": Made(ratio=3)}, MANY)
    assert found.headline == "Use DuckDB at 10M rows" and "At 10k rows Polars is ahead" in found.caveats
    found = of({"a": Made(), "Dask": Made(ratio=2, fixed_s=0.09)}, MANY)
    assert any(text.startswith("At 100k rows Dask takes ") for text in found.caveats)
    assert any(text.startswith("Faster above about ") for text in found.caveats)


def test_a_crossing_takes_four_sizes_over_two_decades():
    found = of({"a": Made(), "Dask": Made(ratio=2, fixed_s=0.09)}, [100_000, 1_000_000, 10_000_000])
    assert found.headline == "Use Dask at 10M rows" and not any("Faster above" in text for text in found.caveats)


def test_a_winner_that_fails_at_a_larger_size_is_recommended_up_to_the_size_before():
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10, 1000])
    record = at(record, 1000, "b", state="failed", verdict="failed", effect=None, reason="no memory left")
    found = recommendation.of(record)
    assert found.headline == "Use b up to 10 rows" and "At 1k rows b failed (no memory left)" in found.caveats


def test_without_a_sound_baseline_there_is_no_result():
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=TEN)
    failed = at(record, 10, "a", state="failed", verdict="failed", reason="no memory left")
    assert recommendation.of(failed).headline == "No result: a failed (no memory left)"
    unsound = at(record, 10, "b", verdict="inconclusive", reason="a's own answers differ from call to call")
    assert recommendation.of(unsound).headline == "No result: a's own answers differ from call to call"
    debug = replace(record, how=replace(record.how, isolated=False))
    assert "isolate=False" in recommendation.of(debug).evidence and not recommendation.of(debug).variants
    assert recommendation.of(replace(record, points=[])).headline == "No result: nothing was measured"


def test_the_techniques_own_conclusion_wins():
    """One answer per technique: its first answer is the headline, before the colon."""
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=TEN)
    table = recommendation.answers(
        {"which cache?": "Cache with LRU: 42 % of requests served", "how large?": "10 % of items"}
    )
    found = recommendation.of(store.with_artifacts(record, [table]))
    assert (found.headline, found.evidence) == ("Cache with LRU", "42 % of requests served")
    assert recommendation.answered(store.with_artifacts(record, [table]))[1] == ("how large?", "10 % of items")


def test_variance_over_seeds_is_named_so():
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=TEN)
    sessions = [replace(record.points[0].sessions[0], variance="seeds")]
    assert (
        "(95 % CI over seeds "
        in recommendation.of(replace(record, points=[replace(record.points[0], sessions=sessions)])).evidence
    )


def test_setup_is_a_cost_with_its_break_even():
    found = recommendation.of(
        at(make_record({"a": Made(), "b": Made(ratio=6)}, sizes=TEN), 10, "b", breakeven_calls=783.2, setup_s=2.4)
    )
    assert found.cost == "Worth it after about 780 iterations: setup takes 2.40 s (a: 200 ms)"
    converted = dict(breakeven_calls=4000.0, setup_s=2.4, made_s=31.0)
    found = recommendation.of(at(make_record({"a": Made(), "b": Made(ratio=6)}, sizes=TEN), 10, "b", **converted))
    assert found.cost == "Worth it after about 4,000 iterations: made once in 31.0 s, setup takes 2.40 s (a: 200 ms)"


def test_an_unchecked_answer_and_an_interruption_are_not_hidden():
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=TEN, complete=False)
    found = recommendation.of(at(record, 10, "b", check=None))
    assert "answers not checked" in found.evidence and "Interrupted: only part was measured" in found.caveats


@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_every_verdict_has_a_sentence(noise):
    """For the notebook and for those who can't see a figure."""
    made = {"a": Made(), "b": Made(ratio=2), "c": Made(ratio=0.5), "d": Made(broken="x")}
    record = make_record(made | {"e": Made(state="skipped", reason="no GPU")}, sizes=TEN, noise=noise)
    told = recommendation.summary(record)
    assert "b, 10 rows: " in told and "Skipped: e (no GPU)" in told and "rejected (check failed: x)" in told
    assert CONTROL not in told


def test_one_of_a_unit_is_singular():
    """At size 1 the unit is: 1 sample per request."""
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[1])
    asked = replace(record.asked, unit="samples per request")
    assert "at 1 sample per request" in recommendation.of(replace(record, asked=asked)).evidence
