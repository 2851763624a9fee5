"""k-means VQ: a codebook for every weight, found by k-means and left at that.

What VQ4DiT starts from and is judged against: arXiv 2408.17131, https://arxiv.org/abs/2408.17131

Shapes: W [o, i] weight; d neighbours of a row per vector v; C [k, d] codebook; A [o, i/d] codes.

    Y = X . decode(A, C)^T + bias,   decode(A, C)[r, j d : (j + 1) d] = C[A[r, j]]
    A = argmin_c ||v - C[c]||^2,     C[c] = mean of the v with A = c,    seeds by k-means++

    bits   2           3          4
    k, d   256, 4      64, 2      256, 2

All linear layers of the blocks, adaLN included; no scales, nothing calibrated (2 and 3 bits: read in the released
code). The steps of k-means are in `quant.vectors`. Ours: 4 bits, codebooks in float16 and int8, inputs of 8 bits and
fewer, rounded as they come. Where both are integers so are the products.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from ..calibration import InputStatistics
from ..cards import Card, Option
from ..clustering import STAGE, Clusterings, clustered, clustering_work, usage, with_codebooks
from ..effort import GroupShape, Work
from ..learning import Asked
from ..schema import Plan, SitePlan, Value
from ..site_tensors import Transform
from ..vectors import CodebookKind
from .base import Group, Rounded

CARD = Card(
    key="kmeans-vq",
    title="k-means VQ",
    paper="https://arxiv.org/abs/2408.17131",
    bits=("w2a16", "w3a16", "w4a16", "w2a8"),
    beats="rtn",
    beats_at=("w2a16",),
    widths=(2, 3, 4),
    codebooks=True,
    also=("adaln",),
    learns=True,
    summary="Vectors of neighbouring weights stand for codewords that k-means found.",
    options=(
        Option("iterations", 100, "steps of k-means, 1 to 1000"),
        Option("codebook", "fp32", "how codewords are stored: fp32, fp16 or int8"),
    ),
)


class Options(Value):
    """Knobs; see the card for what they mean."""

    iterations: int = Field(default=100, ge=1, le=1000)
    codebook: CodebookKind = "fp32"


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Codebooks in the place of integers, site by site with the bits that it has."""
    return plan.each(with_codebooks)


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """A codebook of the same bits."""
    return with_codebooks(site)


def stored_transform(options: Options) -> Transform:
    """Nothing is stored beside codes and codebook."""
    return Transform(codebook=options.codebook)


def work(shape: GroupShape, options: Options) -> Work:
    """k-means alone."""
    return clustering_work(shape, options.iterations)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """k-means of every site by itself; `seen` is not read."""
    made = []
    for site in group.sites:
        if site.plan.weight is None:
            made.append(Rounded(site.weight))
            continue
        found = clustered(site.weight, site.plan.weight, site.name, seed, options.iterations)
        made.append(Rounded(found.stored(options.codebook)))
    return made


class KMeans:
    """The same in steps."""

    stage = STAGE

    def __init__(self, asked: Asked) -> None:
        self.asked, plan = asked, asked.plan
        formats = {n: s.weight for n, s in plan.sites.items() if s.weight is not None}
        self.sites = Clusterings(
            asked.model.transformer,
            formats,
            asked.seed,
            asked.options.iterations,
            asked.model.device,
        )
        self.steps = self.sites.steps

    def step(self, k: int) -> Mapping[str, float]:
        """Some iterations at one site."""
        return self.sites.step(k)

    def state(self) -> dict[str, Tensor]:
        """Codebooks and codes so far."""
        return self.sites.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        self.sites.restore(state)

    def measures(self) -> dict[str, Any]:
        """How the codewords of the sites that are done are used."""
        return {"sites": {name: usage(self.sites.found(name)) for name in self.sites.codes}}

    def rounded(self) -> Mapping[str, Rounded]:
        """Codes of every site; one whose weight stays in floating point is given back as it is."""
        made: dict[str, Rounded] = {}
        for group, _ in self.asked.groups:
            for site in group.sites:
                if site.plan.weight is None:
                    made[site.name] = Rounded(site.weight)
                else:
                    found = self.sites.found(site.name)
                    made[site.name] = Rounded(found.stored(self.asked.options.codebook))
        return made


def learner(asked: Asked) -> KMeans:
    """k-means in steps, so that it can be watched, stopped and gone on with."""
    return KMeans(asked)
