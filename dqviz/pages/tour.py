"""Tour: one slider from quality to size, in plain words, and a blind test; for people with five minutes.

What stands on the slider is recorded: runs of one comparison, each the closest to full precision of
those that take as many bytes. Every sentence is counted from the runs; nothing is said that they do
not hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quant.errors import BadInput
from quant.schema import parse_bits

from .compare import full_name, run_bits, run_name
from .compare.names import samples_of
from .view import Section, View, badge, synthetic_badges

TITLE = "Tour"
MB = 1e6
SAME_SIZE = 1.03  # bytes this close count as equal, as where methods are compared
SMALL, LARGE = (
    "twice_the_steps",
    "another_seed",
)  # rungs: a change that is small, and another picture
FRACTIONS = {1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half", 2 / 3: "two thirds", 3 / 4: "three quarters"}  # fmt: skip

Run = Mapping[str, Any]
Pictures = Mapping[str, Sequence[str]]


def empty() -> View:
    """The page where no study can be toured."""
    steps = (
        ("Compare", "Draw full precision beside quantized runs at several bit widths."),
        ("Slide", "Then one slider leads here from the best quality to the smallest size."),
        ("Look", "And a blind test tells whether you can see what was saved."),
    )
    return View(
        (
            {
                "kind": "empty",
                "title": "Nothing to tour yet",
                "text": "The tour shows a comparison of a study. Run one on the Compare page, or: "
                "dqviz compare dit-emoji --method viditq --bits w4a8 --seeds 0-15",
                "steps": [{"title": title, "text": text} for title, text in steps],
            },
        )
    )


def render(
    result: Mapping[str, Any],
    pictures: Pictures,
    *,
    address: str | None = None,
    recorded: bool = False,
) -> View:
    """The tour of one comparison.

    Args:
        result: what `dqviz.compare` returned, with its samples.
        pictures: data URLs by run name, one per sample.
        address: name of the study, for the page's address; None: leave it.
        recorded: whether the study came with the repository.

    Raises BadInput where no run is smaller than full precision.
    """
    runs = list(result["runs"])
    placed = stops(runs)
    if len(placed) < 2:
        raise BadInput("no run of this comparison is smaller than full precision; compare with --bits w4a8")  # fmt: skip
    known = yardstick(result.get("ladder") or ())
    title = str(result["model"].get("title") or result["model"].get("key"))
    section: Section = {
        "kind": "tour",
        "title": "From best quality to smallest size",
        "badges": [*synthetic_badges(result["model"]), _badge(runs, recorded)],
        "origin": _origin(result, runs, title, recorded),
        "key": f"{result.get('fingerprint') or ''}",
        "samples": samples_of(result),
        "stops": _told_apart([_stop(run, runs[0], pictures, known) for run in placed]),
        "notes": [note for note in (_definition(known), _left_out(runs, placed)) if note],
    }
    return View((section,), address)


def stops(runs: Sequence[Run]) -> list[Run]:
    """Full precision and the runs worth standing on the slider, the largest first.

    A run is left out when another takes no more bytes (within 3 %) and is closer to full precision,
    in pictures and latents alike.
    """
    full, *others = runs
    known = [r for r in others if _errors(r) and r.get("size_bytes")]
    best = [r for r in known if not any(_beats(other, r) for other in (full, *known))]
    return [full, *sorted(best, key=lambda r: -r["size_bytes"])]


def _errors(run: Run) -> tuple[float, ...]:
    """Distances from full precision, the less the better; none where they were not measured."""
    if run.get("method") == "full-precision":
        return (0.0, -math.inf)
    latents, psnr = run.get("latent_rel_error") or {}, run.get("psnr_db") or {}
    decibels = math.inf if psnr.get("identical") else psnr.get("mean")
    if latents.get("mean") is None or decibels is None:
        return ()
    return (latents["mean"], -decibels)


def _beats(a: Run, b: Run) -> bool:
    closer = all(ours < theirs for ours, theirs in zip(_errors(a), _errors(b), strict=True))
    return closer and a["size_bytes"] <= SAME_SIZE * b["size_bytes"]


@dataclass(frozen=True)
class Yardstick:
    """What decibels mean for this model."""

    small: float  # twice the steps: full precision is no closer than that to what it aims at
    large: float  # another seed: another picture; minus infinity where it was not measured


def yardstick(ladder: Sequence[Mapping[str, Any]]) -> Yardstick | None:
    """The yardstick of a comparison; None where it has no rung that says what is small."""
    means = {str(r.get("rung")): (r.get("psnr_db") or {}).get("mean") for r in ladder}
    small, large = means.get(SMALL), means.get(LARGE)
    if small is None:
        return None
    return Yardstick(float(small), -math.inf if large is None else float(large))


def unnoticed(run: Run, known: Yardstick) -> tuple[int, int]:
    """How many pictures stay within the yardstick, of how many; identical ones do."""
    values = (run.get("psnr_db") or {}).get("per_sample") or ()
    return sum(v is None or v >= known.small for v in values), len(values)


def sentence(run: Run, full: Run, known: Yardstick | None) -> str:
    """What a run costs and saves, in one plain sentence."""
    size = f"{share_in_words(run['size_bytes'] / full['size_bytes'])} of the memory"
    size = size[0].upper() + size[1:]
    if known is None:
        return f"{size}."
    near, n = unnoticed(run, known)
    if near == n:
        where = "in every one of the" if n > 1 else "in the one"
        return f"{size}; {where} {n} pictures you would have to look twice to see a difference."
    mean = (run.get("psnr_db") or {}).get("mean")
    if mean is not None and mean <= known.large:
        return f"{size}; but the pictures are others: even a different random start comes closer to the original."
    if near == 0:
        words = recognised(run, full)
        rest = f", and {words}" if words else ""
        return f"{size}; every one of the {n} pictures has changed{rest}."
    return f"{size}; in {near} of {n} pictures you would have to look twice to see a difference."


def share_in_words(share: float) -> str:
    """`two thirds` where it is that within 1.5 points, else per cent."""
    for value, words in FRACTIONS.items():
        if abs(share - value) <= 0.015:
            return words
    return f"{share:.0%}".replace("%", " %")


def _stop(run: Run, full: Run, pictures: Pictures, known: Yardstick | None) -> dict[str, Any]:
    """One place of the slider."""
    original = run is full
    psnr = run.get("psnr_db") or {}
    share = run["size_bytes"] / full["size_bytes"]
    return {
        "run": str(run["name"]),
        "label": "Original" if original else plain_bits(run),
        "detail": run_name(run) if original else full_name(run),
        "megabytes": f"{run['size_bytes'] / MB:.1f} MB",
        "saved": "" if original else f"{(full['size_bytes'] - run['size_bytes']) / MB:.1f} MB",
        "share": f"{share:.0%}".replace("%", " %"),
        "sentence": "The original: every number in full precision, nothing saved yet. Move the slider."
        if original
        else sentence(run, full, known),
        "recognised": "" if original else recognised(run, full),
        "captions": ["identical" if v is None else f"{v:.1f} dB" for v in psnr.get("per_sample") or ()],
        "images": list(pictures.get(str(run["name"]), ())),
    }  # fmt: skip


def _told_apart(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two places with the same label go by their full names."""
    often = Counter(stop["label"] for stop in listed)
    return [s | {"label": s["detail"]} if often[s["label"]] > 1 else s for s in listed]


