"""k-means of every site, some iterations at a step: what methods with codebooks start from.

A learner holds one `Clusterings` and lets it take the first steps, so that progress, cancelling and
going on cover k-means too. Every site draws its own seeds, so their order changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .effort import GroupShape, Work
from .learning import generator
from .schema import CODEBOOKS, Format, SitePlan
from .vectors import (
    SEEDED,
    VectorCodes,
    codebook_shape,
    kmeans,
    lloyd_step,
    nearest_codes,
    seeds,
    vectors_of,
)

AT_ONCE = 10  # iterations in a step
_NEAREST, _SEED = (
    6,
    9,
)  # a distance and a vector's step of seeding, in passes over numbers: timed on a CPU
STAGE = "k-means"
GROUPS = 32  # of codewords, whose uses are told together


def with_codebooks(site: SitePlan) -> SitePlan:
    """The site with a codebook of the same bits in the place of its integers."""
    weight = site.weight
    if weight is None or weight.kind != "int":
        return site
    return site.model_copy(update={"weight": Format.of_codebook(weight.bits)})


def clustered(weight: Tensor, fmt: Format, name: str, seed: int, iterations: int) -> VectorCodes:
    """Codes of one site by k-means, as `Clusterings` finds them."""
    return kmeans(weight, fmt, generator(seed, STAGE, name), iterations)


def clustering_work(shape: GroupShape, iterations: int) -> Work:
    """Of one group in codebooks of 2 or 4 bits: distances to k codewords, their smallest, and the means."""
    k, d = CODEBOOKS[2]
    vectors = shape.weights / d
    looked = (iterations + 1) * vectors
    looked *= 1 + 1 / AT_ONCE  # once more at the end of a step
    seeding = _SEED * k * min(vectors, SEEDED * len(shape.outputs)) * d
    return Work(looked * k * d, _NEAREST * looked * k + 8 * looked * d + seeding, 20 * iterations)


class Clusterings:
    """k-means of these sites, one after the other."""

    def __init__(
        self,
        transformer: nn.Module,
        formats: Mapping[str, Format],
        seed: int,
        iterations: int,
        device: torch.device,
    ) -> None:
        self.transformer, self.formats = transformer, dict(formats)
        self.names: Sequence[str] = list(formats)
        self.seed, self.iterations, self.device = seed, iterations, device
        self.codebooks: dict[str, Tensor] = {}  # of sites that are begun
        self.codes: dict[str, Tensor] = {}  # of sites that are done
        self._vectors: tuple[str, Tensor] | None = None

    @property
    def steps(self) -> int:
        """In all."""
        return len(self.names) * self._each

    @property
    def _each(self) -> int:
        return -(-self.iterations // AT_ONCE)

    def step(self, k: int) -> dict[str, float]:
        """Some iterations at one site; the relative squared error of its weight."""
        name, part = self.names[k // self._each], k % self._each
        vectors = self._of(name)
        if part == 0:
            shape = self.transformer.get_submodule(name).weight.shape  # type: ignore[union-attr]
            count, _ = codebook_shape(self.formats[name], *shape)  # type: ignore[arg-type,misc]
            self.codebooks[name] = seeds(vectors, count, generator(self.seed, STAGE, name))
        for _ in range(min(AT_ONCE, self.iterations - part * AT_ONCE)):
            found = lloyd_step(vectors, self.codebooks[name])
            self.codebooks[name] = found.codebook
            if found.settled:
                break
        codes, errors = nearest_codes(vectors, self.codebooks[name])
        if part == self._each - 1:
            self.codes[name] = codes
            self._vectors = None
        total = float(vectors.double().square().sum())
        return {"weight_error": float(errors.double().sum()) / total if total else 0.0}

    def found(self, name: str) -> VectorCodes:
        """Codes of a site that is done."""
        rows = len(self.transformer.get_submodule(name).weight)  # type: ignore[arg-type]
        return VectorCodes(self.codes[name].reshape(rows, -1), self.codebooks[name])

    def state(self) -> dict[str, Tensor]:
        """Codebooks of the sites that are begun, codes of those that are done."""
        return {f"{n}.codebook": t for n, t in self.codebooks.items()} | {
            f"{n}.codes": t for n, t in self.codes.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        for held, last in ((self.codebooks, "codebook"), (self.codes, "codes")):
            held.clear()
            for name in self.names:
                if f"{name}.{last}" in state:
                    held[name] = state[f"{name}.{last}"].to(self.device)

    def forget(self, names: Sequence[str]) -> None:
        """Let go of what was found for these sites."""
        for name in names:
            self.codebooks.pop(name, None)
            self.codes.pop(name, None)

    def _of(self, name: str) -> Tensor:
        """The vectors of a site, kept until the next one's."""
        if self._vectors is None or self._vectors[0] != name:
            weight: Tensor = self.transformer.get_submodule(name).weight  # type: ignore[assignment]
            _, d = CODEBOOKS[self.formats[name].bits]
            vectors = vectors_of(weight.detach().to(self.device), d)
            self._vectors = name, vectors
        return self._vectors[1]


def usage(found: VectorCodes) -> dict[str, object]:
    """How the codewords of a site are used.

    Share in use; how many are dead; uses per codeword, most used first, as means of up to `GROUPS` groups of
    equal size; bits that a code is worth, the entropy of the uses.
    """
    k = len(found.codebook)
    counts = torch.bincount(found.codes.reshape(-1).int(), minlength=k).double()
    share = counts[counts > 0] / counts.sum()
    groups = counts.sort(descending=True).values.reshape(min(k, GROUPS), -1).mean(1)
    return {
        "used": len(share) / k,
        "dead": k - len(share),
        "counts": [round(float(c), 2) for c in groups],
        "worth": float(-(share * share.log2()).sum()),
    }
