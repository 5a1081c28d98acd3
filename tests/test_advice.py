"""The recommendation: what to do, under which condition, and what could change it."""

import msgspec
import pytest
from record_factory import SIZES, USUAL, Made, make_record

from kit.errors import UserError
from kit.record import advice
from kit.report import prices


def advised(variants: dict[str, Made], **changes) -> advice.Advice:
    return advice.of(make_record(variants, **changes))


def test_the_fastest_that_holds_is_recommended_with_what_it_needs():
    """The winner is named with its sizes, answers and memory; what comes near and what did not run stands beside it."""
    told = advised(USUAL)
    assert (told.do, told.variant) == ("Use Polars instead of pandas", "Polars")
    assert told.condition == "At every size measured, 10,000 to 10,000,000 rows; with equal tables; in 0.40× the memory"
    assert told.change[-1].startswith("cuDF and Dask-cuDF were not run: no NVIDIA driver; to have them: a machine")


def test_a_winner_from_a_size_on_is_conditional():
    """Where the baseline is ahead at small sizes, the recommendation begins at the crossing."""
    told = advised({"pandas": Made(), "Dask": Made(ratio=3, fixed_s=0.3, memory=1.7)}, sizes=SIZES)
    assert told.condition.startswith("From about ") and "on; below, stay with pandas" in told.condition
    assert "where there is 1.7× the memory" in told.condition


def test_one_size_is_said_to_be_the_only_one():
    """A recommendation from one size claims no other."""
    assert "the only size measured" in advised({"a": Made(), "b": Made(ratio=2)}, sizes=[100]).condition


@pytest.mark.parametrize(
    "bad", [Made(ratio=9, broken="3 rows differ"), Made(ratio=9, fell_back="pandas"), Made(state="failed", reason="x")]
)
def test_what_does_not_count_is_never_recommended(bad):
    """A wrong answer, a fallback or a failure is no winner, however fast, and is named."""
    told = advised({"a": Made(), "b": bad}, sizes=[100])
    assert told.do == "Stay with a" and told.variant == "a"
    assert told.change and told.change[-1].startswith(("Not to be used: b", "Failed: b"))


def test_what_is_open_says_that_more_time_may_tell():
    """Where nothing is resolved, the baseline stays, and the open ones stand with their intervals."""
    told = advised({"a": Made(), "b": Made(ratio=1.4)}, sizes=[100], noise=0.9)
    assert told.do == "Stay with a" and told.change[0].startswith("Open: b (1.")
    assert "more time may tell, seconds= above 20" in told.change[0]


def test_too_few_rounds_say_nothing():
    """Under ten rounds there is no recommendation at all."""
    told = advised({"a": Made(), "b": Made(ratio=5)}, sizes=[100], rounds=4)
    assert told.do == "Nothing can be said yet" and "10 are needed" in told.condition


def test_nothing_measured_says_so():
    """A record without any size, and one of the baseline alone, recommend nothing."""
    empty = msgspec.structs.replace(make_record(sizes=[10]), points=[])
    assert advice.of(empty).do == "Nothing can be said yet"
    assert advised({"a": Made()}, sizes=[10]).do == "Nothing to choose from"


def test_prices_are_read_as_people_write_them():
    """A price is an amount with or without a currency, for all machines or for one by its key."""
    every, own = prices.read(["3.20 EUR", "8a1f2b=0.5"])
    assert (every.amount, every.currency, every.machine) == (3.2, "EUR", "")
    assert prices.of("8a1f2b3c", [every, own]) is own and prices.of("ffff", [every, own]) is every
    assert prices.of("ffff", [own]) is None


@pytest.mark.parametrize("wrong", ["", "cheap", "-1 EUR", "0", "1e3", "zz=3 EUR", "3 <b>"])
def test_a_wrong_price_is_one_sentence(wrong):
    """What is no price is refused with what is allowed."""
    with pytest.raises(UserError, match=r"as '3\.20 EUR'"):
        prices.read([wrong])


def test_costs_are_seconds_times_the_price():
    """0.36 s at 3.60 EUR an hour are 0.36 EUR per 1,000 calls."""
    price = prices.read(["3.60 EUR"])[0]
    assert prices.cost(price, 0.36, 1000.0) == "0.36 EUR" and prices.cost(price, None, 1.0) == "—"
    assert prices.calls(0.36) == 1e6 and prices.calls(600) == 1


def at(record, size, name: str, **changes):
    """The record with one variant changed at one size."""
    points = [
        msgspec.structs.replace(
            point,
            variants=[
                msgspec.structs.replace(v, **changes) if v.name == name and point.size == size else v
                for v in point.variants
            ],
        )
        for point in record.points
    ]
    return msgspec.structs.replace(record, points=points)


def test_a_size_in_the_middle_that_was_lost_is_named():
    """A winner that lost between two sizes is not said to win from a size on."""
    record = at(make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10, 100, 1000]), 100, "b", verdict="slower")
    assert "Faster at 10 and 1,000 rows, not at 100" in advice.of(record).condition


