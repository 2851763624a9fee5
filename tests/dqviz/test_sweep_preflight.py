"""What a sweep takes is said before the start: its evaluations exactly, bytes as bounds; what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dqviz import machine, sweep_inputs
from dqviz.cli import main
from dqviz.events import Stage
from dqviz.machine import MIB
from dqviz.sweep_preflight import of_request
from dqviz.sweeping import SweepRequest, sweep
from quant.errors import BadInput, EnvironmentFault
from quant.sensitivity import list_tiers


def asked(model: Path, folder: Path, **more: Any) -> SweepRequest:
    """Two layers, three windows that four steps do not divide into equally, a width that costs nothing."""
    plain = {
        "model": str(model), "out": folder, "bits": "4,8,16", "windows": 3, "sites": "attn1.to_q",
        "seeds": "300-302", "calibration_seeds": "100-101", "batch_size": 2, "probes": 3,
    }  # fmt: skip
    return SweepRequest.parse({**plain, **more})


@pytest.mark.parametrize(
    "more", [{"tier": t} for t in list_tiers()] + [{"tier": "exact", "both_ways": True}]
)
def test_evaluations_are_told_exactly_and_bytes_at_most(
    more: dict[str, Any], tiny_dit: Path, tmp_path: Path
) -> None:
    request = asked(tiny_dit, tmp_path / "s", **more)
    told = of_request(request, tmp_path / "s")
    assert not (tmp_path / "s").exists(), "nothing is written for it"
    made = sweep(request)
    assert told.cells == made["cells"]
    assert told.evaluations == made["denoiser_calls"]
    assert told.backward_calls == made["backward_calls"]
    assert told.naive_evaluations == made["naive_calls"]
    files = sum(file.stat().st_size for file in (tmp_path / "s" / "sensitivity").iterdir())
    assert files <= told.disk_bytes
    assert made["tier"] == "weight" or told.disk_bytes < 4 * files, "there the statistics count too"
    assert told.seconds is not None
    assert told.fits


@pytest.mark.parametrize("tier", list_tiers())
def test_what_is_not_done_is_no_larger_than_told(
    tier: str, tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tiny_dit, tmp_path / "s", tier=tier)
    told, unlink, sizes = of_request(request, tmp_path / "s"), Path.unlink, []

    def seen(self: Path, missing_ok: bool = False) -> None:
        if "unfinished.jsonl" in self.name and self.is_file():
            sizes.append(self.stat().st_size)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", seen)
    sweep(request)
    assert sizes[-1] <= told.scratch_bytes < 6 * sizes[-1]


def test_it_is_said_before_the_model_is_loaded_and_before_anything_is_measured(
    tiny_dit: Path, tmp_path: Path
) -> None:
    events: list[Any] = []
    sweep(asked(tiny_dit, tmp_path / "s", tier="layer"), events.append)
    stages = [event for event in events if isinstance(event, Stage)]
    assert [s.name for s in stages] == ["load", "preflight", "sensitivity"]
    assert "48 cells by 12 evaluations of the network instead of 576; predicted" in stages[1].text


def test_a_tier_is_counted_from_its_card(tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Writing its file is enough: no key of a tier stands anywhere else."""
    request = asked(tiny_dit, tmp_path, tier="layer")
    like = of_request(request, tmp_path)
    own = replace(list_tiers()["layer"], key="own", passes=3, backward=True)
    tiers = {**list_tiers(), "own": own}
    for module in ("quant.sensitivity.effort", "dqviz.sweep_inputs", "dqviz.sweep_preflight"):
        monkeypatch.setattr(f"{module}.list_tiers", lambda: tiers)
    found = of_request(request.model_copy(update={"tier": "own"}), tmp_path)
    assert found.evaluations == 3 * like.evaluations
    assert (found.cells, found.naive_evaluations) == (like.cells, like.naive_evaluations)
    assert like.backward_calls == 0 < found.backward_calls
    assert found.memory_bytes > like.memory_bytes, "what backward passes keep"


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = asked(tiny_dit, tmp_path / "s", seeds="300-811", batch_size=512)
    needed = [
        of_request(large.model_copy(update={"batch_size": size}), tmp_path).memory_bytes
        for size in (1, 512)
    ]
    assert needed[1] > needed[0]
    monkeypatch.setattr(sweep_inputs, "load", None)
    monkeypatch.setattr(machine, "available_memory", lambda: sum(needed) // 2)
    said = f"needs about {machine.mib(needed[1])} of memory .*; --batch-size 1 takes {machine.mib(needed[0])}"
    with pytest.raises(EnvironmentFault, match=said):
        sweep(large)
    monkeypatch.setattr(machine, "available_memory", lambda: MIB)
    with pytest.raises(EnvironmentFault, match="fewer --bits or --sites"):
        sweep(large)
    monkeypatch.undo()
    monkeypatch.setattr(sweep_inputs, "load", None)
    monkeypatch.setattr(machine, "free_disk", lambda _: 1000)
    with pytest.raises(EnvironmentFault, match="on disk and 0 MiB are free"):
        sweep(large)
    assert not (tmp_path / "s").exists()


def test_the_command_says_it_and_stops(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sensitivity", str(tiny_dit), "--bits", "4,8", "--study", str(tmp_path / "s")]
    assert main([*words, "--tier", "exact", "--preflight"]) == 0
    assert "without decoding and judging pictures" in capsys.readouterr().out
    assert main([*words, "--preflight", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["evidence"], said["work"]) == ("predicted", "sensitivity")
    assert said["evaluations"] == 2 * 8 * 4
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"sites": "attn3"}, "finds none of the 12 layers"),
        ({"windows": 9}, "windows 9 is out of range; 1 to 4"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_what_the_model_does_not_have_is_one_line(
    more: dict[str, Any], says: str, tiny_dit: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says) as error:
        of_request(asked(tiny_dit, tmp_path, **more), tmp_path)
    assert "\n" not in str(error.value)
