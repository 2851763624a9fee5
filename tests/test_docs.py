"""Documentation that a machine reads: paths exist, links resolve, blocks are current, commands parse."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from docs import generate
from dqviz import cli

ROOT = Path(__file__).resolve().parent.parent
# A path in backticks: has a slash or a known ending, and no placeholder.
PATH = re.compile(r"`([\w.][\w./-]*(?:/|\.(?:py|md|toml|json|lock|sh|png|safetensors)))`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)
# Written by a run or an install, or named as what a person will make.
NOT_TRACKED = (
    ".training/",
    ".venv/",
    ".venv-peers/",
    ".peers/",
    "studies/",
    "dqviz.json",
    "model_index.json",
)


PAGES = [page for page in generate.pages() if page.is_file()]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def file_names() -> set[str]:
    """Last parts of all paths in the packages: what a page may name without its folder."""
    folders = (ROOT / name for name in ("kernels", "quant", "dqviz", "tests", "assets", "docs"))
    return {path.name for folder in folders for path in folder.rglob("*.*")}


def missing_paths(text: str, page: Path) -> list[str]:
    """Paths named in backticks that exist neither from the root nor from the page's folder."""
    return [
        name
        for name in PATH.findall(FENCE.sub("", text))
        if not name.startswith(NOT_TRACKED)
        and not any((base / name).exists() for base in (ROOT, page.parent))
        and ("/" in name or name not in file_names())
    ]


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links that lead nowhere."""
    targets = [t.split("#")[0] for t in LINK.findall(FENCE.sub("", text))]
    local = [t for t in targets if t and not re.match(r"[a-z]+:", t)]
    return [t for t in local if not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert not missing_paths(page.read_text(encoding="utf-8"), page)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_resolves(page: Path) -> None:
    assert not broken_links(page.read_text(encoding="utf-8"), page)


def test_the_path_and_link_checks_can_fail() -> None:
    page = ROOT / "README.md"
    assert missing_paths("see `quant/no_such_file.py`", page) == ["quant/no_such_file.py"]
    assert broken_links("[x](docs/no-such-page.md)", page) == ["docs/no-such-page.md"]


def test_generated_blocks_are_current() -> None:
    stale = generate.stale()
    assert not stale, (
        f"run make docs: {', '.join(str(p.relative_to(ROOT)) for p in stale)} is not current"
    )


def test_a_stale_block_is_seen() -> None:
    text = "<!-- generated: methods -->\nold\n<!-- end of methods -->"
    assert "`rtn`" in generate.renewed(text)


# -- dependencies


def distribution(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_direct_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    declared = {distribution(r) for r in [*project["dependencies"], *extras]}
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w-]+)` \| \S", page, re.MULTILINE))
    assert listed == declared


IMPORT_NAMES = {"PIL": "pillow", "huggingface_hub": "huggingface-hub", "resvg_py": "resvg-py"}
# Needed without an import statement: what they are for is on the page.
NOT_IMPORTED = {"accelerate", "transformers", "triton", "pandas", "plotly"}
PEERS = {"torchao"}  # of the extra `peers`: `dqviz bench` times them where they are installed


def imported_distributions(*folders: str) -> set[str]:
    """Third-party names that the source of some folders imports anywhere."""
    found = set()
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    ours = {"kernels", "quant", "dqviz", "app", "benchmarks"}
    return {IMPORT_NAMES.get(n, n).lower() for n in found - sys.stdlib_module_names - ours - PEERS}


def test_what_the_packages_import_is_declared_and_what_is_declared_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {distribution(r) for r in project["dependencies"]}
    used = imported_distributions("kernels", "quant", "dqviz")
    extras = project["optional-dependencies"]
    optional = {distribution(r) for name in ("ray", "adapters") for r in extras[name]}
    assert used - declared == optional
    assert declared - used <= NOT_IMPORTED


def test_the_lock_pins_every_direct_dependency_that_make_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {distribution(r) for r in [*project["dependencies"], *extras["dev"], *extras["ray"]]}
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {distribution(line) for line in lines if line and not line.startswith("#")}
    assert wanted <= pins
    assert "torch==2.13.0" in lines
    assert 'triton==3.7.1; sys_platform == "linux"' in lines
    assert not [line for line in lines if "+" in line.split("#")[0] or "://" in line]


@pytest.mark.parametrize("package", ["torchao", "peft"])
def test_what_diffusers_would_import_is_pinned_once_and_in_no_environment_that_people_run(
    package: str,
) -> None:
    """diffusers imports what it finds, and every command would wait for it: `make env` puts it aside."""
    assert package not in (ROOT / "requirements.lock").read_text()
    pins = re.findall(rf"{package}==[\d.]+", (ROOT / "pyproject.toml").read_text())
    assert len(pins) == 1


# -- commands


def shown_commands(text: str) -> list[str]:
    """`dqviz ...` lines of a page: in code blocks, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"^\s*(?:\$ )?(?:\.venv/bin/)?(dqviz .*)$", joined, re.MULTILINE)
    return [re.sub(r"\s+#.*$", "", line).strip() for line in found]


