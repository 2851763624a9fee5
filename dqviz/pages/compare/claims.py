"""The head of a comparison: its facts, and what it lets one say of every pair of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..view import Section, badge, synthetic_badges
from .names import Run, evidence_badge, interval_text, labels_of, samples_of

SMOKE, CLAIM = 16, 64  # samples for a smoke test and for a claim
MOST_CLAIMS = 4  # sentences at the head of a page


def headline(result: Mapping[str, Any], runs: Sequence[Run]) -> Section:
    """Model, sampling, evidence, and one sentence per pair."""
    model = result.get("model") or {}
    status = result.get("status", "done")
    badges = _status_badges(status) + synthetic_badges(model) + _evidence_badges(runs[1:])
    notes = [{"tone": "warn", "text": str(w)} for w in result.get("warnings") or ()]
    return {
        "kind": "headline",
        "title": str(model.get("title") or model.get("key") or "Comparison"),
        "facts": _facts(result),
        "badges": badges,
        "claims": claims_of(result, runs),
        "notes": notes,
    }


def _facts(result: Mapping[str, Any]) -> list[str]:
    request = result.get("request") or {}
    sampler = result.get("sampler") or {}
    steps = sampler.get("steps") or request.get("steps")
    guidance = sampler.get("guidance", request.get("guidance"))
    n = len(samples_of(result))
    facts = [f"{n} sample{'' if n == 1 else 's'}"]
    clip = next((run["clip"] for run in result.get("runs") or () if run.get("clip")), None)
    if clip:
        facts.append(f"{clip['frames']} frames of {clip['width']} × {clip['height']} pixels")
    if steps:
        facts.append(f"{steps} steps")
    if guidance is not None:
        facts.append(f"guidance {guidance:g}")
    facts += [str(sampler[k]) for k in ("scheduler",) if sampler.get(k)]
    if result.get("status") == "cancelled":
        kept = len(result.get("runs") or ())
        facts.append(f"{kept} finished run{'' if kept == 1 else 's'} kept")
    if result.get("created"):
        facts.append(str(result["created"]).replace("T", " ").replace("Z", " UTC"))
    return facts


def _status_badges(status: str) -> list[dict[str, str]]:
    known = {"cancelled": "cancelled", "running": "running", "failed": "failed"}
    return [badge(known[status], "warn")] if status in known else []


def _evidence_badges(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One badge per kind of evidence among the quantized runs."""
    return [evidence_badge(r) for r in {r.get("evidence"): r for r in runs}.values()]


def claims_of(result: Mapping[str, Any], runs: Sequence[Run]) -> list[dict[str, str]]:
    """One plain sentence per pair of quantized runs; of many pairs those of equal bits, or of equal bytes."""
    labels = labels_of(runs)
    bits = {str(r["name"]): r.get("bits") for r in runs}
    known = [pair for pair in result.get("pairs") or () if difference(pair)]
    if len(known) > MOST_CLAIMS:
        equal = [p for p in known if p.get("aligned") and bits.get(p["a"]) == bits.get(p["b"])]
        near = [p for p in known if p.get("aligned") and p not in equal]
        shown = (equal or near or known)[:MOST_CLAIMS]
    else:
        shown = known
    said = [claim(pair, labels) for pair in shown]
    if len(shown) < len(known):
        said[-1]["sub"] += f" All {len(known)} pairs are in the table."
    return said


def claim(pair: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, str]:
    """What the paired difference lets one say, and how sure it is."""
    diff = difference(pair)
    a, b = (labels.get(str(pair[k]), str(pair[k])) for k in ("a", "b"))
    n = int(pair.get("n") or diff.get("n") or 0)
    if diff["mean"] < 0:
        a, b, diff, flipped = b, a, _negated(diff), True
    else:
        flipped = False
    wins = pair.get("win_rate")
    sub = ""
    if wins is not None:
        share = 1 - wins if flipped else wins
        sub = f"{a} is closer to full precision on {share:.0%} of the {n} seeds."
    if pair.get("aligned") is False:
        sub += " They differ in stored bytes or scope, so this is not a ranking of methods."
    size, interval = f"{diff['mean']:.1f} dB", interval_text(diff, 1)
    if n < SMOKE:
        text = (
            f"Too few samples for a claim: on these {n}, {a} is ahead of {b} by {size}{interval}."
        )
        sub = f"{sub} {SMOKE} seeds make a smoke test, {CLAIM} a claim."
        return {"tone": "few", "text": text, "sub": sub.strip()}
    if not _shows_difference(pair, diff, flipped):
        text = f"No difference shown between {a} and {b}: {size}{interval} on {n} seeds."
        return {"tone": "none", "text": text, "sub": sub}
    text = f"{a} is better than {b} by {size}{interval} on {n} seeds."
    if n < CLAIM:
        sub += f" A smoke test; {CLAIM} seeds make a claim."
    return {"tone": "better", "text": text, "sub": sub.strip()}


def _shows_difference(pair: Mapping[str, Any], diff: Mapping[str, Any], flipped: bool) -> bool:
    """The engine's own verdict where there is one; else that the interval excludes 0."""
    verdict = pair.get("claim")
    if verdict in ("a better", "b better"):
        return (verdict == "b better") == flipped
    if verdict is not None:
        return False
    return diff.get("lo") is not None and diff["lo"] > 0


def difference(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and interval of a pair's decibels; empty where there are none."""
    found = pair.get("diff_db")
    return dict(found) if found and found.get("mean") is not None else {}


def _negated(diff: Mapping[str, Any]) -> dict[str, Any]:
    low, high = diff.get("lo"), diff.get("hi")
    return {
        **diff,
        "mean": -diff["mean"],
        "lo": None if high is None else -high,
        "hi": None if low is None else -low,
    }
