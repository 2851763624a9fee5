"""What a plan's evaluation takes on a named device, from whatever is known of that device. No torch in here.

Two sources, one interface: seconds of a linear layer at bits, seconds of an attention.

    Floor       a GPU of `quant.roofline`: the least by the peaks of its data sheet
    Measured    a processor with tables of measured seconds (`kernels.tables`), which `dqviz bench --tune` makes

A measured table has shapes (m, k, n) with the seconds of float32, of the definition and of integer products by bits. A
layer takes the faster of those that `--backend auto` would take; one whose weight alone is quantized multiplies in float32.
Between the nearest smaller and the nearest larger shape by operations 2 m k n, within a doubling of every dimension, the logarithm of
seconds is straight in that of operations; with one of them alone, seconds grow in proportion. A shape that has no such
neighbour in a user's table is looked for in the one that comes along. One that has none there either, and every attention,
takes its operations at the best rate that was measured: an estimate, which `remark` counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log, prod
from pathlib import Path
from typing import Any, Protocol

from kernels import tables

from . import roofline
from .errors import BadInput, unknown
from .roofline import DEVICES, Attention, Device
from .schema import Bits

OP = "int_linear"
FLOAT = "fp32"
Shape = tuple[int, int, int]  # m, k, n
Layer = tuple[
    Shape, Collection[Bits | None]
]  # with the bits that it has in some step; None: full precision
Kind = tuple[int, int, bool]  # bits of weight and input, and whether the product is corrected


class Latency(Protocol):
    """Predicted seconds on one device."""

    @property
    def title(self) -> str:
        """The device as people call it."""
        ...

    @property
    def said(self) -> str:
        """What a share of these seconds is: over what, and where they come from."""
        ...

    def site_seconds(
        self, rows: int, in_features: int, out_features: int, bits: Bits | None = None
    ) -> float:
        """One linear layer; bits None: in full precision. BadInput for formats that nothing is known of."""
        ...

    def attention_seconds(self, attention: Attention, batch: int = 1) -> float:
        """Its two products, of so many samples times branches, in full precision."""
        ...

    def remark(self, layers: Iterable[Layer]) -> str:
        """What is less sure of a network with such linear layers; "" for nothing."""
        ...


@dataclass(frozen=True)
class Floor:
    """The least that peaks allow."""

    device: Device

    @property
    def title(self) -> str:
        """The GPU."""
        return self.device.title

    @property
    def said(self) -> str:
        """A floor."""
        return "of 16 bit: a floor, no speed of ours"

    def site_seconds(
        self, rows: int, in_features: int, out_features: int, bits: Bits | None = None
    ) -> float:
        """As `roofline.site_seconds`."""
        return roofline.site_seconds(self.device, rows, in_features, out_features, bits)

    def attention_seconds(self, attention: Attention, batch: int = 1) -> float:
        """As `roofline.attention_seconds`."""
        return roofline.attention_seconds(self.device, attention, batch)

    def remark(self, layers: Iterable[Layer]) -> str:
        """A floor is one for every shape."""
        return ""


@dataclass(frozen=True)
class Times:
    """One table."""

    about: Mapping[str, Any]  # cpu, cores, torch, date
    seconds: Mapping[Kind | str, Mapping[Shape, float]]  # by bits: of the backend that `auto` takes

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Times:
        """From a table with seconds."""
        found: dict[Kind | str, dict[Shape, float]] = {}

        def add(kind: Kind | str, shape: Shape, seconds: float) -> None:
            least = found.setdefault(kind, {}).get(shape, seconds)
            found[kind][shape] = min(least, seconds)

        for row in table["rows"]:
            shape = row["m"], row["k"], row["n"]
            way = "integer" if row["ratio"] >= tables.WORTH else "simulate"
            kind = row["weight_bits"], row["act_bits"], row["corrected"]
            add(kind, shape, row[f"seconds_{way}"])
            add("simulate", shape, row["seconds_simulate"])
            add(FLOAT, shape, row["seconds_fp32"])
        return cls({n: v for n, v in table.items() if n != "rows"}, found)

    @property
    def place(self) -> str:
        """The processor, and how many threads computed."""
        count = self.about.get("cores", 1)
        return f"{self.about.get('cpu', 'unknown')}, {count} thread{'' if count == 1 else 's'}"

    @property
    def made(self) -> str:
        """With what, and when."""
        return f"torch {self.about.get('torch', 'unknown')}, {self.about.get('date', 'no date')}"

    def near(self, bits: Bits | None, shape: Shape) -> float | None:
        """Seconds of a layer; None where no shape near it was measured at the nearest bits."""
        return between(self.seconds[self.kind(bits)], shape)

    def rate(self, bits: Bits | None) -> float:
        """Operations a second: the most that a shape had."""
        found = self.seconds[self.kind(bits)]
        return max(2 * prod(shape) / seconds for shape, seconds in found.items())

    def kind(self, bits: Bits | None) -> Kind | str:
        """The measured bits that stand for these: as many at least, since products that are exact with them are exact with fewer."""
        if bits is None or bits.activation is None:
            return FLOAT
        w, a = bits.weight, bits.activation
        # Weights of plans have zeros of their own; about those of 8 bits, codes do not fit into eight bits with a sign.
        wide = [k for k in self.seconds if not isinstance(k, str) and k[0] >= w and k[1] >= a]
        return min(wide, key=lambda k: (k[2] != (w == 8), k[0] - w + k[1] - a), default="simulate")


@dataclass(frozen=True)
class Measured:
    """What shapes took that are like those of a network."""

    name: str  # of the kind of device, as its folders of tables are called
    times: tuple[Times, ...]  # in the order in which they are asked
    _found: dict[tuple[Bits | None, Shape], float] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def title(self) -> str:
        """The kind of processor, and those that were measured."""
        return f"{self.name} ({_each(t.place for t in self.times)})"

    @property
    def said(self) -> str:
        """Over float32, from which tables."""
        made = _each(t.made for t in self.times)
        return f"of float32: predicted from measured times ({OP}.json, {made})"

    def site_seconds(
        self, rows: int, in_features: int, out_features: int, bits: Bits | None = None
    ) -> float:
        """From the nearest shapes that were measured at the nearest bits."""
        if bits is not None and bits.kind != "int":
            raise BadInput(
                f"nothing was measured of {bits} on {self.name}; integers (w8a8, w4a16) and 16 bit have times"
            )
        key = bits, (rows, in_features, out_features)
        if key not in self._found:
            near = self._near(*key)
            self._found[key] = 2 * prod(key[1]) / self._rate(bits) if near is None else near
        return self._found[key]

    def attention_seconds(self, attention: Attention, batch: int = 1) -> float:
        """4 q s' c operations at the best rate of float32 products."""
        a = attention
        return 4 * batch * a.queries * a.seen * a.channels / self._rate(None)

    def remark(self, layers: Iterable[Layer]) -> str:
        """How many layers have no shape near, at the bits that they have."""
        listed = list(layers)
        far = sum(any(self._near(b, shape) is None for b in bits) for shape, bits in listed)
        return (
            f"latency on {self.name} is predicted: {len(listed) - far} of {len(listed)} layers from measured shapes near theirs; "
            "the others and attention count with the best rate that was measured, which is an estimate"
        )

    def _near(self, bits: Bits | None, shape: Shape) -> float | None:
        """From the first table that has a shape near."""
        found = (times.near(bits, shape) for times in self.times)
        return next((seconds for seconds in found if seconds is not None), None)

    def _rate(self, bits: Bits | None) -> float:
        return max(times.rate(bits) for times in self.times)


