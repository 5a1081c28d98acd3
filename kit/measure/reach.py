"""What share of the machine's ceilings a comparison's variants reached: work of a call ÷ its time ÷ ceiling."""

from collections.abc import Mapping

import msgspec

from kit.measure.work import Ceiling
from kit.record.document import Point, Reach, Variant


def of(bound: Ceiling | None) -> Reach | None:
    """Return what a variant said of its work, its share yet to be worked out."""
    return Reach(ceiling=bound.name, amount=float(bound.amount), note=bound.note) if bound else None


def names(points: list[Point]) -> set[str]:
    """Return the names of the ceilings that variants of these points are held against."""
    return {variant.reach.ceiling for point in points for variant in point.variants if variant.reach}


def with_shares(points: list[Point], ceilings: Mapping[str, float | None]) -> list[Point]:
    """Return the points with each variant's share of its ceiling. ceilings: by name, work a second."""
    return [
        msgspec.structs.replace(point, variants=[_with_share(variant, ceilings) for variant in point.variants])
        for point in points
    ]


def _with_share(variant: Variant, ceilings: Mapping[str, float | None]) -> Variant:
    best = ceilings.get(variant.reach.ceiling) if variant.reach else None
    if not best or not variant.warm_s:
        return variant
    share = variant.reach.amount / variant.warm_s / best
    return msgspec.structs.replace(variant, reach=msgspec.structs.replace(variant.reach, share=share))
