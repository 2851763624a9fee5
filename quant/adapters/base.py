"""What the engine needs to know of a transformer family.

An adapter is one small file: the diffusers class it speaks for, a table from name patterns to
roles, what stays in 16 bit and why, and how to draw pictures with it. The engine never asks which
family it has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import BadInput
from .producers import Attended, Modulated, Producer, resolve
from .residuals import Residual

if TYPE_CHECKING:
    from ..schema import Sample, Sampler

Encoded = Callable[[str], dict[str, Tensor]]  # a text's `Adapter.encode`, on the model's device
Group = Literal["content", "temporal", "visual", "none"]

# One table: the metric group of a role (ViDiT-Q, metric-decoupled mixed precision).
GROUP_OF_ROLE: dict[str, Group] = {
    **dict.fromkeys(("self_q", "self_k", "self_v", "self_out", "fc1", "fc2"), "visual"),
    **dict.fromkeys(
        ("joint_q", "joint_k", "joint_v", "joint_out", "single_in", "single_out"), "visual"
    ),
    **dict.fromkeys(
        ("cross_q", "cross_k", "cross_v", "cross_out", "context_fc1", "context_fc2"), "content"
    ),
    **dict.fromkeys(("temporal_q", "temporal_k", "temporal_v", "temporal_out"), "temporal"),
    **dict.fromkeys(("adaln", "embed", "head", "unknown"), "none"),
}


@dataclass(frozen=True)
class Site:
    """One linear layer: where it is, what it does, its shape, and why it is kept if it is."""

    name: str  # full diffusers name, e.g. "transformer_blocks.3.ff.net.2"
    block: int | None  # index over all blocks of the model, None outside the blocks
    role: str
    in_features: int
    out_features: int
    input_of: str  # sites with the same value read the same tensor, which is recorded once
    kept_reason: str | None  # None: may be quantized

    @property
    def group(self) -> Group:
        """Metric group of the site's role."""
        return GROUP_OF_ROLE[self.role]


@dataclass(frozen=True)
class Prediction:
    """The network's output at one step, per guidance branch, float32 in the shape of the latents."""

    cond: Tensor
    uncond: Tensor | None  # None without guidance
    guided: Tensor


@dataclass(frozen=True)
class RolePattern:
    """`pattern` is matched against the part of a name that follows the block's own name."""

    pattern: str
    role: str
    shares_input_with: str = ""  # sites of one block with the same mark read the same tensor
    kept: str = ""  # the reason, when sites of this role stay in 16 bit


ADALN_KEPT = "conditioning runs once per sample, not per token: under 1 % of the work, and every step depends on it"
EMBED_KEPT = "embedder: runs once per sample and sets every block's conditioning"
HEAD_KEPT = "input or output projection: little work, and its error goes straight into the sample"


