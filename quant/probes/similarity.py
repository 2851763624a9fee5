"""How alike the guidance branches attend, per spatial self-attention and step, and what sharing would do.

TR-DQ, https://arxiv.org/abs/2503.06564; definitions and shapes are those of `quant.similarity`, the
options that a set is chosen by those of `quant.sharing_choice.SharingOptions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import BadInput
from ..models import Model
from ..schema import Bits, Sample, Sampler, Value
from ..seen import Seen
from ..sharing import check_guidance
from ..similarity import measure_similarity
from . import ProbeCard, base

CARD = ProbeCard(
    key="similarity",
    title="Attention of the guidance branches",
    methods=("trdq",),
    needs=("model",),
    summary="Cosine of both branches' attention maps, and the error of sharing them, per attention and step.",
    evidence="measured",
)


def measure(
    model: Model,
    seen: Seen | None,
    sampler: Sampler,
    samples: Sequence[Sample],
    *,
    method: str,
    bits: Bits,
    options: Value,
    on_step: base.OnStep = None,
) -> dict[str, Any]:
    """The fields of `quant.sharing_choice.Similarity`, in full precision; `off` where there is no pair."""
    try:
        check_guidance(model.adapter, sampler.guidance)
    except BadInput as reason:
        return {"off": str(reason)}
    done = 0

    def after(event: Any) -> None:
        nonlocal done
        done += len(event.samples)
        if on_step is not None:
            on_step(done, len(samples) * sampler.steps)

    return measure_similarity(model, samples, sampler, on_step=after).to_json()
