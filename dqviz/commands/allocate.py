"""`dqviz allocate`: formats under budgets, from a study's table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import complain
from .base import show, watched
from .options import NO_LIST, Device, DType, Json


def allocate(
    study: Annotated[
        Path,
        typer.Option("--study", metavar="DIR", help="Study that dqviz sensitivity wrote into."),
    ],
    budget: Annotated[
        list[str],
        typer.Option(
            "--budget",
            metavar="NAME=N",
            help="At most avg_bits, activation_bits, size_mb or latency_ratio; repeat for several.",
        ),
    ] = NO_LIST,
    pin: Annotated[
        list[str],
        typer.Option(
            "--pin",
            metavar="NAME=BITS",
            help="Fix layers: NAME=w8a8, '*.ff.net.2=w8', NAME@0=a16 (window 0); repeatable.",
        ),
    ] = NO_LIST,
    tie: Annotated[
        list[str],
        typer.Option("--tie", metavar="WHAT", help="Same bits: qkv, or a pattern of layers."),
    ] = NO_LIST,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="JSON file for the plan; new."),
    ] = None,
    sensitivity: Annotated[
        str | None,
        typer.Option(
            "--sensitivity", metavar="NAME", help="Table of the study; default the latest."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="KEY", help="Metric to choose by; default the latent error."
        ),
    ] = None,
    latency_device: Annotated[
        str,
        typer.Option(
            "--latency-device", metavar="NAME", help="Device that latency is predicted for."
        ),
    ] = "a100-80gb",
    groups: Annotated[
        bool,
        typer.Option(
            "--groups", help="Decide every metric group apart, by its own metric (ViDiT-Q-MP)."
        ),
    ] = False,
    group_metric: Annotated[
        list[str],
        typer.Option(
            "--group-metric",
            metavar="GROUP=KEY",
            help="Metric of a group, e.g. visual=ssim_loss; default the best that the table has.",
        ),
    ] = NO_LIST,
    scan: Annotated[
        int,
        typer.Option(
            "--scan",
            metavar="N",
            help="With --groups: draw N splits of each budget, take the best.",
        ),
    ] = 0,
    calibrate: Annotated[
        int,
        typer.Option(
            "--calibrate",
            metavar="N",
            help="Draw N plans near solved ones and hold predictions against them; 12 or more.",
        ),
    ] = 0,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine", help="Take the costs anew beside the solved plan, and solve again."
        ),
    ] = False,
    verify: Annotated[
        int,
        typer.Option(
            "--verify", metavar="N", help="Draw N samples with the plan, on seeds of their own."
        ),
    ] = 0,
    plan_seeds: Annotated[
        str,
        typer.Option("--plan-seeds", metavar="SEEDS", help="Seeds of --calibrate and --refine."),
    ] = "300000-300007",
    gap: Annotated[
        float,
        typer.Option("--gap", metavar="F", help="Good enough: this much above the least loss."),
    ] = 1e-4,
    limit: Annotated[
        float,
        typer.Option("--limit", metavar="SECONDS", help="After which the solver takes its best."),
    ] = 10.0,
    device: Device = "auto",
    dtype: DType = "auto",
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", "--batch", metavar="N", help="Samples per batch."),
    ] = 8,
    json_: Json = False,
) -> None:
    """Choose bits under budgets from a sweep."""
    from ..allocating import AllocateRequest
    from ..allocating import allocate as run
    from ..tables import allocated

    request = AllocateRequest.parse(
        {
            "study": study,
            "sensitivity": sensitivity,
            "metric": metric,
            "budgets": budget,
            "pins": pin,
            "ties": tie,
            "latency_device": latency_device,
            "groups": groups,
            "group_metrics": group_metric,
            "scan": scan,
            "gap": gap,
            "limit": limit,
            "calibrate": calibrate,
            "refine": refine,
            "verify": verify,
            "plan_seeds": plan_seeds,
            "out": out,
            "device": device,
            "dtype": dtype,
            "batch_size": batch_size,
        },
        "command line",
    )
    with watched() as (progress, cancelled):
        made = run(request, progress, cancelled)
    if json_:
        for warning in made["warnings"]:
            complain(f"warning: {warning}")
    show(made, json_, allocated(made))
