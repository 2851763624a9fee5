"""What every method promises; a new file in quant/methods joins by existing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quant.balancing import output_error
from quant.cards import Card, load_method, methods, read_card
from quant.generation import generate
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits

from . import heavy

KEYS = sorted(methods())


@pytest.fixture(params=KEYS)
def key(request):
    return request.param


def test_the_docstring_reads_like_the_paper(key):
    text = load_method(key).__doc__
    assert re.search(r"arxiv\.org/abs|arXiv \d{4}\.\d{5}", text), "the paper"
    assert "Shapes:" in text
    assert re.search(r"^    \S+ *= ", text, re.MULTILINE), "an equation"


def test_the_card_in_the_source_is_the_one_in_the_module(key):
    module = load_method(key)
    assert read_card(Path(inspect.getfile(module))) == module.CARD
    assert methods()[key] == module.CARD


def test_listing_methods_loads_no_torch():
    code = "import sys; from quant.cards import methods; methods(); print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=heavy.ROOT
    )
    assert run.stdout.strip() == "False"


def test_the_check_for_torch_can_fail():
    code = "import sys; from quant.cards import load_method; load_method('rtn'); print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=heavy.ROOT
    )
    assert run.stdout.strip() == "True"


def test_documented_options_exist_with_their_defaults(key):
    options = load_method(key).Options()
    for option in methods()[key].options:
        assert getattr(options, option.name) == option.default


def test_presets_run_and_stay_finite(key, model, seen, samples, sampler):
    for bits in methods()[key].bits:
        made = quantize(model, key, uniform_plan(model, parse_bits(bits)), seen=seen)
        drawn = generate(model, samples[:1], sampler, transformer=made.transformer)
        assert bool(torch.isfinite(drawn.latents).all()), bits


def test_more_bits_do_not_hurt(key, model, seen, reference):
    """Error of the network's output on the full-precision trajectory falls with the bits."""
    x, t = reference.trajectory.inputs[1], reference.trajectory.timesteps[1]
    arguments = {"timestep": torch.full((3,), t), "class_labels": torch.tensor([0, 1, 2])}
    errors = []
    with torch.no_grad():
        exact = model.transformer(x, **arguments).sample
        for bits in ("w2a8", "w3a8", "w4a8", "w6a8", "w8a8"):
            made = quantize(model, key, uniform_plan(model, parse_bits(bits)), seen=seen)
            errors.append(float((made.transformer(x, **arguments).sample - exact).norm()))
    assert errors == sorted(errors, reverse=True)


def test_the_stored_transform_is_within_what_sizes_are_predicted_from(key, model, seen):
    module = load_method(key)
    made = quantize(model, key, uniform_plan(model, parse_bits("w4a8")), seen=seen)
    most = module.stored_transform(module.Options())
    for layer in made.transformer.modules():
        if isinstance(layer, QuantLinear):
            assert layer.transform.scale <= most.scale
            assert layer.transform.rotate <= most.rotate


@pytest.mark.parametrize("bits", ["w4a8", "w4a4", "w6a6"])
def test_it_beats_what_its_card_says(key, bits):
    """On inputs with outlier channels, mean output error over five seeds."""
    card: Card = methods()[key]
    if not card.beats:
        pytest.skip(f"{key} is a baseline: its card names nothing that it beats")
    wanted = parse_bits(bits)
    mean = {}
    for name in (key, card.beats):
        module, total = load_method(name), 0.0
        for seed in range(5):
            x = heavy.activations(192, 64, 6, seed)
            statistics = heavy.statistics(x)
            group = heavy.group(192, (96,), heavy.plan(wanted.weight, wanted.activation), seed)
            made = module.quantize_group(group, statistics, module.Options(), seed)[0]
            fresh = heavy.activations(192, 64, 6, seed).flip(1)[:, :32].reshape(-1, 192)
            steps = torch.arange(6).repeat_interleave(32)
            total += output_error(group, fresh, steps, made.channel_scale, made.signs)
        mean[name] = total / 5
    assert mean[key] < 0.8 * mean[card.beats]
