"""Charts and tables of storage: codecs over bandwidth, layouts by requests and bytes, cost; consumers, checkpoints."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kit.common import claims
from kit.errors import UserError
from kit.measure.result import Result
from kit.record import recommendation
from kit.record.document import Chart, Point, Series, Table
from kit.record.formatting import number, percent
from kit.record.intervals import sign_test_interval
from kit.techniques.storage import training
from kit.techniques.storage.layouts import Written
from kit.techniques.storage.link import measured_mbit_per_s, transfer_s
from kit.techniques.storage.training import FED, OVER_LINK, SHARES

MBIT_PER_S = [10.0 * 10 ** (step / 6) for step in range(19)]
"""Bandwidths of the map: 10 Mbit/s to 10 Gbit/s."""
PRICES = ("GB-month", "1,000 PUT or LIST", "1,000 GET", "GB of egress")
RTT_MS = 20  # modelled for layouts: a region some thousand kilometres away
READS = [10, 100, 1_000, 10_000, 100_000, 1_000_000]


def flip(saved_bytes: float, slower_s: float) -> float:
    """Return the bandwidth, Mbit/s, below which a file that is smaller and slower to decode is read in less time;
    negative: above which a larger and faster one is; 0: neither, infinity: smaller and faster."""
    if saved_bytes * slower_s <= 0:
        return math.inf if slower_s <= 0 <= saved_bytes else 0.0
    return math.copysign(saved_bytes * 8e-6 / slower_s, saved_bytes)


def flips(result: Result, written: Mapping[str, Written]) -> dict[str, list[float]]:
    """Return, by codec, `flip` against the baseline: by its speed-up over loopback and by the ends of its interval."""
    base, found = result.record.asked.baseline, {}
    for name in result:
        if name != base and result[name].speedup:
            ratios = result[name].speedup, *(result[name].interval or (0.0, math.inf))
            slower_s = [result[base].seconds * (1 / ratio - 1) if ratio else math.inf for ratio in ratios]
            found[name] = [flip((written[base].mib - written[name].mib) * 2**20, one) for one in slower_s]
    return found


def codecs(result: Result, written: Mapping[str, Written]) -> Table:
    """Return a row per codec: its size next to the time of writing and reading, and where the answer flips."""
    found, rows = flips(result, written), []
    for name in result:
        below, *ends = map(_rate, found[name]) if name in found else ["—"]
        one, between = written[name], " to ".join(dict.fromkeys(ends))
        rows.append([name, one.mib, one.seconds, result[name].seconds, below, between])
    columns = ["codec", "MiB", "write s, once", "read s, loopback", "in less time than baseline", "95 % range"]
    return Table("Size next to time, and where the answer flips (modelled)", columns, rows)


def _rate(at: float) -> str:
    return {0.0: "never", math.inf: "always"}.get(at) or f"{'below' if at > 0 else 'above'} {number(abs(at))} Mbit/s"


def bandwidth_map(result: Result, written: Mapping[str, Written], shaped: Result | None = None) -> Chart:
    """Return the time of a read relative to the baseline's over bandwidth: modelled from what was measured over
    loopback (a client that decodes while bytes arrive is faster), and as measured over shaped links."""
    base, names = result.record.asked.baseline, [name for name in result if result[name].seconds]

    def read_s(name: str, rate: float) -> float:
        return result[name].seconds + transfer_s(written[name].mib * 2**20, 0, rate)

    ratios = {name: [read_s(name, rate) / read_s(base, rate) for rate in MBIT_PER_S] for name in names}
    series, errors = [Series(name, MBIT_PER_S, ratios[name], style="modelled") for name in names], []
    for name in names if shaped else ():
        points = [(point.size, shaped.at(point.size)[name]) for point in shaped.record.points]
        errors += [read_s(name, size) / one.seconds - 1 for size, one in points if one.seconds]
        found = [(size, *(1 / x for x in (one.speedup, *one.interval[::-1]))) for size, one in points if one.interval]
        series += [Series(name, *map(list, zip(*found, strict=True)))] if found else []
    best = [f"{min(names, key=lambda name, at=at: read_s(name, at))} at {at:,}" for at in (10, 100, 1000, 10_000)]
    note = f"Modelled: the read over loopback + bytes ÷ bandwidth. Least modelled time: {', '.join(best)} Mbit/s. "
    note += f"At shaped links it is off by {100 * min(errors):+.0f} to {100 * max(errors):+.0f} %. " if errors else ""
    note += f"Loopback carries {number(measured_mbit_per_s())} Mbit/s here."
    title = f"Time to read by codec, relative to {base} (lower is better)"
    return Chart(title, "bandwidth, Mbit/s", f"time ÷ time of {base}", series, log_x=True, note=note)


def layouts(results: Mapping[str, Result], written: Mapping[str, Written]) -> Table:
    """Return a row per selection and layout: seconds, also modelled with a delay, requests, and bytes that the server
    sent, also as their share of the one file. results: by selection."""
    rows, kinds = [], ("gets", "lists", "heads", "read_s", "sent_mib")
    for selection, result in results.items():
        for one in result.record.points[-1].variants:
            *counts, read_s, sent = (_cost(result, one.name, kind) for kind in kinds)
            share, seconds = percent(sent / written["one file"].mib) if sent else "—", one.median_s or read_s
            requests = None if None in counts else int(sum(counts))
            delayed_s = None if None in (requests, seconds) else seconds + transfer_s(0, requests, 1, RTT_MS)
            rows.append([selection, one.name, seconds, requests, sent, share, delayed_s, one.verdict])
    columns = ["what is read", "layout", "seconds", "requests", "MiB sent", "of the one file", "s, delayed", "verdict"]
    note = f"Bytes with headers. Delayed: modelled, {RTT_MS} ms more per request; less where some overlap."
    return Table("Layouts by what is read, as the server counted", columns, rows, note)


def _cost(result: Result, name: str, cost: str) -> float | None:
    return getattr(result[name].variant.execution_proof, "costs", {}).get(cost)


def answers(*results: Result | None) -> Table:
    """Return what each comparison recommends, those with a winner first: the report's headline is the first."""
    found = [(one.record.asked.title, recommendation.of(one.record)) for one in results if one]
    found.sort(key=lambda pair: pair[1].headline == recommendation.NO_WINNER)
    return recommendation.answers({what: f"{of.headline}: {of.evidence.partition(';')[0]}" for what, of in found})


