"""Attention sharing: T8 and T9 of the specification, each beside a variant that it must catch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    PAGCFGIdentitySelfAttnProcessor2_0,
)
from torch import Tensor, nn

from quant.adapters import adapter_for
from quant.errors import BadInput
from quant.generation import generate
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Window, parse_bits
from quant.sharing import (
    SharedAttention,
    attach,
    attend_both,
    attend_wide,
    detach,
    shared_map,
    shared_output,
    sharing_of,
)
from quant.sharing_choice import EVERY_STEP, Sharing
from quant.similarity import compared
from quant.swapping import shallow_copy

from .families import FAMILIES, output

PAIRED = ("dit", "pixart", "latte")  # families with a guidance pair and spatial self-attention
T, WIDTH, HIDDEN = 12, 32, 8  # tokens, channels, channels that queries and keys do not read
EXACT = 1e-12  # relative, in float64: sums in another order


def attention(seed: int = 0) -> Any:
    """One self-attention in float64; its queries and keys do not read the last channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attn: Any = Attention(WIDTH, heads=2, dim_head=16, bias=True).double().eval()
    with torch.no_grad():
        for linear in (attn.to_q, attn.to_k):
            linear.weight.mul_(3)[:, -HIDDEN:] = 0
    return attn


def branches(seed: int, unlike: float, hidden: float = 1.0) -> Tensor:
    """Both halves [2n, t, c]: they differ by `unlike` in what queries and keys read."""
    generator = torch.Generator().manual_seed(seed)
    c, change = torch.randn(2, 3, T, WIDTH, generator=generator, dtype=torch.float64)
    change[..., :-HIDDEN] *= unlike
    change[..., -HIDDEN:] *= hidden
    return torch.cat([c, c + change])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


# T8: equal queries and keys change nothing


@pytest.mark.parametrize("conditional", [0, 1])
def test_equal_queries_and_keys_leave_the_output(conditional: int) -> None:
    attn, x = attention(), branches(1, unlike=0)
    with torch.no_grad():
        exact = AttnProcessor2_0()(attn, x)
        assert relative(exact.chunk(2)[0], exact.chunk(2)[1]) > 0.1  # the values differ
        assert relative(shared_map(attn, x, conditional), exact) < EXACT


def one_value(attn: Any, x: Tensor, conditional: int) -> Tensor:
    """Broken: the conditional half's values for both."""
    seen = x.chunk(2)[conditional]
    return shared_map(attn, torch.cat([seen, seen]), conditional)


@pytest.mark.parametrize("broken", [one_value, shared_output])
def test_that_check_catches_shared_values(broken: Callable[..., Tensor]) -> None:
    attn, x = attention(), branches(1, unlike=0)
    with torch.no_grad():
        assert relative(broken(attn, x, 0), AttnProcessor2_0()(attn, x)) > 0.05


def test_values_side_by_side_are_one_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 2, T, 16, generator=generator, dtype=torch.float64)
    v = torch.randn(6, 2, T, 16, generator=generator, dtype=torch.float64)
    assert relative(attend_wide(q, k, v), attend_both(q, k, v)) < EXACT


# T8: the error grows as the maps part

UNLIKE = (0.0, 0.1, 0.3, 0.6, 1.0)


def curves(shared: Callable[..., Tensor]) -> tuple[list[float], list[float]]:
    """1 - cosine, and the error of the unconditional half, mean over draws."""
    apart, errors = [], []
    for unlike in UNLIKE:
        found = []
        for seed in range(5):
            attn, x = attention(seed), branches(seed, unlike)
            rows = torch.arange(T).expand(3, T)
            with torch.no_grad():
                cosine, _ = compared(attn, x[:3], x[3:], rows)
                exact = AttnProcessor2_0()(attn, x).chunk(2)[1]
                error = relative(shared(attn, x, 0).chunk(2)[1], exact)
            found.append((1 - float(cosine.mean()), error))
        apart.append(sum(a for a, _ in found) / len(found))
        errors.append(sum(e for _, e in found) / len(found))
    return apart, errors


def grows(apart: list[float], errors: list[float]) -> bool:
    """From nothing, both strictly."""
    rising = all(a < b for values in (apart, errors) for a, b in itertools.pairwise(values))
    return rising and apart[0] < EXACT and errors[0] < EXACT


def even_map(attn: Any, x: Tensor, conditional: int) -> Tensor:
    """Broken: a map that has nothing to do with the queries."""
    y = attn.to_v(x).mean(1, keepdim=True).expand_as(x)
    return attn.to_out[0](y)


def test_error_grows_with_the_distance_of_the_maps() -> None:
    assert grows(*curves(shared_map))
    assert not grows(*curves(even_map))
    assert not grows(*curves(shared_output))