def test_another_that_is_ahead_at_smaller_sizes_is_named():
    """Faster at every size is not best at every size: who is clearly ahead elsewhere stands in the condition."""
    record = make_record({"a": Made(), "b": Made(ratio=2), "c": Made(ratio=6)}, sizes=[10, 1000])
    told = advice.of(at(record, 1000, "c", verdict="slower"))
    assert told.do == "Use b instead of a" and "at 10 rows c is ahead, 6" in told.condition


def test_what_wins_but_at_the_largest_size_is_recommended_up_to_there():
    """A variant that fails at the largest size is recommended up to the size before, with what became of it."""
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10, 100, 1000])
    told = advice.of(at(record, 1000, "b", state="failed", verdict="failed", effect=None, reason="no memory left"))
    assert (told.do, told.size) == ("Use b instead of a up to 100 rows", 100)
    assert "at 1,000 rows b failed: no memory left" in told.condition and "Failed: b (no memory left)" in told.change


def test_a_baseline_that_failed_is_not_recommended():
    """Where the baseline itself failed nobody is told to stay with it, nor that more time would help."""
    record = at(make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10]), 10, "b", verdict="unresolved", effect=None)
    told = advice.of(at(record, 10, "a", state="failed", verdict="failed", warm_s=None, reason="no memory left"))
    assert told.do == "Nothing can be said yet" and "a was not measured at 10 rows: no memory left" in told.condition


def test_a_run_for_debugging_recommends_nothing():
    """What was measured in one process is for debugging: no recommendation stands on it."""
    record = make_record(sizes=[10])
    record = msgspec.structs.replace(record, how=msgspec.structs.replace(record.how, isolated=False))
    assert advice.of(record).do == "Nothing can be said yet" and "isolate=False" in advice.of(record).condition


def test_why_something_is_open_is_its_own_reason():
    """More time is advised only where time is what lacks, and by the notebook's own parameter."""
    record = make_record({"a": Made(), "b": Made(ratio=1.4)}, sizes=[100], noise=0.9, parameters={"seconds": 10})
    assert "seconds= above 10" in advice.of(record).change[0]
    unchecked = at(record, 100, "b", reason="its answer was not checked: it raised ValueError")
    assert advice.of(unchecked).change[0].endswith("; its answer was not checked: it raised ValueError")


def test_a_dear_preparation_comes_first_and_an_interruption_is_said():
    """A million calls to break even stand in the recommendation itself; what was not measured is named."""
    record = at(make_record({"a": Made(), "b": Made(ratio=2)}, sizes=[100]), 100, "b", breakeven_calls=1e6)
    assert advice.of(record).do == "Use b instead of a, for more than 1,000,000 calls"
    asked = msgspec.structs.replace(record.asked, sizes=[100, 1000])
    cut = msgspec.structs.replace(record, complete=False, asked=asked)
    assert "the run was interrupted before 1,000 rows" in advice.of(cut).condition


def test_a_remedy_stands_with_its_own_reason():
    """Reasons that differ in a full stop are one; each has the remedy that was given for it."""
    skipped = {"x": ("no GPU", "a GPU"), "y": ("no GPU.", ""), "z": ("no net", "a net")}
    variants = {"a": Made(), **{n: Made(state="skipped", reason=why, remedy=do) for n, (why, do) in skipped.items()}}
    told = advised(variants, sizes=[10]).change
    assert told == ("x and y were not run: no GPU; to have them: a GPU", "z was not run: no net; to have it: a net")


def test_what_pays_at_small_sizes_only_is_no_headline():
    """A variant that is slower at the largest size does not lead: the baseline stays, and where it pays is said."""
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10, 100, 1000])
    for size in (100, 1000):
        record = at(record, size, "b", verdict="slower")
    told = advice.of(record)
    assert told.do == "Stay with a" and "b is faster at 10 rows only" in told.condition


def test_odd_records_are_told_without_a_crash():
    """A size that is none beside ones that are, and a win without an interval, cost no report."""
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10, 1000])
    first = msgspec.structs.replace(record.points[0], size=None)
    mixed = msgspec.structs.replace(record, points=[first, record.points[1]])
    assert advice.of(at(mixed, 1000, "b", verdict="slower")).do == "Stay with a"
    effect = msgspec.structs.replace(record.points[1].variants[1].effect, low=None, high=None)
    bare = at(at(record, 1000, "b", effect=effect), 10, "b", effect=None)
    assert advice.of(bare).do == "Stay with a"


def test_each_that_is_not_to_be_used_has_its_own_reason():
    """A wrong answer and a fallback are told apart."""
    told = advised({"a": Made(), "b": Made(broken="3 rows differ"), "c": Made(fell_back="pandas")}, sizes=[10])
    assert told.change[-1].count(" (") == 2 and "it fell back to pandas" in told.change[-1]


def test_what_is_open_at_the_largest_size_is_said_of_the_winner_too():
    """A variant that wins at smaller sizes and is unresolved at the largest one is told to be open there."""
    record = make_record({"a": Made(), "b": Made(ratio=6)}, sizes=[10, 1000])
    told = advice.of(at(record, 1000, "b", verdict="unresolved"))
    assert told.do == "Use b instead of a up to 10 rows" and told.change[0].startswith("Open: b (")
