"""ViDiT-Q-MP: the average is kept, groups are decoupled, layers that round badly take more; a given plan stays."""

from __future__ import annotations

import pytest

from quant.allocation import Choice, Item, Key
from quant.calibration import CalibrationOptions, calibrate
from quant.checkpoint import save_checkpoint
from quant.errors import BadInput
from quant.loading import load_model
from quant.method_options import parse_options
from quant.methods import viditq_mp
from quant.plans import uniform_plan, windows_for
from quant.quantization import check_options, quantize
from quant.schema import parse_bits
from quant.sizes import size_of

from .sensitivity_cases import sweep

KEY = "viditq-mp"


@pytest.fixture(scope="module")
def prompted(pipelines):
    """PixArt, which has a content group beside the visual one, with its statistics."""
    model = load_model(str(pipelines["pixart-sigma"]), device="cpu")
    sampler = model.sampler(steps=2)
    return model, calibrate(model, model.samples(range(2)), sampler, CalibrationOptions())


def spent(model, plan) -> dict[str, tuple[int, int]]:
    """Bits and numbers by metric group."""
    found: dict[str, tuple[int, int]] = {}
    for site in model.sites:
        planned = plan.sites.get(site.name)
        if planned is not None and planned.weight is not None:
            size = site.in_features * site.out_features
            bits, numbers = found.get(site.group, (0, 0))
            found[site.group] = bits + size * planned.weight.bits, numbers + size
    return found


@pytest.mark.parametrize("bits", ["w3a8", "w4a8", "w6a6"])
@pytest.mark.parametrize("k", [0.8, 1.0, 1.2])
def test_the_bits_asked_for_are_the_average_and_no_group_takes_those_of_another(
    bits: str, k: float, prompted
) -> None:
    model, seen = prompted
    asked = parse_bits(bits)
    made = quantize(model, KEY, uniform_plan(model, asked), {"k": k}, seen)
    found = spent(model, made.plan)
    assert {"content", "visual"} <= set(found)
    total, numbers = (sum(v[i] for v in found.values()) for i in (0, 1))
    assert total <= asked.weight * numbers
    content, others = found["content"], {g: v for g, v in found.items() if g != "content"}
    base = asked.weight * numbers / (k * content[1] + sum(n for _, n in others.values()))
    assert content[0] <= k * base * content[1] * (1 + 1e-9)
    for bits_of, size in others.values():
        assert bits_of <= base * size * (1 + 1e-9)
    assert {s.activations for s in made.plan.sites.values()} == {
        s.activations for s in uniform_plan(model, asked).sites.values()
    }


def items(**errors: float) -> list[Item]:
    """Layers of 100 numbers whose error falls fourfold with every bit."""
    return [
        Item(
            Key(name),
            tuple(Choice(b, 100 * e * 4.0**-b, {"bits": 100.0 * b}) for b in range(2, 9)),
        )
        for name, e in errors.items()
    ]


def test_layers_that_round_worse_take_bits_of_their_own_group_alone() -> None:
    made = viditq_mp.allocated(
        {"visual": items(a=1.0, b=64.0), "content": items(c=1000.0, d=1000.0)}, 4.0, 1.0
    )
    assert made["b"] > made["a"]
    assert made["a"] + made["b"] == 8
    assert (made["c"], made["d"]) == (4, 4), "however much worse content is"


def test_equal_layers_keep_equal_bits() -> None:
    assert set(viditq_mp.allocated({"none": items(a=1.0, b=1.0, c=1.0)}, 5.0, 1.0).values()) == {5}


def test_k_without_a_content_group_is_refused(model, seen) -> None:
    """It would change nothing."""
    with pytest.raises(BadInput, match=r"k=0\.8 shares bits between layers of content and others, .* only those of visual"):  # fmt: skip
        quantize(model, KEY, uniform_plan(model, parse_bits("w4a8")), {"k": 0.8}, seen)


def test_that_is_told_before_anything_is_calibrated(model) -> None:
    plan = uniform_plan(model, parse_bits("w4a8"))
    check_options(model, KEY, plan, {"k": 1.0}, ())
    with pytest.raises(BadInput, match="leave k away"):
        check_options(model, KEY, plan, {"k": 0.8}, ())


def test_a_plan_with_bits_of_its_own_is_taken_as_it_is(model, seen) -> None:
    plan = uniform_plan(model, parse_bits("w4a8"))
    name = "transformer_blocks.0.ff.net.2"
    sites = {**plan.sites, name: viditq_mp.with_bits(plan.sites[name], 7)}
    mixed = plan.model_copy(update={"sites": sites})
    made = quantize(model, KEY, mixed, {}, seen)
    assert {n: s.weight.bits for n, s in made.plan.sites.items()} == {
        n: s.weight.bits for n, s in mixed.sites.items()
    }


def test_presets_take_the_released_widths(model, seen, tmp_path) -> None:
    for preset, widths in (("iclr", {2, 4, 8}), ("preprint", {4, 6, 8})):
        plan = uniform_plan(model, parse_bits("w6a8"))
        made = quantize(model, KEY, plan, {"preset": preset}, seen)
        assert {s.weight.bits for s in made.plan.sites.values()} <= widths
        saved = save_checkpoint(made, model, tmp_path / preset)
        assert saved.total_bytes <= size_of(str(model.path), KEY, parse_bits("w6a8")).total_bytes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"widths": []}, "widths"),
        ({"widths": [4, 4]}, "different numbers of bits"),
        ({"widths": [4, 9]}, "widths"),
        ({"k": 0}, "k"),
    ],
)
def test_options_that_cannot_be_are_one_line(options, says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        parse_options(KEY, options)
    assert "\n" not in str(error.value)


def test_an_average_that_the_widths_cannot_have_says_so(model, seen) -> None:
    with pytest.raises(BadInput, match="is out of reach"):
        quantize(model, KEY, uniform_plan(model, parse_bits("w3a8")), {"preset": "preprint"}, seen)


def test_cells_of_a_sweep_cannot_have_bits_that_it_changes(model, seen, samples, sampler) -> None:
    given = model, None, ("4",), windows_for(sampler, 1), samples, sampler
    options = {"widths": [2, 8]}
    with pytest.raises(BadInput, match="gives sites bits of its own"):
        sweep("layer", *given, method=KEY, options=options, seen=seen)
