"""The yardstick ladder on a tiny random DiT: order of the rungs, honesty of bf16, cost and cancel."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quant.errors import BadInput, Cancelled
from quant.evaluate import paired_metrics
from quant.generation import Generation, generate, starting_noise
from quant.ladder import CHANGES, Rung, in_bf16, ladder, lossless
from quant.loading import load_model
from quant.models import Model

SEEDS = range(6)


@pytest.fixture(scope="module")
def model(tiny_dit: Path) -> Model:
    return load_model(str(tiny_dit), device="cpu")


@pytest.fixture(scope="module")
def reference(model: Model) -> Generation:
    return generate(model, model.samples(SEEDS), model.sampler())


@pytest.fixture(scope="module")
def rungs(model: Model, reference: Generation) -> dict[str, Rung]:
    return {r.rung: r for r in ladder(model, reference.samples, reference.sampler, reference)}


def error(rung: Rung) -> float:
    summary = rung.paired["latent_rel_error"]
    assert summary is not None
    assert summary.mean is not None
    return summary.mean


def test_all_rungs_are_there_and_are_json(rungs: dict[str, Rung]):
    assert list(rungs) == list(CHANGES)
    for rung in rungs.values():
        found = json.loads(json.dumps(rung.to_json(), allow_nan=False))
        assert found["samples"] == len(SEEDS)
        assert found["psnr_db"]["lo"] <= found["psnr_db"]["mean"] <= found["psnr_db"]["hi"]
        assert found["latent_rel_error"]["mean"] > 0
    assert [rungs[r].steps for r in ("one_step_more", "one_step_fewer", "twice_the_steps")] == [
        5,
        3,
        8,
    ]


def test_larger_changes_stand_higher(rungs: dict[str, Rung]):
    small, large, seed = (error(rungs[r]) for r in ("noise_0.01", "noise_0.1", "another_seed"))
    assert small < large < seed
    assert 4 < large / small < 25  # ten times the noise
    assert seed > 1  # another seed is another picture
    assert error(rungs["bf16"]) < error(rungs["one_step_more"])


def test_extra_noise_is_noise_of_its_own(model: Model, reference: Generation):
    """Not a multiple of the sample's starting noise, which would only scale the latent."""
    shape = tuple(reference.latents.shape[1:])
    plain = starting_noise(shape, reference.samples)
    extra = starting_noise(shape, reference.samples, 0.5) - plain
    along = torch.nn.functional.cosine_similarity(plain.flatten(1), extra.flatten(1))
    assert along.abs().max() < 0.4  # 256 independent values: 0.06 on average
    assert extra.std() == pytest.approx(0.5, rel=0.1)


def test_rounded_bf16_stands_for_real_bf16(model: Model, reference: Generation):
    title, rounded = in_bf16(model)
    assert title == "bf16 (rounded, computed in float32)"
    real = copy.deepcopy(model.transformer).bfloat16()
    runs = [
        generate(model, reference.samples, reference.sampler, transformer=t)
        for t in (real, rounded)
    ]
    from_real, from_rounded = (
        paired_metrics(reference, run)[0]["latent_rel_error"] for run in runs
    )
    between = paired_metrics(*runs)[0]["latent_rel_error"]
    assert from_real is not None
    assert from_rounded is not None
    assert between is not None
    assert 0.8 < from_rounded.mean / from_real.mean < 1.25
    assert between.mean < 1.2 * from_real.mean  # independent errors would be 1.41 apart


def test_rounding_reaches_weights_and_results_but_not_the_timestep(model: Model):
    _, rounded = in_bf16(model)
    seen = {}
    block = rounded.transformer_blocks[0]
    block.attn1.to_q.register_forward_hook(lambda _m, args, out: seen.update(x=args[0], q=out))
    block.norm1.emb.time_proj.register_forward_pre_hook(lambda _m, args: seen.update(t=args[0]))
    block.norm1.emb.time_proj.register_forward_hook(lambda _m, _a, out: seen.update(sines=out))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rounded(x, timestep=torch.tensor([999.0, 333.0]), class_labels=torch.tensor([0, 1]))
    for name in ("x", "q", "sines"):
        assert torch.equal(seen[name], seen[name].bfloat16().float()), name
    assert seen["t"].tolist() == [999.0, 333.0]  # bfloat16 has 1000 and 332
    exact = model.transformer.transformer_blocks[0].norm1.emb.time_proj(seen["t"])
    assert (seen["sines"] - exact).abs().max() < 2**-8
    for parameter in rounded.parameters():
        assert torch.equal(parameter, parameter.bfloat16().float())


