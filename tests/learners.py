"""A method that learns, registered as another package's would be: what tests of learning run.

Its result depends on every step and on the state, its measures have the keys of both kinds of views.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dqviz.study import Study
from quant import cards
from quant.calibration import InputStatistics
from quant.cards import Card, Option
from quant.effort import GroupShape, Work
from quant.learning import Asked, check_finite, generator
from quant.methods.base import Group, Rounded, transformed_and_rounded
from quant.schema import Value
from quant.site_tensors import Transform

CARD = Card(
    key="wander",
    title="Wander",
    paper="",
    bits=("w4a16", "w4a8"),
    learns=True,
    summary="Weights that take noisy steps before they are rounded.",
    options=(Option("steps", 12, "how many"), Option("nan_at", -1, "step that goes wrong")),
)


class Options(Value):
    """How long, and where it goes wrong."""

    steps: int = 12
    nan_at: int = -1


def stored_transform(options: Options) -> Transform:
    """Codes alone."""
    return Transform()


def work(shape: GroupShape, options: Options) -> Work:
    """A step writes every weight anew."""
    return Work(options.steps * shape.tokens * shape.weights, options.steps * shape.weights, 0)


def memory(shapes: Sequence[GroupShape], options: Options) -> int:
    """Weights and momentum."""
    return 8 * sum(s.weights for s in shapes)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """What learning starts from: rounding to nearest."""
    return [transformed_and_rounded(site, None, None, {}) for site in group.sites]


class Learner:
    """Noise with momentum on every weight."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.steps, self.k = asked, asked.options.steps, 0
        self.groups = [group for group, _ in asked.groups]
        self.weights = {s.name: s.weight.clone() for g in self.groups for s in g.sites}
        self.momentum = {name: torch.zeros_like(w) for name, w in self.weights.items()}

    @property
    def stage(self) -> str:
        """Two stages of equal length."""
        return "assignments" if self.k < self.steps // 2 else "codebooks"

    def step(self, k: int) -> Mapping[str, float]:
        """One step of every weight."""
        for name, weight in self.weights.items():
            noise = torch.randn(weight.shape, generator=generator(self.asked.seed, name, k))
            self.momentum[name] = 0.9 * self.momentum[name] + 0.002 * noise
            self.weights[name] = weight + self.momentum[name]
        if k == self.asked.options.nan_at:
            check_finite({next(iter(self.weights)): torch.tensor(torch.nan)})
        self.k = k + 1
        return {"loss": 1 / (k + 1), "hard": 1.5 / (k + 1), "penalty": 0.1}

    def state(self) -> dict[str, Tensor]:
        """Weights, momentum, steps."""
        parts = {"w": self.weights, "m": self.momentum}
        found = {f"{p}.{n}": t for p, ts in parts.items() for n, t in ts.items()}
        return found | {"k": torch.tensor(self.k)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Back to it."""
        self.k = int(state["k"])
        for name in self.weights:
            self.weights[name], self.momentum[name] = state[f"w.{name}"], state[f"m.{name}"]

    def measures(self) -> dict[str, Any]:
        """As a vector quantizer's."""
        return vectors(list(self.weights), self.k / self.steps)

    def rounded(self) -> Mapping[str, Rounded]:
        """The weights as they have become."""
        found = {}
        for group in self.groups:
            for site in group.sites:
                moved = site.__class__(site.name, self.weights[site.name], site.bias, site.plan)
                found[site.name] = transformed_and_rounded(moved, None, None, {})
        return found


def learner(asked: Asked) -> Learner:
    """The learner."""
    return Learner(asked)


def vectors(sites: Sequence[str], share: float, coherence: bool = True) -> dict[str, Any]:
    """Measures of a vector quantizer whose learning is done to this share."""
    described = {
        name: {
            "frozen": round(share * (1 - 0.02 * i), 4),
            "entropy": round(0.69 * (1 - share), 4),
            "ranks": [round(0.7 + 0.01 * i, 4), round(0.3 - 0.01 * i, 4)],
            "used": 1 - i / 64,
            "dead": i,
            "changed": round(0.3 * share, 4),
            "counts": [64 - 2 * j for j in range(32 - i)] + [0] * i,
            "worth": 5.8 - 0.1 * i,
        }
        for i, name in enumerate(sites)
    }
    found: dict[str, Any] = {"sites": described}
    if coherence:
        found["coherence"] = {n: {"kmeans": 0.05, "now": 0.05 + 0.1 * share} for n in sites}
    return found


def units(blocks: int, share: float, mode: str = "joint", steps: int = 6, channels: int = 0) -> dict[str, Any]:  # fmt: skip
    """Measures of a reconstruction unit by unit, with what it knows of the inputs after the GELU."""
    names = [f"transformer_blocks.{b}.{u}" for b in range(blocks) for u in ("attn1", "ff")]
    gain = 0.8 if mode == "joint" else 0.9
    listed = [
        {"unit": n, "hard_before": 1e-3 * (i + 1), "hard_now": 1e-3 * (i + 1) * gain, "soft": 7e-4 * (i + 1), "undecided": 0.01, "mode": mode}
        for i, n in enumerate(names[: max(1, round(share * len(names)))])
    ]  # fmt: skip
    post = {
        f"transformer_blocks.{b}.ff.net.2": {
            "low": [-0.17] * steps,
            "high": [4.0 + b + 0.3 * s for s in range(steps)],
            "negative": 0.78,
            "bins_negative": 0.02,
            "outliers": [3, 17] if b else [],
            "m": [3, 2] if b else [],
            "gate": "migrate" if b else "plain",
            "errors": {"migrate": 0.02 / (1 + b), "shift": 0.03, "plain": 0.015},
            **(
                {"ranges": [8.0 if c in (3, 17) else 1 + c / channels for c in range(channels)]}
                if channels
                else {}
            ),
        }
        for b in range(blocks)
    }
    return {"units": listed, "post_gelu": post}


@contextmanager
def registered(module: Any = None) -> Iterator[Any]:
    """While it lasts, the method is one of those that there are."""
    import tests.learners as own

    found = module or own
    real = importlib.metadata.entry_points
    entry = SimpleNamespace(name=found.CARD.key, load=lambda: found)

    def entry_points(**asked: Any) -> Any:
        listed = real(**asked)
        return [*listed, entry] if asked.get("group") == cards.ENTRY_POINTS else listed

    importlib.metadata.entry_points = entry_points
    cards.methods.cache_clear()
    try:
        yield found
    finally:
        importlib.metadata.entry_points = real
        cards.methods.cache_clear()


def study_with_learning(
    folder: Path,
    measures: Callable[[int], Mapping[str, Any]],
    *,
    name: str = "wander-w4a16",
    steps: int = 24,
    done: int | None = None,
    stages: Sequence[str] = ("assignments", "codebooks"),
    options: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    bits: str = "w4a16",
    label: str = "Wander w4a16",
) -> Study:
    """A study that holds the log of one learning, whose measures are made of the steps done."""
    described = {
        "key": "dit-emoji",
        "ref": "dit-emoji",
        "title": "A model",
        "fingerprint": "f",
        "weights": "w",
    }
    described |= dict(model or {})
    exists = (folder / "study.json").is_file()
    study = Study.open(folder) if exists else Study.create(folder, described, {"dqviz": "0"})
    manifest = {"method": CARD.key, "bits": bits, "options": dict(options or {})}
    record = {"label": label, "evidence": "simulated", "device": "a processor"}
    study.begin_learning(name, manifest, method=CARD.key, bits=bits, record=record)
    lines: list[dict[str, Any]] = [{"steps": steps, "method": CARD.key, "key": "k"}]
    for k in range(steps if done is None else done):
        stage = stages[k * len(stages) // steps]
        losses = {
            "loss": 0.01 * (1 + 1 / (k + 1)),
            "hard": 0.02 / (k + 1) + 0.008,
            "penalty": 0.1 * 0.9**k,
        }
        lines.append({"step": k, "stage": stage, "losses": losses})
        if k % 4 == 0 or k == steps - 1:
            lines.append({"step": k, "stage": stage, "measures": measures(k + 1)})
    file = folder / "learning" / f"{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return study


LAYERS = [
    f"transformer_blocks.{b}.{k}"
    for b in range(2)
    for k in ("attn1.to_q", "attn1.to_out.0", "ff.net.2", "norm1.linear")
]
