"""Attention with int8 scores in a model: queries and keys of spatial self-attention, each row on its own scale.

SageAttention, Zhang et al. 2024, https://arxiv.org/abs/2410.02367; formulas in `kernels/int_attention/reference.py`.

Shapes: x [n, t, i]; Q, K, V [n, h, t, d].

Asked for by `Plan.attention`, beside any quantization of the layers; nothing is stored, because the scales come from
what is at hand. It goes with attention sharing, whose two branches are then one operation, and not with static ranges
inside attentions, which round the same tensors another way. Where it is not computed by a GPU kernel it is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from kernels.dispatch import Choice
from kernels.int_attention import choose, int_attention

from .adapters import Adapter
from .attention_heads import output_of, split_heads
from .attention_ranges import RangedAttention, obstacle
from .errors import BadInput
from .schema import AttentionFormat, Value
from .streaming import device_of

LEAVE = "leave attention int8 away"
STATE = "dqviz_int_attention"  # attribute of a transformer: names of the attentions that have it
OFF = "quantize again without attention int8"


class IntAttention:
    """diffusers' attention processor of a self-attention whose scores are products of int8 rows."""

    def __init__(self, backend: str | None = None) -> None:
        """`backend` as `kernels.dispatch` has them; None: what the environment says."""
        self.backend = backend
        self.taken: str | None = None  # by the last call outside graphs
        self.choice: Choice | None = None  # likewise, with the reason

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """x [n, t, i] -> y [n, t, i]."""
        if attention_mask is not None:
            raise BadInput(
                f"an attention with int8 scores is called with a mask, which it does not know; {LEAVE}"
            )
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (split_heads(attn, x) for x in (q, k, v))  # [n, h, t, d]
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        return output_of(attn, self.attend(q, k, v))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V; two halves of V [2n, h, t, d] take the map of Q and K [n, h, t, d]."""
        if not torch.compiler.is_compiling():
            self.choice = choose(q, self.backend, k.shape[2])
            self.taken = self.choice.backend
        if self.taken is None:
            raise RuntimeError(
                "call the transformer once eagerly before it is compiled or exported"
            )
        return int_attention(q, k, v, backend=self.taken)


def check(
    transformer: nn.Module, adapter: Adapter, asked: AttentionFormat | None, options: Value
) -> None:
    """Stop where a plan asks for what the attentions, or a method's options, do not allow."""
    if asked is None:
        return
    if getattr(options, "inside", False):
        raise BadInput(
            "the method puts static integers inside attentions, which does not go with attention int8; take "
            f"--option inside=false, or {LEAVE}"
        )
    _allowed(transformer, adapter)


def attach(
    transformer: nn.Module,
    adapter: Adapter,
    asked: AttentionFormat | None,
    backend: str | None = None,
) -> None:
    """Let every spatial self-attention compute its scores in int8; before sharing is attached.

    A call is BadInput where an attention has lost its processor to another one by then.
    """
    if asked is None:
        return
    allowed = _allowed(transformer, adapter)
    for attention in allowed.values():
        attention.set_processor(IntAttention(backend))  # type: ignore[arg-type]
    if not hasattr(transformer, STATE):
        transformer.register_forward_pre_hook(_check)
    setattr(transformer, STATE, tuple(allowed))


def run_on(transformer: nn.Module, backend: str) -> None:
    """From now on on a backend."""
    for _, processor in _attached(transformer):
        processor.backend, processor.taken, processor.choice = backend, None, None


def choices(transformer: nn.Module) -> Iterator[Choice]:
    """What computes each of them, and why: in the last call, else with one token; BadInput as a call."""
    _check(transformer)
    for module, processor in _attached(transformer):
        size = module.inner_dim // module.heads
        q = torch.empty(1, module.heads, 1, size, device=device_of(module))
        found = processor.choice or choose(q, processor.backend)
        yield Choice(found.backend, f"int8 attention: {found.why}")


def _attached(transformer: nn.Module) -> Iterator[tuple[Any, IntAttention]]:
    for name in getattr(transformer, STATE, ()):
        module: Any = transformer.get_submodule(name)
        processor = _ordinary(module.processor)
        if isinstance(processor, IntAttention):
            yield module, processor


def check_processors(
    transformer: nn.Module,
    names: Iterable[str],
    known: Callable[[str, object], bool],
    what: str,
    off: str,
) -> None:
    """Stop where somebody put another processor in: slicing, perturbed guidance and image prompts do.

    `known` tells from an attention's name and processor whether it is one that `what` goes with.
    """
    for name in names:
        processor = getattr(transformer.get_submodule(name), "processor", None)
        if not known(name, processor):
            raise BadInput(
                f"{name} has the processor {type(processor).__name__}: {what} does not go with sliced "
                "attention, perturbed guidance (PAG), image prompts or fused projections; leave those "
                f"away, or {off}"
            )


def _check(transformer: nn.Module, *_: object) -> None:
    def known(_: str, processor: object) -> bool:
        return isinstance(_ordinary(processor), IntAttention)

    names = getattr(transformer, STATE, ())
    check_processors(transformer, names, known, "attention int8", OFF)


def _ordinary(processor: Any) -> Any:
    """What computes an attention where nothing is shared."""
    return getattr(processor, "ordinary", processor)


def _allowed(transformer: nn.Module, adapter: Adapter) -> dict[str, Attention]:
    """The spatial self-attentions by name; BadInput where one of them is not computed in the ordinary way."""
    names = adapter.spatial_attentions(transformer)
    if not names:
        raise BadInput(
            f"{adapter.transformer_class} has no self-attention over picture tokens alone; {LEAVE}"
        )
    found = {}
    for name in names:
        module = transformer.get_submodule(name)
        reason = obstacle(module)
        if isinstance(getattr(module, "processor", None), RangedAttention):
            reason = "it has static ranges inside"
        if reason:
            raise BadInput(f"attention {name} cannot take int8 scores: {reason}; {LEAVE}")
        assert isinstance(module, Attention)
        found[name] = module
    return found
