"""V12 of the specification: what is saved is what loads, to the bit, in plain diffusers; damage is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import quant
from quant.checkpoint import CONFIG, WEIGHTS, check_checkpoint, save_checkpoint
from quant.errors import BadCheckpoint, BadInput
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from quant.sizes import predict_size, size_of
from quant.storage import stored_tensors

CASES = [
    ("rtn", "w8a8"),
    ("rtn", "w6a6"),
    ("rtn", "w4a16"),
    ("rtn", "fp8"),
    ("viditq", "w4a8"),
    ("viditq", "w3a8"),
]
FULL_STACK = {"transform": "both", "alpha": 0.4}


def saved(model, seen, out: Path, method="viditq", bits="w4a8", windows=1, pipeline=False):
    options = FULL_STACK if method == "viditq" else {}
    plan = uniform_plan(model, parse_bits(bits), windows=windows)
    if windows == 2:
        second = {
            name: site.model_copy(
                update={
                    "activations": (
                        site.activations[0],
                        site.activations[1].model_copy(update={"bits": 4}),
                    )
                }
            )
            for name, site in plan.sites.items()
        }
        plan = plan.model_copy(update={"sites": second})
    made = quantize(model, method, plan, options, seen)
    return made, save_checkpoint(made, model, out, pipeline=pipeline)


def latents_of(transformer, timestep=999):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return transformer(
            x, timestep=torch.tensor([timestep] * 2), class_labels=torch.tensor([0, 1000])
        ).sample


def load(folder, **options):
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_v12_loading_gives_the_same_bits_and_sizes_are_those_on_disk(
    model, seen, tmp_path, method, bits
):
    made, report = saved(model, seen, tmp_path / "c", method, bits)
    assert torch.equal(latents_of(load(tmp_path / "c")), latents_of(made.transformer))
    assert report.total_bytes == (tmp_path / "c" / WEIGHTS).stat().st_size
    layers = {
        n: m.transform for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)
    }
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)
    sites = made.plan.sites
    assert (
        predict_size(
            model.transformer, model.sites, sites, layers, dtype=model.source_dtype, shared=shared
        )
        == report
    )
    weights = sum(s.in_features * s.out_features for s in model.sites if not s.kept_reason)
    exact = sum(report.parts[k] for k in ("codes", "scales", "zeros", "transforms")) * 8 / weights
    assert report.bits_per_weight == exact
    assert exact > parse_bits(bits).weight


def test_v12_can_fail_signs_that_are_drawn_again(model, seen, tmp_path):
    """As in the released code, which does not save them: right in floating point, not the same bits."""
    made, _ = saved(model, seen, tmp_path / "c")
    loaded = load(tmp_path / "c")
    for layer in loaded.modules():
        if isinstance(layer, QuantLinear):
            layer.signs = layer.signs ^ 1  # one of the signs
    assert not torch.equal(latents_of(loaded), latents_of(made.transformer))


def test_size_command_predicts_the_file_from_the_model_alone(model, seen, tiny_dit, tmp_path):
    _, report = saved(model, seen, tmp_path / "c")
    assert size_of(str(tiny_dit), "viditq", parse_bits("w4a8"), options=FULL_STACK) == report


PROBE = """
import sys, torch, hashlib
import quant
from diffusers import {cls}
folder = sys.argv[1]
pipe = {load}
pipe.set_progress_bar_config(disable=True)
generators = [torch.Generator().manual_seed(s) for s in (0, 1)]
images = pipe([0, 2], generator=generators, num_inference_steps=4, guidance_scale=3.0, output_type="np").images
print(hashlib.sha256(images.tobytes()).hexdigest())
"""


def draw_in_a_new_process(folder: Path, tiny_dit: Path, whole: bool) -> str:
    load = (
        "DiTPipeline.from_pretrained(folder, local_files_only=True)"
        if whole
        else f"DiTPipeline.from_pretrained({str(tiny_dit)!r}, transformer=DiTTransformer2DModel.from_pretrained(folder))"
    )
    code = PROBE.format(cls="DiTPipeline, DiTTransformer2DModel", load=load)
    root = Path(quant.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
    )
    return run.stdout.strip().splitlines()[-1]


def test_new_processes_with_two_windows_draw_the_same_pictures_twice(
    model, seen, tiny_dit, tmp_path
):
    """Nothing but `import quant` and diffusers; transformer folder and whole pipeline alike."""
    saved(model, seen, tmp_path / "c", windows=2)
    saved(model, seen, tmp_path / "p", windows=2, pipeline=True)
    first = draw_in_a_new_process(tmp_path / "c", tiny_dit, whole=False)
    assert draw_in_a_new_process(tmp_path / "p", tiny_dit, whole=True) == first


def test_two_activation_windows_survive_the_round_trip(model, seen, tmp_path):
    made, _ = saved(model, seen, tmp_path / "c", windows=2)
    loaded = load(tmp_path / "c")
    for timestep in (999, 0):
        assert torch.equal(latents_of(loaded, timestep), latents_of(made.transformer, timestep))
    one, _ = saved(model, seen, tmp_path / "d", windows=1)
    assert torch.equal(latents_of(loaded, 999), latents_of(one.transformer, 999))
    assert not torch.equal(latents_of(loaded, 0), latents_of(one.transformer, 0))


def test_half_precision_keeps_integers_and_scales(model, seen, tmp_path):
    made, _ = saved(model, seen, tmp_path / "c")
    loaded = load(tmp_path / "c", dtype=torch.float16)
    name = made.scope.quantized[0]
    layer, source = loaded.get_submodule(name), made.transformer.get_submodule(name)
    assert torch.equal(layer.codes, source.codes)
    assert torch.equal(layer.scale, source.scale)
    assert loaded.proj_out_1.weight.dtype == torch.float16


def test_equal_embedders_are_stored_once(model, seen, tmp_path):
    """Converted DiT checkpoints hold the same embedder in every block."""
    import copy

    twin = copy.copy(model)
    twin.pipe = copy.copy(model.pipe)
    twin.pipe.transformer = copy.deepcopy(model.transformer)
    blocks = twin.pipe.transformer.transformer_blocks
    blocks[1].norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    made, report = saved(twin, seen, tmp_path / "c")
    config = json.loads((tmp_path / "c" / CONFIG).read_text())["quantization_config"]
    assert sum(".emb." in name for name in config["shared"]) == 5
    assert report.total_bytes < saved(model, seen, tmp_path / "d")[1].total_bytes - 1000 * 64 * 2
    assert torch.equal(latents_of(load(tmp_path / "c")), latents_of(made.transformer))


def test_nothing_is_written_over(model, seen, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        saved(model, seen, tmp_path / "c")
    assert [p.name for p in tmp_path.rglob("*")] == ["c", "thesis.txt"]


def test_no_path_of_this_machine_is_saved(model, seen, tiny_dit, tmp_path):
    saved(model, seen, tmp_path / "c", pipeline=True)
    for file in (tmp_path / "c").rglob("*.json"):
        assert str(tiny_dit.parent) not in file.read_text()


def flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def edit(change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def unknown_site(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    plan = config["quantization_config"]["plan"]["sites"]
    plan["transformer_blocks.7.ff.net.2"] = plan["transformer_blocks.0.ff.net.2"]
    (folder / CONFIG).write_text(json.dumps(config))


DAMAGE = {
    "a flipped byte": (flip, "was changed after saving"),
    "a truncated file": (truncate, "truncated|Unable to load"),
    "a missing tensor": (
        edit(lambda t: t.pop("transformer_blocks.0.ff.net.2.scale")),
        "is missing",
    ),
    "an extra tensor": (edit(lambda t: t.update(stowaway=torch.zeros(2))), "does not belong"),
    "an unknown site": (unknown_site, "does not have|transformer_blocks.7"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_error(model, seen, tmp_path, damage):
    saved(model, seen, tmp_path / "c")
    harm, message = DAMAGE[damage]
    harm(tmp_path / "c")
    if damage != "an unknown site":
        with pytest.raises(BadCheckpoint, match=message) as caught:
            check_checkpoint(tmp_path / "c")
        assert "\n" not in str(caught.value)
    with pytest.raises((BadCheckpoint, OSError), match=message):
        load(tmp_path / "c")


def test_a_newer_format_is_refused(model, seen, tmp_path):
    saved(model, seen, tmp_path / "c")
    config = json.loads((tmp_path / "c" / CONFIG).read_text())
    config["quantization_config"]["format"] = 99
    (tmp_path / "c" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="format 99"):
        check_checkpoint(tmp_path / "c")


def test_checkpoints_from_before_static_formats_and_branches_still_load(model, seen, tmp_path):
    """Their formats say nothing of `static`, their transforms nothing of `rank`."""
    made, _ = saved(model, seen, tmp_path / "c", windows=2)
    file = tmp_path / "c" / CONFIG
    config = json.loads(file.read_text())
    ours = config["quantization_config"]
    for site in ours["plan"]["sites"].values():
        for fmt in (site["weight"], *site["activations"]):
            del fmt["static"]
    assert all(set(t) <= {"scale", "rotate", "folded_into"} for t in ours["transforms"].values())
    file.write_text(json.dumps(config))
    assert torch.equal(latents_of(load(tmp_path / "c"), 0), latents_of(made.transformer, 0))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"twist": True}, "part 'twist' of a site is not known here"),
        ({"codebook": "fp8"}, "'codebook' cannot be 'fp8'"),
        ({"rank": -1}, "'rank' cannot be -1"),
        ({"rotate": 1}, "'rotate' cannot be 1"),
        ({"folded_into": "to_q"}, "'folded_into' cannot be 'to_q'"),
    ],
)
def test_a_part_that_this_version_cannot_read_is_named(part, said, model, seen, tmp_path):
    """What is passed over would be left out of every product."""
    saved(model, seen, tmp_path / "c")
    file = tmp_path / "c" / CONFIG
    config = json.loads(file.read_text())
    transforms = config["quantization_config"]["transforms"]
    site = min(transforms)
    transforms[site] |= part
    file.write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match=said) as refused:
        check_checkpoint(tmp_path / "c")
    assert f"transforms.{site}" in str(refused.value)


def test_weights_are_as_readable_as_their_config(model, seen, tmp_path):
    """safetensors writes files that only their owner may read."""
    saved(model, seen, tmp_path / "c")
    modes = {(tmp_path / "c" / name).stat().st_mode & 0o777 for name in (WEIGHTS, CONFIG)}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("method", "options", "parts"),
    [
        ("viditq", FULL_STACK, ("channel_scale", "signs")),
        ("trdq", {"alpha": 0.3, "windows": 2}, ("channel_scale", "rotations", "order")),
    ],
)
def test_sites_that_read_one_tensor_store_one_change_of_basis(
    method, options, parts, model, seen, tmp_path
):
    made = quantize(model, method, uniform_plan(model, parse_bits("w4a8")), options, seen)
    report = save_checkpoint(made, model, tmp_path / "c")
    attention = "transformer_blocks.0.attn1"
    stored = load_file(tmp_path / "c" / WEIGHTS)
    shared = check_checkpoint(tmp_path / "c").shared
    for part in parts:
        assert f"{attention}.to_q.{part}" in stored
        for site in ("to_k", "to_v"):
            assert f"{attention}.{site}.{part}" not in stored
            assert shared[f"{attention}.{site}.{part}"] == f"{attention}.to_q.{part}"
    assert report == size_of(str(model.path), method, parse_bits("w4a8"), options=options)
    loaded = load(tmp_path / "c")
    assert torch.equal(latents_of(loaded), latents_of(made.transformer))
    for transformer in (made.transformer, loaded):
        q, k = (transformer.get_submodule(f"{attention}.{name}") for name in ("to_q", "to_k"))
        assert all(k.get_buffer(p).data_ptr() == q.get_buffer(p).data_ptr() for p in parts)

    load(tmp_path / "c", dtype=torch.float16).save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / WEIGHTS).keys() == stored.keys()
    assert torch.equal(latents_of(load(tmp_path / "again")), latents_of(made.transformer))


def test_a_copy_at_every_site_as_older_checkpoints_have_it_still_loads(model, seen, tmp_path):
    made, report = saved(model, seen, tmp_path / "c")
    expected = latents_of(made.transformer)
    layers = {n: m for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)}
    for layer in layers.values():
        layer._non_persistent_buffers_set.clear()
        layer.basis_of = ""
        for name in layer.basis_buffers:
            setattr(layer, name, layer.get_buffer(name).clone())
    apart = save_checkpoint(made, model, tmp_path / "apart")
    assert apart.parts["transforms"] > report.parts["transforms"]
    assert not check_checkpoint(tmp_path / "apart").shared
    assert torch.equal(latents_of(load(tmp_path / "apart")), expected)
