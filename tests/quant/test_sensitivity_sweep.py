"""Sweeps: one order, any interruption, one line for what cannot be measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quant.adapters.base import GROUP_OF_ROLE
from quant.errors import BadInput, Cancelled
from quant.layers import QuantLinear
from quant.plans import windows_for
from quant.schema import Format, Sample
from quant.sensitivity import floor, list_tiers, load_tier, rounded
from quant.sensitivity.agreement import agreement
from quant.sensitivity.cells import (
    METRICS_OF_GROUP,
    Batch,
    Cell,
    Row,
    cells_of,
    metric_of,
    split_half,
)
from quant.sensitivity.sweep import measure
from quant.sensitivity.table import COLUMNS, flat, rows_of
from quant.sensitivity.task import Settings

from .sensitivity_cases import sweep, table

TIERS = tuple(list_tiers())
SITES = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2")


@pytest.fixture(scope="module")
def asked(model, samples, sampler):
    """Two sites, two widths, two windows."""
    return model, SITES, ("4", "8"), windows_for(sampler, 2), samples[:2], sampler


@pytest.mark.parametrize("tier", TIERS)
def test_a_card_says_what_its_module_does(tier: str, asked) -> None:
    card = list_tiers()[tier]
    assert card == load_tier(tier).CARD
    rows, told = sweep(tier, *asked)
    assert tuple(dict.fromkeys(r.metric for r in rows)) == card.metrics
    assert {r.cell.operand for r in rows} == set(card.operands)
    assert (told.denoiser_calls > 0) == card.draws
    assert told.cells == told.measured == len({r.cell for r in rows})


@pytest.mark.parametrize("tier", TIERS)
def test_rows_come_in_the_order_of_the_cells(tier: str, asked) -> None:
    rows, _ = sweep(tier, *asked[:1], SITES[::-1], *asked[2:])
    wanted = cells_of(SITES, ("4", "8"), 2, list_tiers()[tier].operands)
    assert list(dict.fromkeys(r.cell for r in rows)) == list(wanted)


@pytest.mark.parametrize("tier", TIERS)
def test_a_stopped_sweep_ends_with_the_same_table(tier: str, asked) -> None:
    settings = Settings(pictures=False, probes=2, whole=False)
    whole, _ = sweep(tier, *asked, settings=settings)
    cells = list(dict.fromkeys(r.cell for r in whole))
    for count in (5,) if tier == "exact" else (1, len(cells) // 2, len(cells) - 1):
        kept: list[Row] = []

        def keep(rows: list[Row], kept: list[Row] = kept, count: int = count) -> None:
            kept.extend(rows)
            if len({r.cell for r in kept}) == count:
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            measure(tier, *asked, settings=settings, on_rows=keep)
        rest, told = sweep(tier, *asked, settings=settings, done={r.cell for r in kept})
        assert told.measured == len(cells) - count
        assert kept + rest == whole


AT_ONCE = [tier for tier, card in list_tiers().items() if card.at_once]
ONE = Settings(probes=2, batch_size=1)


@pytest.mark.parametrize("tier", AT_ONCE)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_stopped_after_any_batch_it_draws_the_samples_that_are_left(
    tier: str, count: int, model, samples, sampler
) -> None:
    given = model, SITES, ("4", "8"), windows_for(sampler, 2), samples, sampler
    whole, took = sweep(tier, *given, settings=ONE)
    kept: list[Batch] = []

    def keep(batch: Batch) -> None:
        kept.append(Batch.parse(json.loads(json.dumps(batch.to_json())), "a batch"))
        if len(kept) == count:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        sweep(tier, *given, settings=ONE, on_batch=keep)
    rows, told = sweep(tier, *given, settings=ONE, kept=kept)
    assert rows == whole
    assert told.evaluations * len(samples) == took.evaluations * (len(samples) - count)
    assert told.backward_calls * len(samples) == took.backward_calls * (len(samples) - count)
    half = {row.cell for row in whole[::2]}
    left = [row for row in whole if row.cell not in half]
    assert sweep(tier, *given, settings=ONE, kept=kept, done=half)[0] == left


@pytest.mark.parametrize("tier", AT_ONCE)
def test_a_batch_that_lacks_cells_is_not_taken(tier: str, model, samples, sampler) -> None:
    given = ("4", "8"), windows_for(sampler, 2), samples, sampler
    batches: list[Batch] = []
    sweep(tier, model, SITES[:1], *given, settings=ONE, on_batch=batches.append)
    assert [batch.samples for batch in batches] == [(sample,) for sample in samples]
    rows, told = sweep(tier, model, SITES, *given, settings=ONE, kept=batches)
    whole, took = sweep(tier, model, SITES, *given, settings=ONE)
    assert (rows, told.evaluations) == (whole, took.evaluations)


def test_what_is_not_finite_in_a_batch_is_null() -> None:
    cell = Cell(site="a", operand="weight", bits="4")
    batch = Batch.of([Sample(seed=1)], {cell: np.array([[1.0, np.inf, np.nan]])})
    assert batch.numbers == (((1.0, None, None),),)


@pytest.mark.parametrize("tier", TIERS)
def test_a_cancelled_sweep_leaves_the_model_as_it_was(tier: str, asked) -> None:
    def stop(done: int, total: int) -> None:
        assert 0 <= done <= total
        if done:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        sweep(tier, *asked, on_progress=stop)
    layers = [asked[0].transformer.get_submodule(site) for site in SITES]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


@pytest.mark.parametrize("tier", TIERS)
def test_what_cannot_be_measured_is_one_line(tier: str, asked) -> None:
    model, sites, bits, windows, samples, sampler = asked
    wrong = {
        "unknown site 'transformer_blocks.0.attn1.to_x'; nearest": (
            ["transformer_blocks.0.attn1.to_x"], bits, windows, samples,
        ),
        "stays in 16 bit": (["proj_out_1"], bits, windows, samples),
        "bits '9'": (sites, ["9"], windows, samples),
        "bits 'four'": (sites, ["four"], windows, samples),
        "at least one window": (sites, bits, (), samples),
    }  # fmt: skip
    if list_tiers()[tier].draws:
        wrong["no samples"] = sites, bits, windows, ()
    for said, given in wrong.items():
        with pytest.raises(BadInput, match=said) as error:
            sweep(tier, model, *given, sampler)
        assert "\n" not in str(error.value)
    for method, said in (("adaround", "learns over"), ("rtm", "unknown method")):
        with pytest.raises(BadInput, match=said):
            sweep(tier, *asked, method=method)


def test_an_unknown_tier_is_one_line(asked) -> None:
    with pytest.raises(BadInput, match="unknown tier 'gradients'; nearest: gradient"):
        sweep("gradients", *asked)


def test_more_bits_do_not_cost_more(model, samples, sampler) -> None:
    bits = ("2", "3", "4", "6", "8")
    rows, told = sweep("layer", model, None, bits, windows_for(sampler, 2), samples, sampler)
    found = table(rows, "output_error")
    for operand in ("weight", "activation"):
        means = [
            np.mean([v for c, v in found.items() if (c.bits, c.operand) == (b, operand)])
            for b in bits
        ]
        assert means == sorted(means, reverse=True)
    assert told.denoiser_calls == sampler.steps  # one pass, whatever the number of formats
    assert {len(r.per_step or ()) for r in rows} == {2, 4}


def test_weights_are_weighed_by_what_they_multiply(model, seen, samples, sampler) -> None:
    site = "transformer_blocks.0.ff.net.2"
    windows = windows_for(sampler, 1)
    plain, _ = sweep("weight", model, [site], ["4"], windows, (), sampler)
    weighed, _ = sweep("weight", model, [site], ["4"], windows, (), sampler, seen=seen)
    told, _ = sweep("layer", model, [site], ["4"], windows, samples, sampler)
    truth = table(told, "output_error")[Cell(site=site, operand="weight", bits="4")]
    errors = [abs(np.log(rows[0].value / truth)) for rows in (plain, weighed)]
    assert errors[1] < errors[0]
    assert errors[1] < 0.1, errors
    assert all(rows[0].lo is None for rows in (plain, weighed))


@pytest.mark.parametrize("method", ["viditq", "smoothquant", "svdquant", "static-step"])
def test_any_method_whose_layers_stand_alone_makes_them(method: str, model, seen, sampler) -> None:
    samples, windows = model.samples(range(1)), windows_for(sampler, 2)
    given = model, SITES[:1], ("4",), windows, samples, sampler
    for tier in ("weight", "layer", "exact"):
        rows, _ = sweep(tier, *given, method=method, seen=seen)
        assert all(0 < (r.value or 0) < 1 for r in rows), tier


@pytest.mark.parametrize("tier", TIERS)
def test_weights_that_are_too_large_to_stay_expanded_make_the_same_table(
    tier: str, asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = sweep(tier, *asked)
    monkeypatch.setattr(rounded, "KEEP_BYTES", 0)
    forgotten: list[QuantLinear] = []
    forget = QuantLinear.forget
    monkeypatch.setattr(QuantLinear, "forget", lambda self: (forgotten.append(self), forget(self)))
    again, _ = sweep(tier, *asked)
    assert again == kept
    assert len(forgotten) >= 4


def test_any_format_can_be_asked_for(asked) -> None:
    model, sites, _, windows, samples, sampler = asked
    own = Format(bits=4, granularity="group", group_size=32)
    rows, _ = sweep("layer", model, sites, ("mxfp4", own), windows, samples, sampler)
    assert {r.cell.bits for r in rows} == {"mxfp4", own}
    for row in rows:
        assert Row.parse(json.loads(json.dumps(row.to_json())), "a row") == row


def test_the_floor_is_the_interval_of_the_median_8_bit_cell() -> None:
    def row(site: str, bits: str, *values: float) -> Row:
        return Row.of(Cell(site=site, operand="weight", window=0, bits=bits), "m", values)

    quiet = [row(str(i), "8", 1 + i, 3 + i, 1 + i, 3 + i) for i in range(5)]
    found = floor.floors([*quiet, row("a", "4", 100.0)])
    (only,) = found.values()
    assert (only.median, only.cells, only.whole) == (4.0, 5, False)
    assert only.hi == pytest.approx(np.median([r.hi for r in quiet]))
    assert floor.inside(row("b", "4", 3.0, 4.0, 100.0, 100.0), found)  # reaches down to it
    assert floor.inside(row("c", "4", 0.1, 0.1), found)  # costs less than 8 bits
    assert floor.inside(row("d", "4", 99.0, 101.0), found) is False
    assert floor.inside(row("e", "4", 9.0), {}) is None


def test_noise_is_the_error_that_halves_tell() -> None:
    """Standard normal values: the standard error of a mean of 16 is 1/4."""
    drawn = np.random.default_rng(0).normal(size=(4000, 16))
    rows = [
        Row(
            cell=Cell(site=str(i), operand="weight", bits="4"),
            metric="m",
            value=0.0,
            noise=split_half(values),
        )
        for i, values in enumerate(drawn)
    ]
    assert floor.noise(rows)["m", "4"] == pytest.approx(0.25, rel=0.05)
    assert split_half(np.ones(1)) is None


def test_every_group_is_ranked_by_what_it_damages(model) -> None:
    assert set(METRICS_OF_GROUP) == set(GROUP_OF_ROLE.values())
    of = {site.name: site.group for site in model.sites}
    pictures = ("latent_error", "ssim_loss", "log_prob_loss")
    assert metric_of(of[SITES[0]], pictures) == "ssim_loss"
    assert metric_of("content", pictures) == "log_prob_loss"
    assert metric_of("temporal", pictures) == "latent_error"
    assert metric_of("content", ("weight_error",)) == "weight_error"


def test_agreement_is_of_ranks() -> None:
    def rows(metric: str, values: list[float]) -> list[Row]:
        bits = [b for b in ("8", "4") for _ in range(10)]
        cells = [Cell(site=str(i), operand="weight", window=0, bits=b) for i, b in enumerate(bits)]
        return [Row(cell=c, metric=metric, value=v) for c, v in zip(cells, values, strict=True)]

    truth = [0.01 * i for i in range(1, 11)] + [float(i) for i in range(1, 11)]
    same = agreement(rows("e", truth), rows("g", [v**3 for v in truth]), "e", "g")
    assert (same.spearman, same.at_equal_bits, same.recall) == pytest.approx((1.0, 1.0, 1.0))
    assert (same.cells, same.outside) == (20, 15)  # the floor is the median of ten 8-bit cells
    by_bits = agreement(rows("e", truth), rows("g", truth[9::-1] + truth[:9:-1]), "e", "g")
    assert by_bits.at_equal_bits == pytest.approx(-1.0)
    assert (by_bits.spearman or 0) > 0.4
    assert by_bits.recall == 0.0
    assert agreement([], [], "e", "g").recall is None


def test_what_has_no_number_is_null() -> None:
    cell = Cell(site="a", operand="weight", bits="4")
    broken = Row.of(cell, "m", [np.nan, np.inf])
    assert (broken.value, broken.per_sample) == (None, (None, None))
    assert Row.of(cell, "m", [1.0, np.nan]).value == 1.0


def test_a_table_gives_back_the_rows_that_it_was_made_of(asked) -> None:
    rows, _ = sweep("layer", *asked)
    groups = {site.name: site.group for site in asked[0].sites}
    lines = flat(rows, groups, "simulated")
    assert all(tuple(line) == COLUMNS for line in lines)
    assert rows_of(json.loads(json.dumps(lines)), "a table") == rows
    limits = floor.floors(rows)
    assert [line["inside_floor"] for line in lines] == [floor.inside(r, limits) for r in rows]
    with pytest.raises(BadInput, match="a table: "):
        rows_of([{"site": "a"}], "a table")
