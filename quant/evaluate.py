"""What two generations say about each other, and what one says alone.

Paired metrics compare sample by sample with a reference and reward being the same picture. Metrics
of a classifier and distances between sets ask whether the pictures are good, whatever they look
like. A quantized model is judged by both: the first cannot tell a better picture from a worse one,
the second cannot see that a picture changed.

Where some samples are identical to the reference, the mean PSNR is over the others and
`identical_count` says how many were left out: the number errs on the bad side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from .errors import BadInput
from .frechet import LABEL, Distance, distance, latent_features, too_few
from .generation import Generation
from .intervals import Interval, bootstrap, proportion
from .metrics import MetricCard, list_metrics, load_metric
from .pixels import PICTURES
from .schema import Sample, Sampler, Value

NEEDS_WEIGHTS = ("fid", "clip_score", "image_reward", "lpips", "vbench")
_CLASSIFIER_BATCH = 64


class Classifier(Protocol):
    """A classifier of pictures [n, 3, h, w] in [0, 1]."""

    @property
    def labels(self) -> Sequence[str]:
        """Class name of every logit."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [n, classes]."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """What the last layer reads, [n, d]."""
        ...


class Summary(Value):
    """One metric over all samples."""

    mean: float | None  # null where no sample has a number
    lo: float | None
    hi: float | None
    min: float | None
    max: float | None
    worst: float | None  # min or max, by the metric's direction
    n: int  # samples that the mean is over
    per_sample: tuple[float | None, ...]
    better: Literal["higher", "lower"]
    unit: str
    identical: bool = False  # every sample is identical to the reference
    identical_count: int = 0
    pooled: dict[str, float | None] = {}
    per_frame: tuple[float | None, ...] | None = None  # of clips: mean over the samples

    def to_json(self) -> dict[str, Any]:
        """With the pooled numbers beside the mean."""
        data = super().to_json()
        if self.per_frame is None:
            del data["per_frame"]
        return data | data.pop("pooled")


class Verdict(Value):
    """What a classifier says of the pictures of one generation."""

    accuracy: Interval
    accuracy_per_class: dict[str, float]
    log_prob: Summary  # of the class that was asked for; null for a sample without a judge
    diversity: dict[str, float | None]  # mean feature distance within a class; null below 2 samples
    held_out_accuracy: float | None  # of the classifier itself


class RunMetrics(Value):
    """All metrics of one run; a metric is null where `unavailable` gives the reason."""

    samples: int
    paired: dict[str, Summary | None]  # by metric key
    verdict: Verdict | None
    distances: dict[str, Distance | None]  # "classifier_features", "latents"
    unavailable: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Exactly the metric keys of a run in the JSON of `dqviz compare`."""
        verdict = self.verdict.to_json() if self.verdict is not None else {}
        accuracy = verdict.get("accuracy")
        distances = {key: None if d is None else d.to_json() for key, d in self.distances.items()}
        return {
            "samples": self.samples,
            **{key: None if s is None else s.to_json() for key, s in self.paired.items()},
            "class_accuracy": accuracy and accuracy["mean"],
            "class_accuracy_interval": accuracy,
            "class_accuracy_per_class": verdict.get("accuracy_per_class"),
            "true_class_log_prob": verdict.get("log_prob"),
            "diversity": verdict.get("diversity"),
            "classifier_held_out_accuracy": verdict.get("held_out_accuracy"),
            "distances": {"label": LABEL, **distances},
            "unavailable": dict(self.unavailable),
        }


def evaluate(
    reference: Generation,
    candidate: Generation,
    classifier: Classifier | None = None,
    classes: Mapping[int, str] | None = None,
) -> RunMetrics:
    """Judge a candidate against the reference that it is paired with.

    Args:
        reference: full precision.
        candidate: drawn from the same samples with the same sampler.
        classifier: judges the pictures; without one its metrics are unavailable.
        classes: the model's class id -> name, by which the classifier's labels are found.
    """
    check_pair(reference, candidate)
    paired, no_metric = paired_metrics(reference, candidate)
    verdict, no_verdict = _verdict(candidate, classifier, classes)
    distances, no_distance = _distances(reference, candidate, classifier)
    return RunMetrics(
        samples=len(candidate.samples),
        paired=paired,
        verdict=verdict,
        distances=distances,
        unavailable=_without_weights() | no_metric | no_verdict | no_distance,
    )


def evaluate_alone(
    generation: Generation,
    classifier: Classifier | None = None,
    classes: Mapping[int, str] | None = None,
) -> RunMetrics:
    """What can be said of a generation without a reference: full precision's own row, paired metrics null."""
    verdict, no_verdict = _verdict(generation, classifier, classes)
    return RunMetrics(
        samples=len(generation.samples),
        paired=dict.fromkeys(list_metrics()),
        verdict=verdict,
        distances={"classifier_features": None, "latents": None},
        unavailable=_without_weights() | no_verdict,
    )


