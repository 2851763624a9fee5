"""What every method promises; a new file in quant/methods joins by existing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch.nn import functional as F

from quant.calibration import calibrate
from quant.cards import FILES, load_method, methods
from quant.checkpoint import WEIGHTS, save_checkpoint
from quant.generation import generate
from quant.intervals import CLAIM_SAMPLES, paired_difference
from quant.layers import QuantLinear
from quant.outliers import inject
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Outliers, SitePlan, options_from_pairs, parse_bits
from quant.seen_layout import CalibrationOptions
from quant.sizes import predict_size, size_of
from quant.storage import stored_tensors

from . import heavy
from .trial import Trial, mean_error

KEYS = sorted(methods())


@pytest.fixture(params=KEYS)
def key(request):
    return request.param


def with_weights(width):
    """Bits with weights of this width, and 8-bit activations."""
    return f"w{width}a8"


def plan_of(model, key, bits):
    """Every site that the method quantizes, at the same bits."""
    return uniform_plan(model, parse_bits(bits), also=methods()[key].also)


def brief(key):
    """Methods that learn for long say with which options they are only tried."""
    return {"preset": "brief"} if any(p.name == "brief" for p in methods()[key].presets) else {}


@pytest.fixture(scope="module")
def quantized(model, seen):
    """With the card's defaults, or briefly; once for each method and bits, never changed by a test."""
    return cache(
        lambda key, bits: quantize(model, key, plan_of(model, key, bits), brief(key), seen)
    )


def test_the_docstring_reads_like_the_paper(key):
    text = load_method(key).__doc__
    assert re.search(r"arxiv\.org/abs|arXiv \d{4}\.\d{5}", text), "the paper"
    assert "Shapes:" in text
    assert re.search(r"^    \S+ *= ", text, re.MULTILINE), "an equation"


def test_the_card_in_the_source_is_the_one_in_the_module(key):
    module = load_method(key)
    assert FILES.read(Path(inspect.getfile(module))) == module.CARD
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


def test_presets_run_and_stay_finite(key, model, quantized, samples, sampler):
    for bits in methods()[key].bits:
        made = quantized(key, bits)
        drawn = generate(model, samples[:1], sampler, transformer=made.transformer)
        assert bool(torch.isfinite(drawn.latents).all()), bits


def test_more_bits_do_not_hurt(key, model, quantized, reference):
    """Error of the network's output on the full-precision trajectory falls with the bits."""
    x, t = reference.trajectory.inputs[1], reference.trajectory.timesteps[1]
    arguments = {"timestep": torch.full((3,), t), "class_labels": torch.tensor([0, 1, 2])}
    errors = []
    with torch.no_grad():
        exact = model.transformer(x, **arguments).sample
        for width in sorted({2, 3, 4, 6, 8} & set(methods()[key].widths)):
            made = quantized(key, with_weights(width))
            errors.append(float((made.transformer(x, **arguments).sample - exact).norm()))
    assert errors == sorted(errors, reverse=True)


def test_the_stored_transform_is_within_what_sizes_are_predicted_from(key, quantized):
    module = load_method(key)
    made = quantized(key, with_weights(4))
    most = module.stored_transform(module.Options())
    for layer in made.transformer.modules():
        if isinstance(layer, QuantLinear):
            assert layer.transform.scale <= most.scale
            assert layer.transform.rotate <= most.rotate
            assert layer.transform.rank <= most.rank
            assert layer.transform.block <= most.block
            assert layer.transform.per_window <= most.per_window
            assert layer.transform.requantized == most.requantized


def test_the_size_command_never_promises_too_little(key, model, quantized, tiny_dit, tmp_path):
    made = quantized(key, with_weights(4))
    stored = save_checkpoint(made, model, tmp_path / "c")
    predicted = size_of(str(tiny_dit), key, parse_bits(with_weights(4)))
    inside = set(made.scope.quantized)
    codes = sum(s.in_features * s.out_features for s in model.sites if s.name in inside) // 2
    assert stored.total_bytes <= predicted.total_bytes <= stored.total_bytes + codes // 4


