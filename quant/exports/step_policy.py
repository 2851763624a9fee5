"""The step policy that serving programs read: 16-bit activations in the first and last steps.

`quantization_config.runtime.diffusion_step_policy` of a transformer's config.json, as diffusers 0.42 (Cosmos3
alone), vLLM-Omni and SGLang read it. It can say one thing: in the first m and the last n iterations of the
denoising loop quantized layers take their input as it is ("a16"), in all others as they always do
("native"). So a plan fits when its windows say that too:

    every window is a16 for all sites whose activations are ever rounded, or native for all of them,
    the native formats of a site are one, and no a16 window lies between two native ones.

Only the schedule is written. Weights are those of the checkpoint that the file is merged into.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import BadInput
from ..generation import timesteps_of
from ..plans import steps_of
from ..schema import Plan, SitePlan
from . import ExportCard, Exported, Lossy
from .opened import Opened, activations

CARD = ExportCard(
    key="step-policy",
    title="diffusion_step_policy",
    writes="file",
    suffix=".json",
    holds="the steps at which activations stay in 16 bit, where these are the first or the last",
    loses="weights and formats, which it has no word for; refuses windows that differ in anything but 16 bit at either end",
    source="diffusers 0.42 (pipelines/cosmos/mixed_precision.py), read",
    checked="diffusers' own parser, in the tests",
    steps=True,
)

WRITTEN = "no weights and no formats: the steps in 16 bit alone"
NAMED = 3  # offending sites that an error lists


def write(checkpoint: Opened, out: Path) -> Exported:
    """A fragment of config.json, to be merged into that of a checkpoint in 8 bits."""
    plan = checkpoint.config.plan
    kept = _in_16_bit(plan, checkpoint.sites)
    first = next((i for i, a16 in enumerate(kept) if not a16), 0)
    last = next((i for i, a16 in enumerate(reversed(kept)) if not a16), 0)
    counts, warnings = [0] * len(kept), []
    if first or last:
        counts, warnings = _steps(checkpoint)
    policy = {
        "schema_version": 1,
        "type": "first_last_n",
        "index_space": "denoising_loop_iteration",
        "scope": ["transformer"],
        "default_mode": "native",
        "first_steps": {"count": sum(counts[:first]), "mode": "a16"},
        "last_steps": {"count": sum(counts[len(kept) - last :]), "mode": "a16"},
        "overlap": "a16",
        "reasoner": "native",  # of models that reason in the same network; none of ours does
    }
    fragment = {"quantization_config": {"runtime": {"diffusion_step_policy": policy}}}
    out.write_text(json.dumps(fragment, indent=1) + "\n", encoding="utf-8")
    lossy = tuple(
        Lossy(name, f"weight {site.weight or 'in floating point'}; {activations(site)}", WRITTEN)
        for name, site in checkpoint.sites.items()
    )
    return Exported((out,), lossy, tuple(warnings))


def _in_16_bit(plan: Plan, sites: dict[str, SitePlan]) -> list[bool]:
    """Of each window, whether activations stay in 16 bit; BadInput for what the policy cannot say."""
    rounded = {n: s for n, s in sites.items() if any(a is not None for a in s.activations)}
    several = [n for n, s in rounded.items() if len(set(s.activations) - {None}) > 1]
    _refuse(several, "activations have several formats")
    if not rounded:
        return [False] * len(plan.windows)
    patterns = {n: tuple(a is None for a in s.activations) for n, s in rounded.items()}
    common = max(set(patterns.values()), key=lambda p: list(patterns.values()).count(p))
    apart = [n for n, pattern in patterns.items() if pattern != common]
    _refuse(apart, "16-bit activations are in other windows than those of the other sites")
    runs = "".join("a" if a16 else "n" for a16 in common).strip("a")
    _refuse(list(rounded) if "a" in runs else [], "16-bit windows lie between others")
    return list(common)


def _refuse(sites: Sequence[str], why: str) -> None:
    if sites:
        named = ", ".join(sites[:NAMED]) + (", .." if len(sites) > NAMED else "")
        raise BadInput(
            f"step-policy can only keep activations in 16 bit in the first and last steps, for all sites "
            f"alike; {why} at {len(sites)} site{'s' * (len(sites) > 1)}: {named}; export to dqviz instead"
        )


def _steps(checkpoint: Opened) -> tuple[list[int], list[str]]:
    """Steps in each window of the sampler, and a warning where the windows were cut for another one."""
    plan, sampler = checkpoint.config.plan, checkpoint.sampler
    if sampler is None:
        raise BadInput(
            "the windows of this checkpoint are timesteps, the policy counts steps: give the sampler "
            "that it is drawn with"
        )
    found = [len(steps) for steps in steps_of(plan.windows, timesteps_of(sampler))]
    if plan.sampler in (None, sampler.fingerprint):
        return found, []
    return found, [
        f"the windows were cut for another sampler than this one of {sampler.steps} steps; counted by "
        "its timesteps"
    ]
