"""Plans under budgets, from a study's table: solved, predicted, and drawn where that is asked for.

    seeds of the sweep, of the method's calibration, of plans that predictions are held against, and of
    verification have no seed in common: a number that is reported was not chosen by.

Without `calibrate`, `refine` and `verify` nothing is loaded but the table. What is drawn is kept plan by plan,
and what a scan solves split by split, so a stopped call goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quant.errors import Cancelled

from ..events import Done, OnEvent
from ..watch import Watch
from .drawn import calibrate, opened, refine, verify
from .grouped import scanned, taken
from .kept import keep
from .request import (
    PLAN_SEEDS,
    VERIFY_FROM,
    AllocateRequest,
    as_command,
    check_fields,
    said,
    title,
)
from .task import prepare, solved

__all__ = [
    "PLAN_SEEDS",
    "VERIFY_FROM",
    "AllocateRequest",
    "allocate",
    "as_command",
    "check_fields",
    "title",
]


def allocate(
    request: AllocateRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Choose a plan within the budgets, keep it in the study, and return what is said of it.

    Keys: `allocation` (its name there), `plan` (fingerprint), `out` (its file), `avg_bits` of the weights,
    `activation_bits`, `size_bytes` (exactly those of the file), `latency_ratio` (predicted, least seconds on `latency_device`
    over those in 16 bit; null for formats without a known peak), `predicted_loss` {mean, lo, hi} (relative latent loss, geometric mean over samples, once calibrated; `lo` and `hi` are null before),
    `calibration` {plans, coverage, factor, seeds} or null, `gap`, `binding`, `bound`, `status`, `seconds` of the
    solution that was taken, `refined` (null, or the typical loss `before` and `after` costs were taken anew, and which was taken), `verified` (null, or the measured loss {mean, lo, hi},
    `typical` {mean, lo, hi} of the geometric mean, with its samples and seeds), `groups` (null, or `metrics` by group and for each budget the
    splits that were tried: `target`, `k`, `bits` by group, `drawn` typical loss, `refused`, `taken`; `bound` is null then, and `gap` the largest of the groups'), `table` {sensitivity, tier, metric, evidence}, `budgets`, `pins`, `ties`, `by_hand` (null, or what a plan was set under that the app sent), `warnings`, `study`, `command`.

    Raises BadInput for what cannot be kept, naming the pins in the way; Cancelled with what was drawn kept.
    """
    check_fields(request)
    watch = Watch(on_event, cancelled, previews=False)
    task = prepare(request, watch)
    watch.stage("solve", f"choosing formats under {said(request.budgets)}")
    try:
        splits = scanned(task) if request.groups else None
        chosen, groups = (None if splits else solved(task, task.posed)), None
        drawing = opened(task) if request.draws else None
        if chosen is None:
            assert splits is not None
            chosen, groups = taken(task, splits, drawing)
        calibration = calibrate(task, drawing)
        refined = None
        if request.refine:
            assert drawing is not None
            chosen, refined = refine(task, drawing, chosen)
        verified = None if drawing is None or not request.verify else verify(drawing, chosen)
    except Cancelled:
        raise Cancelled(
            "cancelled; what was solved and drawn is kept, and the same command goes on from there"
        ) from None
    result = keep(task, chosen, calibration, refined, verified, groups)
    if splits is not None:
        splits.done()
    watch.finish()
    watch.emit(Done(result))
    return result
