"""The learned methods against what they start from, their ablations, and their peers.

    make learned                                     (64 seeds, 512 pictures for distances; hours on 2 cores)
    .venv/bin/python -m benchmarks.learned --parts codebooks --bits w2a16 --seeds 0-15 --out /tmp/learned

Two parts. `codebooks`: VQ4DiT at 2, 3 and 4 bits beside k-means, codebooks alone, nearest and GPTQ rounding of
the same layers, and quanto's int2 and int4 where it is installed (`make learned` uses the peers' environment).
`integers`: TaQ-DiT at W4A8 beside its parts, AdaRound alone and static rounding. Every row draws the same
samples as full precision, from the same noise; what is learned from and what is reported share no seed.

What the presets of the papers would take on a large model is projected from steps on one block of its width.
Finished rows are kept in `.learned/` and a learning goes on where it was stopped; several may share the work
by --parts and --bits. Writes learned.json and learned.md into --out.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqviz.machine import processor
from quant.calibration import calibrate
from quant.cards import methods
from quant.evaluate import evaluate
from quant.generation import Generation, generate
from quant.learning import Learning, read_log
from quant.schema import fingerprint
from quant.seeds import parse_seeds
from quant.seen import Seen

from .block_errors import block_errors
from .learned_page import markdown
from .learning_steps import projected
from .peer_libraries import PEERS, QUANTO_INT2
from .peers import versions
from .results import device, written
from .rows import CALIBRATION, Subject, Way, kept

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".learned"
HELD_OUT = range(300_000, 300_004)  # of the blocks' errors: neither learned from nor reported
MANY = 512  # pictures that distances between sets need
QUICK = {"preset": "quick"}
VECTORS = ("w2a16", "w3a16", "w4a16")
ADALN = ("adaln",)


def _quick(key: str) -> dict[str, Any]:
    """What the quick preset of a method sets, to change a part of it."""
    return dict(next(p.options for p in methods()[key].presets if p.name == "quick"))


def _codebooks() -> Iterable[Way]:
    """Weights alone, every linear layer of the blocks, as VQ4DiT has it."""
    for key, groups in (("rtn", (None, 64, 32)), ("gptq", (None, 64, 32))):
        for group in groups:
            name = key if group is None else f"{key}, group {group}"
            yield Way(name, key, group=group, bits=VECTORS, also=ADALN)
    yield Way("kmeans-vq", "kmeans-vq", bits=VECTORS, also=ADALN)
    for n in (1, 2, 3, 4):
        options = QUICK | {"candidates": n}
        bits = VECTORS if n <= 2 else ("w2a16",)
        yield Way(f"vq4dit, {n} candidate{'s' * (n > 1)}", "vq4dit", options, bits=bits, also=ADALN)
    in_order = {**_quick("vq4dit"), "order": "trajectory"}
    yield Way("vq4dit, 2 candidates, in order", "vq4dit", in_order, bits=("w2a16",), also=ADALN)
    yield Way("quanto int2, group 128", "quanto-w2a16", bits=("w2a16",), also=ADALN)
    yield Way("quanto int4, group 128", "quanto-w4a16", bits=("w4a16",), also=ADALN)


def _integers() -> Iterable[Way]:
    """Static 8-bit activations, weights of 4 bits."""
    yield Way("static-step", "static-step", bits=("w4a8",))
    yield Way("adaround", "adaround", QUICK, bits=("w4a8",))
    for mode in ("plain", "shift", "migrate", "separate", "joint"):
        yield Way(f"taqdit, {mode}", "taqdit", QUICK | {"mode": mode}, bits=("w4a8",))


PARTS = {"codebooks": tuple(_codebooks()), "integers": tuple(_integers())}
PROJECTED = {"codebooks": ("vq4dit", "w2a16"), "integers": ("taqdit", "w4a8")}
FAR = {  # ways whose distances between sets are measured too
    ("codebooks", "w2a16"): ("rtn, group 32", "kmeans-vq", "vq4dit, 1 candidate", "vq4dit, 2 candidates"),
    ("integers", "w4a8"): ("static-step", "taqdit, plain", "taqdit, separate", "taqdit, joint"),
}  # fmt: skip


class Learned(Subject):
    """A model on which methods learn."""

    _many: Generation | None = None

    @property
    def seen(self) -> Seen:
        """With the inputs of adaptive layer norms, which are not recorded where they are kept."""
        if self._seen is None:
            sites = [replace(s, kept_reason=None) if s.role in ADALN and s.block is not None else s for s in self.model.sites]  # fmt: skip
            model = replace(self.model, sites=sites)
            self._seen = calibrate(model, self.model.samples(CALIBRATION), self.sampler)
        return self._seen

    def learned(self, way: Way, bits: str, far: bool) -> dict[str, Any]:
        """A row with what learning took, the error of every block, and with `far` distances between sets."""
        what = fingerprint(self.depends_on | way.asked(bits))
        learning = Learning(CACHE / "learning", what)
        begun = learning.state_file is not None and learning.state_file.is_file()
        started = time.perf_counter()
        transformer, stored = self.made(way, bits, learning)
        seconds = None if begun else time.perf_counter() - started  # of a whole learning only
        held_out = self.model.samples(HELD_OUT)
        row = {
            **self.judged(way, transformer, stored),
            "seconds": seconds,
            "block_errors": block_errors(self.model, transformer, held_out, self.sampler),
            "measures": _last_measures(learning),
        }
        if far:
            samples = self.model.samples(range(MANY))
            if self._many is None:
                self._many = generate(self.model, samples, self.sampler)
            drawn = generate(self.model, samples, self.sampler, transformer=transformer)
            found = evaluate(self._many, drawn, self.classifier, self.model.classes).to_json()
            row["distances"] = found["distances"]
            row["class_accuracy_many"] = found["class_accuracy_interval"]
        learning.discard_state()
        return row


def _last_measures(learning: Learning) -> dict[str, Any] | None:
    """The last snapshot of a learning."""
    assert learning.log_file is not None
    found = [line["measures"] for line in read_log(learning.log_file) if "measures" in line]
    return found[-1] if found else None


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rows that are asked for."""
    subject = Learned(given.model, parse_seeds(given.seeds), given.steps)
    peers = {peer.key for peer in (*PEERS, QUANTO_INT2)}
    has_peers = versions()["optimum-quanto"] != "not installed"
    wanted = None if given.bits is None else given.bits.split(",")
    parts = []
    for part in given.parts.split(","):
        rows = []
        for bits in sorted({b for way in PARTS[part] for b in way.bits}):
            if wanted is not None and bits not in wanted:
                continue
            for way in PARTS[part]:
                if bits not in way.bits or (way.method in peers and not has_peers):
                    continue
                far = way.name in FAR.get((part, bits), ())
                what = (
                    subject.depends_on | way.asked(bits) | {"held out": list(HELD_OUT), "far": far}
                )
                label = f"{part} {bits} {way.name}"
                row = kept(
                    CACHE, what, label, lambda w=way, b=bits, f=far: subject.learned(w, b, f)
                )
                rows.append({"way": way.name, **way.asked(bits), **row})
        parts.append({"part": part, "rows": rows})
    about = subject.depends_on
    large = [
        kept(
            CACHE,
            {"projected": way, "versions": versions(), "processor": processor()},
            f"{way[0]} {way[1]} on a large model, projected",
            lambda w=way: projected(*w),
        )
        for way in (PROJECTED[part] for part in given.parts.split(","))
    ]
    full = kept(CACHE, about | {"full precision": 1}, "full precision", subject.full_precision)
    ladder = kept(CACHE, about | {"ladder": 1}, "ladder", subject.yardstick)
    return {
        "format": 1,
        "model": given.model,
        "weights": about["weights"],
        "seeds": list(parse_seeds(given.seeds)),
        "many": MANY,
        "sampler": subject.sampler.to_json(),
        "calibration_seeds": list(CALIBRATION),
        "held_out": list(HELD_OUT),
        "versions": versions(),
        "sources": sorted({row["source"] for part in parts for row in part["rows"]}),
        "device": device(),
        "date": datetime.date.today().isoformat(),
        **full,
        "ladder": ladder["rungs"],
        "projected": large,
        "parts": parts,
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--bits", help="of these alone, e.g. w2a16")
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    return written("learned", given.out, lambda: measure(given), markdown)


if __name__ == "__main__":
    sys.exit(main())
