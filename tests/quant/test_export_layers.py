"""What exports make of single layers: any bits, shapes and groups; transforms undone; windows as steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from diffusers.pipelines.cosmos.mixed_precision import parse_diffusion_step_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from quant.attention_ranges import AttentionRange, Range
from quant.checkpoint import WEIGHTS, save_checkpoint
from quant.errors import BadInput
from quant.exports import Exported, load_export
from quant.exports.opened import open_checkpoint, plain_weight
from quant.generation import timesteps_of
from quant.layer_making import layer_of_codes, layer_over_windows
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Format, Sampler, parse_bits
from quant.sharing_choice import Sharing

from .exported import one_layer, opened, read_comfyui, read_torchao, windows

INT8, INT8_ASYMMETRIC, INT4 = Format(), Format(symmetric=False), Format(bits=4)
FP8 = Format(kind="fp8")


@st.composite
def weight_formats(draw: st.DrawFn, width: int) -> Format:
    """Integers and fp8 that fit rows of this width."""
    if draw(st.integers(0, 8)) == 0:
        return FP8
    groups = [g for g in (None, 8, 16, 32) if g is None or width % g == 0]
    group = draw(st.sampled_from(groups))
    return Format(
        bits=draw(st.integers(2, 8)),
        symmetric=draw(st.booleans()),
        granularity="group" if group else "row",
        group_size=group,
    )


@st.composite
def layers(draw: st.DrawFn) -> QuantLinear:
    width = draw(st.sampled_from((8, 24, 32, 56, 64)))
    activation = draw(st.sampled_from((None, INT8, INT8_ASYMMETRIC, INT4, FP8)))
    seed = draw(st.integers(0, 2**16))
    return one_layer(
        draw(st.integers(1, 40)), width, draw(weight_formats(width)), (activation,), seed
    )


def written(key: str, layer: QuantLinear, folder: str) -> tuple[Path, Exported]:
    """One layer, called "a", in a format."""
    card = load_export(key).CARD
    out = Path(folder) / f"out{card.suffix}"
    if card.writes == "folder":
        out.mkdir()
    with opened({"a": layer}) as checkpoint:
        return out, load_export(key).write(checkpoint, out)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_torchao_holds_any_integers_and_fp8_to_the_bit(layer: QuantLinear) -> None:
    with TemporaryDirectory() as folder:
        out, made = written("torchao", layer, folder)
        found, classes = read_torchao(out / WEIGHTS)
    assert torch.equal(found["a.weight"], layer.dequantized_weight())
    assert torch.equal(found["a.bias"], layer.bias)
    said = classes["a"]["_data"]
    if "target_dtype" in said:
        assert layer.plan.weight is not None
        assert said["target_dtype"]["_data"] == f"int{layer.plan.weight.bits}"
    dynamic = said.get("activation_quantization") or said.get("act_quant_kwargs")
    assert not (dynamic and layer.plan.activations == (None,))
    assert made.lossy or bool(dynamic) == (layer.plan.activations != (None,))
    assert all(loss.lost.startswith("activations") for loss in made.lossy)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_comfyui_holds_rows_up_to_seven_bits_to_the_bit_and_says_what_it_rounds(
    layer: QuantLinear,
) -> None:
    with TemporaryDirectory() as folder:
        out, made = written("comfyui", layer, folder)
        found, quantized = read_comfyui(out)
    weight, ours = layer.plan.weight, layer.dequantized_weight()
    assert quantized == {"a"}
    assert weight is not None
    again = [loss for loss in made.lossy if loss.written.endswith("rounded again")]
    if not again:
        assert torch.equal(found["a.weight"], ours)
    else:  # at most half a step of what it was rounded to
        peak = ours.abs().amax(1, keepdim=True)
        step = (ours.abs().max() / 448 * 32) if weight == FP8 else peak / 127
        assert bool(((found["a.weight"] - ours).abs() <= step / 2 * 1.001 + 1e-12).all())
    if weight.kind == "int" and weight.granularity == "row" and weight.bits < 8:
        assert not again


def test_the_readers_can_fail(tmp_path: Path) -> None:
    """A reader that took any scale would not see a wrong one."""
    layer = one_layer(6, 16, Format(bits=4, symmetric=False))
    out, _ = written("comfyui", layer, str(tmp_path))
    layer.scale = layer.scale * (1 + 2e-7)
    assert not torch.equal(read_comfyui(out)[0]["a.weight"], layer.dequantized_weight())


def test_activations_that_differ_by_window_are_said(tmp_path: Path) -> None:
    layer = one_layer(6, 16, INT8, (None, INT8))
    for key in ("torchao", "comfyui"):
        folder = tmp_path / key
        folder.mkdir()
        (loss,) = written(key, layer, str(folder))[1].lossy
        assert loss.lost == "activations in floating point and int8 per row"


def test_int8_attention_is_said_of_every_attention_that_has_it(model: Any, tmp_path: Path) -> None:
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w8a8"), attention="int8"))
    save_checkpoint(made, model, tmp_path / "c")
    said = open_checkpoint(tmp_path / "c").outside_layers()
    assert {loss.site: loss.lost for loss in said} == dict.fromkeys(
        model.adapter.spatial_attentions(model.transformer), "int8 queries and keys"
    )


def test_what_happens_between_layers_is_said_for_every_format(tmp_path: Path) -> None:
    """Integers inside attentions, and attention that the guidance branches share."""
    part = Range(scale=0.1, zero=3)
    inside = AttentionRange(q=part, k=part, v=part, probabilities=part)
    shared = Sharing(mode="map", attentions={"blocks.1.attn": windows(1)})
    more = {"attention": {"blocks.0.attn": inside}, "sharing": shared}
    for key in ("torchao", "comfyui", "ggufy"):
        out = tmp_path / f"{key}{load_export(key).CARD.suffix}"
        if load_export(key).CARD.writes == "folder":
            out.mkdir()
        with opened({"a": one_layer(6, 16, INT8, (INT8,))}) as checkpoint:
            config = checkpoint.config.model_copy(update=more)
            made = load_export(key).write(replace(checkpoint, config=config), out)
        lost = {loss.site: loss.lost for loss in made.lossy}
        assert lost["blocks.0.attn"] == "static integers for q, k, v, probabilities"
        assert lost["blocks.1.attn"] == "map shared between the guidance branches"


# -- transforms undone


@pytest.mark.parametrize(
    ("method", "options"),
    [("viditq", {"transform": "both", "alpha": 0.4}), ("quarot", {}), ("svdquant", {})],
)
def test_an_ordinary_linear_of_the_plain_weight_has_the_layers_function(
    model, seen, method, options
):
    made = quantize(model, method, uniform_plan(model, parse_bits("w4a16")), options, seen)
    found = {n: m for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)}
    assert any(layer.transform.changes_input for layer in found.values())
    for name, layer in found.items():
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(2))
        bias = layer.bias.float() if "bias" in layer._buffers else None
        ours, plain = layer(x), F.linear(x, plain_weight(layer), bias)
        assert torch.linalg.norm(ours - plain) < 1e-4 * torch.linalg.norm(ours), name


@pytest.mark.parametrize("transform", ["per window", "requantized"])
def test_windows_with_codes_of_their_own_become_one_weight(transform):
    parts = [one_layer(6, 16, INT4, (None,), seed) for seed in (1, 2)]
    two = layer_over_windows(parts, one_layer(6, 16, INT4, (None, None)).plan, windows(2))
    if transform == "per window":
        mean = (parts[0].dequantized_weight() + parts[1].dequantized_weight()) / 2
        assert torch.allclose(plain_weight(two), mean)
        return
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(3))
    requantized = layer_of_codes(
        weight,
        None,
        plan=two.plan,
        windows=two.windows,
        channel_scale=None,
        signs=None,
        dtype=torch.float32,
    )
    assert requantized.transform.requantized
    assert torch.equal(plain_weight(requantized), weight)


# -- the step policy

STEPS = 10


def policy_of(patterns: dict[str, str], formats: dict[str, Format] | None = None) -> dict[str, Any]:
    """The policy of sites whose windows are a16 ("a") or native ("n"), one window for each step."""
    sampler = Sampler(
        scheduler="DDIMScheduler",
        config={"num_train_timesteps": 100 * STEPS},
        steps=STEPS,
        guidance=1,
    )
    assert [t // 100 for t in timesteps_of(sampler)] == list(range(STEPS - 1, -1, -1))
    made = {
        name: one_layer(
            4,
            8,
            INT8,
            tuple(None if c == "a" else (formats or {}).get(c, INT8) for c in pattern),
        )
        for name, pattern in patterns.items()
    }
    with TemporaryDirectory() as folder, opened(made, sampler=sampler) as checkpoint:
        out = Path(folder) / "policy.json"
        load_export("step-policy").write(checkpoint, out)
        return json.loads(out.read_text())["quantization_config"]["runtime"][
            "diffusion_step_policy"
        ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=STEPS, max_size=STEPS))
def test_diffusers_reads_the_pattern_that_the_windows_have_or_it_is_refused(
    a16: list[bool],
) -> None:
    pattern = "".join("a" if kept else "n" for kept in a16)
    if "na" in pattern.lstrip("a").rstrip("a"):
        with pytest.raises(BadInput, match=r"lie between others at 2 sites: x, y"):
            policy_of({"x": pattern, "y": pattern})
        return
    parsed = parse_diffusion_step_policy(policy_of({"x": pattern, "y": pattern}))
    first, last = parsed.first_steps, parsed.last_steps
    if pattern == "a" * STEPS:  # never rounded: native everywhere is the same
        assert first + last == 0
        return
    assert [i < first or i >= STEPS - last for i in range(STEPS)] == a16


def test_sites_that_are_never_rounded_have_no_say() -> None:
    policy = policy_of({"x": "aa" + "n" * 8, "y": "a" * STEPS})
    assert (policy["first_steps"]["count"], policy["last_steps"]["count"]) == (2, 0)


def test_what_the_policy_cannot_say_is_refused_with_its_sites() -> None:
    one, other = "a" + "n" * 9, "n" * 9 + "a"
    with pytest.raises(BadInput, match=r"other windows .* at 1 site: z"):
        policy_of({"x": one, "y": one, "z": other})
    with pytest.raises(BadInput, match=r"several formats at 1 site: y; export to dqviz"):
        policy_of({"x": one, "y": "a4" + "n" * 8}, {"4": INT4})


def test_steps_without_a_sampler_are_asked_for() -> None:
    layer = one_layer(4, 8, INT8, (None, INT8))
    with opened({"x": layer}) as checkpoint, pytest.raises(BadInput, match="give the sampler"):
        load_export("step-policy").write(checkpoint, checkpoint.folder / "policy.json")