class Adapter:
    """Base of all families: a table of roles, and the three operations of drawing.

    A family without the three operations still has sites and sizes.
    """

    family: ClassVar[str]
    known: ClassVar[bool] = True  # roles and how it draws, as far as the engine asks for them
    transformer_class: str  # name in diffusers
    block_lists: ClassVar[tuple[str, ...]]  # ModuleLists that hold the repeated blocks, in order
    roles: ClassVar[tuple[RolePattern, ...]]  # inside a block; the first match counts
    outside: ClassVar[tuple[RolePattern, ...]] = ()  # outside the blocks
    produced: ClassVar[
        tuple[Modulated | Attended, ...]
    ] = ()  # inputs whose channels can be rescaled
    residuals: ClassVar[tuple[Residual, ...]] = ()  # of every block, in order; what can be fused
    noisiest_timestep: ClassVar[float] = 1000.0  # as the transformer's own argument counts
    conditioned_on: ClassVar[Literal["class", "prompt"]] = "class"
    draws: ClassVar[Literal["image", "video"]] = "image"
    conditional_first: ClassVar[bool] = False  # which guidance branch comes first in a batch
    distilled: ClassVar[bool] = False  # guidance is an input of the network: one branch, always
    defaults: ClassVar[Mapping[str, Any]] = {"guidance": 4.0, "steps": 20}  # of a card
    vae_scale: ClassVar[tuple[int, int]] = 1, 8  # of the published VAE: in time, and in space
    linear_attention: ClassVar[bool] = False  # self-attention without products of all with all
    unshared: ClassVar[str] = ""  # why its guidance branches cannot share attention

    def sites(self, transformer: nn.Module) -> list[Site]:
        """Every `nn.Linear` (or its quantized stand-in) exactly once, in module order."""
        starts = {f"{name}.": index for index, name in enumerate(self.blocks(transformer))}
        found = []
        for name, module in transformer.named_modules():
            if not isinstance(module, nn.Linear) and not hasattr(module, "dqviz_site"):
                continue
            prefix = next((p for p in starts if name.startswith(p)), None)
            block = None if prefix is None else starts[prefix]
            rest = name if prefix is None else name[len(prefix) :]
            rule = _first_match(self.outside if prefix is None else self.roles, rest)
            if prefix is not None:
                rule = self.role_in(prefix.partition(".")[0], rule)
            shared = f"{prefix or ''}{rule.shares_input_with}" if rule.shares_input_with else name
            found.append(
                Site(
                    name=name,
                    block=block,
                    role=rule.role,
                    in_features=int(module.in_features),  # type: ignore[arg-type]
                    out_features=int(module.out_features),  # type: ignore[arg-type]
                    input_of=shared,
                    kept_reason=rule.kept or None,
                )
            )
        return found

    def blocks(self, transformer: nn.Module) -> list[str]:
        """Full names of the blocks, in order."""
        return [
            f"{block_list}.{index}"
            for block_list in self.block_lists
            for index in range(len(transformer.get_submodule(block_list)))  # type: ignore[arg-type]
        ]

    def producers(self, transformer: nn.Module) -> list[Producer]:
        """Where the inputs that `produced` speaks of are made, and which sites read them."""
        return resolve(self.produced, transformer, self.blocks(transformer))

    def modulation(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """What `residuals` are shifted, scaled and gated by, [b, k, c]; x [b, t, c] enters the block.

        `call` are the arguments of the block's call, by name.
        """
        raise NotImplementedError(f"{self.transformer_class} has residuals and no modulation")

    def between(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """What a block does to x [b, t, c] after the first of its residuals."""
        return x

    def role_in(self, block_list: str, rule: RolePattern) -> RolePattern:
        """The rule as it counts in one list of blocks; families with several kinds of blocks refine it."""
        return rule

    def spatial_attentions(self, transformer: nn.Module) -> list[str]:
        """Full names of the self-attentions over picture tokens alone, in order."""
        return [
            site.name.rpartition(".")[0]
            for site in self.sites(transformer)
            if site.role == "self_q"
        ]

    def conditional_half(self, call: Mapping[str, Any]) -> int | None:
        """Which half of a batch, 0 or 1, is the conditional one; None where it holds no guidance pair.

        `call` are the arguments of one call of the transformer, by name. Both halves of a pair hold
        the same latents at the same timesteps.
        """
        return (0 if self.conditional_first else 1) if halves_agree(call) else None

    def branches(self, guidance: float) -> int:
        """How many guidance branches one evaluation has, 1 or 2."""
        return 1 if self.distilled or guidance <= 1 else 2

    def card_defaults(self, pipe: Any) -> dict[str, Any]:
        """What a card says that its folder does not: `defaults`, refined by what the pipeline is."""
        return dict(self.defaults)

    def resolved(self, pipe: Any, sampler: Sampler) -> Sampler:
        """The sampler with all in it that the family's pipeline works out from size and steps.

        Also of a sampler that was resolved before and has other steps now.
        """
        return sampler

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """Shape of one sample's latent, without the batch axis: [c, h, w], of clips [c, f, h, w].

        Raises BadInput for a size or a number of frames that the family cannot draw.
        """
        if sampler.frames is not None:
            raise BadInput(
                f"frames {sampler.frames}: {self.transformer_class} draws pictures, not clips; "
                "leave --frames away"
            )
        return (pipe.transformer.config.in_channels, *self.latent_size(pipe, sampler))

    def latent_size(self, pipe: Any, sampler: Sampler) -> tuple[int, int]:
        """Height and width of a latent."""
        config = pipe.transformer.config
        if sampler.size is None:
            return config.sample_size, config.sample_size
        scale = pipe.vae_scale_factor
        each = scale * (config.get("patch_size") or 1)
        check_size(sampler.size, each)
        return sampler.size[0] // scale, sampler.size[1] // scale

    def tokens(
        self, config: Any, size: tuple[int, int] | None = None, frames: int | None = None
    ) -> tuple[int, int] | None:
        """Rows of one sample behind the family's published VAE, and frames whose rows attend apart.

        `size` in pixels and `frames` are what is asked for, else the configuration's own; None where
        neither says how large a picture is.
        """
        side, patch = config.get("sample_size"), config.get("patch_size") or 1
        if not isinstance(patch, int) or (size is None and not isinstance(side, int)):
            return None
        height, width = (side, side) if size is None else (s // self.vae_scale[1] for s in size)
        apart: int = frames or config.get("video_length") or 1
        return (height // patch) * (width // patch) * apart, apart

    def encode(self, pipe: Any, prompt: str) -> dict[str, Tensor]:
        """One text as the network reads it: named rows of fixed shapes, [1, ...] each, so that they stack."""
        raise self._cannot_draw()

    def conditions(
        self, pipe: Any, samples: Sequence[Sample], sampler: Sampler, encoded: Encoded
    ) -> Any:
        """What `predict` needs to know of the samples; `encoded` gives a text's `encode`, kept by the model."""
        raise self._cannot_draw()

    def predict(
        self,
        transformer: nn.Module,
        latents: Tensor,
        timestep: Tensor,
        conditions: Any,
        guidance: float,
    ) -> Prediction:
        """One denoising evaluation of `latents` [n, *latent_shape] for all guidance branches."""
        raise self._cannot_draw()

    def decode(self, pipe: Any, latents: Tensor) -> Tensor:
        """Latents -> pictures [n, h, w, 3] or clips [n, f, h, w, 3], float32 in [0, 1], on the CPU."""
        raise self._cannot_draw()

    def _cannot_draw(self) -> BadInput:
        return BadInput(
            f"drawing with {self.transformer_class} is not supported yet; its sites and sizes are: "
            "dqviz layers, dqviz size"
        )


def _first_match(table: Sequence[RolePattern], name: str) -> RolePattern:
    for rule in table:
        if re.fullmatch(rule.pattern, name):
            return rule
    return RolePattern(".*", "unknown", kept="its role is not known to this family's adapter")


def halves_agree(call: Mapping[str, Any]) -> bool:
    """Whether both halves of a batch hold the same latents, and the same timesteps."""
    latents, timestep = call["hidden_states"], call.get("timestep")
    if len(latents) % 2 or not torch.equal(*latents.chunk(2)):
        return False
    if isinstance(timestep, Tensor) and timestep.dim() and len(timestep) == len(latents):
        return torch.equal(*timestep.chunk(2))
    return True


def check_size(size: tuple[int, int], each: int) -> None:
    """Stop at a height or width that is not so many pixels, or a multiple."""
    if any(side % each for side in size):
        near = "x".join(str(max(each, round(side / each) * each)) for side in size)
        raise BadInput(
            f"size {size[0]}x{size[1]}: height and width have to be multiples of {each}; e.g. {near}"
        )


def dtype_of(transformer: nn.Module) -> torch.dtype:
    """What a network computes in, its parameters aside that diffusers keeps in float32 for its class."""
    wide: Sequence[str] = getattr(transformer, "_keep_in_fp32_modules", None) or ()
    return next(
        p.dtype
        for name, p in transformer.named_parameters()
        if p.is_floating_point() and not any(part in name for part in wide)
    )


def pictures(vae: Any, latents: Tensor, **told: Any) -> Tensor:
    """Latents [n, c, h, w] through a picture VAE: [n, h, w, 3], float32 in [0, 1], on the CPU."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    found = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + shift, **told).sample
    return (found.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()


def adapters() -> dict[str, Adapter]:
    """Adapter of each supported diffusers transformer class, by class name."""
    from . import load_all

    return {adapter.transformer_class: adapter for adapter in load_all()}


def adapter_for(transformer: nn.Module) -> Adapter:
    """The adapter of a transformer, by its diffusers class; of a class without one, the generic adapter."""
    from .generic import Generic

    return adapters().get(type(transformer).__name__) or Generic(transformer)


def check_finite(transformer: nn.Module, where: str) -> None:
    """Stop when a weight holds NaN or infinity: nothing measured on it would mean anything."""
    from ..streaming import value

    for name, _ in transformer.named_parameters():
        if not bool(torch.isfinite(value(transformer, name)).all()):
            raise BadInput(
                f"{where}: weight '{name}' holds NaN or infinity; the file is damaged or overflowed in 16 bit"
            )