@pytest.mark.parametrize("preset", [0, -1])
def test_what_is_saved_is_what_loads_and_its_size_was_known(
    key, preset, model, quantized, tmp_path
):
    bits = methods()[key].bits[preset]
    made = quantized(key, bits)
    report = save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in (999.0, 300.0):
        arguments = {"timestep": torch.tensor([t, t]), "class_labels": torch.tensor([0, 1000])}
        with torch.no_grad():
            expected = made.transformer(x, **arguments).sample
            assert torch.equal(loaded(x, **arguments).sample, expected), bits
    assert report.total_bytes == (tmp_path / "c" / WEIGHTS).stat().st_size
    layers = {
        n: m.transform for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)
    }
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)
    predicted = predict_size(
        model.transformer,
        model.sites,
        made.plan.sites,
        layers,
        dtype=model.source_dtype,
        shared=shared,
    )
    assert predicted == report


def test_without_rounding_nothing_changes(key):
    """What is folded into the weight is undone at the input, and a branch holds what codes lack."""
    kept = SitePlan(weight=None, activations=(None,))
    made = Trial(key, kept, seed=0, outs=(96, 48))
    for site in made.group.sites:
        exact = F.linear(made.fresh, site.weight, site.bias)
        found = made.output(site.name, made.fresh)
        assert float((found - exact).abs().max() / exact.abs().max()) <= 1e-5


BEATS = [
    (key, bits) for key, card in sorted(methods().items()) if card.beats for bits in card.beats_at
]


@pytest.mark.parametrize(("key", "bits"), BEATS)
def test_it_beats_what_its_card_says(key, bits):
    """On inputs with outlier channels, mean output error over five seeds, on fresh rows."""
    wanted = parse_bits(bits)
    site_plan = heavy.plan(wanted.weight, wanted.activation)
    baseline, *options = methods()[key].beats.split()
    beaten = mean_error(baseline, site_plan, options_from_pairs(options))
    assert mean_error(key, site_plan) < 0.8 * beaten


class Judged:
    """Latent errors of 64 samples of a random model with outlier channels, run by run."""

    def __init__(self, model, sampler):
        self.model, self.sampler = inject(model, Outliers(kind="static", factor=8)), sampler
        self.samples = self.model.samples(range(CLAIM_SAMPLES))
        recorded = self.model.samples(range(1000, 1004))
        self.seen = calibrate(self.model, recorded, sampler, CalibrationOptions(reservoir=256))
        self.exact = self._drawn(None)
        self.errors = cache(self._errors)

    def _drawn(self, transformer):
        made = generate(
            self.model, self.samples, self.sampler, transformer=transformer, batch_size=64
        )
        return made.latents.flatten(1)

    def _errors(self, key, options, bits, scope):
        plan = plan_of(self.model, scope, bits)
        own = brief(key) | options_from_pairs(options)
        made = quantize(self.model, key, plan, own, self.seen)
        lost = self._drawn(made.transformer) - self.exact
        return (lost.norm(dim=1) / self.exact.norm(dim=1)).numpy()

    def claim(self, a, b, bits):
        """What 64 pairs say of two methods, each "key option=value", at the sites of the first."""
        scope = next(
            k for k, card in methods().items() if card.also == methods()[a.split()[0]].also
        )
        first, second = (
            self.errors(way.split()[0], tuple(way.split()[1:]), bits, scope) for way in (a, b)
        )
        found = paired_difference(first, second, better="lower")
        assert found.strength == "claim"
        return found.claim


@pytest.fixture(scope="module")
def judged(model, sampler):
    return Judged(model, sampler)


@pytest.mark.parametrize(("key", "bits"), BEATS)
def test_that_it_beats_it_may_be_claimed_of_whole_pictures(key, bits, judged):
    """64 paired samples, the same noise; the 95 % interval of the difference excludes 0."""
    assert judged.claim(key, methods()[key].beats, bits) == "a better"


def test_a_claim_that_is_not_so_is_not_made(judged):
    assert judged.claim("rtn", "viditq", "w6a6") == "b better"
    assert judged.claim("quarot", "rtn", "w4a8") != "a better", "so its card does not say it"
    judged.errors.cache_clear()
    assert judged.claim("rtn", "rtn", "w6a6") == "no difference shown"


def test_every_method_but_the_baseline_says_what_it_beats():
    assert [key for key, card in methods().items() if not card.beats] == ["rtn"]
