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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dqviz.machine import processor
from quant.calibration import Seen, calibrate
from quant.errors import DQVizError
from quant.generation import Generation, generate
from quant.intervals import bootstrap, paired_difference
from quant.layers import QuantLinear
from quant.metrics import latent_error, psnr
from quant.models import Model, load_model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import fingerprint, parse_bits, parse_seeds
from quant.sizes import predict_size

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".peers"
OURS = ("rtn", "viditq")
GROUPS = (None, 256, 128, 64, 32)  # None: one scale per output channel
BYTES_AGREE = 0.03
NOT_WORSE_DB = -0.3  # an interval wholly below this is a loss
CALIBRATION_SEEDS = tuple(range(100_000, 100_008))  # the product's own; never the reported ones
LIBRARIES = ("torch", "diffusers", "torchao", "optimum-quanto")


@dataclass(frozen=True)
class Peer:
    """One configuration of another library."""

    key: str
    library: str
    title: str
    bits: str  # what ours is set to
    apply: Callable[[nn.Module, list[str], Callable[[nn.Module], None]], None]
    stored_bits: int  # of a weight code, where the library keeps it in a wider integer


# -- the peers, each exactly as its documentation says to call it


def torchao_config(name: str, **options: Any) -> Callable[..., None]:
    """`quantize_` with a configuration, on our sites only."""

    def apply(transformer: nn.Module, sites: list[str], _: object) -> None:
        from torchao import quantization

        wanted = set(sites)
        if options.get("group"):
            config = getattr(quantization, name)(
                weight_dtype=torch.int4,  # pyright: ignore[reportAttributeAccessIssue]
                weight_granularity=quantization.PerGroup(options["group"]),
            )
        else:
            config = getattr(quantization, name)()
        quantization.quantize_(transformer, config, filter_fn=lambda _, fqn: fqn in wanted)

    return apply


def quanto_config(weights: str, activations: str | None = None) -> Callable[..., None]:
    """`quantize`, calibration where activations are quantized, `freeze`."""

    def apply(transformer: nn.Module, sites: list[str], draw: Callable[[nn.Module], None]) -> None:
        from optimum import quanto

        types = {"weights": getattr(quanto, weights)}
        if activations:
            types["activations"] = getattr(quanto, activations)
        quanto.quantize(transformer, include=sites, **types)
        if activations:
            with quanto.Calibration():
                draw(transformer)
        quanto.freeze(transformer)

    return apply


PEERS = (
    Peer(
        "torchao-w8a8",
        "torchao",
        "Int8DynamicActivationInt8WeightConfig (per row)",
        "w8a8",
        torchao_config("Int8DynamicActivationInt8WeightConfig"),
        8,
    ),
    Peer(
        "torchao-w4a8",
        "torchao",
        "Int8DynamicActivationIntxWeightConfig (int4, group 128)",
        "w4a8",
        torchao_config("Int8DynamicActivationIntxWeightConfig", group=128),
        4,
    ),
    Peer(
        "torchao-w8a16",
        "torchao",
        "Int8WeightOnlyConfig (per row)",
        "w8a16",
        torchao_config("Int8WeightOnlyConfig"),
        8,
    ),
    Peer(
        "quanto-w8a16",
        "optimum-quanto",
        "weights=qint8",
        "w8a16",
        quanto_config("qint8"),
        8,
    ),
    Peer(
        "quanto-w4a16",
        "optimum-quanto",
        "weights=qint4 (group 128)",
        "w4a16",
        quanto_config("qint4"),
        4,
    ),
    Peer(
        "quanto-w8a8",
        "optimum-quanto",
        "weights=qint8, activations=qint8 (static, calibrated)",
        "w8a8",
        quanto_config("qint8", "qint8"),
        8,
    ),
)


# -- bytes


def leaves(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors inside a tensor subclass, by attribute name."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in (Tensor, nn.Parameter):
        yield "", tensor
        return
    for name in flatten()[0]:
        for below, leaf in leaves(getattr(tensor, name)):
            yield f"{name}.{below}".rstrip("."), leaf


def peer_bytes(transformer: nn.Module, sites: list[str], stored_bits: int) -> int:
    """Weights with their scales and zero points; codes at the width that they would be saved in.

    torchao keeps int4 codes in int8 on a CPU: they count as four bits, as in its packed formats.
    """
    total = 0
    for name in sites:
        module = transformer.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)
        for _, leaf in leaves(weight):
            codes = leaf.dtype == torch.int8 and leaf.numel() == weight.numel()
            total += leaf.numel() * stored_bits // 8 if codes else leaf.nbytes
        for scale in ("input_scale", "output_scale"):  # static activation scales of quanto
            value = getattr(module, scale, None)
            total += value.nbytes if isinstance(value, Tensor) else 0
    return total


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


