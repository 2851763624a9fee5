"""The option alpha: a number, a search, or numbers by name; a name that fits nothing is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quant.alphas import SEARCH, alpha_of, check_names
from quant.errors import BadInput
from quant.method_options import parse_options
from quant.methods.base import Group, SiteWeight
from quant.quantization import quantize
from quant.schema import Format, SitePlan, parse_bits

FORMAT = SitePlan(weight=Format(bits=4), activations=(Format(bits=8),))


def group(name: str, *sites: str) -> Group:
    return Group(name, tuple(SiteWeight(s, torch.eye(4), None, FORMAT) for s in sites))


ATTENTION = group("blocks.0.attn1", "blocks.0.attn1.to_q", "blocks.0.attn1.to_k")
FC2 = group("blocks.0.ff.net.2", "blocks.0.ff.net.2")


@pytest.mark.parametrize(
    ("alpha", "attention", "fc2"),
    [
        (0.3, 0.3, 0.3),
        (SEARCH, SEARCH, SEARCH),
        ({"*.ff.net.2": 0.2}, SEARCH, 0.2),
        ({"blocks.0.attn1": 0.6}, 0.6, SEARCH),
        ({"blocks.0.attn1.to_k": 0.7}, 0.7, SEARCH),
        ({"*": 0.5, "blocks.0.attn1": SEARCH}, SEARCH, 0.5),
        ({"*.attn1": 0.1, "*": 0.5}, 0.1, 0.5),
        ({"*": 0.5, "*.attn1": 0.1}, 0.5, 0.5),
        ({"*.FF.net.2": 0.4, "*": 0.5}, 0.5, 0.5),
    ],
)
def test_a_name_comes_before_patterns_and_patterns_in_their_order(
    alpha: Any, attention: Any, fc2: Any
) -> None:
    assert (alpha_of(alpha, ATTENTION), alpha_of(alpha, FC2)) == (attention, fc2)


def test_a_name_that_fits_nothing_is_an_error() -> None:
    check_names({"*.attn1": 0.1, "blocks.0.ff.net.2": 0.2}, [ATTENTION.names, FC2.names])
    check_names(0.1, [])
    with pytest.raises(
        BadInput, match=r"alpha names '\*.fc9', which no quantized .* blocks.0.attn1"
    ):
        check_names({"*.attn1": 0.1, "*.fc9": 0.2}, [ATTENTION.names, FC2.names])


@pytest.mark.parametrize("method", ["viditq", "trdq"])
@pytest.mark.parametrize("alpha", [1.2, -0.1, "middle", {"*": 1.2}, {"*": "middle"}])
def test_alpha_out_of_range_is_one_line(method: str, alpha: Any) -> None:
    with pytest.raises(BadInput, match="alpha"):
        parse_options(method, {"alpha": alpha})


@pytest.mark.parametrize(("method", "more"), [("viditq", {"transform": "scale"}), ("trdq", {"windows": 1})])  # fmt: skip
def test_each_input_gets_its_own_alpha(method: str, more: dict[str, Any], tiny_dit: Path) -> None:
    from quant.calibration import calibrate
    from quant.loading import load_model
    from quant.plans import uniform_plan

    model = load_model(str(tiny_dit))
    seen = calibrate(model, model.samples((7,)), model.sampler(2))
    plan = uniform_plan(model, parse_bits("w4a8"))
    first = "transformer_blocks.0.ff.net.2"
    options = {**more, "alpha": {"*.ff.net.2": 0.2, first: 0.6}}
    notes = quantize(model, method, plan, options, seen).notes
    assert notes[first]["alpha"] == 0.6
    assert notes["transformer_blocks.1.ff.net.2"]["alpha"] == 0.2
    assert "error" in notes["transformer_blocks.0.attn1.to_q"], "the others are searched"
    with pytest.raises(BadInput, match="no quantized"):
        quantize(model, method, plan, {**more, "alpha": {"*.fc3": 0.2}}, seen)
