"""The list of runs: what a method cannot make is greyed out, and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dqviz.catalogue import list_methods, list_models
from dqviz.ui.form import Form, model_facts
from dqviz.ui.offered import PRESETS, offered
from quant.adapters import adapters
from quant.cards import methods
from quant.support import families
from tests.app.test_browser import choose_model, opened

Pages = Callable[..., Any]


def folder_of(tmp_path: Path, transformer: str) -> Path:
    """A pipeline's folder, as far as a form looks into it."""
    index = {"_class_name": "Some", "transformer": ["diffusers", transformer]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


def test_embedded_models_have_adapters():
    for card in list_models():
        facts = model_facts(card["key"], list_models(), folders=True)
        assert facts.adapted, card["key"]
    assert not any(m["unsuited"] for m in offered(list_methods()))


def test_a_folder_says_whether_there_is_an_adapter(tmp_path):
    known = model_facts(str(folder_of(tmp_path, "WanTransformer3DModel")), [], folders=True)
    assert known.adapted
    other = str(folder_of(tmp_path, "AuraFlowTransformer2DModel"))
    assert not model_facts(other, [], folders=True).adapted
    assert model_facts(other, [], folders=False).adapted, "while others can reach it, none is read"
    (tmp_path / "model_index.json").write_text("{")
    assert model_facts(other, [], folders=True).adapted, "what it is is told when it loads"


def test_what_a_folders_card_leaves_open_is_the_familys(tmp_path):
    def facts(transformer: str):
        found = model_facts(str(folder_of(tmp_path, transformer)), [], folders=True)
        return found.steps, found.guidance, found.draws

    assert facts("WanTransformer3DModel") == (50, 5.0, "video")
    assert facts("DiTTransformer2DModel") == (20, 4.0, "image"), "as of every family"
    assert facts("FluxTransformer2DModel") == (None, None, "image"), "schnell has others than dev"
    assert facts("AuraFlowTransformer2DModel") == (None, None, "image")
    (tmp_path / "dqviz.json").write_text(json.dumps({"steps": 7, "guidance": 0}))
    assert facts("WanTransformer3DModel") == (7, 0, "video"), "a card comes first"


def test_what_is_read_of_families_is_what_their_adapters_say():
    assert families().keys() == adapters().keys()
    for name, family in families().items():
        adapter = adapters()[name]
        assert family.draws == adapter.draws
        if family.guidance is not None:
            own = adapter.defaults
            assert (family.steps, family.guidance) == (own["steps"], own["guidance"])


def test_a_folders_card_is_told(tmp_path):
    card = {"title": "Mine", "task": "class-to-image", "guidance": 3, "steps": 7}
    card["classes"] = {"0": "a", "1": "b"}
    (tmp_path / "dqviz.json").write_text(json.dumps(card))
    (tmp_path / "transformer").mkdir()
    save_file({"w": torch.zeros(300, 1000)}, tmp_path / "transformer" / "w.safetensors")
    facts = model_facts(str(tmp_path), [], folders=True)
    assert facts.about == "Mine · class to image · 2 classes · 0.3 M parameters"
    assert (facts.steps, facts.guidance) == (7, 3)
    (tmp_path / "transformer" / "w.safetensors").write_text("no weights")
    wrong = {"classes": ["a"], "prompts": 3, "steps": "many", "guidance": None}
    (tmp_path / "dqviz.json").write_text(json.dumps(wrong))
    facts = model_facts(str(tmp_path), [], folders=True)
    assert (facts.about, facts.classes, facts.steps) == ("", {}, None), "anybody's card is read"


def test_every_method_makes_its_own_bits_and_says_why_it_refuses_others():
    for method in offered(list_methods(), adapted=False):
        assert not set(method["bits"]) & method["refused"].keys()
        assert all(reason and "transformer" not in reason for reason in method["refused"].values())
        assert bool(method["unsuited"]) == (method["key"] not in ("rtn", "quarot", "kmeans-vq"))
    refused = {m["key"]: set(m["refused"]) for m in offered(list_methods())}
    assert refused["viditq"] == set()
    assert refused["taqdit"] == {"fp8", "mxfp8", "mxfp4", "nvfp4"}
    assert refused["vq4dit"] == set(PRESETS) - {"w4a8", "w4a4", "w4a16"}
    assert refused.keys() == methods().keys()


def test_the_command_says_at_once_what_a_method_refuses():
    runs = [{"method": "vq4dit", "bits": "w8a8"}]
    said = Form("dit-emoji", runs, "0-3", (), "", 20, 4.0).command()
    assert said.startswith("# bits 'w8a8': vq4dit makes weights of 2, 3 or 4 bits, not 8")
    assert "try w2a16, w3a16, w4a16, w2a8" in said


@pytest.mark.browser
def test_a_method_brings_bits_that_it_can_make(serve, new_page: Pages) -> None:
    page = opened(new_page(), serve())
    method, bits = page.get_by_label("Method of run 2"), page.get_by_label("Bits of run 2")
    bits.fill("w8a8")
    page.keyboard.press("Tab")
    assert "VQ4DiT · w2a16, w3a16, w4a16, w2a8" in method.inner_text()
    method.select_option("vq4dit")
    assert bits.input_value() == "w2a16"
    page.wait_for_function(
        "document.querySelector('#dq-line code').textContent.includes('--bits w4a8,w2a16')"
    )
    bits.fill("w6a6")
    page.keyboard.press("Tab")
    why = page.locator(".dq-why:visible")
    said = "makes weights of 2, 3 or 4 bits, not 6; try w2a16, w3a16, w4a16, w2a8"
    assert why.inner_text() == said
    assert bits.get_attribute("aria-invalid") == "true"
    page.wait_for_function(
        "document.querySelector('#dq-line code').textContent.startsWith('# bits')"
    )
    page.get_by_role("button", name="W8A8", exact=True).click()
    assert page.get_by_label("Bits of run 1").input_value() == "w8a8"
    assert bits.input_value() == "w6a6", "what cannot be made is not set"
    method.select_option("vq4dit")
    bits.fill("w2a16")
    page.keyboard.press("Tab")
    assert why.count() == 0
    page.get_by_role("button", name="W8A8", exact=True).click()
    assert bits.input_value() == "w2a16"
    assert why.inner_text().startswith("not w8a8: makes weights of 2, 3 or 4 bits, not 8; try")
    assert bits.get_attribute("aria-invalid") == "false", "what stands there can be made"
    method.select_option("viditq")
    assert page.locator(".dq-why:visible").count() == 0
    assert bits.input_value() == "w2a16"


# Of each method, once it is chosen: whether its text in the closed list is wider than the list has room for.
CUT = """() => [...document.querySelectorAll('#dq-runs select')].filter(s => {
  const style = getComputedStyle(s), pen = document.createElement('canvas').getContext('2d');
  pen.font = style.font;
  const room = s.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  return pen.measureText(s.selectedOptions[0].textContent).width > room;
}).map(s => s.selectedOptions[0].textContent)"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1440])
def test_no_method_is_cut_in_the_closed_list(serve, new_page: Pages, width: int) -> None:
    page = opened(new_page(width=width), serve())
    method, bits = page.get_by_label("Method of run 2"), page.get_by_label("Bits of run 2")
    for key in methods():
        method.select_option(key)
        bits.fill("fp8")
        page.keyboard.press("Tab")
        assert method.locator("option:checked").inner_text() == methods()[key].title
        assert page.evaluate(CUT) == []


@pytest.mark.browser
def test_on_a_model_without_an_adapter_methods_are_greyed_out(
    serve, new_page: Pages, tmp_path: Path
) -> None:
    page = opened(new_page(), serve())
    choose_model(page, str(folder_of(tmp_path, "AuraFlowTransformer2DModel")))
    page.wait_for_function("document.querySelector('#dq-runs option[value=taqdit]').disabled")
    able = page.evaluate(
        "[...document.querySelectorAll('#dq-runs select')[0].options].filter(o => !o.disabled).map(o => o.value)"
    )
    assert able == ["kmeans-vq", "quarot", "rtn"]
    assert "which are not known" in page.locator("#dq-runs option[value=taqdit]").first.inner_text()
    choose_model(page, "dit-emoji")
    page.wait_for_function("!document.querySelector('#dq-runs option[value=taqdit]').disabled")
