"""Vector quantization of a weight: neighbours of a row stand for one of k vectors.

Shapes: W [o, i] weight; d neighbours of a row per vector, S = o i / d vectors v; C [k, d] codebook;
A [o, i/d] codes; n candidates of a vector.

    W[r, j d : (j + 1) d] ~ C[A[r, j]]
    k-means      A = argmin_c ||v - C[c]||^2,  C[c] = mean of the v with A = c       100 times
    seeds        C[0] at random, then v with probability ~ min_c ||v - C[c]||^2      k-means++
    candidates   the n nearest C[c] of every v, the nearest first
    k            at most 2^floor(log2(S / 4)), so that small layers keep 4 vectors per codeword

(VQ4DiT, arXiv 2408.17131; sizes, clamp, plain distances and 100 iterations: read in the released code.)
Ours: a codeword that no vector takes moves to the vector that is served worst, where the code leaves it
at zero; seeds are drawn from at most `SEEDED` vectors; k-means stops where nothing moves.
Nothing is ever larger than a chunk of distances, and sums are in float64.

Codewords are stored in float32, float16 or int8, where one float32 scale is that of the whole codebook. Rounding can make
codewords equal; codes then name the first of them, so that the weight alone tells its codes (`kernels.vq_linear.codes_of`).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

import kernels
from kernels.kmeans_assign.reference import gaps_of, least

from .errors import BadInput
from .schema import CODEBOOKS, Format

ITERATIONS = 100
SEEDED = 2**16  # vectors that seeds are drawn from, at most
CodebookKind = Literal["fp32", "fp16", "int8"]  # how codewords are stored
DTYPES = dict(zip(get_args(CodebookKind), (torch.float32, torch.float16, torch.int8), strict=True))


class VectorCodes(NamedTuple):
    """Codes of one weight with the vectors that they stand for."""

    codes: Tensor  # uint8 [o, i/d]
    codebook: Tensor  # float32, float16 or int8 [k, d]
    scale: Tensor | None = None  # float32 [1], of a codebook in int8

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight: o, i."""
        rows, per_row = self.codes.shape
        return rows, per_row * self.codebook.shape[1]

    @property
    def code_bits(self) -> int:
        """Of one code: log2 k."""
        return index_bits(len(self.codebook))

    @property
    def kind(self) -> CodebookKind:
        """How the codewords are stored."""
        return next(kind for kind, dtype in DTYPES.items() if dtype == self.codebook.dtype)

    def decode(self) -> Tensor:
        """The weight that the codes stand for, float32 [o, i]."""
        words = self.codebook.float()
        if self.scale is not None:
            words = words * self.scale
        flat = words.index_select(0, self.codes.reshape(-1).int())
        return flat.reshape(len(self.codes), -1)

    def stored(self, kind: CodebookKind) -> VectorCodes:
        """With the codewords of a float32 codebook as they are stored."""
        if kind != "int8":
            return self._replace(codebook=self.codebook.to(DTYPES[kind]))
        codebook, scale = kernels.vq_linear.rounded(self.codebook)
        first = kernels.vq_linear.first_of_equals(codebook)  # [k]
        return VectorCodes(first[self.codes.long()], codebook, scale)

    def check(self, where: str) -> None:
        """Stop at codes beyond the codebook, and at a codebook that holds NaN or infinity."""
        check_codebook(self.codebook if self.scale is None else self.scale, where)
        largest = int(self.codes.max()) if self.codes.numel() else 0
        if largest >= len(self.codebook):
            raise BadInput(
                f"{where}: code {largest} is beyond its codebook of {len(self.codebook)} vectors; "
                "codes or codebook are damaged"
            )


def check_codebook(codebook: Tensor, where: str) -> None:
    """Stop where a codebook holds NaN or infinity."""
    if not bool(torch.isfinite(codebook).all()):
        raise BadInput(f"{where}: the codebook holds NaN or infinity; it is damaged")


def codebook_shape(fmt: Format, out_features: int, in_features: int) -> tuple[int, int]:
    """k and d of a codebook for a weight of that shape."""
    k, d = CODEBOOKS[fmt.bits]
    vectors = out_features * in_features // d
    return max(2, min(k, 2 ** int(math.log2(max(vectors / 4, 1))))), d


def index_bits(k: int) -> int:
    """Bits of one code into a codebook of k vectors."""
    return (k - 1).bit_length()


