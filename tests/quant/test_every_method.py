"""What every method promises; a new file in quant/methods joins by existing."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from quant.calibration import calibrate
from quant.cards import methods
from quant.conformance.promises import PROMISES, Subject, brief
from quant.generation import generate
from quant.intervals import CLAIM_SAMPLES, paired_difference
from quant.outliers import inject
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Outliers, options_from_pairs, parse_bits
from quant.seen_layout import CalibrationOptions

ROOT = Path(__file__).parents[2]

KEYS = sorted(methods())


@pytest.fixture(scope="module")
def subjects(model, seen, reference):
    """Each method beside the tiny model; what it makes is made once, and never changed by a test."""
    return cache(lambda key: Subject(key, model, seen, reference))


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("key", KEYS)
def test_every_promise_is_kept(key, promise, subjects):
    """As `dqviz check-method` looks at them."""
    assert not PROMISES[promise](subjects(key))


def test_listing_methods_loads_no_torch():
    code = "import sys; from quant.cards import methods; methods(); print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "False"


def test_the_check_for_torch_can_fail():
    code = "import sys; from quant.cards import load_method; load_method('rtn'); print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == "True"


BEATS = [
    (key, bits) for key, card in sorted(methods().items()) if card.beats for bits in card.beats_at
]


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
        plan = uniform_plan(self.model, parse_bits(bits), also=methods()[scope].also)
        own = brief(methods()[key]) | options_from_pairs(options)
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
