"""Every method against every kind of outlier, at four bit widths.

    make transforms                                  (64 seeds, the card's sampler; about two hours on 2 cores)
    .venv/bin/python -m benchmarks.transforms --kinds static --bits w4a8 --seeds 0-15 --out /tmp/transforms

The model as it was trained, and with synthetic outliers of each kind (docs/outliers.md): the same
function, harder to round. Every row draws the same samples as full precision does, from the same
noise. At W4A8 there are rows with one weight scale per 128 inputs too, beside torchao's of the same
bytes where torchao is installed (`make transforms` uses the peers' environment).

Every finished row is kept in `.transforms/`, keyed by what was asked (weights, outliers, sampler,
seeds, versions), with the digest of the engine's source that made it: an interrupted run goes on where
it was, several may share the work by --kinds, and --again makes rows anew whose method has changed. The
page names every source that has rows on it. Writes transforms.json and transforms.md into --out.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dqviz.candidates import OURS
from dqviz.files import write_json, write_text
from dqviz.machine import processor
from dqviz.planning import RowCount, load, transforms_of
from dqviz.records import arithmetic, bytes_of, classifier_of
from quant.calibration import Seen, calibrate
from quant.drift import drift
from quant.errors import DQVizError
from quant.evaluate import evaluate, evaluate_alone
from quant.generation import Generation, generate
from quant.ladder import ladder
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import OUTLIER_KINDS, Outliers, fingerprint, parse_bits, parse_seeds
from quant.storage import stored_tensors

from .peer_libraries import PEERS, peer_bytes
from .peers import digest_of, our_bytes, source_digest, versions
from .transforms_page import markdown

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".transforms"
BITS = ("w8a8", "w6a6", "w4a8", "w4a4")
KINDS = ("plain", *OUTLIER_KINDS)
FACTOR = 32.0
GROUP = 128
CALIBRATION = range(100_000, 100_008)
SOURCE = source_digest()  # of what was imported, whatever happens to the files later
TRACED = 4  # samples whose error is followed along the trajectory


@dataclass(frozen=True)
class Way:
    """One line of the table: a method with its options, or a peer."""

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    group: int | None = None  # inputs per weight scale; None: one scale per output
    bits: tuple[str, ...] = BITS


WAYS = (
    Way("rtn", "rtn"),
    Way("static-step", "static-step"),
    Way("smoothquant", "smoothquant"),
    Way("quarot", "quarot"),
    Way("gptq", "gptq"),
    Way("gptq, scale and rotation", "gptq", {"transform": "both"}),
    Way("svdquant", "svdquant"),
    Way("ptq4dit", "ptq4dit"),
    Way("q-dit", "q-dit"),
    Way("viditq", "viditq"),
    Way("trdq, one window", "trdq", {"windows": 1}),
    Way("trdq", "trdq"),
    Way("rtn, group 128", "rtn", group=GROUP, bits=("w4a8",)),
    Way(
        "gptq, scale and rotation, group 128",
        "gptq",
        {"transform": "both"},
        GROUP,
        ("w4a8",),
    ),
    Way("viditq, group 128", "viditq", group=GROUP, bits=("w4a8",)),
    Way("torchao, group 128", "torchao-w4a8", bits=("w4a8",)),
)
_PEERS = {peer.key: peer for peer in PEERS}


class Kind:
    """A model with one kind of outliers, what it draws in full precision, and its calibration."""

    def __init__(self, ref: str, kind: str, seeds: Iterable[int], steps: int | None) -> None:
        outliers = None if kind == "plain" else Outliers(kind=kind, factor=FACTOR)  # type: ignore[arg-type]
        self.kind = kind
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
                    **{k: _rounded(rung.to_json()[k]) for k in ("psnr_db", "latent_rel_error")},
                }
                for rung in found
            ]
        }

    def row(self, way: Way, bits: str) -> dict[str, Any]:
        """One way at one bit width."""
        if way.method in _PEERS:
            transformer, stored = self._of_peer(way.method)
            made_by = _PEERS[way.method].library
        else:
            transformer, stored = self._of_ours(way, bits)
            made_by = OURS
        with RowCount(transformer) as counted:
            every, head = self._drawn(transformer)
        found = evaluate(self.reference[0], every, self.classifier, self.model.classes).to_json()
        traced = drift(self.model, self.reference[1], head, transformer)
        return {
            **stored,
            "evidence": arithmetic(transformer, counted.rows, made_by)["evidence"],
            **{k: _rounded(found[k]) for k in ("psnr_db", "latent_rel_error", "ssim")},
            "class_accuracy": found["class_accuracy_interval"],
            "true_class_log_prob": _rounded(found["true_class_log_prob"], samples=False),
            "teacher_forced": _digits(traced.teacher_forced.guided),
            "free_running": _digits(traced.free_running),
            "amplification": _digits(traced.amplification),
        }

    def _of_ours(self, way: Way, bits: str) -> tuple[nn.Module, dict[str, Any]]:
        plan = uniform_plan(
            self.model, parse_bits(bits), sampler=self.sampler, group_size=way.group
        )
        made = quantize(self.model, way.method, plan, way.options, self.seen)
        shared = set(stored_tensors(self.model.transformer, self.model.source_dtype).shared)
        transforms = transforms_of(made.transformer)
        size = bytes_of(self.model, shared, made.plan.sites, transforms)
        return made.transformer, {
            **{k: size[k] for k in ("size_bytes", "fp16_bytes", "bits_per_weight")},
            "site_bytes": our_bytes(made.transformer),
            "transforms": _counted(notes.get("transform") for notes in made.notes.values()),
        }

    def _of_peer(self, key: str) -> tuple[nn.Module, dict[str, Any]]:
        transformer = copy.deepcopy(self.model.transformer)
        sites = [s.name for s in self.model.sites if s.kept_reason is None]
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


def _rounded(summary: dict[str, Any] | None, samples: bool = True) -> dict[str, Any] | None:
    """A metric as it is kept: six digits, one value per sample where they are compared."""
    if summary is None:
        return None
    names = ("mean", "lo", "hi", "min", "max", "of_mean_mse", "identical")
    kept = {k: _digit(summary[k]) for k in names if k in summary}
    return kept | ({"per_sample": _digits(summary["per_sample"])} if samples else {})


def _digits(values: Iterable[float | None]) -> list[float | None]:
    return [_digit(v) for v in values]


def _digit(value: Any) -> Any:
    return float(np.format_float_positional(value, 6, fractional=False)) if isinstance(value, float) else value  # fmt: skip


def kept(
    what: dict[str, Any], label: str, work: Callable[[], dict[str, Any]], again: bool = False
) -> dict[str, Any]:
    """A result from `.transforms/`, or made and put there."""
    path = CACHE / f"{fingerprint(what)}.json"
    if path.is_file() and not again:
        return json.loads(path.read_text(encoding="utf-8"))
    started = time.perf_counter()
    result = {**work(), "source": SOURCE}
    CACHE.mkdir(exist_ok=True)
    write_json(path, result)
    print(f"{label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return result


def _row(kind: Kind, way: Way, bits: str, again: bool) -> dict[str, Any]:
    asked = {"method": way.method, "options": way.options, "group": way.group, "bits": bits}
    label = f"{kind.kind} {bits} {way.name}"
    row = kept(kind.depends_on | asked, label, lambda: kind.row(way, bits), again)
    return {"way": way.name, **asked, **row}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rows that are asked for."""
    seeds = parse_seeds(given.seeds)
    again = set(given.again.split(";"))
    has_peers = versions()["torchao"] != "not installed"
    found = []
    sampler, weights = None, {}
    for name in given.kinds.split(","):
        kind = Kind(given.model, name, seeds, given.steps)
        sampler, weights[name] = kind.sampler, kind.depends_on["weights"]
        rows = [
            _row(kind, way, bits, way.name in again)
            for bits in given.bits.split(",")
            for way in WAYS
            if bits in way.bits and (has_peers or way.method not in _PEERS)
        ]
        full = kept(kind.depends_on | {"full precision": 1}, name, kind.full_precision)
        rungs = kept(kind.depends_on | {"ladder": 1}, f"{name} ladder", kind.yardstick)["rungs"]
        said = {"kind": name, "model": kind.model.card.title, **full, "ladder": rungs}
        found.append({**said, "rows": rows})
    assert sampler is not None
    return {
        "format": 1,
        "model": given.model,
        "weights": weights,
        "factor": FACTOR,
        "seeds": list(seeds),
        "sampler": sampler.to_json(),
        "calibration_seeds": list(CALIBRATION),
        "traced": TRACED,
        "versions": versions(),
        "sources": sorted({row["source"] for kind in found for row in kind["rows"]}),
        "device": f"{processor()}, {torch.get_num_threads()} threads, float32",
        "date": datetime.date.today().isoformat(),
        "kinds": found,
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--bits", default=",".join(BITS))
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--again", default="", help="rows to make anew, e.g. 'trdq;viditq'")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    try:
        found = measure(given)
    except DQVizError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "transforms.json", found)
    write_text(given.out / "transforms.md", markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
