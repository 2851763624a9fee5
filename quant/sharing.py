"""Attention sharing: one attention map for both guidance branches of spatial self-attention.

TR-DQ, arXiv 2503.06564, https://arxiv.org/abs/2503.06564 (mode `map`, read in the released code);
DiTFastAttn, arXiv 2406.08552, https://arxiv.org/abs/2406.08552 (mode `output`, second-hand).

Shapes: x_c, x_u [n, t, i] what both branches give to one attention; Q, K, V [n, h, t, d].

    A_c = softmax(Q_c K_c^T / sqrt(d))
    map      y_c = A_c V_c W_o,   y_u = A_c V_u W_o      the unconditional Q, K are not computed
    output   y_c = A_c V_c W_o,   y_u = y_c              nor V_u and its output projection

In batched form (ours; the released code runs two passes and keeps every map between them): both
branches are one batch, and where the kernel takes it, A_c [V_c | V_u] is one attention. No map is stored.

Which half is conditional is read from the arguments of the transformer's own call, so that it holds
in our sampler and in plain diffusers alike, in any order and without counters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from .adapters import Adapter
from .attention_heads import output_of, split_heads
from .errors import BadInput
from .int_attention import IntAttention, check_processors
from .sharing_choice import Sharing, SharingMode
from .step import values_of

ORDINARY = (AttnProcessor2_0, AttnProcessor, IntAttention)
STATE = "dqviz_sharing"  # attribute of a transformer: what it shares
OFF = "switch sharing off: quant.sharing.detach(transformer)"

# What the running call shares: the attentions by name, and which half is conditional.
_running: ContextVar[tuple[frozenset[str], int] | None] = ContextVar("dqviz_sharing", default=None)


class SharedAttention:
    """diffusers' attention processor of one self-attention that shares, where the call says so."""

    def __init__(self, name: str, mode: SharingMode, ordinary: Any) -> None:
        """`ordinary` is what computes it where nothing is shared."""
        self.name, self.mode, self.ordinary = name, mode, ordinary

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """x [2n, t, i] -> y [2n, t, i]."""
        running = _running.get()
        if running is None or self.name not in running[0]:
            return self.ordinary(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if attention_mask is not None:
            raise BadInput(
                f"{self.name} is called with an attention mask, and branches with masks share no map; "
                f"leave the mask away, or {OFF}"
            )
        integer = self.ordinary if isinstance(self.ordinary, IntAttention) else None
        if self.mode == "map":
            attend = None if integer is None else integer.attend
            return shared_map(attn, hidden_states, running[1], attend)
        return shared_output(attn, hidden_states, running[1], integer)


def shared_map(
    attn: Any,
    x: Tensor,
    conditional: int,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Both halves of x [2n, t, i] with the conditional half's map; `attend` as `attend_both`, the default."""
    seen = x.chunk(2)[conditional]
    q, k = split_heads(attn, attn.to_q(seen)), split_heads(attn, attn.to_k(seen))  # [n, h, t, d]
    v = split_heads(attn, attn.to_v(x))  # [2n, h, t, d]
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    return output_of(attn, (attend or attend_both)(q, k, v))


def shared_output(attn: Any, x: Tensor, conditional: int, compute: Any = None) -> Tensor:
    """The conditional half's output, by the processor `compute`, for both halves of x [2n, t, i]."""
    y = (compute or AttnProcessor2_0())(attn, x.chunk(2)[conditional])
    return torch.cat([y, y])


def attend_both(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for Q, K [n, h, t, d] and both halves of V [2n, h, t, d]."""
    if v.device.type == "cpu":
        # The CPU's fused kernel wants values as wide as queries, and without it the whole map is
        # written. Computing the scores a second time is the cheaper way.
        return torch.cat([F.scaled_dot_product_attention(q, k, half) for half in v.chunk(2)])
    return attend_wide(q, k, v)


def attend_wide(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as one attention, with the values of both halves side by side."""
    wide = torch.cat(v.chunk(2), dim=-1)  # [n, h, t, 2d]
    return torch.cat(F.scaled_dot_product_attention(q, k, wide).chunk(2, dim=-1))


def check_family(adapter: Adapter) -> None:
    """Stop where sharing is asked of a family whose attention is not split by guidance branch."""
    if adapter.unshared:
        raise BadInput(
            f"attention sharing is not for {adapter.transformer_class}: {adapter.unshared}; "
            "leave it off (sharing=off)"
        )


def check_guidance(adapter: Adapter, guidance: float) -> None:
    """Stop where sharing is asked for and there is no guidance pair to share between."""
    check_family(adapter)
    if adapter.branches(guidance) == 1:
        raise BadInput(
            f"attention sharing needs guidance above 1, this is {guidance:g}: there is one branch, so "
            "nothing to share; raise --guidance, or leave it off (sharing=off)"
        )


def attach(transformer: nn.Module, adapter: Adapter, sharing: Sharing) -> None:
    """Make the attentions of `sharing` share, in every call that holds their timesteps.

    Such a call must hold a guidance pair: BadInput from the call itself, if it does not.
    """
    check_family(adapter)
    detach(transformer)
    spatial = adapter.spatial_attentions(transformer)
    for name in sharing.attentions:
        if name not in spatial:
            raise BadInput(
                f"'{name}' is no spatial self-attention of this transformer; only those are shared, "
                f"e.g. {', '.join(spatial[:2]) or 'none here'}"
            )
        attention = transformer.get_submodule(name)
        assert isinstance(attention, Attention)
        _check_ordinary(name, attention)
        attention.set_processor(SharedAttention(name, sharing.mode, attention.processor))  # type: ignore[arg-type]
    if not hasattr(transformer, STATE):
        _announce(transformer, adapter)
    setattr(transformer, STATE, sharing)


def detach(transformer: nn.Module) -> None:
    """Undo `attach`: every attention computes what is its own."""
    for module in transformer.modules():
        if isinstance(module, Attention) and isinstance(module.processor, SharedAttention):
            module.set_processor(module.processor.ordinary)
    if hasattr(transformer, STATE):
        setattr(transformer, STATE, None)


def sharing_of(transformer: nn.Module) -> Sharing | None:
    """What a transformer shares; None where nothing was attached."""
    return getattr(transformer, STATE, None)


def _announce(transformer: nn.Module, adapter: Adapter) -> None:
    """Tell the attentions inside what a call shares, and which half is conditional."""
    spatial = adapter.spatial_attentions(transformer)

    def enter(network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        call = arguments_of(network, args, kwargs)
        sharing = sharing_of(network)
        shared = None if sharing is None else _shared_in(sharing, call["timestep"])
        if not shared:
            return
        check_processors(network, spatial, partial(_known, shared), "attention sharing", OFF)
        conditional = adapter.conditional_half(call)
        if conditional is None:
            raise BadInput(
                "this transformer shares attention between the guidance branches, and the batch holds "
                "no pair of them (the same latents twice, with and without the condition); draw with "
                f"guidance above 1, or {OFF}"
            )
        _running.set((shared, conditional))

    def leave(*_: object) -> None:
        _running.set(None)

    transformer.register_forward_pre_hook(enter, with_kwargs=True)
    transformer.register_forward_hook(leave, always_call=True)


def arguments_of(
    transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name."""
    names = inspect.signature(transformer.forward).parameters
    return {**dict(zip(names, args)), **kwargs}


def _shared_in(sharing: Sharing, timestep: Any) -> frozenset[str]:
    """What is shared in a call; a batch over timesteps that differ in that is bad input."""
    sets = {sharing.at(t) for t in values_of(timestep)}
    if len(sets) > 1:
        raise BadInput(
            "one batch holds timesteps at which different attentions are shared; run them in "
            "separate batches"
        )
    return sets.pop()


def _check_ordinary(name: str, attention: Attention) -> None:
    """Stop at an attention that does more than queries, keys, values and an output projection."""
    more = [
        part
        for part in ("spatial_norm", "group_norm", "norm_cross", "add_k_proj", "to_qkv")
        if getattr(attention, part, None)
    ]
    if attention.residual_connection or attention.rescale_output_factor != 1:
        more.append("a residual of its own")
    if type(attention.processor) not in ORDINARY:
        more.append(f"the processor {type(attention.processor).__name__}")
    if more:
        raise BadInput(
            f"attention {name} cannot be shared: it has {', '.join(more)}, which sharing does not know"
        )


def _known(shared: frozenset[str], name: str, processor: object) -> bool:
    """Whether an attention has the processor that it was given, or an ordinary one where it shares nothing."""
    allowed = SharedAttention if name in shared else (SharedAttention, *ORDINARY)
    return isinstance(processor, allowed)
