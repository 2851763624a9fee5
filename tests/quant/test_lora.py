"""LoRAs fused into the weights: equal to the dense sum, in every naming; what fits nothing is one error."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from quant.errors import BadCheckpoint, BadInput
from quant.generation import generate
from quant.loading import load_model
from quant.schema import Lora, Recipe, Sampler
from quant.sources import parse_lora

RANK = 3
LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.net.2", "proj_out")


@pytest.fixture(scope="module")
def plain(pipelines):
    return load_model(str(pipelines["pixart-sigma"]), device="cpu")


def factors(transformer, layers=LAYERS, seed=3):
    """Random A [r, i] and B [o, r] of some layers."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in layers:
        o, i = transformer.get_submodule(name).weight.shape
        a, b = (torch.randn(*s, generator=generator) for s in ((RANK, i), (o, RANK)))
        found[name] = a, b
    return found


PEFT = ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight")
NAMINGS = {
    "peft": PEFT,
    "peft with an adapter's name": (
        "base_model.model.{}.lora_A.default.weight",
        "base_model.model.{}.lora_B.default.weight",
    ),
    "early diffusers": ("{}.lora.down.weight", "{}.lora.up.weight"),
    "kohya": ("lora_unet_{_}.lora_down.weight", "lora_unet_{_}.lora_up.weight"),
}


def write(file, pairs, naming="peft", alpha=None, metadata=None, more=None):
    down, up = (n.replace("{_}", "{1}").replace("{}", "{0}") for n in NAMINGS[naming])
    tensors = dict(more or {})
    for name, (a, b) in pairs.items():
        names = name, name.replace(".", "_")
        tensors[down.format(*names)], tensors[up.format(*names)] = a, b
        if alpha is not None:
            start = down.format(*names).partition(".lora")[0]
            tensors[f"{start}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, file, metadata=metadata)
    return file


def dense(plain, pairs, factor):
    """The state of the transformer with the whole products added, in double precision."""
    state = dict(plain.transformer.state_dict())
    for name, (a, b) in pairs.items():
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = (weight.double() + factor * b.double() @ a.double()).float()
    return state


def check(model, wanted):
    found = model.transformer.state_dict()
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("naming", NAMINGS)
def test_the_weights_are_the_dense_sum(plain, tmp_path, naming):
    pairs = factors(plain.transformer)
    file = write(tmp_path / "style.safetensors", pairs, naming, alpha=2)
    model = load_model(str(plain.path), loras=[f"{file}:0.5"], device="cpu")
    check(model, dense(plain, pairs, 0.5 * 2 / RANK))
    assert model.card.title == "Tiny random pixart-sigma, with LoRA style x0.5"
    (said,) = model.loras
    assert (said.file, said.scale) == (str(file), 0.5)
    assert len(str(said.digest)) == 16


def test_alpha_from_the_metadata_and_none_at_all(plain, tmp_path):
    pairs = factors(plain.transformer)
    described = {"transformer.r": RANK, "transformer.lora_alpha": 6}
    for number, (metadata, factor) in enumerate(
        (
            (None, 1.0),
            (described, 2.0),
            ({**described, "transformer.use_rslora": True}, 6 / RANK**0.5),
        )
    ):
        file = tmp_path / f"{number}.safetensors"
        kept = None if metadata is None else {"lora_adapter_metadata": json.dumps(metadata)}
        write(file, pairs, metadata=kept)
        model = load_model(str(plain.path), loras=[str(file)], device="cpu")
        check(model, dense(plain, pairs, factor))


def test_several_add_up_and_draw_another_picture(plain, tmp_path):
    first, second = (factors(plain.transformer, seed=s) for s in (1, 2))
    files = [write(tmp_path / f"{i}.safetensors", p) for i, p in enumerate((first, second))]
    model = load_model(str(plain.path), loras=[f"{files[0]}:0.2", Lora(file=str(files[1]), scale=-0.1)], device="cpu")  # fmt: skip
    state = dense(plain, first, 0.2)
    for name, (a, b) in second.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] - 0.1 * b @ a
    check(model, state)
    samples, sampler = plain.samples([0]), plain.sampler()
    pictures = [generate(m, samples, sampler).images for m in (plain, model)]
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3
    nothing = load_model(str(plain.path), loras=[f"{files[0]}:0"], device="cpu")
    assert torch.equal(generate(nothing, samples, sampler).images, pictures[0])


