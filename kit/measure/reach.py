"""What share of the machine's ceilings a comparison's variants reached: work of a call ÷ its time ÷ ceiling."""

import math
from collections.abc import Mapping

import msgspec

from kit.measure.work import TIME, Ceiling
from kit.record.document import Point, Reach, Variant

BY_DEFINITION = {TIME: 1.0}
"""Ceilings that are not measured."""


def of(bound: Ceiling | None, metrics: Mapping[str, float | None]) -> Reach | None:
    """Return what a variant said of its work, its share yet to be worked out; None where there is no work to hold
    against a ceiling. metrics: medians of the variant's own, for an amount that is one of them."""
    if bound is None:
        return None
    amount = metrics.get(bound.amount) if isinstance(bound.amount, str) else float(bound.amount)
    if not amount or not 0 < amount < math.inf:
        return None
    return Reach(ceiling=bound.name, amount=amount, note=bound.note)


def names(points: list[Point]) -> set[str]:
    """Return the names of the ceilings that must be measured for the variants of these points."""
    named = {variant.reach.ceiling for point in points for variant in point.variants if variant.reach}
    return named - set(BY_DEFINITION)


def with_shares(points: list[Point], ceilings: Mapping[str, float | None]) -> list[Point]:
    """Return the points with each variant's share of its ceiling. ceilings: by name, work a second."""
    return [
        msgspec.structs.replace(point, variants=[_with_share(variant, ceilings) for variant in point.variants])
        for point in points
    ]


def _with_share(variant: Variant, ceilings: Mapping[str, float | None]) -> Variant:
    best = (BY_DEFINITION | dict(ceilings)).get(variant.reach.ceiling) if variant.reach else None
    if not best or not variant.warm_s:
        return variant
    share = variant.reach.amount / variant.warm_s / best
    return msgspec.structs.replace(variant, reach=msgspec.structs.replace(variant.reach, share=share))
