"""plans.md from plans.json: nothing in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from quant.intervals import CLAIM_SAMPLES, bootstrap

RIVALS = ("uniform", "random", "greedy by error", "greedy by incoherence")  # that are to be beaten
CLAIMED = "gradient"  # the plan that gains are told of


def shown(pair: dict[str, Any]) -> bool:
    """Whether the plan that is claimed about is better, with its whole interval."""
    return pair["db"]["claim"] == "b better" and pair["db"]["n"] >= CLAIM_SAMPLES


def markdown(found: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Solved plans beside others at equal bytes",
        "",
        "Written by `make plans` from `docs/results/plans.json`; do not edit.",
        "",
        f"`{found['model']}`, weights of {found['bits'][0]} to {found['bits'][-1]} bits, inputs of {found['inputs']}, rounded to nearest; "
        f"samples that no table, calibration or choice has seen; {found['device']}; torch {found['versions']['torch']}; {found['date']}. Simulated.",
        f"Losses are squared relative errors of the final latent; typical is their geometric mean. A gain is that of the plan `{CLAIMED}`,",
        "sample by sample, in dB of the loss, with its 95 % bootstrap interval; **bold** where that excludes 0. The last column is the",
        "mean difference of the relative error itself, which samples that became other pictures decide.",
        "",
        "`weight`, `layer` and `gradient` are solved from the tables of these tiers. `random` is the mean of five plans.",
        "",
        *_summary(found),
    ]
    for kind in found["kinds"]:
        lines += ["", f"## {_title(found, kind)}"]
        for budget in kind["budgets"]:
            lines += ["", f"At the bytes of uniform {budget['bits']} bits:", "", *_table(budget)]
        lines += ["", *_predictions(kind)]
    return "\n".join([*lines, ""])


def _title(found: dict[str, Any], kind: dict[str, Any]) -> str:
    return (
        "As trained"
        if kind["kind"] == "plain"
        else f"{kind['kind'].capitalize()} outliers x{found['factor']:g}"
    )


def _summary(found: dict[str, Any]) -> Iterator[str]:
    yield f"| `{CLAIMED}` against | shown to be better | least gain, dB |"
    yield "|---|---:|---:|"
    every = [b for kind in found["kinds"] for b in kind["budgets"]]
    for rival in RIVALS:
        of = [next(p for p in b["pairs"] if p["against"] == rival) for b in every]
        least = min(p["db"]["diff"]["mean"] for p in of)
        yield f"| {rival} | {sum(map(shown, of))} of {len(of)} | {least:+.2f} |"


def _table(budget: dict[str, Any]) -> Iterator[str]:
    yield "| plan | average bits | bytes | samples | typical loss | gain of `gradient`, dB | error less by |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    gains = {p["against"]: p for p in budget["pairs"]}
    for name in (CLAIMED, *gains):
        of = [p for p in budget["plans"] if p["plan"] == name or p["plan"].startswith(f"{name} ")]
        bits, size = (float(np.mean([p[name] for p in of])) for name in ("avg_bits", "size_bytes"))
        logs = np.mean([np.log(np.maximum(p["per_sample"], 1e-12)) for p in of], axis=0)
        loss = bootstrap(logs)
        typical = f"{np.exp(loss.mean):.2e} ({np.exp(loss.lo or loss.mean):.2e} to {np.exp(loss.hi or loss.mean):.2e})"
        gain, error = ("", "") if name == CLAIMED else _gain(gains[name])
        yield f"| `{name}` | {bits:.3f} | {size:,.0f} | {len(logs)} | {typical} | {gain} | {error} |"


def _gain(pair: dict[str, Any]) -> tuple[str, str]:
    db, error = pair["db"]["diff"], pair["error"]["diff"]
    text = f"{db['mean']:+.2f} ({_two(db['lo'])} to {_two(db['hi'])})"
    return (f"**{text}**" if shown(pair) else text), f"{error['mean']:+.4f}"


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _predictions(kind: dict[str, Any]) -> Iterator[str]:
    calibration = kind["calibration"]
    yield (
        f"Predictions from table `gradient`, calibrated on {len(calibration['plans'])} plans (coverage among those, each by the others: "
        f"{calibration['coverage']:.0%}): the measured typical loss lies inside the 95 % interval for {kind['covered']} of {kind['predicted']} plans."
    )
    yield ""
    yield "| bits | plan | predicted | measured | inside |"
    yield "|---:|---|---:|---:|---|"
    for budget in kind["budgets"]:
        for plan in budget["plans"]:
            p = plan["predicted"]
            inside = (p["lo"] or 0.0) <= plan["typical"] <= (p["hi"] or 0.0)
            interval = "-" if p["lo"] is None else f"{p['lo']:.2e} to {p['hi']:.2e}"
            yield (
                f"| {budget['bits']} | `{plan['plan']}` | {p['mean']:.2e} ({interval}) | {plan['typical']:.2e} | {'yes' if inside else 'no'} |"
            )
