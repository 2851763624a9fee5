"""Floors are what the formula says, fall with the bits, grow with the batch, and add up."""

from __future__ import annotations

from math import fsum, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.effort import Network, drawing, shapes_of
from quant.errors import BadInput
from quant.roofline import (
    DEVICES,
    Attention,
    Device,
    attention_seconds,
    attentions_of,
    device_named,
    floor,
    site_seconds,
)
from quant.schema import Bits, parse_bits
from quant.sizes import load_shape

A100 = DEVICES["a100-80gb"]
NAMES = ("dit-xl-2", "pixart-xl-2", "latte-1", "sd3-medium", "flux-dev")


def opened(name, **given):
    transformer, adapter = load_shape(name)
    sites = adapter.sites(transformer)
    return Network(sites, adapter), *shapes_of(transformer, sites, **given)


@pytest.fixture(scope="module")
def dit():
    return opened("dit-xl-2")


def test_one_layer_is_what_is_worked_out_by_hand():
    """512 rows of DiT-XL/2's fc1 are bound by products, one row by the weight's bytes."""
    products = 2 * 512 * 1152 * 4608  # 5.44e9
    assert site_seconds(A100, 512, 1152, 4608) == pytest.approx(products / 312e12)
    assert site_seconds(A100, 512, 1152, 4608) == pytest.approx(17.42e-6, rel=1e-3)
    bytes_read = 2 * (1152 + 1152 * 4608 + 4608)
    assert site_seconds(A100, 1, 1152, 4608) == pytest.approx(bytes_read / 2.039e12)
    of_codes = 1152 + 1152 * 4608 / 2 + 2 * 4608
    assert site_seconds(A100, 1, 1152, 4608, parse_bits("w4a8")) == of_codes / 2.039e12


def test_int8_peaks_are_for_integers_on_both_sides():
    rows = 8192
    exact = site_seconds(A100, rows, 1152, 1152)
    assert site_seconds(A100, rows, 1152, 1152, parse_bits("w4a16")) == exact
    assert site_seconds(A100, rows, 1152, 1152, parse_bits("w8a8")) == exact / 2
    assert site_seconds(A100, rows, 1152, 1152, parse_bits("w4a8")) == exact / 2
    with pytest.raises(BadInput, match="no floor is known for fp8"):
        site_seconds(A100, rows, 1152, 1152, parse_bits("fp8"))


def test_an_attention_is_two_products_or_its_four_tensors():
    one = Attention("a", queries=4096, keys=300, seen=300, channels=1152)
    moved = 2 * (2 * 4096 + 2 * 300) * 1152
    assert attention_seconds(A100, one) == max(moved / 2.039e12, 4 * 4096 * 300 * 1152 / 312e12)


SIDES = st.integers(1, 20_000)
ACTIVATIONS = st.sampled_from([2, 3, 4, 5, 6, 7, 8, None])
BITS = st.builds(lambda w, a: Bits(weight=w, activation=a), st.integers(2, 8), ACTIVATIONS)
DEVICE = st.sampled_from(sorted(DEVICES)).map(DEVICES.__getitem__)


@given(DEVICE, SIDES, SIDES, SIDES, BITS, BITS)
def test_fewer_bits_never_take_longer(device, m, k, n, one, other):
    def width(bits):
        return bits.activation or 16

    few = Bits(
        weight=min(one.weight, other.weight),
        activation=min((one, other), key=width).activation,
    )
    for more in (one, other, None):
        assert site_seconds(device, m, k, n, few) <= site_seconds(device, m, k, n, more)


