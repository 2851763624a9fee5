"""Public models without their weights: as large as published, and as the pre-flight sees a folder."""

from __future__ import annotations

import pytest
import torch

from quant.errors import BadInput
from quant.outlines import known_parts, outline_of, part_numbers
from quant.preflight import Run, need, outline
from quant.schema import parse_bits
from quant.sources import Source, locate
from quant.streaming import empty_transformer


@pytest.mark.parametrize(
    ("part", "millions"),
    [
        ("t5-xxl", 4762),  # the encoder alone of a model with 11 thousand millions
        ("clip-l", 123),  # OpenAI's ViT-L/14, text
        ("clip-g", 695),  # OpenCLIP's ViT-bigG/14, text
        ("vae-4", 84),
        ("vae-16", 84),
    ],
)
def test_parts_have_the_published_number_of_weights(part, millions):
    assert part_numbers(part) / 1e6 == pytest.approx(millions, rel=0.01)


def test_every_part_can_be_made_and_others_are_refused():
    assert all(part_numbers(name) > 0 for name in known_parts())
    with pytest.raises(BadInput, match="unknown part 't5-xl'; nearest: t5-xxl"):
        part_numbers("t5-xl")


def test_an_outline_counts_what_stands_beside_the_transformer():
    alone, whole = outline_of("pixart-xl-2"), outline_of("pixart-xl-2", ("t5-xxl", "vae-4"))
    assert alone.other_bytes == 0
    assert whole.other_bytes == 2 * (part_numbers("t5-xxl") + part_numbers("vae-4"))
    assert alone.weight_bytes == whole.weight_bytes
    wide = outline_of("pixart-xl-2", dtype=torch.float32)
    assert wide.weight_bytes == 2 * alone.weight_bytes


def test_size_and_text_set_the_rows():
    made = outline_of("pixart-xl-2", size=(512, 1024), text=300)
    rows = {shape.tokens for shape in made.shapes.values()}
    assert rows == {32 * 64, 300}
    assert made.target.sampler.size == (512, 1024)
    assert (made.target.sampler.steps, made.target.sampler.guidance) == (20, 4.5)


def test_the_same_network_from_a_folder_needs_the_same(tiny_dit, monkeypatch):
    """Only where the configuration comes from differs."""
    folder = outline(locate(Source(ref=str(tiny_dit))), "bfloat16", "cpu")
    transformer = empty_transformer(tiny_dit / "transformer")
    monkeypatch.setattr("quant.outlines.load_shape", lambda _: (transformer, folder.target.adapter))
    shape = outline_of("tiny")
    assert shape.weight_bytes == folder.weight_bytes
    assert shape.resident_bytes == folder.resident_bytes
    assert shape.shapes == folder.shapes
    run = Run("rtn", {}, parse_bits("w4a8"))
    sampler = folder.target.sampler

    def parts(model):
        found = need(model, "compare", [run], sampler=sampler, batch_size=2).parts
        return {k: v for k, v in found.items() if k not in ("other_parts", "integers")}

    assert parts(shape) == parts(folder)
