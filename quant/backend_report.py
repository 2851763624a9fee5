"""What arithmetic the quantized sites of a transformer run on, how they hold their weights, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from .fusing import said as fused_links
from .int_attention import choices as attention_choices
from .layers import QuantLinear
from .streaming import present


@dataclass(frozen=True)
class BackendReport:
    """What arithmetic the quantized sites run on, and how they hold their weights."""

    backend: str  # simulate, integer, triton, or mixed
    evidence: str  # measured where real low-bit arithmetic ran everywhere, else simulated
    why: str
    residency: str | None = (
        None  # speed, memory, or mixed; None where there is no quantized site of ours
    )
    sites: Mapping[str, str] = field(default_factory=dict)  # why each runs as it does


def backend_report(transformer: nn.Module, rows: int) -> BackendReport:
    """What the quantized sites run on when each gets `rows` rows (batch x tokens).

    One real low-bit path among simulated ones does not make a measurement: all must be real.
    """
    layers = {n: m for n, m in transformer.named_modules() if isinstance(m, QuantLinear)}
    chosen = {}
    for name, layer in layers.items():
        with present(layer):  # streamed, its numbers say what computes with them
            chosen[name] = layer.why(rows)
    ran = [*chosen.values(), *attention_choices(transformer)]
    if not ran:
        return BackendReport("pytorch", "measured", "ordinary matmuls")
    sites = {n.removesuffix(".base_layer"): why for n, (_, why) in chosen.items()}  # PEFT's name
    names = sorted({backend for backend, _ in ran})
    reasons = sorted({why for _, why in ran})
    residency, *others = sorted({layer.residency for layer in layers.values()}) or [None]
    backend = names[0] if len(names) == 1 else "mixed"
    evidence = "simulated" if "simulate" in names else "measured"
    fused = fused_links(transformer, rows) if names != ["simulate"] else ""
    why = "; ".join([*reasons[:3], *([fused] if fused else [])])
    return BackendReport(backend, evidence, why, "mixed" if others else residency, sites)