def vectors_of(weight: Tensor, d: int) -> Tensor:
    """The vectors of a weight [o, i], row by row, float32 [S, d]."""
    return weight.float().reshape(-1, d)


def seeds(vectors: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """First codebook [k, d] by k-means++; `generator` is on the CPU."""
    if len(vectors) > SEEDED:
        chosen = torch.randperm(len(vectors), generator=generator)[:SEEDED]
        vectors = vectors[chosen.to(vectors.device)]
    first = int(torch.randint(len(vectors), (1,), generator=generator))
    drawn: list[float] = torch.rand(k, generator=generator, dtype=torch.float64).tolist()
    found = [first]
    nearest = torch.full((len(vectors),), math.inf, device=vectors.device)
    columns = vectors.T.contiguous()  # [d, S]: sums over rows this short are slow
    for u in drawn[1:]:
        last = columns[:, found[-1], None]
        nearest = torch.minimum(nearest, (columns - last).square().sum(0))
        reach = nearest.cumsum(0, dtype=torch.float64)
        at = torch.searchsorted(reach, reach[-1] * u, right=True)
        found.append(min(int(at), len(vectors) - 1))
    return vectors[torch.tensor(found, device=vectors.device)].clone()


def nearest_codes(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Of every vector the nearest codeword, uint8 [S], and its squared distance [S]."""
    return kernels.kmeans_assign(vectors, codebook)


class Clustering(NamedTuple):
    """One state of k-means."""

    codebook: Tensor  # float32 [k, d]
    codes: Tensor  # uint8 [S], nearest in the codebook
    error: float  # mean squared error of an element
    settled: bool  # whether another step would change nothing


def lloyd_step(vectors: Tensor, codebook: Tensor) -> Clustering:
    """Move every codeword to the mean of its vectors; what is given back was true before the move.

    Codewords without vectors move to the vectors that are served worst, which costs nobody anything.
    """
    codes, errors = nearest_codes(vectors, codebook)
    index = codes.int()
    sums = torch.zeros(codebook.shape, dtype=torch.float64, device=vectors.device)
    for part, own in zip(vectors.split(SEEDED), index.split(SEEDED), strict=True):
        sums.index_add_(0, own.long(), part.double())
    counts = torch.bincount(index, minlength=len(codebook))
    means = (sums / counts.clamp(min=1)[:, None]).float()
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        empty = empty[: len(vectors)]
        means[empty] = vectors[errors.topk(len(empty)).indices]
    error = float(errors.double().mean()) / codebook.shape[1]
    return Clustering(means, codes, error, torch.equal(means, codebook))


def kmeans(
    weight: Tensor, fmt: Format, generator: torch.Generator, iterations: int = ITERATIONS
) -> VectorCodes:
    """Codes and codebook of a weight [o, i] by k-means alone."""
    k, d = codebook_shape(fmt, *weight.shape)
    vectors = vectors_of(weight, d)
    codebook = seeds(vectors, k, generator)
    for _ in range(iterations):
        found = lloyd_step(vectors, codebook)
        codebook = found.codebook
        if found.settled:
            break
    codes, _ = nearest_codes(vectors, codebook)
    return VectorCodes(codes.reshape(len(weight), -1), codebook)


def candidates(vectors: Tensor, codebook: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n nearest codewords of every vector, uint8 [S, n], and their distances [S, n], ascending."""
    shape = len(vectors), min(n, len(codebook))
    codes = torch.empty(shape, dtype=torch.uint8, device=vectors.device)
    distances = torch.empty(shape, device=vectors.device)
    at = 0
    for part, gaps in gaps_of(vectors, codebook):
        found, own = _nearest(gaps, shape[1]), slice(at, at + len(part))
        exact = (part[:, None] - codebook[found]).square().sum(2).sqrt()  # [c, n]
        order = exact.argsort(dim=1, stable=True)
        codes[own], at = found.gather(1, order), own.stop
        distances[own] = exact.gather(1, order)
    return codes, distances


def _nearest(gaps: Tensor, n: int) -> Tensor:
    """Indices of the n least of every row; written over. For so few a search each is faster than a sort."""
    found = []
    for _ in range(n):
        found.append(least(gaps))
        gaps.scatter_(1, found[-1][:, None], math.inf)
    return torch.stack(found, 1)
