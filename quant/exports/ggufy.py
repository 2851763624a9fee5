"""A sensitivity file for ggufy, which then gives each tensor of a GGUF the precision that the plan gave it.

Layout as documented by ggufy (README, docs/CLI.md, src/sensitivities/*.json), read there; the program itself
was not run: one JSON object, tensor name -> score in 0 .. 100. At its default aggressiveness of 50 it
converts tensors by score:

    5 to 30     to the type that was asked for, e.g. q4_k
    30 to 70    to a wider one, q6_k or q8_0
    70 to 95    to q8_0 or not at all
    95 to 100   not at all

The scores here are no measurement: they are the middles of the bands that reach the plan's bits, counted from
the narrowest weight in the plan. ggufy rounds the original weights by itself, so nothing of our codes is in
the file. Tensors of Flux and Stable Diffusion 3 have the names of their releases, those that lie in one
tensor the highest of their scores; other families keep diffusers' names.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import ExportCard, Exported, Lossy
from .opened import Opened, activations
from .reference_names import reference_names

CARD = ExportCard(
    key="ggufy",
    title="ggufy sensitivities",
    writes="file",
    suffix=".json",
    holds="which tensors are narrow, wider, 8 bits or kept",
    loses="codes, scales, transforms, activations: ggufy rounds the original weights itself; scores stand for the plan's bits, not for a measurement",
    source="ggufy's README and its own sensitivity files, read",
    checked="its documented layout, in the tests; untested against the program itself",
)

NARROWEST, WIDER, EIGHT, KEPT = 17.5, 50.0, 82.5, 100.0  # middles of the bands


def write(checkpoint: Opened, out: Path) -> Exported:
    """One score for every weight that is a matrix."""
    bits = {n: site.weight.bits for n, site in checkpoint.sites.items() if site.weight is not None}
    narrowest = min(bits.values(), default=8)
    scores: dict[str, float] = {}
    for name, part in checkpoint.others():
        if name.endswith(".weight") and len(part.shape) == 2:
            scores[name] = KEPT
    lossy = checkpoint.outside_layers()
    for name, site in checkpoint.sites.items():
        scores[f"{name}.weight"] = score(bits.get(name), narrowest)
        what = str(site.weight) if site.weight else "weight in floating point"
        beyond = checkpoint.beyond_codes(name) or what
        lossy.append(
            Lossy(name, f"{beyond}; {activations(site)}", f"score {scores[name + '.weight']:g}")
        )
    place = reference_names(checkpoint.described.get("_class_name", ""), scores)
    released: dict[str, float] = {}
    for name, own in scores.items():
        of = place(name).name
        released[of] = max(own, released.get(of, own))
    text = json.dumps(dict(sorted(released.items())), indent=1, allow_nan=False)
    out.write_text(text + "\n", encoding="utf-8")
    return Exported((out,), tuple(lossy))


def score(bits: int | None, narrowest: int) -> float:
    """Of a weight of so many bits in a plan whose narrowest has `narrowest`; None: it is kept."""
    if bits is None:
        return KEPT
    if bits == narrowest:
        return NARROWEST
    return EIGHT if bits == 8 else WIDER
