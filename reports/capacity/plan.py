"""A plan: each way to serve a demand with the devices, cost, energy and tail latency that it takes, cheapest first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from convbench import catalogue
from convbench.catalogue.licences import licences
from convbench.errors import NothingMeasured, UsageError
from convbench.schema import Second
from convbench.timing.intervals import percentile

from .curves import Curve, curves, is_usable
from .devices import PlannedDevice
from .queueing import ARRIVALS, BatchServer, arrival_times, simulate

Row = dict[str, Any]

MEASURED, MODELLED = "measured", "modelled, not measured"
LOADS = tuple(step / 20 for step in range(1, 20))  # of capacity, at which the tail is simulated
MOST_ROUNDS, FEWEST_IMAGES, MOST_IMAGES = 20_000, 400, 2000  # of one simulation
MOST_SIMULATED = 60  # ways; those that cost more than so many others are not simulated
MODELLED_BATCH = 32
CLIENT_S: Second = 0.001  # from the answer to a step to the request for the next: the sampler's update and the network
MOST_TRIED = 5  # numbers of devices, from the one that the simulated loads ask for
MILLION, DAY, HOUR = 1e6, 86_400.0, 3600.0


@dataclass(frozen=True)
class Demand:
    """A load to serve, and the conditions of it."""

    images_per_day: float
    steps: int
    cfg: float
    res: int
    latency_s: Second | None  # that 99 % of images may take
    max_delay_s: Second = 0.005  # of the batcher
    commercial: bool = False
    arrivals: str = "poisson"  # under which the latency must hold, one of ARRIVALS

    @property
    def rate(self) -> float:
        """Images/s."""
        return self.images_per_day / DAY

    @property
    def passes(self) -> int:
        """Images of a forward pass for one image: two with guidance."""
        return 1 if self.cfg == 1 else 2


@dataclass(frozen=True)
class Way:
    """One model and backend on one kind of device, with batches of at most so many images and one method.

    step: requests of different images are joined step by step, as ``serve`` and Triton do for clients that sample.
    image: a batch of images runs through all its steps before the next batch starts.
    """

    curve: Curve
    device: PlannedDevice
    batch: int  # images of a forward pass
    method: str
    demand: Demand
    basis: str = MEASURED

    @cached_property
    def server(self) -> BatchServer:
        """One device, as it is simulated."""
        demand, curve = self.demand, self.curve
        passes = 1 if curve.whole else demand.passes
        at_once = max(1, self.batch // passes)
        # Where guidance does not fit into a batch, its passes run one after the other.
        serial = math.ceil(passes / self.batch) if self.batch < passes else 1
        seconds = [serial * curve.seconds(min(self.batch, size * passes)) for size in range(1, at_once + 1)]
        if self.method == "image" and not curve.whole:
            seconds = [demand.steps * each for each in seconds]
        rounds = demand.steps if self.method == "step" else 1
        think_s = CLIENT_S if self.method == "step" else 0.0
        return BatchServer(tuple(seconds), rounds, demand.max_delay_s, think_s)

    @cached_property
    def _tails(self) -> dict[float, Second]:
        return {}

    def tail_s(self, load: float) -> Second:
        """Simulate the 99th percentile at a share of capacity, under the arrivals that the demand names."""
        if load not in self._tails:
            self._tails[load] = percentile(self._latencies(load, self.demand.arrivals), 0.99) or math.inf
        return self._tails[load]

    def _latencies(self, load: float, kind: str) -> list[Second]:
        images = max(FEWEST_IMAGES, min(MOST_IMAGES, MOST_ROUNDS // self.server.rounds))
        arrivals = arrival_times(load * self.server.images_per_s, images, kind)
        found = simulate(self.server, arrivals).latencies_s
        return found[len(found) // 10 :]  # an empty server at the beginning flatters

    def tail_interval_s(self, load: float, kind: str) -> tuple[Second, Second, Second]:
        """Simulate the 99th percentile; its interval is the simulation's (order statistics) with the measurement's."""
        latencies = sorted(self._latencies(load, kind))
        count = len(latencies)
        half = 1.96 * math.sqrt(0.99 * 0.01 * count)
        low, high = math.floor(0.99 * count - half), math.ceil(0.99 * count + half)
        fast, slow = self.curve.spread
        value = percentile(latencies, 0.99) or math.inf
        return value, latencies[max(0, low - 1)] * fast, latencies[min(count - 1, high)] * slow

    def most_load(self, limit_s: Second | None) -> float:
        """The largest share of capacity whose tail stays within a limit; 0 where none does."""
        if limit_s is None:
            return LOADS[-1]
        good, bad = -1, len(LOADS)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self.tail_s(LOADS[middle]) <= limit_s else (good, middle)
        return LOADS[good] if good >= 0 else 0.0


def ways(rows: Sequence[Mapping[str, Any]], devices: Sequence[PlannedDevice] | None, demand: Demand) -> Iterator[Way]:
    """Every way to serve the demand that the rows and devices allow. Raises NothingMeasured where there is none."""
    found = list(curves(rows, demand.res, demand.steps, demand.cfg))
    if not found:
        raise NothingMeasured(why_none(rows, demand))
    matched: set[str] = set()
    for curve in found:
        for device in _devices_of(curve, devices):
            matched.add(device.name)
            for batch in curve.batch_s:
                methods = ("image",) if curve.whole else ("step", "image")
                yield from (Way(curve, device, batch, method, demand) for method in methods)
    for device in devices or ():
        if device.name not in matched and device.peak is not None:
            yield from _modelled(found, device, demand)
    if devices is not None and not matched and all(device.peak is None for device in devices):
        machines = ", ".join(dict.fromkeys(f"{curve.machine}, {curve.of['threads']} threads" for curve in found))
        raise UsageError(f"no device of the file matches the stored rows: they are of {machines}")


def _devices_of(curve: Curve, devices: Sequence[PlannedDevice] | None) -> list[PlannedDevice]:
    if devices is None:
        threads = curve.of["threads"]
        words = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
        return [PlannedDevice(match=curve.machine, name=curve.machine.partition(",")[0] + words)]
    return [device for device in devices if device.fits(curve.machine, curve.of["threads"])]


def _modelled(found: Sequence[Curve], device: PlannedDevice, demand: Demand) -> Iterator[Way]:
    """Ways on a device without rows: the least seconds that its data-sheet peaks allow."""
    peak = catalogue.devices()[str(device.peak)]
    seen = set()
    for curve in found:
        facts, precision = curve.facts or {}, curve.of["precision"]
        rate = peak["flops_per_s"].get(precision)
        key = (curve.of["model"], precision)
        if curve.whole or key in seen or rate is None or not facts.get("macs_full"):
            continue
        seen.add(key)
        memory = 4 * (facts.get("params") or 0) / peak["bytes_per_s"]
        floor = {b: max(2 * facts["macs_full"] * b / rate, memory) for b in (1, MODELLED_BATCH)}
        batches = {batch: (seconds, seconds, seconds) for batch, seconds in floor.items()}
        of = {**curve.of, "backend": None, "device": None, "threads": None}
        model = Curve(of, peak["name"], batches, (), facts=facts)
        yield Way(model, device, MODELLED_BATCH, "step", demand, MODELLED)


def why_none(rows: Sequence[Mapping[str, Any]], demand: Demand) -> str:
    """Explain why no stored row can serve the demand, with what there is."""
    usable = [row for row in rows if is_usable(row)]
    if not usable:
        return "no stored row holds a valid measurement: convbench throughput --out makes some"
    fitting = [row for row in usable if row["res"] == demand.res]
    if not fitting:
        held = sorted({row["res"] for row in usable})
        return f"no stored row is of --res {demand.res}: there are {', '.join(map(str, held))}"
    held_plans = sorted(
        {f"steps={row['steps']},cfg={row['cfg_scale']:g}" for row in fitting if row["kind"] == "sampling"}
    )
    if held_plans:
        wanted = f"steps={demand.steps},cfg={demand.cfg:g}"
        return f"the stored rows are of whole images with {'; '.join(held_plans)}, not with {wanted}"
    return "the stored rows are of training steps: rows of forward passes are needed"


def plan(rows: Sequence[Mapping[str, Any]], devices: Sequence[PlannedDevice] | None, demand: Demand) -> list[Row]:
    """Plan a demand: ways that meet it by cost, then modelled ones, then those that fall out, with reasons."""
    found = sorted(ways(rows, devices, demand), key=_least_cost)
    simulated = 0
    done: list[Row] = []
    for way in found:
        reason = fails_before(way)
        if reason is None and simulated >= MOST_SIMULATED:
            reason = f"costs more than {MOST_SIMULATED} other ways with every device busy: not simulated"
        simulated += reason is None
        done.append(_row(way, reason))
    meet = [row for row in done if row["reason"] is None and row["basis"] == MEASURED]
    meet.sort(key=_order)
    for row in meet:
        row["rank"] = 1 + sum(_order(other) < _order(row) for other in meet)
    modelled = [row for row in done if row["reason"] is None and row["basis"] == MODELLED]
    return [*meet, *modelled, *(row for row in done if row["reason"] is not None)]


def _order(row: Row) -> tuple[bool, float]:
    """Order rows by cost; without prices by the number of devices."""
    cost = row["cost_per_million"]
    return cost is None, row["devices"] if cost is None else cost


def _least_cost(way: Way) -> float:
    """Cost of an image with the device always busy; without a price, seconds of the device."""
    return (way.device.price_per_hour or 1.0) / way.server.images_per_s


def fails_before(way: Way) -> str | None:
    """The reason why a way cannot meet the demand that is known without a simulation."""
    demand = way.demand
    model = way.curve.of["model"]
    if demand.commercial and not (known := licences(model)).commercial:
        return f"not for commercial use: code {known.code or 'unknown'}, weights {known.weights or 'not stated'}"
    alone = way.server.alone_s
    if demand.latency_s is not None and alone > demand.latency_s:
        return f"one image alone takes {alone:.3g} s, more than {demand.latency_s:g} s"
    return None


def _row(way: Way, reason: str | None) -> Row:
    demand, server, device = way.demand, way.server, way.device
    fast, slow = way.curve.spread
    row: Row = {key: way.curve.of[key] for key in ("model", "backend", "precision", "threads", "weights")}
    row |= {"rank": None, "planned_device": device.name, "machine": way.curve.machine, "max_batch": way.batch}
    row |= {"method": way.method, "basis": way.basis, "capacity_images_per_s": server.images_per_s}
    row |= {"alone_s": server.alone_s, "licence_words": licences(way.curve.of["model"]).words}
    row |= {"verdict": "/".join(way.curve.verdicts) or None, "reason": reason}
    names = (
        "images_per_day_per_device",
        "devices",
        "devices_low",
        "devices_high",
        "utilisation",
        "headroom_one_failed",
    )
    costs = [f"{what}_per_million{end}" for what in ("cost", "kwh") for end in ("", "_low", "_high")]
    p99 = [f"p99_{kind}_s{end}" for kind in ARRIVALS for end in ("", "_low", "_high")]
    row |= dict.fromkeys((*names, *costs, "energy_from", *p99))
    if reason is not None:
        return row
    limit, capacity = demand.latency_s, server.images_per_s
    loads = [way.most_load(limit and limit / factor) for factor in (1.0, fast, slow)]
    if not loads[0]:
        at = LOADS[0]
        return row | {"reason": f"99 % take up to {way.tail_s(at):.3g} s already at {at:.0%} of its capacity"}
    counts = [
        _count(demand.rate, capacity / factor, load) for factor, load in zip((1.0, fast, slow), loads, strict=True)
    ]
    devices = counts[0]
    if devices is None:
        return row | {"reason": "needs more devices than can be counted"}
    tails = {}
    for _ in range(MOST_TRIED):  # the same arrivals at another rate: the tail is not quite monotonic
        utilisation = demand.rate / devices / capacity
        tails = {kind: way.tail_interval_s(utilisation, kind) for kind in ARRIVALS}
        if limit is None or tails[demand.arrivals][0] <= limit:
            break
        devices += max(1, devices // 20)
    else:
        return row | {"reason": f"99 % take longer than {limit:g} s even with {devices} devices"}
    counts = [count and max(count, count + devices - (counts[0] or 0)) for count in counts]
    row |= {
        "devices": devices,
        "devices_low": counts[1],
        "devices_high": counts[2],
        "utilisation": utilisation,
        "headroom_one_failed": (devices - 1) * server.images_per_s / demand.rate,
        "images_per_day_per_device": loads[0] * server.images_per_s * DAY,
    }
    for end, count in zip(("", "_low", "_high"), counts, strict=True):
        if device.price_per_hour is not None and count is not None:
            row[f"cost_per_million{end}"] = count * device.price_per_hour / demand.rate / HOUR * MILLION
    row |= _energy(way, counts)
    for kind, tail in tails.items():
        row |= dict(zip((f"p99_{kind}_s{end}" for end in ("", "_low", "_high")), tail, strict=True))
    if device.count is not None and devices > device.count:
        row["reason"] = f"needs {devices} devices, there are {device.count}"
    return row


def _count(rate: float, capacity: float, load: float) -> int | None:
    """Devices for a rate, of which each may be used up to a share of its capacity."""
    if not load:
        return None
    needed = rate / capacity / load
    return max(1, math.ceil(needed - 1e-9)) if needed < 1e12 else None


def _energy(way: Way, counts: Sequence[int | None]) -> Row:
    """kWh of a million images: measured joules of each pass, or the stated watts of devices that run all day."""
    demand, joules = way.demand, way.curve.joules
    if joules is not None:
        passes = 1 if way.curve.whole else demand.steps * demand.passes
        fast, slow = way.curve.spread
        kwh = joules * passes / 3.6e6 * MILLION
        return {
            "kwh_per_million": kwh,
            "kwh_per_million_low": kwh * fast,
            "kwh_per_million_high": kwh * slow,
            "energy_from": "measured",
        }
    if way.device.watts is None:
        return {}
    ends = zip(("", "_low", "_high"), counts, strict=True)
    kwh_of = {f"kwh_per_million{end}": n and n * way.device.watts / demand.rate / 3.6e6 * MILLION for end, n in ends}
    return {**kwh_of, "energy_from": "watts of the devices file"}
