"""Probes: measurements that only some methods need, one file each, listed without importing them.

A probe file states `CARD = ProbeCard(...)` with literal arguments and

    measure(model, seen, sampler, samples, *, method, bits, options, on_step) -> dict

    model     quant.models.Model, full precision, as loaded
    seen      quant.calibration.Seen of `samples` under `sampler`; None where `needs` names nothing of it
    sampler   quant.schema.Sampler
    samples   those of the calibration: tuple[Sample, ...]
    method    key of the method that is looked at
    bits      quant.schema.Bits of all sites
    options   the method's Options, checked
    on_step   on_step(done, total) after every part, or None; it may raise `Cancelled`

The result is plain JSON (finite numbers, None where there is none), smaller than `MOST_BYTES` for the
embedded model. Writing the file is all it takes to join `dqviz probe`; its picture is one file of
`dqviz/pages/methods/`. `quant.probes.base` has what probes share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from ..card_files import CardFiles

MODEL = "model"  # in `needs`: the probe evaluates the network itself
MOST_BYTES = 300_000  # of one result, for the embedded model


@dataclass(frozen=True)
class ProbeCard:
    """What a probe says about itself."""

    key: str
    title: str
    methods: tuple[str, ...]  # keys of the methods that it is about
    needs: tuple[str, ...]  # calibration statistics (fields of `InputStatistics`), or "model"
    summary: str = ""
    evidence: Literal["measured", "simulated", "predicted"] = "simulated"  # of its numbers

    @property
    def needs_statistics(self) -> bool:
        """Whether it reads a calibration."""
        return any(need != MODEL for need in self.needs)


_FILES = CardFiles(__name__, Path(__file__).parent, ProbeCard, "probe")


def list_probes(method: str | None = None) -> dict[str, ProbeCard]:
    """Cards of all probes, or of those about one method; imports none of them."""
    return {k: c for k, c in _FILES.cards.items() if method is None or method in c.methods}


def load_probe(key: str) -> ModuleType:
    """Import the module of one probe."""
    return _FILES.load(key)
