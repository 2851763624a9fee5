"""Models as people name them: hub ids, single files, LoRAs; every fault is one line that helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from quant.errors import BadInput, EnvironmentFault
from quant.loading import load_model
from quant.sources import Source, check_source, locate, resolve
from tests.hub import COMMIT, asked_instead, serving

WEIGHTS = "diffusion_pytorch_model.safetensors"
NAME = "someone/tiny-dit"


@pytest.fixture
def hub(tiny_dit, tmp_path, monkeypatch):
    """A hub that serves the tiny model, with an empty cache."""
    with serving() as served, asked_instead(served, tmp_path / "cache", monkeypatch):
        served.add(NAME, tiny_dit)
        yield served


def cached(tmp_path: Path) -> list[Path]:
    """Weight files in the cache, and anything that is not whole."""
    found = (tmp_path / "cache").rglob("*")
    return [p for p in found if p.suffix in (".safetensors", ".incomplete") and p.is_file()]


def ranges(hub) -> list[str]:
    return [given for _, _, given in hub.asked if given]


def test_a_hub_model_loads_as_a_folder_does_and_says_its_commit(hub, model):
    loaded = load_model(NAME, device="cpu")
    assert (loaded.key, loaded.ref, loaded.from_hub) == (model.key, NAME, True)
    assert loaded.revision == COMMIT
    ours, theirs = model.transformer.state_dict(), loaded.transformer.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_revision_is_another_commit(hub, tiny_dit, tmp_path):
    other = shutil.copytree(tiny_dit, tmp_path / "other")
    card = json.loads((other / "dqviz.json").read_text())
    (other / "dqviz.json").write_text(json.dumps({**card, "title": "Another training"}))
    commit = "f" * 40
    repository = hub.repositories[NAME]
    repository.commits[commit] = other
    repository.names["refs/pr/1"] = repository.names["v2"] = commit
    for found in (
        locate(Source.of(f"{NAME}@v2")),
        locate(Source.of(NAME, revision="refs/pr/1")),
        locate(Source.of(f"{NAME}@{commit}")),
    ):
        assert found.revision == commit
        assert json.loads((found.folder / "dqviz.json").read_text())["title"] == "Another training"
    assert locate(Source.of(NAME)).revision == COMMIT
    with pytest.raises(BadInput, match=r"no revision 'v3'.*branch, tag or commit"):
        locate(Source.of(f"{NAME}@v3"))


def test_a_gated_repository_says_what_to_do(hub, monkeypatch):
    hub.repositories[NAME].gated = True
    with pytest.raises(EnvironmentFault, match=r"gated: accept its licence.*hf auth login"):
        locate(Source.of(NAME))
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(EnvironmentFault, match=r"gated: your account is not on its list.*whoami"):
        locate(Source.of(NAME))
    hub.repositories[NAME].readers = ("hf_reader",)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert locate(Source.of(NAME)).revision == COMMIT


def test_what_the_hub_does_not_have(hub, tiny_dit, tmp_path):
    with pytest.raises(BadInput, match=r"no repository 'someone/else', or it is private"):
        locate(Source.of("someone/else"))
    hub.add("someone/transformer", tiny_dit / "transformer")
    with pytest.raises(BadInput, match=r"not a diffusers pipeline.*model_index\.json"):
        locate(Source.of("someone/transformer"))
    with pytest.raises(BadInput, match="cannot be a name on the hub"):
        locate(Source.of("some one/else?"))
    pickled = shutil.copytree(tiny_dit, tmp_path / "pickled")
    for file in pickled.glob(f"*/{WEIGHTS}"):
        file.rename(file.with_suffix(".bin"))
    hub.add("someone/pickled", pickled)
    with pytest.raises(BadInput, match="pickled weights alone"):
        locate(Source.of("someone/pickled"))


def test_a_connection_that_breaks_off_goes_on_where_it_stopped(hub, tmp_path, model):
    hub.breaks[WEIGHTS] = 2
    loaded = load_model(NAME, device="cpu")
    assert ranges(hub)
    name = "transformer_blocks.1.ff.net.2.weight"
    assert torch.equal(
        loaded.transformer.get_parameter(name), model.transformer.get_parameter(name)
    )


def test_a_connection_that_stays_broken_leaves_the_cache_whole(hub, tmp_path, tiny_dit):
    hub.breaks[WEIGHTS] = 1000
    with pytest.raises(EnvironmentFault, match=r"the hub does not give.*try again"):
        locate(Source.of(NAME))
    assert not [p for p in cached(tmp_path) if p.suffix == ".incomplete"]
    with pytest.raises(EnvironmentFault, match="not whole in the hub's cache"):
        locate(Source.of(NAME, offline=True))
    hub.breaks.clear()
    found = locate(Source.of(NAME))
    file = found.folder / "transformer" / WEIGHTS
    assert file.read_bytes() == (tiny_dit / "transformer" / WEIGHTS).read_bytes()


def test_a_damaged_file_of_the_cache_is_fetched_again(hub, tiny_dit):
    file = locate(Source.of(NAME)).folder / "transformer" / WEIGHTS
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert (locate(Source.of(NAME)).folder / "transformer" / WEIGHTS).read_bytes() == whole


def test_offline_takes_the_cache_and_asks_for_nothing(hub, monkeypatch):
    with pytest.raises(EnvironmentFault, match=r"not whole in the hub's cache.*--offline"):
        locate(Source.of(NAME, offline=True))
    here = locate(Source.of(NAME))
    hub.asked.clear()
    assert locate(Source.of(NAME, offline=True)).folder == here.folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(Source.of(NAME)).folder == here.folder
    assert hub.asked == []
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE"):
        locate(Source.of("someone/else"))


def test_a_hub_that_is_down_matters_only_for_what_is_not_cached(hub):
    here = locate(Source.of(NAME))
    hub.status = 503
    assert locate(Source.of(NAME)).folder == here.folder
    with pytest.raises(EnvironmentFault, match=r"the hub does not give someone/else"):
        locate(Source.of("someone/else"))


def test_a_hub_that_is_not_there(hub, monkeypatch):
    here = locate(Source.of(NAME))
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", nowhere)
    assert locate(Source.of(NAME)).folder == here.folder
    with pytest.raises(
        EnvironmentFault, match=r"the hub does not give someone/else \(ConnectError"
    ):
        locate(Source.of("someone/else"))


def test_hub_names_carry_a_revision():
    assert resolve("facebook/DiT-XL-2-256") == (None, None)
    assert resolve("facebook/DiT-XL-2-256@refs/pr/3") == (None, "refs/pr/3")
    assert Source.of("a/b", revision="v1").ref == "a/b@v1"
    with pytest.raises(BadInput, match="give one"):
        Source.of("a/b@v2", revision="v1")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"revision": "main"}, "is on this machine; --revision goes with owner/name"),
        ({"base": "dit-emoji"}, "is a whole model; --base goes with"),
        ({"loras": ["lost.safetensors:0.5"]}, "LoRA lost.safetensors: there is no such file"),
        ({"loras": ["lost.safetensors:inf"]}, "scale"),
    ],
)
def test_what_does_not_go_with_a_folder(tiny_dit, asked, message):
    with pytest.raises(BadInput, match=message):
        check_source(Source.of(str(tiny_dit), **asked))
