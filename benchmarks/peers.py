"""Other people's quantizers beside ours: same model, sites, stored bytes, seeds, noise and sampler.

    make peers                                          (64 seeds, the card's sampler)
    .venv-peers/bin/python -m benchmarks.peers --seeds 0-15 --out /tmp/peers

For every peer configuration both our methods are quantized at the same bits. The weight group of
ours is chosen so that the quantized sites take the bytes of the peer's as nearly as can be, and the
transformer's file the same bytes (+-3 %). A picture is drawn per seed; its PSNR against full precision is one value of a pair, and the difference ours -
peer gets a 95 % interval. A peer that does not run is listed with its error.

Every finished row is kept in `.peers/`, keyed by all that it depends on (weights, sampler, seeds,
library versions, our source), so that an interrupted run goes on where it was.

Writes peers.json and peers.md into --out (docs/results). Exit code 1 when one of our rows is worse.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import hashlib
import importlib.metadata
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant.calibration import calibrate
from quant.errors import DQVizError
from quant.generation import Generation, generate
from quant.intervals import bootstrap, paired_difference
from quant.layers import QuantLinear
from quant.loading import load_model
from quant.metrics import latent_error, psnr
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import fingerprint, parse_bits
from quant.seeds import parse_seeds
from quant.seen import Seen
from quant.sizes import predict_size

from .peer_libraries import PEERS, Peer, peer_bytes
from .peers_page import conclusion, markdown
from .results import device

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".peers"
OURS = ("rtn", "viditq")
GROUPS = (None, 256, 128, 64, 32)  # None: one scale per output channel
BYTES_AGREE = 0.03
NOT_WORSE_DB = -0.3  # an interval wholly below this is a loss
CALIBRATION_SEEDS = tuple(range(100_000, 100_008))  # the product's own; never the reported ones
LIBRARIES = ("torch", "diffusers", "torchao", "optimum-quanto")


# -- bytes


def our_bytes(transformer: nn.Module) -> int:
    """Everything that our sites store but the bias, which both sides keep."""
    return sum(
        buffer.nbytes
        for layer in transformer.modules()
        if isinstance(layer, QuantLinear)
        for name, buffer in layer.state_dict().items()
        if name != "bias"
    )


# -- one row


@dataclass
class Bench:
    """What all rows share."""

    model: Model
    seeds: tuple[int, ...]
    steps: int | None
    batch: int

    def __post_init__(self) -> None:
        self.sites = [s.name for s in self.model.sites if s.kept_reason is None]
        self.sampler = self.model.sampler(self.steps)
        self.samples = self.model.samples(self.seeds)
        size = predict_size(self.model.transformer, self.model.sites, {}, {})
        inside = [s for s in self.model.sites if s.kept_reason is None]
        weights = sum(s.in_features * s.out_features for s in inside)
        self.rest_bytes = size.fp16_bytes - 2 * weights  # what nobody quantizes, at 16 bit
        self._reference: Generation | None = None
        self._seen: Seen | None = None
        self.shared = {
            "weights": digest_of(self.model.transformer),
            "samples": [s.to_json() for s in self.samples],
            "sampler": self.sampler.to_json(),
            "calibration": CALIBRATION_SEEDS,
            "versions": versions(),
        }
        self.source = source_digest()  # of what was imported, whatever happens to the files later

    @property
    def reference(self) -> Generation:
        """Full precision, drawn once."""
        if self._reference is None:
            self._reference = self.draw(self.model.transformer)
        return self._reference

    @property
    def seen(self) -> Seen:
        """Our calibration, recorded once."""
        if self._seen is None:
            samples = self.model.samples(CALIBRATION_SEEDS)
            self._seen = calibrate(self.model, samples, self.sampler, batch_size=self.batch)
        return self._seen

    def draw(self, transformer: nn.Module) -> Generation:
        """The reported samples through one transformer."""
        return generate(
            self.model,
            self.samples,
            self.sampler,
            transformer=transformer,
            batch_size=self.batch,
        )

    def draw_calibration(self, transformer: nn.Module) -> None:
        """The calibration samples through a peer that watches its activations."""
        samples = self.model.samples(CALIBRATION_SEEDS)
        generate(
            self.model,
            samples,
            self.sampler,
            transformer=transformer,
            batch_size=self.batch,
        )

    def measure(self, transformer: nn.Module, site_bytes: int) -> dict[str, Any]:
        """Per-sample numbers of one quantized transformer against full precision."""
        drawn = self.draw(transformer)
        decibels = psnr.measure(self.reference.images, drawn.images)
        errors = latent_error.measure(self.reference.latents, drawn.latents)
        return {
            "site_bytes": site_bytes,
            "psnr_db": [None if v == float("inf") else round(float(v), 4) for v in decibels],
            "latent_rel_error": [round(float(v), 7) for v in errors],
        }

    def peer(self, peer: Peer) -> dict[str, Any]:
        """One row of a peer; its error is its result when it does not run."""

        def work() -> dict[str, Any]:
            transformer = copy.deepcopy(self.model.transformer)
            try:
                peer.apply(transformer, self.sites, self.draw_calibration)
                changed = [
                    name
                    for name in self.sites
                    if type(transformer.get_submodule(name)) is not nn.Linear
                    or type(transformer.get_submodule(name).weight) not in (Tensor, nn.Parameter)
                ]
                if len(changed) != len(self.sites):
                    return {
                        "error": f"only {len(changed)} of {len(self.sites)} sites were quantized"
                    }
                return self.measure(
                    transformer, peer_bytes(transformer, self.sites, peer.stored_bits)
                )
            except Exception as error:  # a peer's failure is a finding, whatever it is
                return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}

        return self.kept(f"peer {peer.key}", {"peer": peer.key}, work)

    def ours(self, method: str, bits: str, group: int | None) -> dict[str, Any]:
        """One row of ours."""

        def work() -> dict[str, Any]:
            made = self.quantized(method, bits, group)
            return self.measure(made, our_bytes(made))

        what = {"method": method, "bits": bits, "group": group, "source": self.source}
        return self.kept(f"{method} {bits} group {group or 'row'}", what, work)

    def quantized(self, method: str, bits: str, group: int | None) -> nn.Module:
        """Our transformer, on the reference arithmetic of the device at hand."""
        plan = uniform_plan(self.model, parse_bits(bits), sampler=self.sampler, group_size=group)
        seen = self.seen if method == "viditq" else None
        return quantize(self.model, method, plan, {}, seen).transformer

    def group_for(self, method: str, bits: str, target: int) -> int | None:
        """The weight group at which our bytes, transforms included, come nearest to the peer's.

        Groups are tried in the order of plain rounding's bytes; the first within 3 % is taken.
        """
        plain = []
        for group in GROUPS:
            try:
                plain.append((group, our_bytes(self.quantized("rtn", bits, group))))
            except DQVizError:
                continue  # a width of this model is no multiple of the group
        found = []
        for group, size in sorted(plain, key=lambda item: abs(item[1] / target - 1))[:2]:
            size = size if method == "rtn" else our_bytes(self.quantized(method, bits, group))
            found.append((abs(size / target - 1), group))
            if found[-1][0] <= BYTES_AGREE:
                break
        return min(found, key=lambda item: item[0])[1]

    def kept(
        self, label: str, what: dict[str, Any], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """A row from `.peers/`, or made and put there."""
        path = CACHE / f"{fingerprint({**self.shared, **what})}.json"
        if path.is_file():
            say(f"{label}: kept from an earlier run")
            return json.loads(path.read_text())
        started = time.perf_counter()
        row = work()
        CACHE.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row))
        partial.replace(path)
        say(f"{label}: {row.get('error') or 'done'} in {time.perf_counter() - started:.0f} s")
        return row


def digest_of(transformer: nn.Module) -> str:
    """sha256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(transformer.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def source_digest() -> str:
    """sha256 of what computes our rows: a change of the engine makes them anew."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "quant").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


# -- pairs


def compared(
    peer: Peer,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    method: str,
    group: int | None,
    rest_bytes: int = 0,
) -> dict[str, Any]:
    """Ours minus the peer, sample by sample; `rest_bytes` are what both keep at 16 bit."""
    pair = paired_difference(ours["psnr_db"], theirs["psnr_db"])
    difference = pair.diff
    worse = difference is not None and difference.hi is not None and difference.hi < NOT_WORSE_DB
    ratio = (ours["site_bytes"] + rest_bytes) / (theirs["site_bytes"] + rest_bytes)
    return {
        "method": method,
        "bits": peer.bits,
        "group": group,
        "site_bytes": ours["site_bytes"],
        "site_bytes_ratio": round(ours["site_bytes"] / theirs["site_bytes"], 4),
        "file_bytes_ratio": round(ratio, 4),
        "same_bytes": abs(ratio - 1) <= BYTES_AGREE,
        "psnr_db": summary(ours["psnr_db"]),
        "latent_rel_error": summary(ours["latent_rel_error"]),
        "diff_db": None if difference is None else difference.to_json(),
        "win_rate": pair.win_rate,
        "worst_decile_db": pair.worst_decile,
        "enough": pair.enough,
        "worse": worse,
        "per_sample_db": ours["psnr_db"],
    }


def summary(values: list[float | None]) -> dict[str, float | None] | None:
    """Mean with its interval, and the minimum, over what is finite."""
    finite = [v for v in values if v is not None]
    if not finite:
        return None
    interval = bootstrap(finite)
    return {"mean": interval.mean, "lo": interval.lo, "hi": interval.hi, "min": min(finite)}


def run(bench: Bench) -> dict[str, Any]:
    """All rows."""
    rows = []
    for peer in PEERS:
        theirs = bench.peer(peer)
        row: dict[str, Any] = {
            "key": peer.key,
            "library": peer.library,
            "title": peer.title,
            "bits": peer.bits,
        }
        if "error" in theirs:
            rows.append({**row, "error": theirs["error"], "ours": []})
            continue
        mine = []
        for method in OURS:
            group = bench.group_for(method, peer.bits, theirs["site_bytes"])
            ours = bench.ours(method, peer.bits, group)
            mine.append(compared(peer, theirs, ours, method, group, bench.rest_bytes))
        row |= {
            "site_bytes": theirs["site_bytes"],
            "psnr_db": summary(theirs["psnr_db"]),
            "latent_rel_error": summary(theirs["latent_rel_error"]),
            "per_sample_db": theirs["psnr_db"],
        }
        rows.append({**row, "error": None, "ours": mine})
    return {
        "format": 1,
        "model": bench.model.key,
        "weights": bench.shared["weights"],
        "sites": len(bench.sites),
        "rest_bytes": bench.rest_bytes,
        "seeds": list(bench.seeds),
        "sampler": bench.sampler.to_json(),
        "calibration_seeds": list(CALIBRATION_SEEDS),
        "not_worse_db": NOT_WORSE_DB,
        "versions": versions(),
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }


def write(result: dict[str, Any], out: Path) -> None:
    """Both files."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "peers.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    (out / "peers.md").write_text(markdown(result))


def say(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the peers, about one another
    try:
        model = load_model(given.model, device="cpu")
        bench = Bench(model, parse_seeds(given.seeds), given.steps, given.batch)
        result = run(bench)
    except DQVizError as error:
        say(f"error: {error}")
        return error.exit_code
    write(result, given.out)
    say(conclusion(result))
    return int(any(mine["worse"] for row in result["rows"] for mine in row["ours"]))


if __name__ == "__main__":
    sys.exit(main())