def test_the_measured_error_is_the_error() -> None:
    attn, x = attention(3), branches(3, unlike=0.5)
    rows = torch.arange(T).expand(3, T)
    with torch.no_grad():
        _, errors = compared(attn.float(), x[:3].float(), x[3:].float(), rows)
        exact = AttnProcessor2_0()(attn, x.float()).chunk(2)[1]
        for mode, shared in (("map", shared_map), ("output", shared_output)):
            lost = shared(attn, x.float(), 0).chunk(2)[1] - exact
            expected = lost.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
            assert torch.allclose(errors[mode], expected, rtol=1e-5)


# A pair in every family: T9, and what is left alone


def pair(
    family: str, t: float = 500.0, *, unconditional_first: bool | None = None
) -> dict[str, Any]:
    """A call with the same latents twice; DiT's conditional half first, the others' last, as diffusers has them."""
    inputs = FAMILIES[family].inputs(torch.float64, t)
    inputs["hidden_states"] = torch.cat([inputs["hidden_states"][:1]] * 2)
    if unconditional_first:
        inputs["class_labels"] = inputs["class_labels"].flip(0)
    return inputs


def all_shared(
    transformer: nn.Module, mode: str, windows: tuple[Window, ...] = EVERY_STEP
) -> Sharing:
    names = adapter_for(transformer).spatial_attentions(transformer)
    assert names
    return Sharing(mode=mode, attentions=dict.fromkeys(names, windows))  # type: ignore[arg-type]


def sharing_transformer(family: str, mode: str, **kwargs: Any) -> nn.Module:
    transformer = FAMILIES[family].model(torch.float64)
    attach(transformer, adapter_for(transformer), all_shared(transformer, mode, **kwargs))
    return transformer