def test_tensors_of_a_text_encoder_are_passed_over_and_said(plain, tmp_path):
    pairs = factors(plain.transformer)
    more = {"text_encoder.layer.0.q.lora_A.weight": torch.zeros(2, 2)}
    file = write(tmp_path / "style.safetensors", pairs, more=more)
    model = load_model(str(plain.path), loras=[str(file)], device="cpu")
    check(model, dense(plain, pairs, 1.0))
    assert model.notes == (
        "LoRA style.safetensors: 1 tensors of a text encoder are not used, only the transformer is changed",
    )


def test_fused_layers_of_flux_in_kohyas_naming(pipelines, tmp_path):
    """One pair for q, k and v together: diffusers' own translation takes it apart."""
    base = load_model(str(pipelines["flux"]), device="cpu")
    width = base.transformer.get_submodule("transformer_blocks.0.attn.to_q").in_features
    a, b = torch.randn(RANK, width), torch.randn(3 * width, RANK)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
    file = tmp_path / "kohya.safetensors"
    save_file({**tensors, f"{name}.alpha": torch.tensor(1.5)}, file)
    model = load_model(str(base.path), loras=[str(file)], device="cpu")
    for part, rows in zip("qkv", (1.5 / RANK * b @ a).chunk(3), strict=True):
        layer = f"transformer_blocks.0.attn.to_{part}.weight"
        before, after = (m.transformer.get_parameter(layer) for m in (base, model))
        torch.testing.assert_close(after - before, rows, rtol=1e-3, atol=1e-4)


def odd_names(pairs):
    return {f"unet.{name}": pair for name, pair in pairs.items()}


def odd_shapes(pairs):
    return {name: (a[:, :-1].contiguous(), b) for name, (a, b) in pairs.items()}


def not_finite(pairs):
    return {name: (a * float("nan"), b) for name, (a, b) in pairs.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (odd_names, r"6 of 6 tensors fit no linear layer of this transformer, first 'transformer\.unet"),
        (odd_shapes, r"factors \[32, 3\] and \[3, 95\] of layer proj_out do not make its \[32, 96\]"),
        (not_finite, r"layer .* holds NaN or infinity"),
        (lambda pairs: {}, "there is no low-rank change"),
    ],
)  # fmt: skip
def test_what_fits_nothing_is_one_error(plain, tmp_path, spoil, message):
    file = write(tmp_path / "odd.safetensors", spoil(factors(plain.transformer)))
    with pytest.raises(BadInput, match=message) as fault:
        load_model(str(plain.path), loras=[str(file)])
    assert "\n" not in str(fault.value)
    assert "odd.safetensors" in str(fault.value)


def test_halves_dora_and_pickles_are_refused(plain, tmp_path):
    pairs = factors(plain.transformer)
    name = LAYERS[0]
    half = tmp_path / "half.safetensors"
    save_file({f"{name}.lora_A.weight": pairs[name][0]}, half)
    with pytest.raises(BadInput, match="one of its two factors"):
        load_model(str(plain.path), loras=[str(half)])
    more = {f"transformer.{name}.lora_magnitude_vector": torch.ones(96)}
    dora = write(tmp_path / "dora.safetensors", pairs, more=more)
    with pytest.raises(
        BadInput, match=r"1 of 7 tensors fit no linear layer.*lora_magnitude_vector"
    ):
        load_model(str(plain.path), loras=[str(dora)])
    (tmp_path / "style.pt").write_bytes(b"\x80\x04")
    with pytest.raises(BadInput, match="pickled weights are not"):
        load_model(str(plain.path), loras=[str(tmp_path / "style.pt")])
    dora.write_bytes(dora.read_bytes()[:-3])
    with pytest.raises(BadCheckpoint, match="truncated"):
        load_model(str(plain.path), loras=[str(dora)])


def test_names_with_scales():
    assert parse_lora("style.safetensors") == Lora(file="style.safetensors")
    assert parse_lora("style.safetensors:-0.25") == Lora(file="style.safetensors", scale=-0.25)
    assert parse_lora("C:style.safetensors") == Lora(file="C:style.safetensors")
    assert str(parse_lora("a.safetensors:0.50")) == "a.safetensors:0.5"


def test_recipes_say_what_was_fused_and_old_ones_keep_their_fingerprint():
    sampler = Sampler(scheduler="DDIMScheduler", steps=2, guidance=1)
    plain = Recipe(model="m", method="rtn", sampler=sampler, samples=())
    assert not {"revision", "base", "loras"} & set(plain.to_json())
    assert plain.fingerprint == "77aa26f4cfba9227"
    fused = plain.model_copy(update={"loras": (Lora(file="a", digest="0" * 16),)})
    assert fused.fingerprint != plain.fingerprint
    assert Recipe.parse(fused.to_json(), "recipe") == fused
