"""What runs and samples are called, and how numbers are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from quant import cards

from ...prompts import split
from ..exports import Source
from ..view import badge, synthetic

Run = Mapping[str, Any]


def run_name(run: Run) -> str:
    """What a person calls a run: `ViDiT-Q`, `Full precision`, or a candidate's folder."""
    method = str(run.get("method") or "")
    if method == "full-precision":
        return "Full precision"
    card = cards.methods().get(method)
    is_ours = card is not None and not run.get("path")  # a candidate goes by its folder's name
    return card.title if card and is_ours else str(run.get("title") or run.get("name") or method)


def run_bits(run: Run) -> str:
    """`W4A8`, or `mixed` for a plan."""
    bits = run.get("bits")
    if run.get("method") == "full-precision":
        return str(run.get("dtype") or "")
    return str(bits).upper() if bits else "mixed plan"


def full_name(run: Run) -> str:
    """Name and bits; what tells two runs of a comparison apart."""
    return f"{run_name(run)} {run_bits(run)}".strip()


def labels_of(runs: Sequence[Run]) -> dict[str, str]:
    """Label by run name; two runs with the same label get their own name added."""
    labels = {str(r["name"]): full_name(r) for r in runs}
    twice = {label for label, n in Counter(labels.values()).items() if n > 1}
    return {
        name: f"{label} ({name})" if label in twice else label for name, label in labels.items()
    }


def source_of(result: Mapping[str, Any], runs: Sequence[Run]) -> Source:
    """What exported tables and figures of a comparison say of themselves."""
    request, sampler = result.get("request") or {}, result.get("sampler") or {}
    steps = sampler.get("steps") or request.get("steps")
    note = [
        f"{len(samples_of(result))} samples",
        f"{steps} steps" if steps else "",
        str(runs[0].get("device") or "") if runs else "",
        str(result.get("created") or "")[:10],
    ]
    return Source(
        about=str((result.get("model") or {}).get("key") or "model"),
        recipe=str(result.get("fingerprint") or ""),
        evidence=tuple(
            dict.fromkeys(w for r in runs for w in (r.get("evidence"), synthetic(r)) if w)
        ),
        note="; ".join(word for word in note if word),
    )


def samples_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seed and label of every sample, from the result or, before there is one, from its request."""
    classes = (result.get("model") or {}).get("classes") or {}
    listed = result.get("samples")
    if listed:
        return [_sample(s["seed"], _sample_label(s, classes), s.get("negative")) for s in listed]
    request = result.get("request") or {}
    names = [(str(classes.get(str(c), c)), None) for c in request.get("classes") or ()]
    names += [split(text) for text in request.get("prompts") or ()]
    names = names or [(str(classes[key]), None) for key in sorted(classes, key=int)]
    common = request.get("negative")
    drawn = []
    for i, seed in enumerate(request.get("seeds") or ()):
        label, negative = names[i % len(names)] if names else (f"sample {i + 1}", None)
        drawn.append(_sample(seed, label, common if negative is None else negative))
    return drawn


def _sample(seed: int, label: str, negative: str | None) -> dict[str, Any]:
    """What a page says of a sample; a negative prompt only where there is one."""
    return {"seed": seed, "label": label, **({"negative": negative} if negative else {})}


def _sample_label(sample: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    if sample.get("prompt"):
        return str(sample["prompt"])
    if sample.get("class_name"):
        return str(sample["class_name"])
    return str(classes.get(str(sample.get("class_id")), f"class {sample.get('class_id')}"))


def evidence_badge(run: Run) -> dict[str, str]:
    """Measured, simulated or recorded, and why."""
    evidence = str(run.get("evidence") or "simulated")
    meaning = {
        "measured": "integer kernels ran; times are real",
        "simulated": "quantized numerics on ordinary matrix products: quality is real, no speed is claimed",
        "recorded": "came with the repository",
    }
    why = str(run.get("backend_why") or meaning.get(evidence, ""))
    tone = evidence if evidence in ("measured", "simulated", "recorded") else "plain"
    return badge(evidence, tone, why)


def interval_text(values: Mapping[str, Any], digits: int, space: str = " ") -> str:
    """` [4.8, 5.6]`, or nothing for a single sample."""
    if values.get("lo") is None or values.get("hi") is None:
        return ""
    return f"{space}[{values['lo']:.{digits}f}, {values['hi']:.{digits}f}]"


def number(value: float | None, digits: int, unit: str = "") -> str:
    """A number with so many digits; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}{unit}"


def signed(value: float | None) -> str:
    """A difference with its sign, or a dash."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")
