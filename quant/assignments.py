"""Which codeword each vector of a weight takes, learned: ratios over candidates that harden to one.

Shapes: W [o, i]; S vectors w of d neighbours; n candidates A_c [n, S] with distances d [n, S], nearest first;
logits z [n, S]; ratios r = softmax(z) over n; C [k, d] codebook; b [o] bias; g [S, d] = dL/dW.

    W       = sum_j r_j C[A_c,j]                               decoded again in the backward pass
    dL/dz_j = r_j (g_j - sum_l r_l g_l),  g_j = <g, C[A_c,j]>  dL/dC[c] = sum over A_c,j = c of r_j g
    z_j     = ln(d_n / (d_j + 1e-5)), z_n = 0                  so that r_j ~ 1 / d_j; or z = 0
    L_r     = sum over unfrozen s, j of r (1 - r) / unfrozen   per layer, 0 where all are frozen
    frozen  : max_j r_j > 0.99, then z = 1e4 onehot            hardened: > 99 % frozen, then argmax for all

(VQ4DiT, arXiv 2408.17131; all of it read in the released code.) Optimised by RMSprop with alpha 0.9 and
neither momentum nor decay; frozen vectors have no gradient. One layer's weight at a time is decoded, in
both passes, and dL/dW never outlives its layer (ours, for memory).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .learning import check_finite
from .vectors import VectorCodes, candidates, vectors_of

FROZEN_AT = 0.99  # largest ratio
HARDENED_AT = 0.99  # share of frozen vectors
DECIDED = 1e4  # logit of the codeword that a frozen vector takes
ALPHA, EPS = 0.9, 1e-8
PART = 2**18  # vectors at once
Ratios = Literal["inverse_distance", "uniform"]


@dataclass(frozen=True)
class Rates:
    """Learning rates; 0 leaves a part as it is."""

    assignments: float
    codebook: float
    bias: float


class _Decoded(torch.autograd.Function):
    """y = x W^T + b with the weight made of ratios and codewords inside."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, z: Tensor | None, codebook: Tensor, bias: Tensor | None, site: Any
    ) -> Tensor:
        """x [..., i] -> [..., o]."""
        ctx.save_for_backward(x, z, codebook)
        ctx.site, ctx.codes, ctx.biased = site, site.hard_codes() if z is None else None, bias
        return F.linear(x, site.weight_of(z, codebook, ctx.codes), bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of x, z, codebook and bias."""
        x, z, codebook = ctx.saved_tensors
        site, flat = ctx.site, gy.reshape(-1, gy.shape[-1])
        gx = None
        if ctx.needs_input_grad[0]:
            gx = gy @ site.weight_of(z, codebook, ctx.codes)
        g = (flat.T @ x.reshape(-1, x.shape[-1])).reshape(-1, codebook.shape[1])  # [S, d]
        if site.watch is not None:
            site.watch(g)
        gz, gc = site.gradients(g, z, codebook, ctx.codes, ctx.needs_input_grad[2])
        return gx, gz, gc, None if ctx.biased is None else flat.sum(0), None


class Assignment(nn.Module):
    """A linear layer whose weight is being assigned; stands in a student's place of the layer."""

    z: Tensor | None
    watch: Callable[[Tensor], None] | None = None  # sees dL/dW in every backward pass
    hard = False  # compute with the likeliest codewords, whatever the ratios

    def __init__(
        self, name: str, linear: nn.Linear, start: VectorCodes, device: torch.device
    ) -> None:
        """From k-means, everything decided; `open` has it learn."""
        super().__init__()
        self.name = name
        self.out_features, self.in_features = linear.out_features, linear.in_features
        self.codes = start.codes.reshape(-1).to(device)  # [S]; where all is decided
        self.codebook = start.codebook.to(device).float().clone().requires_grad_()
        own = None if linear.bias is None else linear.bias.detach().to(device).float().clone()
        self.bias = None if own is None else own.requires_grad_()
        self.z = None
        self.ids = torch.empty(0)  # uint8 [n, S]
        self.frozen = torch.empty(0)  # bool [S]
        self.ranks = torch.ones(1)  # share of vectors that took their nearest, second nearest, ..
        self.penalty = 0.0
        self._squares: dict[str, Tensor] = {}

    def open(self, weight: Tensor, n: int, ratios: Ratios) -> None:
        """Let every vector choose among its n nearest codewords."""
        if n == 1:
            return
        vectors = vectors_of(weight, self.codebook.shape[1])
        ids, distances = candidates(vectors, self.codebook.detach(), n)
        self.ids, reach = ids.T.contiguous(), distances.T.contiguous()
        z = torch.zeros_like(reach)
        if ratios == "inverse_distance":
            z[:-1] = (reach[-1] / (reach[:-1] + 1e-5)).log()
        self.z = z.requires_grad_()
        self.frozen = torch.zeros(z.shape[1], dtype=torch.bool, device=z.device)
        self._freeze()

    @property
    def hardened(self) -> bool:
        """Whether every vector has its codeword."""
        return self.z is None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., i] -> [..., o]."""
        z = None if self.hard else self.z
        return _Decoded.apply(x, z, self.codebook, self.bias, self)

    def hard_codes(self) -> Tensor:
        """The likeliest codeword of every vector, uint8 [S]."""
        if self.z is None:
            return self.codes
        best = self.z.detach().argmax(0, keepdim=True)
        return self.ids.gather(0, best)[0]

    def weight_of(self, z: Tensor | None, codebook: Tensor, codes: Tensor | None) -> Tensor:
        """The weight that ratios or codes stand for, [o, i]."""
        if z is None:
            assert codes is not None
            return codebook.index_select(0, codes.int()).reshape(self.out_features, -1)
        made = torch.empty(z.shape[1], codebook.shape[1], device=z.device)
        for own in _parts(z.shape[1]):
            r = z[:, own].softmax(0)
            part = r[0, :, None] * codebook.index_select(0, self.ids[0, own].int())
            for j in range(1, len(z)):
                part.addcmul_(r[j, :, None], codebook.index_select(0, self.ids[j, own].int()))
            made[own] = part
        return made.reshape(self.out_features, -1)

    def gradients(
        self, g: Tensor, z: Tensor | None, codebook: Tensor, codes: Tensor | None, of_codebook: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of logits and codebook, from those of the weight's vectors g [S, d]."""
        gc = torch.zeros_like(codebook) if of_codebook else None
        if z is None:
            assert codes is not None
            if gc is not None:
                for own in _parts(len(g)):
                    gc.index_add_(0, codes[own].long(), g[own])
            return None, gc
        gz = torch.empty_like(z)
        for own in _parts(z.shape[1]):
            r, part = z[:, own].softmax(0), g[own]
            for j in range(len(z)):
                index = self.ids[j, own].long()  # with 32 bits index_add_ is five times slower
                gz[j, own] = (part * codebook.index_select(0, index)).sum(1)
                if gc is not None:
                    gc.index_add_(0, index, r[j, :, None] * part)
            gz[:, own] = r * (gz[:, own] - (r * gz[:, own]).sum(0))
        return gz, gc

    @torch.no_grad()
    def update(self, rates: Rates, penalize: float, decided_at: float = FROZEN_AT) -> None:
        """One step down the gradients; `penalize` weighs the gradient of L_r.

        `decided_at` is the largest ratio from which a vector is frozen.
        """
        if self.z is not None and self.z.grad is not None:
            if penalize:
                self._add_penalty(self.z.grad, penalize)
            self.z.grad[:, self.frozen] = 0
            self._step("z", self.z, rates.assignments)
            self._freeze(decided_at)
        if self.codebook.grad is not None:
            self._step("codebook", self.codebook, rates.codebook)
        if self.bias is not None and self.bias.grad is not None:
            self._step("bias", self.bias, rates.bias)

    @torch.no_grad()
    def harden(self) -> None:
        """Every vector takes its likeliest codeword; ratios and candidates are let go."""
        if self.z is None:
            return
        n = len(self.z)
        counts = torch.bincount(self.z.argmax(0), minlength=n)
        self.ranks = (counts / counts.sum()).cpu()
        self.codes = self.hard_codes()
        self.z, self.penalty = None, 0.0
        self.ids, self.frozen = torch.empty(0), torch.empty(0)
        self._squares.pop("z", None)

    @torch.no_grad()
    def measures(self) -> dict[str, Any]:
        """Small numbers about where the assignment stands."""
        k = len(self.codebook)
        used = int((torch.bincount(self.hard_codes().int(), minlength=k) > 0).sum())
        frozen, entropy, ranks = 1.0, 0.0, self.ranks
        if self.z is not None:
            r = self.z.softmax(0)
            entropy = float(-(r * r.clamp(min=1e-12).log()).sum(0).mean())
            frozen = float(self.frozen.float().mean())
            counts = torch.bincount(self.z.argmax(0), minlength=len(r))
            ranks = counts / counts.sum()
        return {
            "frozen": frozen,
            "entropy": entropy,
            "ranks": [float(share) for share in ranks],
            "used": used / k,
            "dead": k - used,
            "changed": 1 - float(ranks[0]),
        }

    def found(self) -> VectorCodes:
        """The codes by now."""
        return VectorCodes(self.hard_codes().reshape(self.out_features, -1), self.codebook.detach())

    def state(self) -> dict[str, Tensor]:
        """All that later steps depend on."""
        held = {"codebook": self.codebook, "ranks": self.ranks}
        if self.bias is not None:
            held["bias"] = self.bias
        held |= {"codes": self.codes} if self.z is None else {"z": self.z, "ids": self.ids}
        return {n: t.detach() for n, t in held.items()} | {
            f"squares.{n}": t for n, t in self._squares.items()
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        device = self.codebook.device
        held = {name: tensor.to(device) for name, tensor in state.items()}
        self.codebook = held["codebook"].requires_grad_()
        self.bias = held["bias"].requires_grad_() if "bias" in held else None
        self.ranks = held["ranks"].cpu()
        self._squares = {
            n.partition(".")[2]: t for n, t in held.items() if n.startswith("squares.")
        }
        if "z" not in held:
            self.z, self.codes, self.penalty = None, held["codes"], 0.0
            return
        self.ids, self.z = held["ids"], held["z"].requires_grad_()
        self.frozen = torch.zeros(self.z.shape[1], dtype=torch.bool, device=device)
        self._freeze()

    def _freeze(self, decided_at: float = FROZEN_AT) -> None:
        """Freeze what is nearly decided, harden where nearly all is; tell the penalty."""
        assert self.z is not None
        z = self.z.detach()
        total, left = 0.0, 0
        for own in _parts(z.shape[1]):
            r = z[:, own].softmax(0)
            top, best = r.max(0)
            fresh = (top > decided_at) & ~self.frozen[own]
            if bool(fresh.any()):
                part = z[:, own]
                part[:, fresh] = 0
                part[best[fresh], fresh.nonzero()[:, 0]] = DECIDED
                self.frozen[own] |= fresh
            open_ = ~self.frozen[own]
            total += float((r * (1 - r)).sum(0)[open_].sum())
            left += int(open_.sum())
        self.penalty = total / left if left else 0.0
        if left < (1 - HARDENED_AT) * z.shape[1]:
            self.harden()

    def _add_penalty(self, grad: Tensor, weight: float) -> None:
        """The gradient of this layer's L_r, times a weight."""
        assert self.z is not None
        left = max(1, int((~self.frozen).sum()))
        for own in _parts(grad.shape[1]):
            r = self.z[:, own].softmax(0)
            slope = 1 - 2 * r
            grad[:, own] += weight / left * r * (slope - (r * slope).sum(0))

    def _step(self, name: str, tensor: Tensor, rate: float) -> None:
        grad = tensor.grad
        assert grad is not None
        tensor.grad = None
        check_finite({f"{name} of {self.name}": grad.sum()[None]})
        squares = self._squares.setdefault(name, torch.zeros_like(grad))
        squares.mul_(ALPHA).addcmul_(grad, grad, value=1 - ALPHA)
        if rate:
            tensor.addcdiv_(grad, squares.sqrt().add_(EPS), value=-rate)


def coherence(g: Tensor, codes: Tensor, k: int) -> float:
    """Mean cosine between gradients g [S, d] of two vectors that share a codeword, all pairs alike.

    (VQ4DiT's own diagnostic, arXiv 2408.17131, second-hand.)
    """
    unit = F.normalize(g, dim=1)
    index = codes.long()
    sums = torch.zeros(k, g.shape[1], dtype=torch.float64, device=g.device)
    sums.index_add_(0, index, unit.double())
    counts = torch.bincount(index, minlength=k).double()
    own = torch.zeros(k, dtype=torch.float64, device=g.device)
    own.index_add_(0, index, unit.double().square().sum(1))
    pairs = (counts * (counts - 1)).sum()
    return float((sums.square().sum(1) - own).sum() / pairs) if pairs else 0.0


def _parts(count: int) -> list[slice]:
    return [slice(at, at + PART) for at in range(0, count, PART)]