def cost(results: Mapping[str, Result], written: Mapping[str, Written], prices: Sequence[float]) -> Chart:
    """Return the modelled cost per month of each layout by reads per month, spread evenly over the selections: storage,
    requests and egress, files written once. prices: per unit of `PRICES`. Raise `UserError` for another number."""
    if len(prices) != len(PRICES):
        raise UserError(f"prices has {len(prices)} entries; give {len(PRICES)}, per {', '.join(PRICES)}")
    (month, put, get, egress), gigabyte, series = prices, 2**20 / 1e9, []
    for name, one in written.items():
        counts = [[_cost(of, name, kind) for of in results.values()] for kind in ("gets", "heads", "lists", "sent_mib")]
        uncounted = any(None in count for count in counts)
        gets, heads, lists, mib = 4 * [0] if uncounted else (sum(count) / len(count) for count in counts)
        kept = one.mib * gigabyte * month + len(one.sizes) * put / 1000
        read = (lists * put + (gets + heads) * get) / 1000 + mib * gigabyte * egress
        series.append(Series(name, READS, [kept + reads * read for reads in READS], style="modelled"))
    listed = ", ".join(f"{price:g} per {unit}" for price, unit in zip(prices, PRICES, strict=True))
    note = f"Reads: {', '.join(results)}. Prices: {listed}. {'Requests not counted: storage alone.' * uncounted}"
    title = "Cost by reads, per layout (modelled, lower is better)"
    return Chart(title, "reads per month", "cost per month", series, log_x=True, log_y=month > 0, note=note.strip())


def claim(result: Result, shaped: Result | None, written: Mapping[str, Written], results: Mapping[str, Result]) -> str:
    """Return the parts of 06_storage's claim, a line each. result: of codecs; results: of layouts, by selection."""
    parts, least = {}, 100
    if shaped and "zstd 3" in shaped and any(point.size == least for point in shaped.record.points):
        verdict = shaped.at(least)["zstd 3"].verdict
        parts[f"zstd 3 over {least} Mbit/s, measured: {verdict}"] = claims.holds(verdict, ["faster"])
    elif ends := flips(result, written).get("zstd 3"):
        held = {end > least or -least < end < 0 for end in ends}
        text = f"zstd 3 over {least} Mbit/s, modelled: read in less time: {_rate(ends[0])}"
        parts[text] = held.pop() if len(held) == 1 else None
    if pairs := [result.paired(name, to="none") for name in result if name != "none" and "none" in result]:
        held = claims.none(pair.verdict if pair else "inconclusive" for pair in pairs)
        parts["over loopback no codec is faster than none"] = held
    found = {(of, name): _cost(results[of], name, "sent_mib") or 0 for of in results for name in results[of]}
    one, day, all_keys = (found.get(("one day", name)) for name in ("one file", "by day", "by key"))
    if one and day:
        parts[f"by day, one day: {percent(day / one)} of the bytes of the one file"] = day <= one / 100
    if one and all_keys and (key := found.get(("one key", "by key"))):
        text = f"by key: {one - key:.1f} MiB less for one key, {all_keys - one:.1f} MiB more for one day"
        parts[text] = all_keys - one > one - key
    claimed, text = ("zstd 3", "over loopback", "by day", "by key"), " ".join(parts)
    parts |= {f"{part}: not measured": None for part in claimed if part not in text}
    return claims.lines(parts)