class FirstPass:
    """Two-pass form as the released code has it: the first pass keeps maps, the second uses them."""

    def __init__(self, mode: str) -> None:
        self.mode, self.kept = mode, {}

    def __call__(self, attn: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        if self.mode == "output" and id(attn) in self.kept:
            return self.kept[id(attn)]
        heads = [
            part(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q, attn.to_k, attn.to_v)
        ]
        q, k, v = heads
        scores = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        if self.mode == "map":
            scores = self.kept.setdefault(id(attn), scores)
        y = attn.to_out[0]((scores @ v).transpose(1, 2).flatten(2))
        return self.kept.setdefault(id(attn), y) if self.mode == "output" else y


def two_passes(family: str, mode: str, inputs: dict[str, Any], first: int) -> Tensor:
    """Half `first` alone, then the other half with what the first kept."""
    transformer, passes = FAMILIES[family].model(torch.float64), FirstPass(mode)
    for name in adapter_for(transformer).spatial_attentions(transformer):
        transformer.get_submodule(name).set_processor(passes)  # type: ignore[operator]
    made = {}
    for half in (first, 1 - first):
        made[half] = output(transformer, {k: v[half : half + 1] for k, v in inputs.items()})
    return torch.cat([made[0], made[1]])


CONDITIONAL = {"dit": 0, "pixart": 1, "latte": 1}


@pytest.mark.parametrize("mode", ["map", "output"])
@pytest.mark.parametrize("family", PAIRED)
def test_batched_form_is_the_two_pass_form(family: str, mode: str) -> None:
    inputs = pair(family)
    batched = output(sharing_transformer(family, mode), inputs)
    conditional = CONDITIONAL[family]
    assert relative(batched, two_passes(family, mode, inputs, conditional)) < 1e-10
    # caught: the unconditional pass first
    assert relative(batched, two_passes(family, mode, inputs, 1 - conditional)) > 1e-4
    # and the conditional half is what it is without sharing
    alone = output(FAMILIES[family].model(torch.float64), inputs)
    half = slice(conditional, conditional + 1)
    assert relative(batched[half], alone[half]) < 1e-10
    assert relative(batched, alone) > 1e-4


def test_halves_are_found_in_either_order(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = sharing_transformer("dit", "map")

    def in_either_order() -> bool:
        one = output(transformer, pair("dit"))
        other = output(transformer, pair("dit", unconditional_first=True))
        return relative(other.flip(0), one) < EXACT

    assert in_either_order()
    transformer = FAMILIES["dit"].model(torch.float64)
    adapter = adapter_for(transformer)
    monkeypatch.setattr(type(adapter), "conditional_half", lambda self, call: 0)
    attach(transformer, adapter, all_shared(transformer, "map"))
    assert not in_either_order()


@contextmanager
def counted(transformer: nn.Module) -> Iterator[dict[str, int]]:
    """Rows that every linear gets, by name."""
    rows: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            rows[name] = rows.get(name, 0) + args[0].numel() // module.in_features

        return hook

    linears = [(n, m) for n, m in transformer.named_modules() if hasattr(m, "in_features")]
    handles = [m.register_forward_pre_hook(count(n)) for n, m in linears]
    yield rows
    for handle in handles:
        handle.remove()


def halved(family: str, transformer: nn.Module) -> set[str]:
    """Roles of the linears that get half of the rows that they get without sharing."""
    inputs = pair(family)
    with counted(transformer) as rows:
        output(transformer, inputs)
    whole = FAMILIES[family].model(torch.float64)
    with counted(whole) as every:
        output(whole, inputs)
    assert all(rows.get(n, 0) in (every[n], every[n] // 2) for n in every)
    roles = {site.name: site.role for site in adapter_for(transformer).sites(transformer)}
    found = {roles[n] for n in every if rows.get(n, 0) == every[n] // 2}
    kept = {roles[n] for n in every if rows.get(n, 0) == every[n]}
    assert not found & kept
    return found


class AllRows(SharedAttention):
    """Broken: projects every row and drops half of them."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attn.to_q(hidden_states), attn.to_k(hidden_states)
        return super().__call__(attn, hidden_states, *args, **kwargs)


@pytest.mark.parametrize("family", PAIRED)
def test_rows_of_queries_and_keys_halve_and_nothing_else(family: str) -> None:
    assert halved(family, sharing_transformer(family, "map")) == {"self_q", "self_k"}
    every = {"self_q", "self_k", "self_v", "self_out"}
    assert halved(family, sharing_transformer(family, "output")) == every


def test_that_count_catches_projections_that_are_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quant.sharing.SharedAttention", AllRows)
    with pytest.raises(AssertionError):
        halved("dit", sharing_transformer("dit", "map"))


@pytest.mark.parametrize("family", ["pixart", "latte"])
def test_that_count_catches_another_attention_that_shares(family: str) -> None:
    transformer = sharing_transformer(family, "map")
    kind = {"pixart": "attn2", "latte": "temporal_transformer_blocks"}[family]
    for name, other in transformer.named_modules():
        if isinstance(other, Attention) and kind in name and name.endswith(("attn1", kind)):
            other.set_processor(lambda attn, hidden_states, **_: shared_map(attn, hidden_states, 1))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        assert halved(family, transformer) == {"self_q", "self_k"}


def test_off_outside_the_set_and_its_steps() -> None:
    plain = FAMILIES["dit"].model(torch.float64)
    one = "transformer_blocks.1.attn1"
    windows = (Window(low=300, high=500), Window(low=700, high=800))
    transformer = FAMILIES["dit"].model(torch.float64)

    def shares_at(t: float) -> bool:
        return not torch.equal(output(transformer, pair("dit", t)), output(plain, pair("dit", t)))

    inside, outside = (300.0, 499.9, 700.0, 799.5), (500.0, 699.9, 800.0, 299.9, 0.0, 1000.0)
    adapter = adapter_for(transformer)
    attach(transformer, adapter, Sharing(mode="map", attentions={one: windows}))
    assert all(shares_at(t) for t in inside)
    assert not any(shares_at(t) for t in outside)
    with counted(transformer) as rows:
        output(transformer, pair("dit", 400.0))
    assert 2 * rows[f"{one}.to_q"] == rows["transformer_blocks.0.attn1.to_q"]
    # caught: windows that are not looked at
    attach(transformer, adapter, Sharing(mode="map", attentions={one: EVERY_STEP}))
    assert any(shares_at(t) for t in outside)
    detach(transformer)
    assert not any(shares_at(t) for t in (*inside, *outside))
    assert sharing_of(transformer) is None


# No pair: bad input from the call itself


def lonely() -> dict[str, dict[str, Any]]:
    """Calls without a guidance pair, by what they lack."""
    whole = pair("dit")
    other = FAMILIES["dit"].inputs(torch.float64, 500.0)
    return {
        "different latents": other,
        "one branch": {k: v[:1] for k, v in whole.items()},
        "two classes": {**whole, "class_labels": torch.tensor([1, 2])},
        "two timesteps": {**whole, "timestep": torch.tensor([500.0, 499.0])},
        "three branches": {k: torch.cat([v, v[:1]]) for k, v in whole.items()},
    }


@pytest.mark.parametrize("lacks", sorted(lonely()))
def test_a_call_without_a_pair_is_bad_input(lacks: str) -> None:
    transformer = sharing_transformer("dit", "map")
    with pytest.raises(BadInput, match="no pair"):
        output(transformer, lonely()[lacks])
    detach(transformer)
    output(transformer, lonely()[lacks])


def test_perturbed_guidance_and_masks_are_bad_input() -> None:
    transformer = sharing_transformer("pixart", "map")
    blocks: Any = transformer.transformer_blocks
    with pytest.raises(BadInput, match="mask"):
        output(transformer, {**pair("pixart"), "attention_mask": torch.ones(2, 16)})
    blocks[1].attn1.set_processor(PAGCFGIdentitySelfAttnProcessor2_0())
    with pytest.raises(BadInput, match="perturbed"):
        output(transformer, pair("pixart"))


@pytest.mark.parametrize("family", ["sd3", "sd3.5", "flux"])
def test_families_without_a_pair_say_why(family: str) -> None:
    transformer = FAMILIES[family].model()
    adapter = adapter_for(transformer)
    assert adapter.spatial_attentions(transformer) == []
    with pytest.raises(BadInput, match=r"attention sharing is not for .*joins picture and text"):
        attach(transformer, adapter, Sharing(mode="map", attentions={}))


def test_only_spatial_self_attention_can_be_shared() -> None:
    transformer = FAMILIES["latte"].model()
    for name in ("temporal_transformer_blocks.0.attn1", "transformer_blocks.0.attn2", "nowhere"):
        with pytest.raises(BadInput, match=name):
            attach(
                transformer,
                adapter_for(transformer),
                Sharing(mode="map", attentions={name: EVERY_STEP}),
            )


# In a method, in our sampler, in plain diffusers


@pytest.fixture(scope="module")
def shared(model, seen):
    """The tiny model under trdq with the released set scaled to its depth: the first attention."""
    options = {"sharing": "map", "sharing_set": "released", "windows": 1, "alpha": 0.3}
    return quantize(model, "trdq", uniform_plan(model, parse_bits("w4a8")), options, seen)


def test_quantize_shares_what_is_asked_for(model, seen, sampler, samples, shared) -> None:
    assert shared.sharing is not None
    assert list(shared.sharing.attentions) == ["transformer_blocks.0.attn1"]
    drawn = generate(model, samples, sampler, transformer=shared.transformer)
    without = {k: v for k, v in shared.options.items() if not k.startswith("sharing")}
    off = quantize(model, "trdq", shared.plan, without, seen)
    alone = generate(model, samples, sampler, transformer=off.transformer)
    assert off.sharing is None
    assert not torch.equal(drawn.latents, alone.latents)
    left = quantize(model, "trdq", shared.plan, shared.options, seen, share=False)
    assert left.sharing is None


def test_results_do_not_depend_on_the_batch(model, sampler, samples) -> None:
    transformer = shallow_copy(model.transformer)
    attach(transformer, model.adapter, all_shared(transformer, "map"))
    together = generate(model, samples, sampler, transformer=transformer)
    one = generate(model, samples, sampler, transformer=transformer, batch_size=1)
    assert torch.allclose(together.latents, one.latents, atol=1e-4)


def test_without_guidance_it_is_bad_input(model, seen, sampler, samples, shared) -> None:
    alone = sampler.model_copy(update={"guidance": 1.0})
    with pytest.raises(BadInput, match="no pair"):
        generate(model, samples, alone, transformer=shared.transformer)
    unguided = type(seen)(
        seen.inputs, seen.timesteps, {**seen.manifest, "sampler": alone.to_json()}, seen.entries
    )
    with pytest.raises(BadInput, match="guidance above 1"):
        quantize(model, "trdq", shared.plan, shared.options, unguided)


def test_checkpoint_shares_in_plain_diffusers(model, samples, sampler, shared, tmp_path) -> None:
    from quant.checkpoint import save_checkpoint

    save_checkpoint(shared, model, tmp_path / "out", pipeline=True)
    pipe = DiTPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert sharing_of(pipe.transformer) == shared.sharing
    ours = generate(model, samples, sampler, transformer=shared.transformer)
    loaded = generate(model, samples, sampler, transformer=pipe.transformer)
    assert torch.equal(ours.latents, loaded.latents)
    with counted(pipe.transformer) as rows:
        pipe([0, 1], guidance_scale=3.0, num_inference_steps=2, output_type="np")
    assert 2 * rows["transformer_blocks.0.attn1.to_q"] == rows["transformer_blocks.0.attn1.to_v"]
    assert rows["transformer_blocks.1.attn1.to_q"] == rows["transformer_blocks.1.attn1.to_v"]
    with pytest.raises(BadInput, match="no pair"):
        pipe([0, 1], guidance_scale=1.0, num_inference_steps=1, output_type="np")
