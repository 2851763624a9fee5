"""Rows of a comparison: one way to quantize a model, drawn from the same noise as full precision, judged and kept.

A finished row is kept on disk under what was asked (weights, outliers, sampler, seeds, versions), with the
digest of the engine's source that made it: an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dqviz.candidates import OURS
from dqviz.files import read_json, write_json
from dqviz.planning import RowCount, load, transforms_of
from dqviz.records import arithmetic, bytes_of, classifier_of
from quant.calibration import calibrate
from quant.drift import drift
from quant.evaluate import evaluate, evaluate_alone
from quant.generation import Generation, generate
from quant.ladder import ladder
from quant.learning import Learning
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Outliers, fingerprint, parse_bits
from quant.seen import Seen
from quant.storage import stored_tensors

from .peer_libraries import PEERS, QUANTO_INT2, peer_bytes
from .peers import digest_of, our_bytes, source_digest, versions

CALIBRATION = range(100_000, 100_008)
SOURCE = source_digest()  # of what was imported, whatever happens to the files later
TRACED = 4  # samples whose error is followed along the trajectory
_PEERS = {peer.key: peer for peer in (*PEERS, QUANTO_INT2)}


@dataclass(frozen=True)
class Way:
    """One line of the table: a method with its options, or a peer."""

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    group: int | None = None  # inputs per weight scale; None: one scale per output
    bits: tuple[str, ...] = ()
    also: tuple[
        str, ...
    ] = ()  # roles inside blocks that are quantized though they are kept by default

    def asked(self, bits: str) -> dict[str, Any]:
        """What a row of it is kept under, beside what its subject depends on."""
        also = {"also": self.also} if self.also else {}
        return {"method": self.method, "options": self.options, "group": self.group, "bits": bits} | also  # fmt: skip


class Subject:
    """A model, with outliers or as it was trained: what it draws in full precision, and its calibration."""

    def __init__(
        self,
        ref: str,
        seeds: Iterable[int],
        steps: int | None = None,
        outliers: Outliers | None = None,
    ) -> None:
        self.model = load(ref, device="cpu", outliers=outliers)
        self.sampler = self.model.sampler(steps)
        self.samples = self.model.samples(tuple(seeds))
        self.classifier = classifier_of(self.model)
        self.depends_on = {
            "weights": digest_of(self.model.transformer),
            "outliers": None if outliers is None else outliers.to_json(),
            "samples": [s.to_json() for s in self.samples],
            "sampler": self.sampler.to_json(),
            "calibration": list(CALIBRATION),
            "versions": versions(),
        }
        self._reference: tuple[Generation, Generation] | None = None
        self._seen: Seen | None = None

    @property
    def reference(self) -> tuple[Generation, Generation]:
        """Full precision: all samples, and the first few with their trajectory."""
        if self._reference is None:
            self._reference = self._drawn(self.model.transformer)
        return self._reference

    @property
    def seen(self) -> Seen:
        """The calibration, which no reported seed takes part in."""
        if self._seen is None:
            self._seen = calibrate(self.model, self.model.samples(CALIBRATION), self.sampler)
        return self._seen

    def _drawn(self, transformer: nn.Module) -> tuple[Generation, Generation]:
        every = generate(self.model, self.samples, self.sampler, transformer=transformer)
        traced = self.samples[:TRACED]
        head = generate(self.model, traced, self.sampler, transformer=transformer, record=True)
        return every, head

    def full_precision(self) -> dict[str, Any]:
        """What the classifier says of full precision."""
        found = evaluate_alone(self.reference[0], self.classifier, self.model.classes).to_json()
        return {"class_accuracy": found["class_accuracy_interval"]}

    def yardstick(self) -> dict[str, Any]:
        """The same model, changed a little."""
        found = ladder(self.model, self.samples, self.sampler, self.reference[0])
        return {
            "rungs": [
                {
                    "rung": rung.rung,
                    "title": rung.title,
                    **{k: rounded(rung.to_json()[k]) for k in ("psnr_db", "latent_rel_error")},
                }
                for rung in found
            ]
        }

    def row(self, way: Way, bits: str) -> dict[str, Any]:
        """One way at one bit width."""
        return self.judged(way, *self.made(way, bits))

    def made(
        self, way: Way, bits: str, learning: Learning | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """A quantized transformer, and what it stores; a method that learns does it where `learning` says."""
        if way.method in _PEERS:
            return self._of_peer(way)
        return self._of_ours(way, bits, learning)

    def judged(self, way: Way, transformer: nn.Module, stored: dict[str, Any]) -> dict[str, Any]:
        """A row out of what was made."""
        made_by = _PEERS[way.method].library if way.method in _PEERS else OURS
        with RowCount(transformer) as counted:
            every, head = self._drawn(transformer)
        found = evaluate(self.reference[0], every, self.classifier, self.model.classes).to_json()
        traced = drift(self.model, self.reference[1], head, transformer)
        return {
            **stored,
            "evidence": arithmetic(transformer, counted.rows, made_by).evidence,
            **{k: rounded(found[k]) for k in ("psnr_db", "latent_rel_error", "ssim")},
            "class_accuracy": found["class_accuracy_interval"],
            "true_class_log_prob": rounded(found["true_class_log_prob"], samples=False),
            "teacher_forced": digits(traced.teacher_forced.guided),
            "free_running": digits(traced.free_running),
            "amplification": digits(traced.amplification),
        }

    def _of_ours(
        self, way: Way, bits: str, learning: Learning | None
    ) -> tuple[nn.Module, dict[str, Any]]:
        plan = uniform_plan(
            self.model,
            parse_bits(bits),
            sampler=self.sampler,
            group_size=way.group,
            also=way.also,
        )
        made = quantize(self.model, way.method, plan, way.options, self.seen, learning=learning)
        shared = set(stored_tensors(self.model.transformer, self.model.source_dtype).shared)
        transforms = transforms_of(made.transformer)
        size = bytes_of(self.model, shared, made.plan.sites, transforms)
        return made.transformer, {
            **{k: size[k] for k in ("size_bytes", "fp16_bytes", "bits_per_weight")},
            "site_bytes": our_bytes(made.transformer),
            "transforms": _counted(notes.get("transform") for notes in made.notes.values()),
        }

    def _of_peer(self, way: Way) -> tuple[nn.Module, dict[str, Any]]:
        key, transformer = way.method, copy.deepcopy(self.model.transformer)
        besides = [s for s in self.model.sites if s.block is not None and s.role in way.also]
        free = [s for s in self.model.sites if s.kept_reason is None]
        sites = [s.name for s in (*free, *besides)]
        _PEERS[key].apply(transformer, sites, lambda _: None)
        weights = sum(s.in_features * s.out_features for s in self.model.sites if s.name in sites)
        stored = peer_bytes(transformer, sites, _PEERS[key].stored_bits)
        return transformer, {
            "size_bytes": None,
            "fp16_bytes": None,
            "bits_per_weight": 8 * stored / weights,
            "site_bytes": stored,
            "transforms": {},
        }


def _counted(names: Iterable[object]) -> dict[str, int]:
    listed = [str(name) for name in names if name is not None]
    return {name: listed.count(name) for name in sorted(set(listed))}


def rounded(summary: dict[str, Any] | None, samples: bool = True) -> dict[str, Any] | None:
    """A metric as it is kept: six digits, one value per sample where they are compared."""
    if summary is None:
        return None
    names = ("mean", "lo", "hi", "min", "max", "of_mean_mse", "identical")
    kept = {k: _digit(summary[k]) for k in names if k in summary}
    return kept | ({"per_sample": digits(summary["per_sample"])} if samples else {})


def digits(values: Iterable[float | None]) -> list[float | None]:
    """Numbers as they are kept."""
    return [_digit(v) for v in values]


def _digit(value: Any) -> Any:
    return float(np.format_float_positional(value, 6, fractional=False)) if isinstance(value, float) else value  # fmt: skip


def kept(
    cache: Path,
    what: dict[str, Any],
    label: str,
    work: Callable[[], dict[str, Any]],
    again: bool = False,
) -> dict[str, Any]:
    """A result from the folder `cache`, or made and put there."""
    path = cache / f"{fingerprint(what)}.json"
    if path.is_file() and not again:
        return read_json(path)
    started = time.perf_counter()
    result = {**work(), "source": SOURCE}
    cache.mkdir(exist_ok=True)
    write_json(path, result)
    print(f"{label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return result