def batches(folder: Path, formats: Sequence[str], count: int, step_s: float) -> Table:
    """Return a row per format: its files, bytes and decoding per batch, and what one consumer needs for its steps."""
    fetch, rows = training.from_memory(folder), []
    for name in formats:
        times_s = [training.read(fetch, name, number)[1] for number in range(count)]
        decoding_s = sum(end - fetched for _, fetched, end in times_s) / count
        keys = [training.keys(name, number) for number in range(count)]
        size = sum(len(fetch(key)) for each in keys for key in each) / count
        rows.append([name, len(keys[0]), size / 1024, 1e3 * decoding_s, step_s / decoding_s, size * 8e-6 / step_s])
    columns = ["format", "files", "KiB", "decoding, ms", "consumers per core", "Mbit/s per consumer"]
    note = f"A consumer takes a batch every {1e3 * step_s:g} ms. Decoded by one thread, from memory."
    return Table(f"A batch by format, mean of {count}", columns, rows, note)


def shares(point: Point, name: str, metric: str) -> np.ndarray:
    """Return a metric of a variant in each round; empty where it was not measured."""
    found = [one.measurements[name].metrics[metric] for one in point.sessions if name in one.measurements]
    return np.array(found[0] if found else [], float)


def positive(values: np.ndarray) -> bool | None:
    """Return whether the median is above 0, by its 95 % sign-test interval; None where that holds 0, or is missing."""
    ends = sign_test_interval(values, 0.95)
    return None if ends is None or ends[0] <= 0 <= ends[1] else ends[0] > 0


def more(result: Result, one: tuple[str, str], other: tuple[str, str]) -> bool | None:
    """Return whether a share is larger than another in the same rounds, at most consumers: (variant, metric) each."""
    these, those = (shares(result.record.points[-1], *which) for which in (one, other))
    return positive(these - those) if len(these) == len(those) else None


def fed(result: Result) -> Table:
    """Return a row per variant: utilisation by number of consumers, whether they are fed, and what they wait for."""
    points, rows = result.record.points, []
    for name in result:
        found = [shares(point, name, SHARES[0]) for point in points]
        if all(map(len, found)):
            marks = [{True: "✓", False: "✗"}.get(positive(values - FED), "?") for values in found]
            used = [f"{percent(np.median(values))} {mark}" for values, mark in zip(found, marks, strict=True)]
            waits = [np.median(shares(points[-1], name, metric)) for metric in SHARES[1:]]
            cause = "–" if np.median(found[-1]) >= FED else "decoding" if waits[1] > waits[0] else "bytes"
            rows.append([name, *used, cause])
    note = f"Fed (✓): utilisation of at least {percent(FED)}, by the 95 % interval of its median; ?: inconclusive."
    columns = ["variant", *(f"utilisation of {one.size:g}" for one in points), f"{points[-1].size:g} wait for"]
    return Table("Consumers fed", columns, rows, note)


def time_spent(result: Result) -> Chart:
    """Return how the consumers' time divides, at most consumers: computing, and waiting by cause."""
    point = result.record.points[-1]
    names = [name for name in result if len(shares(point, name, SHARES[0]))]
    parts = [[100 * float(np.median(shares(point, name, metric))) for name in names] for metric in SHARES]
    labels = ("computing", "waiting for bytes", "waiting for decoding")
    series = [Series(label, names, part) for label, part in zip(labels, parts, strict=True)]
    title, note = f"Time of {point.size:g} consumers: more computing is better", "Medians. The rest: switching threads."
    return Chart(title, "variant", "% of the time", series, shape="stacked", note=note)


def training_claim(result: Result, saved: Result) -> str:
    """Return the parts of the notebook's claim, a line each, on its default formats and storages, at most consumers."""
    (used, on_bytes, on_decoding), raw = SHARES, "npy, memory"
    parquet, small, early = "Parquet Snappy, memory", "npy, small files, S3", "torch.save, no fsync"
    found = {
        "from memory, consumers of Parquet wait longer for decoding than for bytes":
            more(result, (parquet, on_decoding), (parquet, on_bytes)),
        "from memory, consumers of npy compute for more of their time than those of Parquet":
            more(result, (raw, used), (parquet, used)),
        "over the link, consumers of Parquet compute for more of their time than those of npy":
            more(result, (f"Parquet Snappy, {OVER_LINK}", used), (f"npy, {OVER_LINK}", used)),
        "many small files: consumers of S3 wait longer for bytes than for decoding":
            more(result, (small, on_bytes), (small, on_decoding)),
        "torch.save without fsync ends earlier": claims.holds(saved[early].verdict, ["faster"]),
    }  # fmt: skip
    return claims.lines(found)


def rates(result: Result) -> Table:
    """Return a row per library: the rates of writing a checkpoint and of reading it back."""
    variants = [one for one in result.record.points[-1].variants if one.metrics]
    rows = [[one.name, *(one.metrics.get(name) for name in ("write_gib_per_s", "read_gib_per_s"))] for one in variants]
    return Table("Rates of checkpoints", ["variant", "write, GiB/s", "read back, GiB/s"], rows)
