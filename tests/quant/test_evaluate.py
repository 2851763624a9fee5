"""Evaluation of whole runs: pairing, null and identical values, the classifier, and the trap."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from quant.errors import BadInput
from quant.evaluate import RunMetrics, evaluate, evaluate_alone
from quant.generation import Generation, generate
from quant.intervals import paired_difference
from quant.loading import load_model
from quant.models import embedded_models
from quant.schema import Sample, Sampler

SAMPLER = Sampler(scheduler="DDIMScheduler", config={"beta_end": 0.02}, steps=4, guidance=3.0)
CLASSES = {0: "disc", 1: "bars", 2: "corner"}
SIDE = 16


def generation(
    images: Tensor, classes: list[int] | None = None, latents: Tensor | None = None
) -> Generation:
    classes = classes or [0] * len(images)
    return Generation(
        samples=tuple(Sample(seed=i, class_id=c) for i, c in enumerate(classes)),
        sampler=SAMPLER,
        images=images,
        latents=images.permute(0, 3, 1, 2).contiguous() if latents is None else latents,
        seconds=1.0,
    )


def noise(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(seed))


def check_json(metrics: RunMetrics) -> dict:
    """The JSON form, which must be plain and hold neither NaN nor Infinity."""
    return json.loads(json.dumps(metrics.to_json(), allow_nan=False))


def test_a_run_has_all_keys_with_intervals():
    clean = noise()
    found = check_json(
        evaluate(generation(clean), generation((clean + 0.1 * noise(seed=1)).clamp(0, 1)))
    )
    for key in ("psnr_db", "latent_rel_error", "ssim"):
        metric = found[key]
        assert metric["min"] <= metric["lo"] <= metric["mean"] <= metric["hi"] <= metric["max"]
        assert metric["mean"] == pytest.approx(np.mean(metric["per_sample"]))
        assert len(metric["per_sample"]) == metric["n"] == 6
        assert metric["identical"] is False
    assert found["psnr_db"]["worst"] == found["psnr_db"]["min"]
    assert found["latent_rel_error"]["worst"] == found["latent_rel_error"]["max"]
    assert (
        found["psnr_db"]["of_mean_mse"] <= found["psnr_db"]["mean"]
    )  # the mean of logarithms flatters
    for key in ("fid", "clip_score", "image_reward", "lpips", "vbench"):
        assert found["unavailable"][key] == "unavailable: needs downloaded weights"


def test_identical_pictures_have_no_psnr():
    clean = noise()
    found = check_json(evaluate(generation(clean), generation(clean.clone())))
    psnr = found["psnr_db"]
    assert (psnr["mean"], psnr["lo"], psnr["hi"], psnr["of_mean_mse"]) == (None, None, None, None)
    assert (psnr["identical"], psnr["identical_count"], psnr["per_sample"]) == (True, 6, [None] * 6)
    assert found["latent_rel_error"]["mean"] == 0
    assert found["ssim"]["mean"] == pytest.approx(1)


def test_partly_identical_pictures_average_over_the_others():
    clean = torch.zeros(4, SIDE, SIDE, 3)
    changed = clean.clone()
    changed[0], changed[1] = 0.1, 0.01
    psnr = check_json(evaluate(generation(clean), generation(changed)))["psnr_db"]
    assert (psnr["identical"], psnr["identical_count"], psnr["n"]) == (False, 2, 2)
    assert psnr["mean"] == pytest.approx(30, abs=1e-4)
    assert psnr["of_mean_mse"] == pytest.approx(-10 * np.log10((1e-2 + 1e-4) / 4), abs=1e-4)


def test_broken_pictures_have_no_metrics_but_a_reason():
    clean, broken = noise(), noise(seed=1)
    broken[2, 0, 0, 0] = torch.nan
    latents = torch.ones(6, 4, 2, 2)
    found = check_json(
        evaluate(
            generation(clean, latents=latents),
            generation(broken, latents=latents * 1.1),
            Shapes(),
            CLASSES,
        )
    )
    assert found["psnr_db"] is None
    assert found["class_accuracy"] is None
    assert found["unavailable"]["psnr_db"] == "1 of 6 images hold NaN or infinity"
    assert found["latent_rel_error"]["mean"] == pytest.approx(0.1, abs=1e-6)


def test_a_metric_that_a_picture_is_too_small_for_is_unavailable():
    small = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    found = check_json(evaluate(generation(small), generation(small * 0.9)))
    assert found["ssim"] is None
    assert "11 x 11" in found["unavailable"]["ssim"]
    assert found["psnr_db"]["mean"] > 0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_metrics_cannot_be_made_with_nan_or_infinity(number: float):
    good = evaluate(generation(noise()), generation(noise(seed=1))).paired["psnr_db"]
    assert good is not None
    with pytest.raises(ValidationError):
        type(good)(**good.model_dump() | {"mean": number})
    with pytest.raises(ValidationError):
        type(good)(**good.model_dump() | {"per_sample": (1.0, number)})
    with pytest.raises(ValidationError):
        type(good)(**good.model_dump() | {"pooled": {"of_mean_mse": number}})


def other_sampler(**changes: object) -> dict[str, Sampler]:
    return {"sampler": SAMPLER.model_copy(update=changes)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"samples": (Sample(seed=0, class_id=0), Sample(seed=7, class_id=0))},
            "sample 1 has seed 1 and 7",
        ),
        (
            {"samples": (Sample(seed=0, class_id=0), Sample(seed=1, class_id=2))},
            "sample 1 has class_id 0 and 2",
        ),
        ({"samples": (Sample(seed=0, class_id=0),)}, "2 and 1 samples"),
        (other_sampler(steps=5), "sampler steps is 4 and 5"),
        (other_sampler(guidance=1.0), "sampler guidance is 3.0 and 1.0"),
        (
            other_sampler(scheduler="EulerDiscreteScheduler"),
            "'DDIMScheduler' and 'EulerDiscreteScheduler'",
        ),
        (other_sampler(config={"beta_end": 0.03}), "sampler beta_end is 0.02 and 0.03"),
        ({"images": torch.zeros(2, SIDE, 8, 3)}, "images have shapes"),
        ({"latents": torch.zeros(2, 1, 2, 2)}, "latents have shapes"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(changes: dict, words: str):
    reference = generation(noise(2))
    with pytest.raises(BadInput, match="cannot be paired") as caught:
        evaluate(reference, replace(reference, **changes))
    assert words in str(caught.value)


# -- the classifier --------------------------------------------------------------------------------


@dataclass
class Shapes:
    """Tells three drawn shapes apart by correlating a picture's brightness with their templates."""

    labels: tuple[str, ...] = ("bars", "corner", "disc")  # not in the order of the model's ids
    held_out_accuracy: float = 1.0

    def features(self, images: Tensor) -> Tensor:
        grey = images.mean(dim=1)
        grey = grey - grey.mean(dim=(1, 2), keepdim=True)
        templates = torch.stack([template(name) for name in ("bars", "corner", "disc")])
        templates = templates - templates.mean(dim=(1, 2), keepdim=True)
        templates = templates / templates.flatten(1).norm(dim=1)[:, None, None]
        return torch.einsum("nhw,chw->nc", grey, templates)

    def __call__(self, images: Tensor) -> Tensor:
        return 8 * self.features(images)[:, : len(self.labels)]


