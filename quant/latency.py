"""What a plan's evaluation takes on a named device, from whatever is known of that device. No torch in here.

Two sources, one interface: seconds of a linear layer at bits, seconds of an attention.

    Floor       a GPU of `quant.roofline`: the least by the peaks of its data sheet
    Measured    a processor with a table of measured seconds (`kernels.tables`), which `dqviz bench --tune` makes

A measured table has shapes (m, k, n) with the seconds of float32, of the definition and of integer products by bits. A
layer takes the faster of those that `--backend auto` would take; one whose weight alone is quantized multiplies in float32.
Between the nearest smaller and the nearest larger shape by operations 2 m k n, within a doubling of every dimension, the logarithm of
seconds is straight in that of operations; with one of them alone, seconds grow in proportion. A shape that has no such
neighbour, and every attention, takes its operations at the best rate of the table: a floor of that part, which `remark` counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    def remark(self, shapes: Iterable[Shape]) -> str:
        """What is less sure of a network with linear layers of these shapes; "" for nothing."""
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

    def remark(self, shapes: Iterable[Shape]) -> str:
        """A floor is one for every shape."""
        return ""


@dataclass(frozen=True)
class Measured:
    """What shapes took that are like those of a network."""

    name: str  # of the kind of device, as its folder of tables is called
    about: Mapping[str, Any]  # of the table: cpu, cores, torch, date
    seconds: Mapping[Kind | str, Mapping[Shape, float]]  # by bits: of the backend that `auto` takes
    _found: dict[tuple[Kind | str, Shape], float] = field(
        default_factory=dict, compare=False, repr=False
    )

    @classmethod
    def of(cls, name: str, table: Mapping[str, Any]) -> Measured:
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
        return cls(name, {n: v for n, v in table.items() if n != "rows"}, found)

    @property
    def title(self) -> str:
        """The kind of processor, and the one that was measured."""
        return f"{self.name} ({self.about.get('cpu', 'unknown')}, {self._threads})"

    @property
    def said(self) -> str:
        """Over float32, from which table."""
        what = f"torch {self.about.get('torch', 'unknown')}, {self.about.get('date', 'no date')}"
        return f"of float32: predicted from measured times ({OP}.json, {what})"

    @property
    def _threads(self) -> str:
        count = self.about.get("cores", 1)
        return f"{count} thread{'' if count == 1 else 's'}"

    def site_seconds(
        self, rows: int, in_features: int, out_features: int, bits: Bits | None = None
    ) -> float:
        """From the nearest shapes that were measured at the nearest bits."""
        if bits is not None and bits.kind != "int":
            raise BadInput(
                f"nothing was measured of {bits} on {self.name}; integers (w8a8, w4a16) and 16 bit have times"
            )
        key = self._kind(bits), (rows, in_features, out_features)
        if key not in self._found:
            near = between(self.seconds[key[0]], key[1])
            self._found[key] = self._at_best(*key) if near is None else near
        return self._found[key]

    def attention_seconds(self, attention: Attention, batch: int = 1) -> float:
        """4 q s' c operations at the best rate of float32 products."""
        a = attention
        return 4 * batch * a.queries * a.seen * a.channels / self._rate(FLOAT)

    def remark(self, shapes: Iterable[Shape]) -> str:
        """How many layers have no shape near."""
        listed = list(shapes)
        far = sum(between(self.seconds[FLOAT], shape) is None for shape in listed)
        return (
            f"latency on {self.name} is predicted: {len(listed) - far} of {len(listed)} layers from measured shapes near theirs; "
            "the others and attention count with the best rate of the table, which is a floor"
        )

    def _kind(self, bits: Bits | None) -> Kind | str:
        """The measured bits that stand for these: as many at least, since products that are exact with them are exact with fewer."""
        if bits is None or bits.activation is None:
            return FLOAT
        w, a = bits.weight, bits.activation
        # Weights of plans have zeros of their own; about those of 8 bits, codes do not fit into eight bits with a sign.
        wide = [k for k in self.seconds if not isinstance(k, str) and k[0] >= w and k[1] >= a]
        return min(wide, key=lambda k: (k[2] != (w == 8), k[0] - w + k[1] - a), default="simulate")

    def _at_best(self, kind: Kind | str, shape: Shape) -> float:
        return 2 * prod(shape) / self._rate(kind)

    def _rate(self, kind: Kind | str) -> float:
        """Operations a second: the most that a shape had."""
        return max(2 * prod(shape) / seconds for shape, seconds in self.seconds[kind].items())


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
    """Every device that latency can be predicted for, by name; why a table is not among them goes into `skipped`."""
    found: dict[str, Latency] = {name: Floor(device) for name, device in DEVICES.items()}
    for name, path in tables.devices(OP).items():
        try:
            measured = _measured(name, path, path.stat().st_mtime_ns)
        except BadInput as error:
            if skipped is not None:
                skipped.append(str(error))
        else:
            if measured is not None:
                found[name] = measured
    return found


def latency_of(name: str) -> Latency:
    """A device by name; BadInput names those that there are, and tables that do not read."""
    if name in DEVICES:
        return Floor(DEVICES[name])
    skipped: list[str] = []
    found = latencies(skipped)
    if name not in found:
        hint = f"They are: {', '.join(found)}; a processor is added by dqviz bench --tune"
        raise unknown("device", name, found, "; ".join([hint, *skipped]))
    return found[name]


@lru_cache(maxsize=16)
def _measured(name: str, path: Path, written: int) -> Measured | None:
    """A table of seconds as it was `written`; None for one without those of float32, as of a GPU."""
    try:
        table = tables.read(path)
        if not any(f"seconds_{FLOAT}" in row for row in table["rows"]):
            return None
        return Measured.of(name, table)
    except ValueError as error:
        raise BadInput(str(error)) from None
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{path} lacks {error} in a row; delete it, and measure anew: dqviz bench --tune"
        ) from None
