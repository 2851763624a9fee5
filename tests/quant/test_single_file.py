"""A transformer in one file, in diffusers' naming and in its authors', put into the pipeline it came from."""

from __future__ import annotations

import json
import re
import shutil

import diffusers
import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file

from quant.errors import BadCheckpoint, BadInput
from quant.generation import generate
from quant.loading import load_model
from quant.single_file import conversion

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def tuned(folder, seed=7):
    """Tensors of a fine-tune: the folder's, moved a little."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / WEIGHTS)
    return {
        name: t + 0.05 * torch.randn(t.shape, generator=generator).to(t.dtype)
        for name, t in tensors.items()
    }


def written(tensors, file):
    save_file({name: t.contiguous() for name, t in tensors.items()}, file)
    return str(file)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "transformer."])
def test_a_fine_tune_of_flux_draws_what_its_folder_would(pipelines, tmp_path, prefix):
    base = pipelines["flux"]
    tensors = tuned(base)
    file = written({prefix + n: t for n, t in tensors.items()}, tmp_path / "My-Tune.safetensors")
    model = load_model(file, base=str(base), device="cpu")
    assert (model.key, model.card.title, model.base) == ("my-tune", "My-Tune", str(base))
    assert (model.card.licence, model.card.steps) == (
        "unknown",
        2,
    )  # the sampler's part is the base's
    assert model.weights == tmp_path / "My-Tune.safetensors"
    assert model.pipeline_ref == base.name

    folder = shutil.copytree(base, tmp_path / "whole")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    whole = load_model(str(folder), device="cpu")
    samples, sampler = whole.samples([0]), whole.sampler()
    drawn = [generate(m, samples, sampler).images for m in (model, whole)]
    # Products depend in the last bit on where a tensor lies in its mapped file.
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)
    other = generate(load_model(str(base), device="cpu"), samples, sampler).images
    assert (drawn[0] - other).abs().max() > 1e-2


def test_the_dtype_of_the_file_counts(pipelines, tmp_path):
    base = pipelines["flux"]
    half = {n: t.to(torch.bfloat16) for n, t in tuned(base).items()}
    file = written(half, tmp_path / "half.safetensors")
    model = load_model(file, base=str(base), device="cpu")
    assert (model.source_dtype, model.dtype) == (torch.bfloat16, torch.float32)
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}
    loaded = load_model(file, base=str(base), device="cpu", dtype="bfloat16")
    assert {p.dtype for p in loaded.transformer.parameters()} == {torch.bfloat16}


def test_what_does_not_fit_is_one_error(pipelines, tmp_path):
    base = pipelines["pixart-sigma"]
    tensors = tuned(base)
    tensors["visitor"] = torch.zeros(3)
    gone = "transformer_blocks.0.attn1.to_q.weight"
    del tensors[gone]
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:-1]
    file = written(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(BadCheckpoint) as fault:
        load_model(file, base=str(base))
    said = str(fault.value)
    assert "\n" not in said
    assert re.search(rf"1 tensor missing, first '{gone}'; 1 tensor too much, first 'visitor'", said)
    assert (
        "1 tensor of another shape, first 'proj_out.weight': [31, 96] instead of [32, 96]" in said
    )
    assert "is --base the pipeline that it was tuned from?" in said


def test_a_file_of_another_family_and_a_damaged_one(pipelines, tmp_path):
    file = written(tuned(pipelines["flux"]), tmp_path / "flux.safetensors")
    with pytest.raises(
        BadCheckpoint,
        match=r"does not fit the SD3Transformer2DModel of its base: 25 tensors missing",
    ):
        load_model(file, base=str(pipelines["sd3"]))
    strange = written({"joint_blocks.0.a": torch.zeros(2)}, tmp_path / "strange.safetensors")
    with pytest.raises(BadCheckpoint, match="neither in diffusers' naming of a SD3Transformer2D"):
        load_model(strange, base=str(pipelines["sd3"]))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "flux.safetensors").read_bytes()[:-9])
    with pytest.raises(BadCheckpoint, match=r"cut\.safetensors: truncated"):
        load_model(str(cut), base=str(pipelines["flux"]))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, r"a single file holds a transformer alone.*--base MODEL"),
        ("file", r"--base .* is a single file too; name a whole pipeline"),
        ("nowhere", "unknown model 'nowhere'"),
    ],
)
def test_a_file_needs_its_pipeline(pipelines, tmp_path, base, message):
    file = written({"a": torch.zeros(2)}, tmp_path / "file.safetensors")
    with pytest.raises(BadInput, match=message):
        load_model(file, base=file if base == "file" else base)


def test_a_base_without_its_own_weights_is_enough(pipelines, tmp_path):
    base = shutil.copytree(pipelines["pixart-sigma"], tmp_path / "base")
    file = written(tuned(base), tmp_path / "tune.safetensors")
    (base / WEIGHTS).unlink()
    assert load_model(file, base=str(base), device="cpu").key == "tune"


def original_sd3(ours):
    """Tensors of a diffusers SD 3 in the naming of its authors."""
    made = {
        "pos_embed": ours["pos_embed.pos_embed"],
        **_layer("x_embedder.proj", "pos_embed.proj", ours),
        **_layer("context_embedder", "context_embedder", ours),
        **_layer("final_layer.linear", "proj_out", ours),
        **_layer("final_layer.adaLN_modulation.1", "norm_out.linear", ours, swapped=True),
    }
    for theirs, part in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        for i, linear in ((0, "linear_1"), (2, "linear_2")):
            made |= _layer(f"{theirs}.mlp.{i}", f"time_text_embed.{part}.{linear}", ours)
    for block in range(2):
        last = block == 1
        source = f"transformer_blocks.{block}"
        for side, q, k, v, out, norm, ff in (
            ("x_block", "to_q", "to_k", "to_v", "to_out.0", "norm1", "ff"),
            ("context_block", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm1_context", "ff_context"),
        ):  # fmt: skip
            target = f"joint_blocks.{block}.{side}"
            for end in ("weight", "bias"):
                parts = [ours[f"{source}.attn.{x}.{end}"] for x in (q, k, v)]
                made[f"{target}.attn.qkv.{end}"] = torch.cat(parts)
            ends = last and side == "context_block"  # the last block leaves the text alone
            made |= _layer(
                f"{target}.adaLN_modulation.1", f"{source}.{norm}.linear", ours, swapped=ends
            )
            if not ends:
                made |= _layer(f"{target}.attn.proj", f"{source}.attn.{out}", ours)
                made |= _layer(f"{target}.mlp.fc1", f"{source}.{ff}.net.0.proj", ours)
                made |= _layer(f"{target}.mlp.fc2", f"{source}.{ff}.net.2", ours)
    return made


def _layer(theirs, ours, tensors, swapped=False):
    found = {end: tensors[f"{ours}.{end}"] for end in ("weight", "bias")}
    if swapped:
        found = {end: torch.cat(t.chunk(2)[::-1]) for end, t in found.items()}
    return {f"{theirs}.{end}": t for end, t in found.items()}


def test_original_naming_goes_through_the_conversion_of_diffusers(pipelines, tmp_path):
    base = pipelines["sd3"]
    tensors = tuned(base)
    others = {"first_stage_model.decoder.conv.weight": torch.zeros(2)}
    prefixed = {f"model.diffusion_model.{n}": t for n, t in original_sd3(tensors).items()}
    for number, given in enumerate((original_sd3(tensors), prefixed | others)):
        file = written(given, tmp_path / f"{number}.safetensors")
        model = load_model(file, base=str(base), device="cpu")
        found = model.transformer.state_dict()
        assert set(found) == set(tensors)
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_original_naming_of_flux_at_its_real_width(tmp_path):
    """Names and shapes alone: the file is a header over a hole of 0.7 GB that no disk stores."""
    config = {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    with init_empty_weights():
        transformer = diffusers.FluxTransformer2DModel(**config)
    d = 3072
    shapes = {"img_in": (64, d), "txt_in": (4096, d), "final_layer.linear": (d, 64)}
    shapes |= {"final_layer.adaLN_modulation.1": (d, 2 * d)}
    for name, width in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        shapes |= {f"{name}.in_layer": (width, d), f"{name}.out_layer": (d, d)}
    for side in ("img", "txt"):
        start = f"double_blocks.0.{side}"
        shapes |= {f"{start}_mod.lin": (d, 6 * d), f"{start}_attn.qkv": (d, 3 * d)}
        shapes |= {f"{start}_attn.proj": (d, d), f"{start}_mlp.0": (d, 4 * d), f"{start}_mlp.2": (4 * d, d)}  # fmt: skip
    shapes |= {"single_blocks.0.linear1": (d, 7 * d), "single_blocks.0.linear2": (5 * d, d)}
    shapes |= {"single_blocks.0.modulation.lin": (d, 3 * d)}
    header, end = {}, 0
    for name, (i, o) in shapes.items():
        for key, shape in ((f"{name}.weight", [o, i]), (f"{name}.bias", [o])):
            header[key], end = _place(shape, end)
    for norm in ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0"):
        for part in ("query", "key"):
            header[f"{norm}.norm.{part}_norm.scale"], end = _place([128], end)
    text = json.dumps(header).encode()
    file = tmp_path / "flux1.safetensors"
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    assert file.stat().st_blocks * 512 < 10**6
    conversion(file, "FluxTransformer2DModel", dict(transformer.config), transformer)


def _place(shape, start):
    end = start + 2 * torch.Size(shape).numel()
    return {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}, end