# -- the report


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
        "device": f"{processor()}, {torch.get_num_threads()} threads, float32",
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }


def markdown(result: dict[str, Any]) -> str:
    """peers.md from peers.json: nothing in it is written by hand."""
    versions_line = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    sampler = result["sampler"]
    n = len(result["seeds"])
    lines = [
        "# Other quantizers beside ours",
        "",
        "Written by `make peers` from `docs/results/peers.json`; do not edit.",
        "",
        f"Model `{result['model']}` (weights {result['weights']}), {result['sites']} sites, the same for everyone; "
        f"{n} seeds ({result['seeds'][0]} to {result['seeds'][-1]}), {sampler['scheduler']}, {sampler['steps']} steps, "
        f"guidance {sampler['guidance']:g}. Calibration, where a method has one: seeds "
        f"{result['calibration_seeds'][0]} to {result['calibration_seeds'][-1]}. {result['device']}; {versions_line}; {result['date']}.",
        "",
        "PSNR is against full precision with the same seed, class, starting noise and sampler. Difference: ours minus "
        "the peer, per seed, mean with its 95 % bootstrap interval. Bytes are those of the quantized sites: codes, "
        "scales, zero points and transforms; `/ peer` compares them, `file / peer` the transformer's whole file, whose "
        f"other {result['rest_bytes']:,} bytes are the same for everyone (equal means within 3 %). Decibels of this "
        "small model say nothing about other models.",
        "",
        "| who | bits | bytes | / peer | file / peer | PSNR dB (95 %) | min dB | ours - peer, dB (95 %) | wins | verdict |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        if row["error"]:
            lines.append(
                f"| **{row['library']}** {row['title']} | {row['bits']} | | | | | | | | does not run: {cell(row['error'])} |"
            )
            continue
        lines.append(
            f"| **{row['library']}** {row['title']} | {row['bits']} | {row['site_bytes']:,} | 1 | 1 | {interval(row['psnr_db'])} "
            f"| {row['psnr_db']['min']:.2f} | | | |"
        )
        for ours in row["ours"]:
            group = f", group {ours['group']}" if ours["group"] else ", per row"
            diff = ours["diff_db"]
            lines.append(
                f"| ours: {ours['method']}{group} | {ours['bits']} | {ours['site_bytes']:,} | {ours['site_bytes_ratio']:.3f} | {ours['file_bytes_ratio']:.3f} "
                f"| {interval(ours['psnr_db'])} | {ours['psnr_db']['min']:.2f} | {interval(diff, sign=True)} "
                f"| {ours['win_rate']:.0%} | {verdict(ours)} |"
            )
    lines += ["", conclusion(result), ""]
    return "\n".join(lines)


def verdict(ours: dict[str, Any]) -> str:
    """One or two words per row."""
    words = "worse" if ours["worse"] else "not worse"
    diff = ours["diff_db"]
    if diff and diff["lo"] is not None and diff["lo"] > 0:
        words = "better"
    if not ours["same_bytes"]:
        words += "; bytes differ by more than 3 %"
    if not ours["enough"]:
        words += "; too few seeds"
    return words


def conclusion(result: dict[str, Any]) -> str:
    """The checked sentence below the table."""
    ours = [(row, mine) for row in result["rows"] for mine in row["ours"]]
    lost = [f"{mine['method']} beside {row['key']}" for row, mine in ours if mine["worse"]]
    unlike = [
        f"{mine['method']} beside {row['key']}" for row, mine in ours if not mine["same_bytes"]
    ]
    bound = result["not_worse_db"]
    text = f"No interval lies wholly below {bound} dB: ours is not worse in any of the {len(ours)} comparisons."
    if lost:
        text = f"**Worse** (interval wholly below {bound} dB): {', '.join(lost)}."
    if unlike:
        text += f" Not at equal bytes: {', '.join(unlike)}."
    return text


def interval(value: dict[str, Any] | None, sign: bool = False) -> str:
    """`12.34 (12.00 to 12.70)`."""
    if value is None:
        return "identical"
    plus = "+" if sign else ""
    mean = format(value["mean"], f"{plus}.2f")
    if value["lo"] is None:
        return mean
    return f"{mean} ({format(value['lo'], f'{plus}.2f')} to {format(value['hi'], f'{plus}.2f')})"


def cell(text: str) -> str:
    """Text that cannot break a table."""
    return text.replace("|", "\\|").replace("\n", " ")[:200]


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
