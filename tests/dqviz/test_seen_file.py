"""Reading a capture: small things at once, the rest in slices, no torch, clear errors."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from dqviz.seen_file import STATISTICS, SeenFile
from dqviz.study import Study
from quant import seen_layout as layout
from quant.errors import BadCheckpoint, BadInput

from ..captures import write_capture

ROOT = Path(__file__).resolve().parents[2]
NAME = "transformer_blocks.1.ff.net.2"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    return write_capture(
        folder / "x.safetensors", stages=("input", "scaled", "rotated"), surface_steps=3
    )


@pytest.fixture
def seen(file: Path) -> SeenFile:
    return SeenFile(file)


def test_what_a_capture_is(seen: SeenFile) -> None:
    assert (seen.steps, seen.branches) == (5, 2)
    assert seen.stages == ("input", "scaled", "rotated")
    assert len(seen.inputs) == 8
    first = seen.inputs[0]
    assert first.sites == tuple(f"transformer_blocks.0.attn1.to_{p}" for p in "qkv")
    assert (first.role, first.block, first.channels, first.tokens) == ("self_q", 0, 32, 16)
    assert first.stages == ("input",)
    assert seen.entry("transformer_blocks.1.attn1.to_v") is seen.inputs[4], "a site finds its input"
    assert seen.inputs[7].channels == 128


def test_every_statistic_has_words_and_a_number_per_step(seen: SeenFile) -> None:
    for key, (title, unit, words) in STATISTICS.items():
        assert title
        assert unit
        assert words.endswith("."), key
        values = seen.summary(key)
        assert values.shape == (8, 5, 2)
        assert values.dtype == np.float32
        undefined = np.isnan(values)
        assert undefined[:, 0].all() if key == "drift" else not undefined.any(), key
        assert not undefined[:, 1:].any()
        later = seen.summary(key, "rotated")
        assert np.isnan(later[0]).all(), "block 0's first input has no such stage"
        assert not np.isnan(later[1:, 1:]).any()


def test_slices_are_what_the_file_holds(file: Path, seen: SeenFile) -> None:
    with safe_open(file, framework="np") as raw:
        whole = {
            f: raw.get_tensor(layout.activation("scaled", NAME, f))
            for f in ("minimum", "mean", "histogram", "surface", "surface_steps", "rows")
        }
    found = seen.channels(NAME, 3, 1, "scaled")
    assert set(found) == {"minimum", "maximum", "mean", "second_moment"}
    assert np.array_equal(found["minimum"], whole["minimum"][3, 1])
    assert np.array_equal(seen.channels(NAME, -2, -1, "scaled")["mean"], whole["mean"][3, 1])
    counts, edges = seen.histogram(NAME, 2, 1, "scaled")
    assert np.array_equal(counts, whole["histogram"][2, 1])
    assert len(edges) == len(counts) + 1
    assert (np.diff(edges) > 0).all()
    ridge, _ = seen.histogram(NAME, branch=1, stage="scaled")
    assert np.array_equal(ridge, whole["histogram"][:, 1])
    assert seen.sampled(NAME).tolist() == [[16, 16]] * 5
    assert whole["surface_steps"].tolist() == [0, 2, 4]
    nearest = seen.surface(NAME, 3, "scaled")
    assert nearest.step in (2, 4)
    at = whole["surface_steps"].tolist().index(nearest.step)
    assert np.array_equal(nearest.values, whole["surface"][at].astype(np.float32))
    assert seen.surface(NAME, 4).step == 4
    rows, steps, branches = seen.rows(NAME, "scaled")
    assert np.array_equal(rows, whole["rows"])
    assert set(steps) == set(range(5))
    assert set(branches) == {0, 1}
    assert seen.row_absmax(NAME).shape == (5, 2, 16)


def test_weights_by_site_and_stage(seen: SeenFile) -> None:
    site = "transformer_blocks.1.attn1.to_k"
    before, after = seen.weights(site), seen.weights(site, "rotated")
    assert before["in_absmax"].shape == (32,)
    assert before["out_absmax"].shape == (32,)
    assert before["histogram"].sum() == 32 * 32
    assert len(before["edges"]) == len(before["histogram"]) + 1
    assert after["incoherence"] < before["incoherence"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.summary("colour"), "no statistic 'colour'; there are incoherence"),
        (lambda s: s.summary("mean", "cut"), "has input, scaled, rotated"),
        (lambda s: s.channels("nothing", 0, 0), "no input 'nothing'"),
        (lambda s: s.rows("transformer_blocks.0.attn1", "scaled"), "has no stage 'scaled'; it has"),
        (lambda s: s.weights("transformer_blocks.0.attn1.to_q", "rotated"), "it has input"),
        (lambda s: s.weights("nothing"), "no weight 'nothing'"),
    ],
)
def test_what_is_not_there_says_what_is(seen: SeenFile, ask, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        ask(seen)


def test_steps_and_branches_out_of_range(seen: SeenFile) -> None:
    with pytest.raises(IndexError, match="step 5 is out of range; this capture has 5"):
        seen.channels(NAME, 5, 0)
    with pytest.raises(IndexError, match="branch 2"):
        seen.histogram(NAME, 0, 2)
    with pytest.raises(IndexError, match="branch -3"):
        seen.histogram(NAME, branch=-3)


def test_damaged_and_missing_files_are_one_error(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="dqviz capture"):
        SeenFile(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadCheckpoint, match="truncated"):
        SeenFile(cut)


def test_threads_may_share_one(seen: SeenFile) -> None:
    def read(step: int) -> float:
        return float(seen.channels(NAME, step % 5, step % 2)["mean"].sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(40))) == [read(step) for step in range(40)]


def test_opening_a_large_one_reads_little_and_loads_no_torch(tmp_path: Path) -> None:
    """28 blocks x 4 inputs x 50 steps x 2 branches, as DiT-XL/2 has them: under a tenth is read."""
    file = write_capture(
        tmp_path / "xl.safetensors", blocks=28, steps=50, channels=16, tokens=4, surface_steps=1
    )
    program = (
        "import sys, resource\n"
        "from dqviz.seen_file import SeenFile\n"
        "seen = SeenFile(sys.argv[1])\n"
        "seen.summary('incoherence'), seen.channels('transformer_blocks.27.ff.net.2', 49, 1)\n"
        "print(len(seen.inputs), 'torch' in sys.modules)\n"
        "import os\n"
        "page = os.sysconf('SC_PAGE_SIZE')\n"
        "mapped = [l.split() for l in open('/proc/self/smaps')] if os.path.exists('/proc/self/smaps') else []\n"
        "inside, rss = False, 0\n"
        "for words in mapped:\n"
        "    if len(words) >= 5 and '-' in words[0]: inside = words[-1].endswith('xl.safetensors')\n"
        "    elif inside and words[0] == 'Rss:': rss += int(words[1]) * 1024\n"
        "print(rss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    first, resident = done.stdout.splitlines()
    assert first == "112 False"
    assert int(resident) < 0.1 * file.stat().st_size


def test_a_study_holds_captures_under_free_names(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", {"key": "m", "fingerprint": "f"}, {})
    assert study.captures() == []
    for expected in ("viditq-w4a8", "viditq-w4a8-2"):
        made = write_capture(tmp_path / "made.safetensors", blocks=1)
        name = study.add_capture("viditq-w4a8", made, {"a": 1}, method="viditq", bits="w4a8")
        assert name == expected
        assert not made.exists(), "moved, not copied"
    rows = study.captures()
    assert [row["name"] for row in rows] == ["viditq-w4a8", "viditq-w4a8-2"]
    assert rows[0]["manifest"] == {"a": 1}
    assert study.capture("viditq-w4a8-2").steps == 5
    with pytest.raises(BadInput, match=r"unknown capture 'viditq'; nearest: viditq-w4a8"):
        study.capture("viditq")
    assert Study.open(study.folder, read_only=True).captures() == rows


def test_a_file_that_no_row_names_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """Killed between the rename and the commit: the next capture takes its place."""
    study = Study.create(tmp_path / "study", {"key": "m", "fingerprint": "f"}, {})
    write_capture(study.folder / "captures" / "plain.safetensors", blocks=2)
    made = write_capture(tmp_path / "made.safetensors", blocks=1)
    assert study.add_capture("plain", made, {}) == "plain"
    assert len(study.capture("plain").inputs) == 4