def template(name: str) -> Tensor:
    """One shape as a picture in {0, 1}, [h, w]."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    masks = {
        "disc": (row - 7.5) ** 2 + (column - 7.5) ** 2 < 25,
        "bars": row % 4 < 2,
        "corner": (row > 7) & (column > 7),
    }
    return masks[name].float()


def draw(classes: list[int], seed: int, contrast: float = 0.3) -> Tensor:
    """The shapes at low contrast on a random smooth background and with a little grain, [n, h, w, 3].

    The background stands for all that a seed decides and a class does not.
    """
    random = torch.Generator().manual_seed(seed)
    pictures = []
    for class_id in classes:
        slope = torch.rand(3, 2, generator=random) - 0.5
        at = torch.linspace(-1, 1, SIDE)
        ground = 0.5 + 0.5 * (slope[:, 0, None, None] * at[:, None] + slope[:, 1, None, None] * at)
        grain = 0.05 * torch.randn(3, SIDE, SIDE, generator=random)
        shape = contrast * (template(CLASSES[class_id]) - 0.5)
        pictures.append((ground + shape + grain).permute(1, 2, 0))
    return torch.stack(pictures).clamp(0, 1)


def test_labels_are_found_by_name_and_not_by_position():
    classes = [0, 1, 2] * 4
    found = check_json(
        evaluate_alone(generation(draw(classes, seed=0), classes), Shapes(), CLASSES)
    )
    assert found["class_accuracy"] == 1
    assert found["class_accuracy_interval"]["lo"] == pytest.approx(0.7575, abs=1e-3)
    assert found["class_accuracy_per_class"] == {"disc": 1, "bars": 1, "corner": 1}
    assert found["true_class_log_prob"]["mean"] > np.log(0.5)
    assert found["classifier_held_out_accuracy"] == 1.0
    assert found["psnr_db"] is None  # nothing to pair with


def test_log_probability_is_of_the_class_that_was_asked_for():
    picture = draw([0], seed=0)
    found = evaluate_alone(generation(picture.repeat(3, 1, 1, 1), [0, 1, 2]), Shapes(), CLASSES)
    assert found.verdict is not None
    logits = Shapes()(picture.permute(0, 3, 1, 2)).double().log_softmax(1)[0].tolist()
    assert found.verdict.log_prob.per_sample == pytest.approx([logits[2], logits[0], logits[1]])
    assert found.verdict.accuracy.mean == pytest.approx(1 / 3)


def test_a_class_that_the_classifier_lacks_is_said_and_left_out():
    classes = [0, 1, 2, 1, 2]
    judge = Shapes(labels=("bars", "corner"))
    found = check_json(evaluate_alone(generation(draw(classes, seed=0), classes), judge, CLASSES))
    assert found["unavailable"]["class_accuracy of disc"] == "the classifier does not know 'disc'"
    assert set(found["class_accuracy_per_class"]) == {"bars", "corner"}
    assert found["class_accuracy_interval"]["n"] == 4
    assert found["true_class_log_prob"]["per_sample"][0] is None
    assert found["diversity"]["disc"] is None  # one sample has no pair


def test_without_class_names_nothing_is_judged():
    found = check_json(evaluate_alone(generation(draw([0, 1], seed=0), [0, 1]), Shapes()))
    assert found["class_accuracy"] is None
    assert "knows none" in found["unavailable"]["class_accuracy"]


def test_prompts_are_not_judged_by_a_classifier():
    run = replace(
        generation(noise(2)), samples=(Sample(seed=0, prompt="a"), Sample(seed=1, prompt="b"))
    )
    found = check_json(evaluate_alone(run, Shapes(), CLASSES))
    assert found["class_accuracy"] is None
    assert "prompts" in found["unavailable"]["diversity"]


def test_diversity_is_the_mean_distance_within_a_class():
    classes = [0] * 4 + [1] * 4
    varied = draw(classes, seed=0)
    collapsed = torch.cat([varied[:1].repeat(4, 1, 1, 1), varied[4:]])
    before = evaluate_alone(generation(varied, classes), Shapes(), CLASSES).verdict
    after = evaluate_alone(generation(collapsed, classes), Shapes(), CLASSES).verdict
    assert before is not None
    assert after is not None
    features = Shapes().features(varied[:4].permute(0, 3, 1, 2)).double()
    pairs = [(features[i] - features[j]).norm() for i in range(4) for j in range(i)]
    assert before.diversity["disc"] == pytest.approx(float(torch.stack(pairs).mean()))
    assert after.diversity["disc"] == pytest.approx(0, abs=1e-6)
    assert after.diversity["bars"] == before.diversity["bars"]


def test_distances_need_512_samples():
    classes = [0, 1, 2] * 171
    full, other = draw(classes, seed=0), draw(classes, seed=1)
    few = check_json(
        evaluate(
            generation(full[:9], classes[:9]), generation(other[:9], classes[:9]), Shapes(), CLASSES
        )
    )
    assert few["distances"]["latents"] is None
    assert "at least 512" in few["unavailable"]["distances.latents"]
    many = check_json(
        evaluate(generation(full, classes), generation(other, classes), Shapes(), CLASSES)
    )
    assert many["distances"]["label"] == "own features, not FID"
    assert many["distances"]["classifier_features"]["frechet"] < 0.1
    assert many["distances"]["latents"]["dimensions"] == 48
    alone = check_json(evaluate(generation(full, classes), generation(other, classes)))
    assert alone["distances"]["latents"] == many["distances"]["latents"]
    assert "classifier" in alone["unavailable"]["distances.classifier_features"]


# -- the trap: paired metrics alone choose the wrong model -----------------------------------------


def test_the_trap_is_seen_by_the_metrics_that_are_not_paired():
    """A model that loses the subject but keeps the rest beats, in dB, a good one of other seeds."""
    classes = [0, 1, 2] * 176
    full = generation(draw(classes, seed=0), classes)
    corrupted = generation(
        draw(classes, seed=0, contrast=0.0), classes
    )  # same backgrounds, no shapes
    different = generation(draw(classes, seed=1), classes)  # the same model, other seeds
    bad, good = (evaluate(full, run, Shapes(), CLASSES) for run in (corrupted, different))
    assert_trap(bad, good, evaluate_alone(full, Shapes(), CLASSES))
    bad_distances, good_distances = bad.distances, good.distances
    for key in ("classifier_features", "latents"):
        ours, theirs = bad_distances[key], good_distances[key]
        assert ours is not None
        assert theirs is not None
        assert ours.frechet > 5 * theirs.frechet, key
        assert ours.kid.mean > 5 * abs(theirs.kid.mean), key


def assert_trap(bad: RunMetrics, good: RunMetrics, full: RunMetrics) -> None:
    """PSNR prefers the bad run; the classifier, with intervals, the good one, which it cannot tell from full precision."""
    bad_psnr, good_psnr = bad.paired["psnr_db"], good.paired["psnr_db"]
    assert bad_psnr is not None
    assert good_psnr is not None
    fooled = paired_difference(bad_psnr.per_sample, good_psnr.per_sample)
    assert fooled.claim == "a better"
    assert bad.verdict is not None
    assert good.verdict is not None
    assert full.verdict is not None
    assert bad.verdict.accuracy.hi < good.verdict.accuracy.lo
    assert good.verdict.accuracy.hi >= full.verdict.accuracy.lo
    bad_log, good_log = bad.verdict.log_prob.per_sample, good.verdict.log_prob.per_sample
    assert paired_difference(good_log, bad_log).claim == "a better"


EMBEDDED_KEY = "dit-emoji"


@pytest.fixture(scope="module")
def embedded():
    """The embedded model with the classifier that its card names."""
    from quant.metrics.classifier import load_classifier

    model = load_model(EMBEDDED_KEY, device="cpu")
    return model, load_classifier(embedded_models()[EMBEDDED_KEY].parent / model.card.classifier)


def adversarial(
    net: torch.nn.Module, images: Tensor, labels: Tensor, reach: float = 6 / 255
) -> Tensor:
    """Pictures [n, h, w, 3] changed by at most `reach` so that `net` loses their class.

    Projected gradient ascent (Madry et al. 2017, https://arxiv.org/abs/1706.06083): a corruption
    that no paired metric weighs, but that goes exactly where the class is decided.
    """
    start = images.permute(0, 3, 1, 2).contiguous()
    changed = start.clone()
    for _ in range(10):
        changed.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(net(changed), labels)
        (slope,) = torch.autograd.grad(loss, changed)
        step = changed.detach() + reach / 4 * slope.sign()
        changed = step.clamp(start - reach, start + reach).clamp(0, 1)
    return changed.permute(0, 2, 3, 1).contiguous()


def test_the_trap_on_the_embedded_model(embedded):
    """The shipped classifier tells the two apart on pictures of the shipped model."""
    model, classifier = embedded
    count, sampler = 2 * len(model.classes), model.sampler(steps=6)
    full, different = (
        generate(model, model.samples(range(first, first + count)), sampler)
        for first in (5_000, 6_000)
    )
    names = [model.classes[s.class_id] for s in full.samples]
    labels = torch.tensor([classifier.labels.index(name) for name in names])
    corrupted = replace(full, images=adversarial(classifier.net, full.images, labels))
    different = replace(different, samples=full.samples)  # pairs that are pairs by class only
    bad, good = (evaluate(full, run, classifier, model.classes) for run in (corrupted, different))
    assert_trap(bad, good, evaluate_alone(full, classifier, model.classes))
