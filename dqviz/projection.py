"""What a calibration and the methods after it will take on this machine: said before anything starts.

Work is counted from shapes (`quant.effort`); seconds are counts over rates that this machine showed for
a moment, so they are predicted, and other work on the machine makes them longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from quant.cards import Card, load_method, methods
from quant.schema import Sampler
from quant.seen_layout import CalibrationOptions

from . import machine
from .terminal import duration

if TYPE_CHECKING:
    from quant.adapters import Site
    from quant.effort import Rates
    from quant.footprint import Recorded
    from quant.models import Model
    from quant.recording import InputShape

Asked = tuple[str, Mapping[str, Any]]  # a method and its options


@cache
def rates() -> Rates:
    """Of this machine, measured once: a tenth of a second."""
    from quant.effort import Rates

    return Rates(*machine.rates())


def projected(
    network: Recorded,
    shapes: Mapping[str, InputShape],
    sampler: Sampler,
    samples: int,
    asked: Iterable[Asked],
    *,
    batch_size: int = 8,
    frames: int = 1,
) -> dict[str, Any]:
    """Seconds and bytes of one calibration and of each method after it.

    Keys: `samples`, `steps`, `branches`, `macs`, `seconds`, `memory_bytes` of the calibration (None where
    rows are not known), `methods` {method: {`macs`, `seconds`, `memory_bytes`}}, `rates`, `evidence`.
    """
    from quant import effort
    from quant.method_options import parse_options

    record, found = CalibrationOptions(), {}
    for method, options in asked:
        quantized = [s.name for s in network.sites if quantizes(methods()[method], s)]
        groups = effort.group_shapes(network, quantized, sampler, record, shapes)
        module, chosen = load_method(method), parse_options(method, options)
        work = effort.method_work(module, groups, chosen)
        found[method] = {
            "macs": work.macs,
            "seconds": work.seconds(rates()),
            "memory_bytes": effort.method_memory(module, groups, chosen),
        }
    said: dict[str, Any] = {"macs": None, "seconds": None, "memory_bytes": None}
    if shapes:
        work = effort.calibrating(network, shapes, sampler, samples, batch_size, frames)
        said = {
            "macs": work.macs,
            "seconds": work.seconds(rates()),
            "memory_bytes": effort.calibration_memory(network, shapes, sampler, record, batch_size),
        }
    return {
        "samples": samples,
        "steps": sampler.steps,
        "branches": network.branches(sampler.guidance),
        **said,
        "methods": found,
        "rates": vars(rates()),
        "evidence": "predicted",
    }


def quantizes(card: Card, site: Site) -> bool:
    """Whether a method quantizes a site when all get the same bits."""
    return site.kept_reason is None or (site.block is not None and site.role in card.also)


def of_model(
    model: Model, samples: Sequence[Any], sampler: Sampler, asked: Iterable[Asked], batch_size: int
) -> dict[str, Any]:
    """`projected` of a loaded model; one evaluation of it tells the rows of its inputs."""
    from quant.footprint import input_shapes

    shapes = input_shapes(model, samples[0], sampler)
    return projected(model, shapes, sampler, len(samples), asked, batch_size=batch_size)


def sentence(made: Mapping[str, Any], recorded: bool = False) -> str:
    """The same for people; `recorded`: statistics are there already, methods alone are left."""
    parts = []
    if not recorded and made["seconds"] is not None:
        memory = machine.mib(made["memory_bytes"])
        parts.append(f"about {duration(made['seconds'])} and at most {memory} of memory")
    for method, own in made["methods"].items():
        memory = machine.mib(own["memory_bytes"])
        parts.append(f"{methods()[method].title} about {duration(own['seconds'])} and {memory}")
    return f"predicted for this machine: {', then '.join(parts)}"