def test_the_model_itself_is_left_alone(
    model: Model, reference: Generation, rungs: dict[str, Rung]
):
    again = generate(model, reference.samples, reference.sampler)
    assert torch.equal(again.images, reference.images)


def test_a_bf16_reference_is_held_against_float32(model: Model):
    title, transformer = in_bf16(replace(model, dtype=torch.bfloat16))
    assert title == "float32 (the reference is bf16)"
    assert next(transformer.parameters()).dtype == torch.float32


def test_the_ladder_is_bounded_and_says_so(model: Model, reference: Generation):
    found = ladder(
        model, reference.samples, reference.sampler, reference, rungs=("noise_0.1",), max_samples=2
    )
    assert [r.samples for r in found] == [2]
    summary = found[0].paired["psnr_db"]
    assert summary is not None
    assert len(summary.per_sample) == 2


def test_without_a_reference_it_draws_one(
    model: Model, reference: Generation, rungs: dict[str, Rung]
):
    found = ladder(model, reference.samples, reference.sampler, rungs=("noise_0.1",))
    assert error(found[0]) == pytest.approx(error(rungs["noise_0.1"]), rel=1e-4)


def test_progress_counts_every_denoising_step(model: Model, reference: Generation):
    seen = []
    names = ("one_step_more", "another_seed")
    ladder(
        model,
        reference.samples,
        reference.sampler,
        reference,
        rungs=names,
        batch_size=4,
        on_step=lambda *at: seen.append(at),
    )
    assert [done for done, _, _ in seen] == list(range(1, 19))  # 2 batches of 5 and of 4 steps
    assert {total for _, total, _ in seen} == {18}
    assert {title for _, _, title in seen} == {CHANGES[n].title for n in names}


def test_it_can_be_cancelled(model: Model, reference: Generation):
    def cancel(done: int, *_: object) -> None:
        if done == 3:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        ladder(model, reference.samples, reference.sampler, reference, on_step=cancel)


def test_one_step_has_no_rung_below(model: Model):
    samples = model.samples(range(2))
    found = ladder(
        model, samples, model.sampler(steps=1), rungs=("one_step_fewer", "one_step_more")
    )
    below, above = (r.to_json() for r in found)
    assert below["psnr_db"] is None
    assert "0 steps" in below["unavailable"]["psnr_db"]
    assert above["psnr_db"]["mean"] is not None


def test_bad_requests_are_refused(model: Model, reference: Generation):
    with pytest.raises(BadInput, match=r"noise_0\.1"):
        ladder(model, reference.samples, reference.sampler, reference, rungs=("noise_0.2",))
    with pytest.raises(BadInput, match="at least one"):
        ladder(model, reference.samples, reference.sampler, reference, max_samples=0)
    with pytest.raises(BadInput, match="sampler steps"):
        ladder(model, reference.samples, model.sampler(steps=5), reference)


def as_run(mean: float | None, hi: float | None = None) -> dict:
    return {"rung": "bf16", "latent_rel_error": {"mean": mean, "hi": hi}}


@pytest.mark.parametrize(
    ("run", "rungs", "expected"),
    [
        (as_run(0.009), [as_run(0.01, 0.012)], True),
        (as_run(0.011), [as_run(0.01, 0.012)], True),  # within the rung's own uncertainty
        (as_run(0.013), [as_run(0.01, 0.012)], False),
        (as_run(0.011), [as_run(0.01, None)], False),  # a single sample has no interval
        (as_run(0.0), [], False),  # no rung: nothing was shown
        ({"latent_rel_error": None}, [as_run(0.01, 0.012)], False),
        (
            as_run(0.001),
            [{"rung": "noise_0.1", "latent_rel_error": {"mean": 1.0, "hi": 1.1}}],
            False,
        ),
    ],
)
def test_lossless_means_within_the_bf16_rung(run: dict, rungs: list[dict], expected: bool):
    assert lossless(run, rungs) is expected
