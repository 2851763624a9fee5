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
import datetime
import sys
from pathlib import Path
from typing import Any

from quant.schema import OUTLIER_KINDS, Outliers
from quant.seeds import parse_seeds

from .peer_libraries import PEERS
from .peers import versions
from .results import device, written
from .rows import CALIBRATION, TRACED, Subject, Way, kept
from .transforms_page import markdown

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".transforms"
BITS = ("w8a8", "w6a6", "w4a8", "w4a4")
KINDS = ("plain", *OUTLIER_KINDS)
FACTOR = 32.0
GROUP = 128
_PEERS = {peer.key for peer in PEERS}


WAYS = (
    Way("rtn", "rtn", bits=BITS),
    Way("static-step", "static-step", bits=BITS),
    Way("smoothquant", "smoothquant", bits=BITS),
    Way("quarot", "quarot", bits=BITS),
    Way("gptq", "gptq", bits=BITS),
    Way("gptq, scale and rotation", "gptq", {"transform": "both"}, bits=BITS),
    Way("svdquant", "svdquant", bits=BITS),
    Way("ptq4dit", "ptq4dit", bits=BITS),
    Way("q-dit", "q-dit", bits=BITS),
    Way("viditq", "viditq", bits=BITS),
    Way("trdq, one window", "trdq", {"windows": 1}, bits=BITS),
    Way("trdq", "trdq", bits=BITS),
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


def _row(subject: Subject, kind: str, way: Way, bits: str, again: bool) -> dict[str, Any]:
    asked = way.asked(bits)
    label = f"{kind} {bits} {way.name}"
    row = kept(CACHE, subject.depends_on | asked, label, lambda: subject.row(way, bits), again)
    return {"way": way.name, **asked, **row}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rows that are asked for."""
    seeds = parse_seeds(given.seeds)
    again = set(given.again.split(";"))
    has_peers = versions()["torchao"] != "not installed"
    found = []
    sampler, weights = None, {}
    for name in given.kinds.split(","):
        outliers = None if name == "plain" else Outliers(kind=name, factor=FACTOR)
        subject = Subject(given.model, seeds, given.steps, outliers)
        sampler, weights[name] = subject.sampler, subject.depends_on["weights"]
        rows = [
            _row(subject, name, way, bits, way.name in again)
            for bits in given.bits.split(",")
            for way in WAYS
            if bits in way.bits and (has_peers or way.method not in _PEERS)
        ]
        about = subject.depends_on
        full = kept(CACHE, about | {"full precision": 1}, name, subject.full_precision)
        ladder = kept(CACHE, about | {"ladder": 1}, f"{name} ladder", subject.yardstick)
        said = {"kind": name, "model": subject.model.card.title, **full, "ladder": ladder["rungs"]}
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
        "device": device(),
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
    return written("transforms", given.out, lambda: measure(given), markdown)


if __name__ == "__main__":
    sys.exit(main())
