"""The support matrix: every method on every family at every kind of bits works, or refuses with the reason.

Each cell quantizes the first two blocks of a tiny random model, draws two steps and compares. What is
found is `docs/results/support.json`, which the documentation shows: `make support` writes it.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from quant.adapters import adapters
from quant.calibration import CalibrationOptions, calibrate
from quant.cards import methods
from quant.errors import BadInput
from quant.generation import generate
from quant.loading import load_model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.rounding import check_shape
from quant.schema import Format, parse_bits
from quant.sizes import known_shapes, load_shape
from quant.support import adapted_classes, unsupported
from tests import aura

ROOT = Path(__file__).parents[2]

FAMILIES = {  # by the name that the documentation shows: a tiny pipeline of it
    "DiT": "dit",
    "PixArt": "pixart-sigma",
    "Latte": "latte",
    "SD3": "sd3.5",
    "Flux": "flux",
    "CogVideoX": "cogvideox",
    "Wan": "wan",
    "Sana": "sana",
    "no adapter": "generic",
}
# Of each kind, and how far from full precision a picture may be (relative error of its latents).
BITS = {
    "w8a8": 0.05,
    "w4a8": 0.25,
    "w4a4": 0.5,
    "w4a16": 0.25,
    "w2a16": 0.8,
    "fp8": 0.1,
    "mxfp4": 0.4,
}
LITTLE: dict[str, dict[str, Any]] = {  # of what takes long, or would be exact on layers this narrow
    "adaround": {"iterations": 1, "samples": 1, "steps": 2, "batch": 2},
    "taqdit": {"iterations": 1, "samples": 1, "steps": 2, "batch": 2},
    "vq4dit": {"trajectories": 1, "guidance": 1.0, "steps": 1, "iterations": 1, "samples": 1},
    "kmeans-vq": {"iterations": 3},
    "svdquant": {"rank": 4},
    "trdq": {"alpha": 0.5},
}
RESULT = ROOT / "docs" / "results" / "support.json"
CELLS = [(family, method, bits) for family in FAMILIES for method in methods() for bits in BITS]

found: dict[tuple[str, str, str], str] = {}  # the reason of a refusal, "" where it works


class Tried:
    """A tiny model with what every cell needs of it."""

    def __init__(self, folder: Any) -> None:
        self.model = load_model(str(folder), device="cpu")
        self.adapter = self.model.adapter
        self.seen = None
        if self.adapter.known:
            self.sampler = self.model.sampler(steps=2, guidance=4.0)
            recorded = self.model.samples(range(100, 102))
            options = CalibrationOptions(reservoir=64)
            self.seen = calibrate(self.model, recorded, self.sampler, options)
        self.exact = self.drawn(self.model.transformer)

    def drawn(self, transformer: torch.nn.Module) -> torch.Tensor:
        """Latents of one picture; of a family that nobody can draw with, what one call gives."""
        if self.adapter.known:
            samples = self.model.samples([5])
            return generate(self.model, samples, self.sampler, transformer=transformer).latents
        return aura.call(transformer)

    def error(self, method: str, bits: str) -> float:
        """How far what is drawn is from full precision."""
        sampler = self.sampler if self.adapter.known else None
        plan = uniform_plan(
            self.model, parse_bits(bits), sampler=sampler, also=methods()[method].also
        )
        first = {s.name for s in self.model.sites if s.block is not None and s.block < 2}
        sites = {name: site for name, site in plan.sites.items() if name in first}
        plan = plan.model_copy(update={"sites": sites})
        made = quantize(self.model, method, plan, LITTLE.get(method, {}), self.seen)
        assert set(made.scope.quantized) == set(sites)
        return float((self.drawn(made.transformer) - self.exact).norm() / self.exact.norm())


@pytest.fixture(scope="module")
def tried(tiny_dit, pipelines, tmp_path_factory):
    def folder(family: str):
        if family == "dit":
            return tiny_dit
        if family == "generic":
            return aura.pipeline(tmp_path_factory.mktemp("aura"))
        return pipelines[family]

    return cache(lambda family: Tried(folder(FAMILIES[family])))


@pytest.fixture
def model(tried, family):
    return tried(family)


@pytest.mark.parametrize(("family", "method", "bits"), CELLS)
def test_it_works_or_refuses_as_its_card_says(model, family, method, bits):
    known = model.adapter.known
    reason = unsupported(methods()[method], parse_bits(bits), adapted=known)
    if reason:
        with pytest.raises(BadInput) as refused:
            model.error(method, bits)
        assert f"{method} {reason}" in str(refused.value)
    else:
        assert 0 < model.error(method, bits) < BITS[bits]
    found[family, method, bits] = reason


def test_the_matrix_in_the_documentation_is_what_was_found():
    if len(found) < len(CELLS):
        pytest.skip(
            f"{len(found)} of {len(CELLS)} cells were tried, and all of them make the matrix"
        )
    matrix = {
        m: {f: {b: found[f, m, b] or "works" for b in BITS} for f in FAMILIES} for m in methods()
    }
    text = json.dumps({"made_by": "make support", "matrix": matrix}, indent=1) + "\n"
    if os.environ.get("DQVIZ_WRITE_SUPPORT"):
        RESULT.write_text(text, encoding="utf-8")
    assert RESULT.read_text(encoding="utf-8") == text, "what works has changed: make support"


def test_every_family_is_in_the_matrix():
    """A new adapter joins: its class is that of a tiny model above, or of its sibling."""
    shown = {name for name in FAMILIES if name != "no adapter"}
    assert len(shown) == len(adapters())
    assert adapted_classes() == set(adapters())
    for name in shown:
        assert any(cls.startswith(name) for cls in adapters()), name


@pytest.mark.parametrize("shape", sorted(known_shapes()))
@pytest.mark.parametrize("kind", ["mxfp8", "mxfp4", "nvfp4"])
def test_the_layers_of_published_models_divide_into_the_blocks_of_block_formats(shape, kind):
    """The matrix does not ask for widths: those of these models hold every format."""
    transformer, adapter = load_shape(shape)
    for site in adapter.sites(transformer):
        if site.kept_reason is None:
            check_shape(Format.of_kind(kind), site.in_features, site.name)