def plain_bits(run: Run) -> str:
    """`4-bit` for W4A8, after the weights, which are what takes memory; `Mixed` for a plan."""
    try:
        bits = parse_bits(str(run.get("bits") or ""))
    except BadInput:
        return "Mixed" if not run.get("bits") else run_bits(run)
    text = str(bits)
    if not text.startswith("w"):
        return text.upper()
    return f"{text[1:].partition('a')[0]}-bit"


def recognised(run: Run, full: Run) -> str:
    """How many pictures a classifier still knows, beside full precision; empty where none judged."""
    if run.get("class_accuracy") is None or full.get("class_accuracy") is None:
        return ""
    n = len((run.get("psnr_db") or {}).get("per_sample") or ())
    ours, theirs = (round(r["class_accuracy"] * n) for r in (run, full))
    if ours == theirs:
        return f"a classifier recognises as many of them as before, {ours} of {n}"
    return f"a classifier recognises {ours} of them, and {theirs} of the original's"


def _badge(runs: Sequence[Run], recorded: bool) -> dict[str, str]:
    kinds = dict.fromkeys(str(r["evidence"]) for r in runs[1:] if r.get("evidence"))
    if recorded or "recorded" in kinds:
        return badge("recorded", "recorded", "these runs came with the repository")
    return badge(", ".join(kinds) or "simulated", next(iter(kinds), "simulated"))


def _origin(result: Mapping[str, Any], runs: Sequence[Run], title: str, recorded: bool) -> str:
    """Model, device and date."""
    date = str(result.get("created") or "")[:10]
    device = str(runs[0].get("device") or "")
    made = " ".join(w for w in ("recorded" if recorded else "drawn", f"on {device}," if device else "", date) if w)  # fmt: skip
    return f"{title}, {len(samples_of(result))} pictures, {made.rstrip(',')}"


def _definition(known: Yardstick | None) -> str:
    if known is None:
        return ""
    return (
        "“Look twice” is counted, not guessed: a picture that is closer to the original than the original "
        f"comes to itself when it is drawn with twice the steps ({known.small:.1f} dB on average)."
    )


def _left_out(runs: Sequence[Run], placed: Sequence[Run]) -> str:
    names = [full_name(r) for r in runs[1:] if r not in placed]
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return f"Not on the slider, since another run is closer at the same size: {', '.join(names)} {verb} on the Compare page."  # fmt: skip
