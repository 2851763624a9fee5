"""Going on with a recorded study by the place of its copy, as commands of the pages name it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dqviz import studies
from dqviz.study import Study
from dqviz.study_folder import studies_root
from tests.tables import write_table


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    folder = tmp_path / "nothing-recorded" / "mine"
    write_table(folder)
    return folder


def test_the_place_of_a_recorded_study_is_its_copy(recorded: Path) -> None:
    own = studies_root() / "mine"
    assert not own.exists()
    assert studies.taken_up(own) == own
    assert Study.open(own).manifest == Study.open(recorded, read_only=True).manifest


def test_what_lies_there_is_taken_as_it_is(recorded: Path) -> None:
    own = studies_root() / "mine"
    own.mkdir(parents=True)
    assert studies.taken_up(own) == own
    assert not list(own.iterdir())


def test_another_folder_of_that_name_stays_away(recorded: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "mine"
    assert studies.taken_up(other) == other
    assert not other.exists()
    shutil.rmtree(recorded)
    assert studies.taken_up(studies_root() / "mine") == studies_root() / "mine"
    assert not (studies_root() / "mine").exists()
