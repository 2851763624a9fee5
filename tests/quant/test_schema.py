"""What people write is parsed once, with errors that name the value and what would work."""

from __future__ import annotations

import json

import pytest

from quant.errors import BadInput, unknown
from quant.schema import (
    Bits,
    Format,
    Plan,
    Recipe,
    Sample,
    Sampler,
    SitePlan,
    Window,
    options_from_pairs,
    parse_bits,
)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("w4a8", Bits(weight=4, activation=8)),
        ("W8A8", Bits(weight=8, activation=8)),
        ("w2a16", Bits(weight=2, activation=None)),
        ("fp8", Bits(weight=8, activation=8, kind="fp8")),
        ("mxfp8", Bits(weight=8, activation=8, kind="mxfp8")),
        ("MXFP4", Bits(weight=4, activation=4, kind="mxfp4")),
        ("nvfp4", Bits(weight=4, activation=4, kind="nvfp4")),
    ],
)
def test_bits(text, bits):
    assert parse_bits(text) == bits
    assert parse_bits(str(bits)) == bits


@pytest.mark.parametrize("text", ["w4", "4", "a8w4", "w1a8", "w9a8", "w4a9", "w4a1", "int8", ""])
def test_bits_that_are_not_understood_say_what_would_work(text):
    with pytest.raises(BadInput, match=r"w\d+a\d+"):
        parse_bits(text)


def test_options_are_json_where_they_parse():
    assert options_from_pairs(["alpha=0.5", "transform=both", "on=true"]) == {
        "alpha": 0.5,
        "transform": "both",
        "on": True,
    }
    with pytest.raises(BadInput, match="name=value"):
        options_from_pairs(["alpha"])


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 1},
        {"bits": 9},
        {"granularity": "group"},
        {"group_size": 32},
        {"kind": "fp8", "bits": 4},
        {"kind": "int3"},
        {"kind": "mxfp4"},
        {"kind": "mxfp4", "bits": 4, "granularity": "group", "group_size": 16},
        {"kind": "fp8", "granularity": "group", "group_size": 32},
        {"static": True},
        {"static": True, "granularity": "sample"},
        {"kind": "fp8", "static": True, "granularity": "tensor"},
    ],
)
def test_formats_that_do_not_exist_are_refused(fields):
    with pytest.raises(BadInput, match="format"):
        Format.parse(fields, "format")


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": {"static": True, "granularity": "tensor"}, "activations": [None]},
        {"weight": {"granularity": "sample"}, "activations": [None]},
        {
            "weight": None,
            "activations": [
                {"static": True, "granularity": "tensor"},
                {"static": True, "granularity": "group", "group_size": 32},
            ],
        },
    ],
)
def test_sites_that_could_not_be_stored_are_refused(fields):
    with pytest.raises(BadInput, match="site"):
        SitePlan.parse(fields, "site")


def test_a_plan_survives_json_and_its_fingerprint_follows_its_content():
    site = SitePlan(weight=Format(bits=4), activations=(Format(), None))
    plan = Plan(
        model="m", windows=(Window(low=500, high=1000), Window(low=0, high=500)), sites={"a": site}
    )
    again = Plan.parse(json.loads(json.dumps(plan.to_json())), "plan")
    assert again == plan
    assert again.fingerprint == plan.fingerprint
    assert plan.model_copy(update={"model": "n"}).fingerprint != plan.fingerprint


def test_a_plan_needs_one_activation_format_per_window():
    data = {
        "model": "m",
        "windows": [{"low": 0, "high": 1}],
        "sites": {"a": {"weight": None, "activations": [None, None]}},
    }
    with pytest.raises(BadInput, match="activation formats"):
        Plan.parse(data, "plan")


def test_unknown_names_are_told_the_nearest():
    assert "nearest: viditq" in str(unknown("method", "vidit", ["rtn", "viditq"]))
    assert "known: rtn, viditq" in str(unknown("method", "zzz", ["rtn", "viditq"]))


def test_what_was_added_later_moves_no_old_fingerprint():
    """Recorded before samplers had a size and samples a negative prompt."""
    sampler, sample = Sampler(scheduler="x", steps=2, guidance=1), Sample(seed=1, prompt="a")
    assert (sampler.fingerprint, sample.fingerprint) == ("68f45a79fc4c090f", "c7bcb4dca41e33d4")
    recipe = Recipe(model="m", method="rtn", sampler=sampler, samples=(sample,)).to_json()
    assert not {"size", "frames", "sigmas"} & recipe["sampler"].keys()
    assert "negative" not in recipe["samples"][0]
    larger = sampler.model_copy(update={"size": (8, 16), "sigmas": (1.0, 0.5)})
    assert larger.fingerprint != sampler.fingerprint
    assert Sampler.parse(larger.to_json(), "a file") == larger


@pytest.mark.parametrize(
    ("change", "said"), [({"sigmas": [1.0]}, "1 sigmas for 2 steps"), ({"size": [0, 8]}, "0x8")]
)
def test_a_sampler_agrees_with_itself(change, said):
    with pytest.raises(BadInput, match=said):
        Sampler.parse({"scheduler": "x", "steps": 2, "guidance": 1, **change}, "a file")