def check_pair(reference: Generation, candidate: Generation) -> None:
    """Refuse to compare what does not belong together; the error names the first difference."""
    _check_samples(reference.samples, candidate.samples)
    _check_samplers(reference.sampler, candidate.sampler)
    for what in ("images", "latents"):
        ours, theirs = (tuple(getattr(g, what).shape) for g in (reference, candidate))
        if ours != theirs:
            raise BadInput(f"runs cannot be paired: {what} have shapes {ours} and {theirs}")


def _check_samples(ours: Sequence[Sample], theirs: Sequence[Sample]) -> None:
    if len(ours) != len(theirs):
        raise BadInput(f"runs cannot be paired: they have {len(ours)} and {len(theirs)} samples")
    for index, (a, b) in enumerate(zip(ours, theirs)):
        for name in ("seed", "class_id", "prompt", "negative"):
            if getattr(a, name) != getattr(b, name):
                raise BadInput(
                    f"runs cannot be paired: sample {index} has {name} {getattr(a, name)!r} and {getattr(b, name)!r}"
                )


def _check_samplers(ours: Sampler, theirs: Sampler) -> None:
    a, b = ({**s.config, **s.model_dump(exclude={"config"})} for s in (ours, theirs))
    for name in sorted(a.keys() | b.keys(), key=lambda key: (key not in Sampler.model_fields, key)):
        if a.get(name) != b.get(name):
            raise BadInput(
                f"runs cannot be paired: sampler {name} is {a.get(name)!r} and {b.get(name)!r}"
            )


def paired_metrics(
    reference: Generation, candidate: Generation
) -> tuple[dict[str, Summary | None], dict[str, str]]:
    """Every paired metric by key, and the reasons for those that are None.

    Shapes must agree; samples and sampler need not (the yardstick ladder changes them on purpose).
    """
    found: dict[str, Summary | None] = {}
    reasons: dict[str, str] = {}
    for key, card in list_metrics().items():
        ours, theirs = getattr(reference, card.needs), getattr(candidate, card.needs)
        reason = _not_finite(ours, f"reference {card.needs}") or _not_finite(theirs, card.needs)
        if card.clips and reference.images.dim() == PICTURES:
            reason = "unavailable: of clips, and these are pictures"
        try:
            found[key] = None if reason else _measure(key, card, ours, theirs)
        except BadInput as error:  # a metric that these shapes are too small for
            found[key], reason = None, str(error)
        if reason:
            reasons[key] = reason
    return found, reasons


def _measure(key: str, card: MetricCard, reference: Tensor, candidate: Tensor) -> Summary:
    metric = load_metric(key)
    clips = card.needs == "images" and reference.dim() > PICTURES
    # One clip at a time: all of them in float64 may be more than there is memory.
    parts = [(a[None], b[None]) for a, b in zip(reference, candidate)] if clips else []
    frames = None
    if clips and hasattr(metric, "per_frame"):
        frames = np.concatenate([metric.per_frame(*p) for p in parts])  # [n, f]
        values = metric.over_frames(frames)  # [n]
    else:
        values = np.concatenate([metric.measure(*p) for p in parts or [(reference, candidate)]])
    same = (reference == candidate).flatten(1).all(dim=1)  # [n]
    pooled = metric.pooled(reference, candidate) if hasattr(metric, "pooled") else {}
    return summarise(values, card, identical=same.numpy(), pooled=pooled, frames=frames)


def summarise(
    values: np.ndarray,
    card: MetricCard,
    identical: np.ndarray | None = None,
    pooled: Mapping[str, float | None] | None = None,
    frames: np.ndarray | None = None,
) -> Summary:
    """Values float64[n] as a `Summary`; what is not finite becomes null and stays out of the mean.

    `frames` [n, f] are the values of every frame: their mean over the clips is kept.
    """
    finite = np.isfinite(values)
    interval = bootstrap(values[finite]) if finite.any() else None
    low, high = (
        (float(values[finite].min()), float(values[finite].max())) if interval else (None, None)
    )
    same = np.zeros(len(values), dtype=bool) if identical is None else identical
    return Summary(
        mean=interval and interval.mean,
        lo=interval and interval.lo,
        hi=interval and interval.hi,
        min=low,
        max=high,
        worst=low if card.better == "higher" else high,
        n=int(finite.sum()),
        per_sample=tuple(float(v) if ok else None for v, ok in zip(values, finite)),
        better=card.better,
        unit=card.unit,
        identical=bool(same.all()),
        identical_count=int(same.sum()),
        pooled=dict(pooled or {}),
        per_frame=None if frames is None else _over_clips(frames),
    )