@given(DEVICE, SIDES, SIDES, SIDES, st.none() | BITS)
def test_twice_the_batch_never_takes_less_and_at_most_twice(device, m, k, n, bits):
    once, twice = (site_seconds(device, rows, k, n, bits) for rows in (m, 2 * m))
    assert once <= twice <= 2 * once * (1 + 1e-12)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_network_is_the_sum_of_its_sites_and_attentions(dit, batch):
    network, shapes, frames = dit
    found = floor(A100, network, shapes, frames, batch=batch)
    assert list(found.sites) == [site.name for site in network.sites]
    assert len(found.attentions) == 28
    assert found.seconds == fsum([*found.sites.values(), *found.attentions.values()])
    assert found.seconds < floor(A100, network, shapes, frames, batch=2 * batch).seconds
    assert found.seconds < 2 * floor(A100, network, shapes, frames, batch=batch).seconds


def test_bits_of_one_site_change_that_site_alone(dit):
    network, shapes, frames = dit
    name = "transformer_blocks.3.ff.net.2"
    plain = floor(A100, network, shapes, frames, batch=2)
    mixed = floor(A100, network, shapes, frames, batch=2, formats={name: parse_bits("w8a8")})
    assert {n for n in plain.sites if plain.sites[n] != mixed.sites[n]} == {name}
    assert mixed.sites[name] < plain.sites[name]
    assert mixed.attentions == plain.attentions
    with pytest.raises(BadInput, match="unknown site 'ff'"):
        floor(A100, network, shapes, formats={"ff": None})


@pytest.mark.parametrize("name", ["dit-xl-2", "latte-1"])
def test_products_are_those_that_drawing_counts(name):
    """Without a limit to bandwidth seconds are products alone; cross-attention is not in that count."""
    network, shapes, frames = opened(name)
    counting = Device("", 0, inf, 1.0, 1.0, "", "")
    found = floor(counting, network, shapes, frames)
    cross = sum(s for n, s in found.attentions.items() if n.endswith("attn2"))
    assert found.seconds - cross == pytest.approx(
        2 * drawing(network.sites, shapes, frames).macs, rel=1e-9
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("pixart-xl-2", 300, {(4096, 4096, 4096, 1152): 28, (4096, 300, 300, 1152): 28}),
        (
            "latte-1",
            120,
            {(16384, 16384, 1024, 1152): 28, (16384, 120, 120, 1152): 28, (16384, 16384, 16, 1152): 28},
        ),
        ("sd3-medium", 333, {(4429, 4429, 4429, 1536): 24}),
        ("flux-dev", 512, {(4608, 4608, 4608, 3072): 57}),
        ("cogvideox-2b", 226, {(17776, 17776, 17776, 1920): 30}),
        ("wan2.1-1.3b", 512, {(32760, 32760, 32760, 1536): 30, (32760, 512, 512, 1536): 30}),
        ("sana-1.6b", 300, {(1024, 300, 300, 2240): 20}),
    ],
)  # fmt: skip
def test_who_attends_to_whom(name, text, expected):
    """Frames and places apart, two streams together, text; Sana's own attention is linear."""
    counted = {}
    for a in attentions_of(*opened(name, text=text)):
        key = a.queries, a.keys, a.seen, a.channels
        counted[key] = counted.get(key, 0) + 1
    assert counted == expected


@pytest.mark.parametrize("name", NAMES)
def test_more_of_everything_is_faster(name):
    """Of the two cards with 80 GB, and the two with one chip."""
    made = opened(name)
    seconds = {d: floor(DEVICES[d], *made, batch=2).seconds for d in DEVICES}
    assert seconds["rtx-4090"] > seconds["a100-80gb"] > seconds["h100-sxm"] >= seconds["h200"]


def test_what_is_not_known_is_said(dit):
    with pytest.raises(BadInput, match="does not say how large"):
        floor(A100, dit[0], {})


def test_a_card_is_known_by_the_name_of_its_driver_alone():
    """Others of the same chip have less memory, bandwidth or power."""
    assert all(device_named(device.driver) is device for device in DEVICES.values())
    for other in (
        "NVIDIA H100 PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ):
        assert device_named(other) is None, other


def test_every_device_says_where_its_peaks_are_from():
    for device in DEVICES.values():
        assert device.source
        assert device.bf16 < device.int8
        assert device.peak(None) == device.bf16
