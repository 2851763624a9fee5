"""Studies on disk: atomic, additive, readable anywhere, and never somebody else's folder."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dqviz import migrations
from dqviz.files import write_text
from dqviz.study import NewRun, Study, slug
from dqviz.study_folder import DATABASE, MANIFEST, check_folder, default_folder
from quant.errors import BadInput, EnvironmentFault

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"key": "tiny", "fingerprint": "0123", "weights": "abcd"}
VERSIONS = {"dqviz": "0"}


def new_run(name: str, value: float = 1.0) -> NewRun:
    return NewRun(
        name=name,
        record={"name": name, "method": "rtn", "bits": "w4a4", "ssim": {"mean": value}},
        recipe={"method": "rtn"},
        seeds=(3, 5),
        images=np.zeros((2, 4, 4, 3), dtype=np.uint8),
        plan=("plan-1", {"sites": {}}),
        drift={"free_running": [0.0, 0.5]},
        per_sample={"ssim": (value, None)},
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(tmp_path / "study", MODEL, VERSIONS)


def test_a_run_comes_back_as_it_was_stored(study: Study) -> None:
    number = study.begin({"model": "tiny"}, {"seeds": [3, 5]})
    stored = study.add_run(number, new_run("rtn"))
    study.finish(number, "done", pairs=[{"a": "rtn"}], ladder=[{"rung": "bf16"}])

    again = Study.open(study.folder)
    assert again.runs() == [stored]
    assert [p.name for p in again.images("rtn")] == ["3.png", "5.png"]
    assert all(p.is_file() for p in again.images("rtn"))
    assert again.drift("rtn") == {"free_running": [0.0, 0.5]}
    assert again.plan("rtn") == {"sites": {}}
    assert again.recipe("rtn") == {"method": "rtn"}
    assert again.metric("rtn", "ssim") == {3: 1.0, 5: None}
    result = again.result()
    assert result["status"] == "done"
    assert result["pairs"] == [{"a": "rtn"}]
    assert result["ladder"] == [{"rung": "bf16"}]


def test_a_further_comparison_adds_and_overwrites_nothing(study: Study) -> None:
    first = study.begin({}, {})
    study.add_run(first, new_run(study.free_name("rtn w4a4")))
    before = {p: p.stat().st_mtime_ns for p in study.folder.glob("images/**/*.png")}

    second = study.begin({}, {})
    name = study.free_name("rtn w4a4")
    study.add_run(second, new_run(name))

    assert name == "rtn-w4a4-2"
    assert [r["name"] for r in study.runs()] == ["rtn-w4a4", "rtn-w4a4-2"]
    assert [c["runs"] for c in study.comparisons()] == [["rtn-w4a4"], ["rtn-w4a4-2"]]
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_no_partial_files_are_left(study: Study) -> None:
    number = study.begin({}, {})
    study.add_run(number, new_run("rtn"))
    assert not [p for p in study.folder.rglob("*") if "partial" in p.name]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kept.json"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="disk is full"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_somebodys_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"thesis\.txt.*new or empty") as caught:
        Study.create(tmp_path, MODEL, VERSIONS)
    assert str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_somebodys_study_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"participants": 12}')
    with pytest.raises(BadInput, match="not a study's"):
        check_folder(tmp_path)


def test_a_newer_format_is_refused(study: Study) -> None:
    manifest = json.loads((study.folder / MANIFEST).read_text())
    (study.folder / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(BadInput, match=r"format 99 is newer.*update dqviz"):
        Study.open(study.folder)


def test_newer_tables_are_refused(study: Study) -> None:
    with sqlite3.connect(study.folder / DATABASE) as db:
        db.execute("INSERT INTO migrations VALUES ('m999_telepathy')")
    db.close()
    with pytest.raises(BadInput, match=r"newer version.*m999_telepathy"):
        Study.open(study.folder)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_broken_database_is_one_line(study: Study, read_only: bool) -> None:
    (study.folder / DATABASE).write_bytes(b"this is no database at all" * 200)
    for log in study.folder.glob(DATABASE + "-*"):
        log.unlink()
    with pytest.raises(BadInput, match="not a readable study database") as caught:
        Study.open(study.folder, read_only=read_only)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("left", [None, b""])
def test_a_lost_database_is_said_and_not_made_anew(study: Study, left: bytes | None) -> None:
    file = study.folder / "study.sqlite"
    for path in study.folder.glob("study.sqlite*"):
        path.unlink()
    if left is not None:
        file.write_bytes(left)
    with pytest.raises(BadInput, match=r"study\.sqlite is missing or empty; restore it"):
        Study.open(study.folder)
    assert (file.read_bytes() if file.exists() else None) == left


def test_another_models_study_is_refused(study: Study) -> None:
    other = MODEL | {"key": "huge", "fingerprint": "4567"}
    with pytest.raises(BadInput, match=r"model tiny, not of this huge"):
        Study.open_or_create(study.folder, other, VERSIONS)
    retrained = MODEL | {"weights": "efgh"}
    with pytest.raises(BadInput, match="other weights of tiny"):
        Study.open_or_create(study.folder, retrained, VERSIONS)


def test_a_locked_study_is_an_environment_fault(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dqviz.database.LOCK_SECONDS", 0.1)
    holder = sqlite3.connect(study.folder / DATABASE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(EnvironmentFault, match="locked by another process"):
            study.begin({}, {})
    finally:
        holder.close()


def test_names_are_safe_as_folders() -> None:
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("ViDiT-Q w4a8") == "vidit-q-w4a8"
    assert default_folder("facebook/DiT-XL-2-256@main").name == "dit-xl-2-256"


def test_an_unknown_run_names_the_nearest(study: Study) -> None:
    study.add_run(study.begin({}, {}), new_run("viditq-w4a4"))
    with pytest.raises(BadInput, match="viditq-w4a4"):
        study.images("vidit-w4a4")


def test_migrations_apply_once_and_in_order() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    assert migrations.apply(db) == migrations.names()
    assert migrations.apply(db) == []
    assert migrations.names() == sorted(migrations.names())
    db.close()


def test_a_study_opens_from_a_read_only_copy_without_torch(
    tiny_study: Path, tmp_path: Path
) -> None:
    """Another machine: other path, no write access, no engine."""
    copy = Path(shutil.copytree(tiny_study, tmp_path / "elsewhere"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    program = (
        "import sys\n"
        "from dqviz.study import Study\n"
        f"study = Study.open({str(copy)!r}, read_only=True)\n"
        "result = study.result()\n"
        "assert len(result['runs']) == 3 and study.images('rtn-w4a4')[0].is_file()\n"
        "assert study.drift('rtn-w4a4') and study.metric('rtn-w4a4', 'psnr_db')\n"
        "heavy = {'torch', 'diffusers', 'gradio', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in tiny_study.iterdir())
