"""A transformer class without an adapter: its layers are found, and what needs more is said in one line."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from torch import nn

from dqviz.cli import main
from quant.adapters import adapter_for, adapters
from quant.adapters.generic import OUTSIDE_KEPT, Generic
from quant.calibration import calibrate
from quant.cards import methods
from quant.checkpoint import save_checkpoint
from quant.errors import BadInput
from quant.generation import generate
from quant.loading import load_model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from quant.sizes import known_shapes, load_shape
from tests import aura


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole pipeline of it, without a card."""
    return aura.pipeline(tmp_path_factory.mktemp("aura"))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder), device="cpu")


# --- sites


@pytest.mark.parametrize("shape", sorted(known_shapes()))
def test_it_finds_the_blocks_that_the_adapters_name(shape):
    transformer, adapter = load_shape(shape)
    generic = Generic(transformer)
    assert generic.blocks(transformer) == adapter.blocks(transformer)
    named = {site.name for site in adapter.sites(transformer) if site.kept_reason is None}
    assert named <= {s.name for s in generic.sites(transformer) if s.kept_reason is None}


def test_every_linear_once_and_what_is_outside_the_blocks_is_kept(model):
    linears = [n for n, m in model.transformer.named_modules() if isinstance(m, nn.Linear)]
    assert [site.name for site in model.sites] == linears
    assert {site.block for site in model.sites} == {None, 0, 1, 2}
    for site in model.sites:
        assert (site.role, site.group, site.input_of) == ("unknown", "none", site.name)
        assert site.kept_reason == (OUTSIDE_KEPT if site.block is None else None)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("HunyuanVideoTransformer3DModel", {"transformer_blocks": 20, "single_transformer_blocks": 40}),
        ("LTXVideoTransformer3DModel", {"transformer_blocks": 28}),
        ("QwenImageTransformer2DModel", {"transformer_blocks": 60}),
    ],
)  # fmt: skip
def test_lists_inside_an_embedder_are_the_embedders(name, blocks):
    """HunyuanVideo refines its text in two blocks of their own."""
    with torch.device("meta"):
        transformer = getattr(diffusers, name)()
    found = [block.rpartition(".")[0] for block in adapter_for(transformer).blocks(transformer)]
    assert {name: found.count(name) for name in found} == blocks


class Nested(nn.Module):
    """Blocks one level down, beside a list that is none."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body = inner
        self.mixed = nn.ModuleList([nn.Linear(2, 2), nn.Dropout()])
        self.projections = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(3))


def test_blocks_may_lie_deeper_and_a_list_of_single_layers_is_none():
    pair = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    nested = Nested(nn.ModuleDict({"layers": pair}))
    assert Generic(nested).blocks(nested) == ["body.layers.0", "body.layers.1"]
    with pytest.raises(BadInput, match=r"Nested has no adapter, and no list of blocks"):
        Generic(Nested(nn.Linear(2, 2)))


def test_classes_with_an_adapter_keep_it_and_the_generic_one_is_not_listed():
    shapes = [json.loads(path.read_text(encoding="utf-8")) for path in known_shapes().values()]
    assert adapters().keys() == {shape["_class_name"] for shape in shapes}
    assert not any(isinstance(adapter, Generic) for adapter in adapters().values())


# --- what it is good for


@pytest.mark.parametrize("method", ["rtn", "quarot"])
def test_methods_without_a_calibration_quantize_it(model, method, tmp_path):
    exact = aura.call(model.transformer)
    errors = []
    for bits in ("w8a8", "w4a4"):
        made = quantize(model, method, uniform_plan(model, parse_bits(bits)))
        found = aura.call(made.transformer)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert 0 < errors[0] < errors[1] < 1
    save_checkpoint(made, model, tmp_path / "out")
    opened = diffusers.AuraFlowTransformer2DModel.from_pretrained(tmp_path / "out")
    assert torch.equal(aura.call(opened), found)


def test_drawing_and_calibrating_are_refused_in_one_line(model):
    sampler = model.sampler(steps=2)
    said = "AuraFlowTransformer2DModel has no adapter, so how its pipeline draws is not known"
    with pytest.raises(BadInput, match=said):
        generate(model, model.samples([3]), sampler)
    with pytest.raises(BadInput, match=said):
        calibrate(model, model.samples([3]), sampler)
    with pytest.raises(BadInput, match=said):
        model.sampler(size=(16, 16))


@pytest.mark.parametrize("method", [card.key for card in methods().values() if card.roles])
def test_methods_that_need_roles_say_so(model, method):
    said = f"{method} tells layers apart by their roles, which are not known: AuraFlow.* has no adapter"
    with pytest.raises(BadInput, match=said):
        quantize(model, method, uniform_plan(model, parse_bits("w4a8")))


def test_on_the_command_line(folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["quantize", str(folder), "--method", "rtn", "--bits", "w4a8", "--out", out]) == 0
    capsys.readouterr()
    other = [*("--method", "viditq", "--bits", "w4a8"), "--out", str(tmp_path / "other")]
    assert main(["quantize", str(folder), *other]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "viditq calibrates or learns on what it draws, and how to draw is not known" in said
    assert not (tmp_path / "other").exists()


def test_a_pipeline_without_a_transformer_is_bad_input(tmp_path):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="its pipeline has no transformer"):
        load_model(str(tmp_path))
