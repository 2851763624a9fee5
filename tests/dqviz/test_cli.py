"""The command line: help, lists, JSON, exit codes, and that starting it is cheap."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dqviz import __version__, terminal
from dqviz.cli import _explained, app, main
from dqviz.commands import commands
from dqviz.events import Progress, Stage
from dqviz.study_folder import default_folder

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = tuple(commands())


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    capsys.readouterr()
    code = main([*argv, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"models", "methods", "layers", "compare", "capture", "quantize"} <= set(COMMANDS)
    assert {"generate", "size", "app", "doctor"} <= set(COMMANDS)
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S.*[^.]\.$", printed, re.MULTILINE), name
    assert main([]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    group = typer.main.get_command(app)
    parameters = group.commands[command].params  # type: ignore[attr-defined]
    for parameter in parameters:
        text = getattr(parameter, "help", None)
        assert text, f"{command}: {parameter.name}"
        assert text.endswith("."), f"{command}: {parameter.name}: {text}"
        assert len(text) <= 90, f"{command}: {parameter.name} takes more than a line"
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().err == ""


def test_what_libraries_say_when_they_are_imported_is_not_shown() -> None:
    """torchao, which diffusers imports where it is there, speaks of parts that we do not use."""
    done = subprocess.run(
        [sys.executable, "-m", "dqviz", "layers", "dit-emoji", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["sites"]
    assert done.stderr == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dqviz {__version__}\n"


def test_starting_is_cheap() -> None:
    """`python -m dqviz --help` loads nothing heavy; neither do the lists that cards answer."""
    program = (
        "import sys\n"
        "from dqviz.cli import main\n"
        "for argv in (['--help'], ['compare', '--help'], ['methods'], ['models'], ['compaer']):\n"
        "    main(argv)\n"
        "heavy = ('torch', 'diffusers', 'transformers', 'gradio', 'plotly', 'pandas', 'scipy')\n"
        "print('HEAVY', [m for m in heavy if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_real_process_gives_exit_code_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dqviz", "compare", "dit-emojy", "--method", "rtn", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "dit-emojy" in done.stderr


def test_models_and_methods_have_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for model in run(capsys, "models")["models"]:
        assert {"key", "family", "task", "params", "source"} <= set(model)
        assert model["params"] > 0
    methods = {m["key"]: m for m in run(capsys, "methods")["methods"]}
    for method in methods.values():
        assert {"key", "title", "paper", "bits", "options", "beats"} <= set(method)
    assert methods["viditq"]["beats"] == "rtn"
    assert [m["key"] for m in run(capsys, "methods", "viditq")["methods"]] == ["viditq"]


def test_layers_lists_every_linear_once(tiny_dit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = run(capsys, "layers", str(tiny_dit))["sites"]
    names = [site["name"] for site in sites]
    assert len(names) == len(set(names)) == 20
    for site in sites:
        assert set(site) >= {"name", "block", "role", "in_features", "out_features", "kept_reason"}
    assert sum(site["kept_reason"] is None for site in sites) == 12


def test_size_knows_public_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "size", "dit-xl-2", "--method", "rtn", "--bits", "w4a8")
    assert {"blocks_mib", "total_bytes", "fp16_bytes", "bits_per_weight", "parts"} <= set(found)
    assert 4 < found["bits_per_weight"] < 4.1
    assert found["total_bytes"] < found["fp16_bytes"]


def test_size_is_what_quantize_writes(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(capsys, "size", str(tiny_dit), "--method", "rtn", "--bits", "w6a6")
    asked = ("--method", "rtn", "--bits", "w6a6", "--out", str(tmp_path / "c"))
    made = run(capsys, "quantize", str(tiny_dit), *asked)
    file = tmp_path / "c" / "diffusion_pytorch_model.safetensors"
    assert {"out", "size_bytes", "fp16_bytes", "bits_per_weight", "scope"} <= set(made)
    assert made["size_bytes"] == file.stat().st_size == told["total_bytes"]
    assert len(made["scope"]["quantized"]) == 12


def test_quantize_then_generate(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint inside its pipeline, and a whole pipeline, draw the same pictures."""
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    asked = ("--method", "viditq", "--bits", "w4a8", "--calibration-seeds", "50", "--steps", "2")
    run(capsys, "quantize", str(tiny_dit), *asked, "--out", str(alone))
    run(capsys, "quantize", str(tiny_dit), *asked, "--pipeline", "--out", str(whole))
    drawn = []
    for target, more in ((alone, ("--base", str(tiny_dit))), (whole, ())):
        out = tmp_path / f"pictures-{target.name}"
        sampling = ("--seeds", "4", "--steps", "2", "--classes", "cat")
        made = run(capsys, "generate", str(target), *more, *sampling, "--out", str(out))
        assert {"files", "seconds_per_sample", "backend"} <= set(made)
        (file,) = made["files"]
        assert Path(file).name == "4-cat.png"
        drawn.append(Path(file).read_bytes())
    assert drawn[0] == drawn[1]