def _over_clips(values: np.ndarray) -> tuple[float | None, ...]:
    """Mean over the clips of values [n, f] per frame; None where no clip has a number."""
    known = [column[np.isfinite(column)] for column in values.T]
    return tuple(float(column.mean()) if len(column) else None for column in known)


def _not_finite(values: Tensor, what: str) -> str | None:
    """The reason why broken samples have no metrics, or None."""
    broken = int((~torch.isfinite(values)).flatten(1).any(dim=1).sum())
    return f"{broken} of {len(values)} {what} hold NaN or infinity" if broken else None


def _without_weights() -> dict[str, str]:
    return dict.fromkeys(NEEDS_WEIGHTS, "unavailable: needs downloaded weights")


_LOG_PROB = MetricCard(
    key="true_class_log_prob",
    title="Log-probability of the true class",
    unit="nat",
    better="higher",
    needs="images",
)


def _verdict(
    generation: Generation, classifier: Classifier | None, classes: Mapping[int, str] | None
) -> tuple[Verdict | None, dict[str, str]]:
    """The classifier's verdict over the samples whose class it knows, and what is unavailable, by name."""
    if classifier is None:
        return None, _no_verdict("no classifier is shipped for this model")
    if any(sample.class_id is None for sample in generation.samples):
        return None, _no_verdict("the samples are drawn from prompts, not from classes")
    reason = _not_finite(generation.images, "images")
    if reason:
        return None, _no_verdict(reason)
    names = [
        (classes or {}).get(s.class_id, f"class {s.class_id}")
        for s in generation.samples
        if s.class_id is not None
    ]
    column = {name: index for index, name in enumerate(classifier.labels)}
    strangers = sorted(set(names) - column.keys())
    reasons = {
        f"class_accuracy of {name}": f"the classifier does not know '{name}'" for name in strangers
    }
    judged = np.array([name in column for name in names])  # [n]
    if not judged.any():
        return None, reasons | _no_verdict("the classifier knows none of the classes")
    logits, features = _look(classifier, generation.images)
    truth = np.array([column.get(name, 0) for name in names])  # [n]
    right = logits.argmax(dim=1).numpy() == truth  # [n]
    log_probs = logits.log_softmax(dim=1).numpy()[np.arange(len(names)), truth]  # [n]
    verdict = Verdict(
        accuracy=proportion(int(right[judged].sum()), int(judged.sum())),
        accuracy_per_class={
            n: float(right[_rows(names, n)].mean()) for n in dict.fromkeys(names) if n in column
        },
        log_prob=summarise(np.where(judged, log_probs, np.nan), _LOG_PROB),
        diversity={name: _diversity(features[_rows(names, name)]) for name in dict.fromkeys(names)},
        held_out_accuracy=getattr(classifier, "held_out_accuracy", None),
    )
    return verdict, reasons


def _no_verdict(reason: str) -> dict[str, str]:
    return dict.fromkeys(("class_accuracy", "true_class_log_prob", "diversity"), reason)


def _rows(names: Sequence[str], name: str) -> np.ndarray:
    return np.flatnonzero([n == name for n in names])


@torch.no_grad()
def _look(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and features [n, d], in float64, of images [n, h, w, 3]."""
    parts = images.permute(0, 3, 1, 2).contiguous().split(_CLASSIFIER_BATCH)
    logits = torch.cat([classifier(part) for part in parts])
    features = torch.cat([classifier.features(part) for part in parts])
    return logits.double().cpu(), features.double().cpu()


def _diversity(features: Tensor) -> float | None:
    """Mean Euclidean distance over all pairs of features [n, d]; None below two rows."""
    return float(torch.pdist(features).mean()) if len(features) > 1 else None


def _distances(
    reference: Generation, candidate: Generation, classifier: Classifier | None
) -> tuple[dict[str, Distance | None], dict[str, str]]:
    """Distances between the two sets on both kinds of features, and what is unavailable."""
    keys = ("classifier_features", "latents")
    reason = too_few(len(reference.samples), len(candidate.samples))
    for generation in (reference, candidate):
        reason = (
            reason
            or _not_finite(generation.images, "images")
            or _not_finite(generation.latents, "latents")
        )
    if reason:
        return dict.fromkeys(keys), {f"distances.{key}": reason for key in keys}
    latents = distance(latent_features(reference.latents), latent_features(candidate.latents))
    if classifier is None:
        missing = {"distances.classifier_features": "no classifier is shipped for this model"}
        return {"classifier_features": None, "latents": latents}, missing
    ours, theirs = (_look(classifier, g.images)[1] for g in (reference, candidate))
    return {"classifier_features": distance(ours, theirs), "latents": latents}, {}
