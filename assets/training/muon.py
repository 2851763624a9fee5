"""Muon for the weight matrices of the blocks, in float32 on CPU.

`torch.optim.Muon` orthogonalises in bfloat16, which processors without bfloat16 units emulate
slowly; here matrices of one shape are stacked and orthogonalised together in float32. Jordan et
al. 2024, https://kellerjordan.github.io/posts/muon; the scale is that of Liu et al. 2025,
https://arxiv.org/abs/2502.16982, so that AdamW's learning rate and weight decay carry over.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(g: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of each matrix of g [k, o, i] near 1 (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT  # [k, r, r]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, then one orthogonal step per matrix, with decoupled weight decay."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        """Take two-dimensional parameters; all must receive gradients at every step."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix, those of one shape together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, matrices in shapes.items():
                nesterov = torch.stack([self._push(p, group["momentum"]) for p in matrices])
                scale = 0.2 * max(shape) ** 0.5  # gives AdamW's usual update size
                updates = orthogonalise(nesterov)
                for p, update in zip(matrices, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * scale)

    def _push(self, p: Tensor, momentum: float) -> Tensor:
        """Add the gradient to p's momentum buffer; give the Nesterov direction [o, i]."""
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)
