"""Synthetic outliers: large values in a model's layer inputs, without changing what the model computes.

Small trained models lack the outliers that big ones have, and with them the reason for most of what
quantization methods do. Here a few channels of the inputs are made larger by a factor F, exactly, and
everything that is measured on such a model says so (`Model.outliers`). ceil(1 %) of the channels of an
input are chosen by seed. Which inputs: those whose channels an adapter knows the makers of
(`Adapter.producers`): LayerNorm-modulated inputs and attention outputs.

Shapes: X [n, i] an input; W [o, i] a weight that reads it; S chosen channels; e conditioning.

static      X_S -> F X_S at every step, W_S -> W_S / F. Weights alone:
                1 + scale = 1 + A e + b + table:   A -> F A,  table -> F table,  b -> F b + F - 1
                shift     =     A e + b + table:   A -> F A,  table -> F table,  b -> F b
                attention output:                  rows S of the value projections -> F times
drifting    X_S -> f(t) X_S with f(t) = F^(t / T), from F at the noisiest step to 1 at the last one.
            adaLN cannot do it exactly: (1 + scale) f(t) is a product of two functions of the
            conditioning, its linear gives sums. So the layers are wrapped (`quant.amplified`). The
            weights stay: folded at all, they would hand a static scale part of its answer.
token       X_S -> F X_S in ceil(1 %) of the tokens, the same ones everywhere: the few massive
            activations of arXiv 2402.17762. Wrapped as well. (Whole rows times F would be undone by
            any format with one scale per token.)
"""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .adapters.producers import Modulation, Producer
from .amplified import Amplified, amplify
from .errors import BadInput
from .models import Model
from .rescaling import Rows
from .schema import Injection, Outliers
from .step import NOISIEST, attach_exact, current_timestep
from .swapping import shallow_copy

SHARE = 0.01  # of the channels of an input, and of the tokens


def inject(model: Model, outliers: Outliers) -> Model:
    """The same function with outliers inside: a new model that shares what did not change.

    Raises BadInput where it cannot be exact.
    """
    if model.outliers is not None:
        raise BadInput(f"{model.key} has synthetic outliers already ({model.outliers})")
    producers = model.adapter.producers(model.transformer)
    if not producers:
        raise BadInput(
            f"{model.adapter.transformer_class}: its adapter does not say where channels of layer "
            "inputs are made, so outliers cannot be put in exactly; list them in `produced`"
        )
    for name in _read(producers):
        if not isinstance(model.transformer.get_submodule(name), nn.Linear):
            raise BadInput(
                f"{model.key} is quantized already ({name}); outliers go into full precision"
            )
    transformer = shallow_copy(model.transformer)
    rows = Rows(
        transformer,
        f"outliers x{outliers.factor:g} overflow {{dtype}} in '{{name}}'; take a smaller factor, or "
        "--dtype float32",
    )
    for producer in producers:
        channels = chosen(producer.channels, outliers.seed, producer.name)
        if outliers.kind == "static":
            _amplify_rows(rows, producer, channels, outliers.factor)
            _divide_columns(rows, producer, channels, outliers.factor)
        else:
            _wrap(transformer, producer, channels, outliers)
    if outliers.kind == "drifting":
        attach_exact(transformer, model.adapter.noisiest_timestep)
    made = Injection(
        **outliers.to_json(),
        channels=sum(share_of(p.channels) for p in producers),
        inputs=len({site.input_of for site in model.sites if site.name in _read(producers)}),
    )
    pipe = copy.copy(model.pipe)
    pipe.transformer = transformer
    card = model.card.model_copy(update={"title": made.marked(model.card.title)})
    return replace(model, pipe=pipe, card=card, outliers=made)


def share_of(count: int) -> int:
    """ceil(1 %) of so many channels or tokens."""
    return math.ceil(SHARE * count)


def chosen(count: int, seed: int, name: str) -> Tensor:
    """Which ones: int64 [ceil(1 %)], in order, from the seed and the name of what has them."""
    mixed = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(mixed, "little"))
    return torch.randperm(count, generator=generator)[: share_of(count)].sort().values


def drift(factor: float, noise: float) -> float:
    """f = F^noise: F at the noisiest step (1), 1 at the clean end (0)."""
    return factor ** min(max(noise, 0.0), 1.0)


def _read(producers: list[Producer]) -> set[str]:
    return {name for producer in producers for name in producer.read_by}


def _amplify_rows(rows: Rows, producer: Producer, channels: Tensor, factor: float) -> None:
    """Multiply the channels where they are made."""
    made_by = producer.made_by
    if not isinstance(made_by, Modulation):
        for value in made_by:
            rows.multiply_outputs(value, channels, factor)
        return
    if rows.get(f"{made_by.linear}.bias") is None:
        raise BadInput(
            f"{made_by.linear} has no bias, so 1 + scale cannot be multiplied exactly; "
            "--outliers-kind drifting and token do not need it"
        )
    rows.multiply_modulated(made_by, channels, factor)


def _divide_columns(rows: Rows, producer: Producer, channels: Tensor, factor: float) -> None:
    """Divide where they are read."""
    for reader in producer.read_by:
        rows.multiply(f"{reader}.weight", (slice(None), channels), 1 / factor)


def _wrap(
    transformer: nn.Module,
    producer: Producer,
    channels: Tensor,
    outliers: Outliers,
) -> None:
    """Amplify at the input of every reader, and put its output right."""
    if outliers.kind == "drifting":
        factor = partial(_drifting, outliers.factor)
    else:
        factor = partial(_in_tokens, outliers.factor, outliers.seed)
    for reader in producer.read_by:
        layer = transformer.get_submodule(reader)
        columns = layer.weight.detach()[:, channels].clone()  # type: ignore[union-attr, index]
        amplify(layer, Amplified(channels, columns, factor))


def _drifting(factor: float, _: Tensor) -> float:
    return drift(factor, current_timestep() / NOISIEST)


def _in_tokens(factor: float, seed: int, x: Tensor) -> Tensor:
    """1 for most tokens of x [.., t, i], `factor` for a few: [t, 1]."""
    f = torch.ones(x.shape[-2], 1, dtype=x.dtype)
    f[chosen(x.shape[-2], seed, "tokens")] = factor
    return f.to(x.device)