def test_a_checkpoint_is_drawn_on_the_backend_and_in_the_mode_asked_for(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole, base = str(tmp_path / "c"), str(tmp_path / "w"), ("--base", str(tiny_dit))
    rtn = ("--method", "rtn", "--bits", "w4a8")
    run(capsys, "quantize", str(tiny_dit), *rtn, "--out", folder)
    run(capsys, "quantize", str(tiny_dit), *rtn, "--pipeline", "--out", whole)
    for backend, mode in (("integer", "speed"), ("simulate", "memory")):
        asked = ("--backend", backend, "--residency", mode, "--seeds", "4", "--steps", "1")
        for target in ((folder, *base), (whole,)):
            out = tmp_path / f"{mode}-{len(target)}"
            made = run(capsys, "generate", *target, *asked, "--out", str(out))
            assert (made["backend"], made["residency"]) == (backend, mode)
    wrong = ["generate", folder, *base, "--backend", "intger", "--out", str(tmp_path / "p")]
    assert main(wrong) == 2
    assert "'intger'" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_a_checkpoint_whose_base_is_unknown_asks_for_it(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "rtn", "--bits", "w8a8", "--out", str(tmp_path / "c"))
    run(capsys, "quantize", str(tiny_dit), *asked)
    assert main(["generate", str(tmp_path / "c"), "--out", str(tmp_path / "p")]) == 2
    assert "--base" in capsys.readouterr().err


def test_compare_prints_tables_for_people(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "rtn", "--bits", "w4a8,w8a8", "--method", "rtn", "--no-ladder")
    sampling = ("--seeds", "0-1", "--steps", "2", "--out", str(tmp_path / "study"))
    assert main(["compare", str(tiny_dit), *asked, *sampling]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("predicted, at most")
    assert len(printed.err.splitlines()) == 1
    for part in ("full-precision", "rtn-w4a8", "rtn-w8a8 - rtn-w4a8", "report.html"):
        assert part in printed.out


def test_compare_says_which_study_it_writes_into_where_none_is_named(
    tiny_dit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "rtn", "--bits", "w4a8", "--no-ladder", "--seeds", "0", "--steps", "1")
    assert main(["compare", str(tiny_dit), *asked, "--json"]) == 0
    printed = capsys.readouterr()
    folder = default_folder(str(tiny_dit))
    assert printed.err.splitlines()[1:] == [
        f"writing into the study {folder}; --out DIR takes another"
    ]
    assert (folder / "study.json").is_file()
    json.loads(printed.out)


def test_compare_prints_one_json_object(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "rtn", "--bits", "w8a8", "--no-ladder", "--seeds", "0", "--steps", "1")
    made = run(capsys, "compare", str(tiny_dit), *asked, "--out", str(tmp_path / "study"))
    assert [r["name"] for r in made["runs"]] == ["full-precision", "rtn-w8a8"]


def test_an_unreachable_hub_is_an_environment_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["layers", "somebody/a-model-that-is-not-cached"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "somebody/a-model-that-is-not-cached" in line
    assert "local folder" in line


def test_a_backend_that_cannot_compute_here_is_an_environment_fault(
    tiny_dit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernels.int_linear.cpu.available", lambda: False)
    asked = ("--method", "rtn", "--bits", "w8a8", "--no-ladder", "--seeds", "0", "--steps", "1")
    out = ("--backend", "integer", "--out", str(tmp_path / "study"))
    assert main(["compare", str(tiny_dit), *asked, *out]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "int_linear cannot run with backend integer: this build of torch lacks" in line
    assert "internal" not in line


def test_an_internal_error_is_one_line_that_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("a bug\nof ours")

    monkeypatch.setattr("dqviz.catalogue.list_models", broken)
    assert main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "DQVIZ_TRACE=1" in line
    monkeypatch.setenv("DQVIZ_TRACE", "1")
    with pytest.raises(KeyError):
        main(["models"])


def test_interrupts_and_full_disks_have_their_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left"), 3)):

        def fail(error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("dqviz.catalogue.list_models", fail)
        assert main(["models"]) == code
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_first_interrupt_asks_and_the_second_stops() -> None:
    with terminal.interruptible() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_progress_is_one_line_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.ProgressLine()(Stage("draw", "drawing"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = terminal.ProgressLine()
    line(Stage("draw", "drawing"))
    line(Progress(25, 100, 65.0, "rtn"))
    line.clear()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\n" not in printed.err
    assert " 25 %  drawing, 1 min 05 s left" in printed.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text


def test_the_app_gets_what_was_asked_for(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dqviz

    seen: dict[str, Any] = {}
    monkeypatch.setattr(dqviz, "launch", lambda **asked: seen.update(asked), raising=False)
    argv = ["app", "--port", "7999", "--auth", "ada:engine", "--study", str(tiny_study)]
    assert main(argv) == 0
    assert (seen["host"], seen["port"]) == ("127.0.0.1", 7999)
    assert seen["auth"] == ("ada", "engine")
    assert seen["study"] == tiny_study


def test_memory_that_torch_does_not_get_is_the_machines_fault() -> None:
    """On a CPU its error has no class of its own."""
    said = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    )
    assert _explained(RuntimeError(said))[0] == 3
    assert _explained(RuntimeError("no such thing"))[0] == 1
