"""`dqviz layers` on the shapes that `dqviz size` knows: as many layers and parameters as diffusers builds."""

from __future__ import annotations

import json
from collections import Counter

import diffusers
import pytest
import torch
from torch import nn

from dqviz.cli import main
from quant.sizes import known_shapes


@pytest.mark.parametrize("shape", sorted(known_shapes()))
def test_counts_and_totals_are_those_of_the_class_on_the_meta_device(shape, capsys):
    assert main(["layers", shape, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    config = json.loads(known_shapes()[shape].read_text(encoding="utf-8"))
    with torch.device("meta"):
        transformer = getattr(diffusers, config.pop("_class_name"))(**config)
    linears = {n: m for n, m in transformer.named_modules() if isinstance(m, nn.Linear)}
    assert [site["name"] for site in found["sites"]] == list(linears)
    assert found["parameters"] == sum(p.numel() for p in transformer.parameters())
    of_linears = sum(p.numel() for m in linears.values() for p in m.parameters())
    assert found["site_parameters"] == of_linears
    weights = sum(s["in_features"] * s["out_features"] for s in found["sites"])
    assert weights == sum(m.weight.numel() for m in linears.values())
    assert found["fingerprint"] is None


def test_a_reason_is_told_once_for_all_layers_that_it_keeps(capsys):
    assert main(["layers", "dit-xl-2", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    reasons = Counter(s["kept_reason"] for s in sites if s["kept_reason"])
    assert main(["layers", "dit-xl-2"]) == 0
    shown = capsys.readouterr().out
    assert len(reasons) > 1
    for i, (reason, count) in enumerate(reasons.items(), 1):
        assert shown.count(reason) == 1
        assert shown.count(f"[{i}]") == count + 1


def test_the_table_ends_with_the_totals(capsys):
    assert main(["layers", "sana-1.6b"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == (
        "166 linear layers hold 849,009,312 of the transformer's 1,604,462,752 parameters"
    )