README_COMMANDS = (
    shown_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    if (ROOT / "README.md").is_file()
    else []
)


def test_the_readme_shows_commands() -> None:
    assert len(README_COMMANDS) >= 3


@pytest.mark.parametrize("line", README_COMMANDS)
def test_commands_of_the_readme_exist(line: str) -> None:
    """The subcommand exists and knows every option shown."""
    words = shlex.split(line)
    commands = typer.main.get_command(cli.app).commands
    assert words[1] in commands
    known = {option for param in commands[words[1]].params for option in param.opts}
    assert not {w.split("=")[0] for w in words[2:] if w.startswith("--")} - known


RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPE_COMMANDS = shown_commands(RECIPES)


def check_request_of(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a line as the command line does: options, values, methods, bits; stop before a model is opened."""
    from dqviz import capturing
    from dqviz.request import check_request

    checked = []

    def stop(request: Any, *_: Any) -> None:
        of_capture = isinstance(request, capturing.CaptureRequest)
        (capturing.check_fields if of_capture else check_request)(request)
        checked.append(request)

    words = shlex.split(line)[1:]
    module = importlib.import_module(f"dqviz.commands.{words[0]}")
    if hasattr(module, "preflight"):
        monkeypatch.setattr(module, "preflight", stop)
        words.append("--preflight")  # twice is as good as once
    assert cli.main(words) == 0
    assert checked or not hasattr(module, "preflight")


@pytest.mark.parametrize("line", RECIPE_COMMANDS)
def test_commands_of_the_recipes_are_read_to_the_end(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_request_of(line, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "dqviz compare owner/name --method viditk --bits w8a8",
        "dqviz compare owner/name --method viditq --bits w9a8",
        "dqviz quantize owner/name --method viditq --bits w8a8 --no-such-option --out x",
        "dqviz quantize owner/name --method viditq --bits w8a8 --option preset=none --out x",
        "dqviz capture owner/name --method viditk --bits w8a8",
        "dqviz capture owner/name --method viditq --bits w9a8",
    ],
)
def test_the_check_of_recipes_can_fail(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_request_of(line, monkeypatch)


MIXED_COMMANDS = shown_commands((ROOT / "docs" / "mixed-precision.md").read_text(encoding="utf-8"))


def check_mixed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a line as the command line does, and stop before a model or a study is opened."""
    from dqviz import allocating, sweeping

    def stop(request: Any, *_: Any) -> None:
        of_plan = isinstance(request, allocating.AllocateRequest)
        (allocating if of_plan else sweeping).check_fields(request)
        raise typer.Exit

    words = shlex.split(line)[1:]
    if words[0] in ("compare", "quantize", "capture"):
        check_request_of(line, monkeypatch)
        return
    monkeypatch.setattr(sweeping, "sweep", stop)
    monkeypatch.setattr(allocating, "allocate", stop)
    assert cli.main(words) == 0


@pytest.mark.parametrize("line", MIXED_COMMANDS)
def test_commands_of_mixed_precision_are_read_to_the_end(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_mixed(line, monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "dqviz sensitivity dit-emoji --bits 3,9",
        "dqviz sensitivity dit-emoji --bits 4 --tier exactly",
        "dqviz sensitivity dit-emoji --bits 4 --no-such-option",
        "dqviz allocate --study studies/dit-emoji --budget bits=4",
        "dqviz allocate --study studies/dit-emoji --budget avg_bits=4 --calibrate 3",
    ],
)
def test_the_check_of_mixed_precision_can_fail(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_mixed(line, monkeypatch)


def test_every_recipe_has_its_steps_and_its_classes_exist() -> None:
    import diffusers

    for part in re.split(r"^## ", RECIPES, flags=re.MULTILINE):
        code = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
        if not code:
            continue
        said = [shlex.split(line)[1] for line in shown_commands(part)]
        assert {"compare", "capture", "quantize"} <= set(said), part.partition("\n")[0]
        assert any("--preflight" in line for line in shown_commands(part))
        words = {w for line in shown_commands(part) for w in shlex.split(line)}
        (source,) = code
        tree = ast.parse(source)
        names = [
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "diffusers"
            for alias in node.names
        ]
        assert len(names) == 2
        assert all(hasattr(diffusers, name) for name in names)
        opened = [
            node.args[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained")
            if isinstance(node.args[0], ast.Constant)
        ]
        assert len(opened) == 2, "the folder that was written, and its pipeline"
        assert set(opened) <= words


def test_the_command_check_can_fail() -> None:
    with pytest.raises(AssertionError):
        test_commands_of_the_readme_exist("dqviz no-such-command")
    with pytest.raises(AssertionError):
        test_commands_of_the_readme_exist("dqviz models --no-such-option")


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8")))
        assert named <= targets, f"{page.relative_to(ROOT)}: no such make target: {named - targets}"