def _each(told: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(told))


def between(measured: Mapping[Shape, float], shape: Shape) -> float | None:
    """Seconds of a shape from those of its neighbours, straight in logarithms; None where there is none within a doubling."""
    near = {s: far for s in measured if (far := tables.distance(s, shape)) <= tables.NEAR}
    if not near:
        return None
    work = prod(shape)
    below = min((s for s in near if prod(s) <= work), key=near.__getitem__, default=None)
    above = min((s for s in near if prod(s) >= work), key=near.__getitem__, default=None)
    if below is None or above is None or prod(below) == prod(above):
        only = min(near, key=near.__getitem__)
        return measured[only] * work / prod(only)
    share = log(work / prod(below)) / log(prod(above) / prod(below))
    return exp((1 - share) * log(measured[below]) + share * log(measured[above]))


def latencies(skipped: list[str] | None = None) -> dict[str, Latency]:
    """Every device that latency can be predicted for, by name; why one is left out whose table does not read goes into `skipped`."""
    found: dict[str, Latency] = {name: Floor(device) for name, device in DEVICES.items()}
    for name, paths in tables.devices(OP).items():
        try:
            measured = _measured(name, paths)
        except BadInput as error:
            if skipped is not None:
                skipped.append(str(error))
        else:
            if measured is not None:
                found[name] = measured
    return found


def latency_of(name: str) -> Latency:
    """A device by name; BadInput names those that there are, or its table that does not read."""
    if name in DEVICES:
        return Floor(DEVICES[name])
    paths = tables.devices(OP).get(name, ())
    measured = _measured(name, paths)
    if measured is None:
        found = latencies()
        raise unknown(
            "device",
            name,
            found,
            f"They are: {', '.join(found)}; a processor is added by dqviz bench --tune",
        )
    return measured


def _measured(name: str, paths: Sequence[Path]) -> Measured | None:
    return _of_files(name, tuple((path, path.stat().st_mtime_ns) for path in paths))


@lru_cache(maxsize=16)
def _of_files(name: str, files: tuple[tuple[Path, int], ...]) -> Measured | None:
    """Tables as they were written; None where none has seconds of float32, as those of a GPU."""
    found = [times for path, _ in files if (times := _times(path)) is not None]
    return Measured(name, tuple(found)) if found else None


def _times(path: Path) -> Times | None:
    try:
        table = tables.read(path)
        if not any(f"seconds_{FLOAT}" in row for row in table["rows"]):
            return None
        return Times.of(table)
    except tables.BrokenTable as error:
        raise BadInput(str(error)) from None
    except KeyError as error:
        raise BadInput(
            f"{path} lacks {error} in a row; delete it, and measure anew: dqviz bench --tune"
        ) from None
