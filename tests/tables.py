"""Studies with a table of sensitivities, written without a model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from dqviz.study import Study
from quant.blueprint import Blueprint, SiteFacts
from quant.schema import Sampler, Window
from quant.sensitivity.cells import Row, cells_of
from quant.sensitivity.table import flat

ROLES = {
    "attn1.to_q": "self_q",
    "attn1.to_k": "self_k",
    "attn1.to_v": "self_v",
    "attn1.to_out.0": "self_out",
    "ff.net.0.proj": "fc1",
    "ff.net.2": "fc2",
}
METRICS = ("latent_error", "ssim_loss")
MODEL = {"key": "dit-emoji", "ref": "dit-emoji", "title": "A model", "fingerprint": "f", "weights": "w"}  # fmt: skip


def blueprint(
    blocks: int = 3, windows: int = 2, steps: int = 10, bits: tuple[str, ...] = ("3", "4", "8")
) -> Blueprint:
    """Of a transformer with six layers in every block, and one that is kept."""
    sites = [
        SiteFacts(
            name=f"transformer_blocks.{block}.{name}",
            block=block,
            role=role,
            group="visual",
            in_features=256 if role == "fc2" else 64,
            out_features=256 if role == "fc1" else 64,
            input_of=f"transformer_blocks.{block}.{name.partition('.')[0]}",
            kept_reason=None,
            rows=16,
        )
        for block in range(blocks)
        for name, role in ROLES.items()
    ]
    head = sites[0].model_copy(
        update={"name": "proj_out", "block": None, "role": "head", "kept_reason": "head: small"}
    )
    ends = np.linspace(1000, 0, windows + 1)
    return Blueprint(
        model="f",
        method="rtn",
        options={},
        sampler=Sampler(scheduler="DDIMScheduler", steps=steps, guidance=2.0),
        windows=tuple(Window(low=b, high=a) for a, b in itertools.pairwise(ends)),
        shares=(1 / windows,) * windows,
        branches=2,
        sites=(*sites, head),
        attentions=(),
        bytes={
            s.name: {b: s.weights * int(b) // 8 + 4 * s.out_features for b in (*bits, "16")}
            for s in sites
        },
        rest_bytes=50_000,
        fp16_bytes=sum(s.weights * 2 for s in sites) + 50_000,
        dtype="F32",
        tensors={},
    )


def rows(
    found: Blueprint,
    bits: tuple[str, ...] = ("3", "4", "8"),
    seed: int = 0,
    metric: str = "latent_error",
) -> list[Row]:
    """Halved with every bit, larger in later layers, four samples."""
    rng = np.random.default_rng(seed)
    names = [s.name for s in found.sites if s.kept_reason is None]
    scale = dict(zip(names, np.geomspace(0.01, 0.2, len(names)), strict=True))
    made = []
    for cell in cells_of(names, bits, len(found.windows)):
        mean = 0.0 if cell.bits == "16" else scale[cell.site] * 4.0 ** (3 - int(str(cell.bits)))
        share = 1 if cell.window is None else 1 / len(found.windows)
        made.append(Row.of(cell, metric, mean * share * rng.uniform(0.8, 1.2, 4)))
    return made


def write_table(folder: Path, **table: Any) -> Study:
    """A study with one finished table, as `add_table` takes it."""
    study = Study.create(folder, MODEL, {"dqviz": "0"})
    add_table(study, "gradient-rtn", **table)
    return study


def add_table(
    study: Study,
    name: str,
    *,
    blocks: int = 3,
    windows: int = 2,
    steps: int = 10,
    bits: tuple[str, ...] = ("3", "4", "8"),
    metrics: tuple[str, ...] = ("latent_error",),
    **record: Any,
) -> None:
    """A finished table of a study."""
    found = blueprint(blocks, windows, steps, bits)
    groups = {s.name: s.group for s in found.sites}
    key = "key" if name == "gradient-rtn" else name
    begun = study.begin_sensitivity(
        name, key, {}, tier="gradient", method="rtn", record={"groups": groups}
    )
    request = {"model": "dit-emoji", "bits": list(bits), "out": str(study.folder)}
    told = {
        "evidence": "simulated", "groups": groups, "bits": list(bits), "samples": 4, "request": request,
        "command": f"dqviz sensitivity dit-emoji --bits {','.join(bits)}",
    }  # fmt: skip
    measured = [row for n, metric in enumerate(metrics) for row in rows(found, bits, n, metric)]
    table = flat(measured, groups, "simulated")
    study.end_sensitivity(begun, table, found.to_json(), {**told, **record})
