"""What holds for the whole tree: which way imports point, what an import costs, how big it is.

`make check` runs import-linter over the arrows as well; here is what it cannot say.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kernels", "quant", "dqviz")
MIB = 2**20

# Viewing a list of methods or `dqviz --help` must not cost seconds.
HEAVY = ("torch", "diffusers", "transformers", "gradio", "plotly", "pandas", "scipy")
CHEAP = (
    "dqviz",
    "dqviz.cli",
    "quant",
    "quant.errors",
    "quant.schema",
    "quant.cards",
    "quant.allocation",
    "quant.group_budgets",
    "quant.exports",
    "quant.mixed_precision",
    "quant.loss_calibration",
    "kernels",
)

# Who may import what, at module level or inside a function. A folder ends with "/".
# Pages and figures are plain values: they can be tested without a server.
ALLOWED = {
    "gradio": ("dqviz/ui/",),
    "plotly": ("dqviz/plots/",),
    "ray": ("dqviz/spreading.py",),
    "torchao": ("dqviz/benching/peers.py",),
    "triton": ("kernels/",),
    "typer": ("dqviz/cli.py", "dqviz/commands/", "dqviz/__main__.py"),
}


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of every absolute import in a file, late ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def tracked() -> list[Path]:
    """Files that git tracks; every file when this is not a git checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout: what is tracked is not known")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


# -- what an import costs


def loaded_by(module: str, extra_path: Path | None = None) -> set[str]:
    """Which heavy libraries a fresh interpreter has loaded after `import module`."""
    program = (
        f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    path = os.pathsep.join(str(p) for p in (extra_path, ROOT) if p)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", CHEAP)
def test_importing_is_cheap(module: str) -> None:
    assert loaded_by(module) == set()


def test_the_import_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "costly.py").write_text("import scipy\n")
    assert loaded_by("costly", tmp_path) == {"scipy"}


# -- which way imports point


def forbidden(path: Path, place: str) -> list[str]:
    return [
        f"{place} imports {name}: only {', '.join(where)} may"
        for name, where in ALLOWED.items()
        if name in set(imported(path)) and not place.startswith(where)
    ]


def test_each_library_stays_in_its_place() -> None:
    wrong = [
        line
        for path in sources(*PACKAGES)
        for line in forbidden(path, path.relative_to(ROOT).as_posix())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_place_check_can_fail(tmp_path: Path) -> None:
    late = tmp_path / "late.py"
    late.write_text("def show():\n    from plotly import graph_objects\n    return graph_objects\n")
    assert forbidden(late, "quant/late.py")
    assert not forbidden(late, "dqviz/plots/late.py")


def test_nothing_imports_the_launcher() -> None:
    wrong = [str(p.relative_to(ROOT)) for p in sources(*PACKAGES) if "app" in set(imported(p))]
    assert not wrong, f"app.py is the outermost arrow; imported by {wrong}"


def test_methods_and_metrics_do_not_import_one_another() -> None:
    """Shared mathematics moves down: a method is one file that can be read, copied and deleted."""
    wrong = []
    for folder in ("quant/methods", "quant/metrics"):
        files = [p for p in sources(folder) if p.stem not in ("__init__", "base")]
        names = {p.stem for p in files}
        for path in files:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.ImportFrom):
                    continue
                module = (node.module or "").removeprefix(folder.replace("/", ".")).lstrip(".")
                beside = node.level == 1 or (node.module or "").startswith(folder.replace("/", "."))
                found = {module.split(".")[0]} if module else {a.name for a in node.names}
                if beside and found & names:
                    wrong.append(f"{path.relative_to(ROOT)}: {sorted(found & names)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["quant", "dqviz"])
def test_a_public_name_stays_what_it_is(package: str) -> None:
    """Importing a submodule sets it as an attribute of its package: it must not hide a function."""
    module = importlib.import_module(package)
    before = {name: getattr(module, name) for name in module.__all__}
    for name in before:
        assert not (ROOT / package / f"{name}.py").exists(), f"{package}.{name} is also a module"
    for path in sorted((ROOT / package).glob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            importlib.import_module(f"{package}.{path.stem}")
    assert {name: getattr(module, name) for name in before} == before


def test_the_packages_are_ours() -> None:
    """`kernels` is another distribution's name too: what is imported must be this checkout's."""
    program = "import json, kernels, quant, dqviz; print(json.dumps([m.__file__ for m in (kernels, quant, dqviz)]))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [Path(f).parent for f in json.loads(done.stdout)] == [
        ROOT / p for p in ("kernels", "quant", "dqviz")
    ]


# -- no file format that runs code


UNSAFE_MODULES = {"pickle", "dill", "joblib", "shelve", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "np.load", "numpy.load"}


def unsafe(path: Path) -> list[str]:
    """Imports and calls that could run code that came in a file; np.load only with allow_pickle."""
    found = sorted(UNSAFE_MODULES & set(imported(path)))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in UNSAFE_CALLS:
            allows = any(k.arg == "allow_pickle" for k in node.keywords)
            if allows or not name.endswith(("np.load", "numpy.load")):
                found.append(f"{name}(...) in line {node.lineno}")
    return found


def test_nothing_is_unpickled_or_evaluated() -> None:
    files = [*sources(*PACKAGES, "assets", "benchmarks"), ROOT / "app.py"]
    wrong = {str(p.relative_to(ROOT)): unsafe(p) for p in files if p.is_file() and unsafe(p)}
    assert not wrong


@pytest.mark.parametrize(
    "line",
    ["import pickle", "w = torch.load(path)", "a = np.load(f, allow_pickle=True)", "eval(text)"],
)
def test_the_unpickling_check_can_fail(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(line + "\n")
    assert unsafe(tmp_path / "bad.py")


def test_the_unpickling_check_lets_models_be_put_in_eval_mode(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("model.eval()\na = np.load(f)\n")
    assert not unsafe(tmp_path / "good.py")


# -- size of the repository


def test_tracked_files_fit() -> None:
    sizes = {path: path.stat().st_size for path in tracked()}
    models = sum(s for p, s in sizes.items() if p.is_relative_to(ROOT / "assets" / "models"))
    assert sum(sizes.values()) <= 45 * MIB, (
        f"tracked files: {sum(sizes.values()) / MIB:.1f} MiB of 45"
    )
    assert models <= 36e6, f"assets/models: {models / 1e6:.1f} MB of 36"


def test_every_large_file_is_justified() -> None:
    notes = ROOT / "assets" / "README.md"
    text = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    large = [p.relative_to(ROOT).as_posix() for p in tracked() if p.stat().st_size > 2e6]
    missing = [name for name in large if name.removeprefix("assets/") not in text]
    assert not missing, f"files over 2 MB that assets/README.md does not name: {missing}"


def test_no_file_names_a_machine() -> None:
    """Paths of somebody's home or work folder do not belong in a repository."""
    personal = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/[\w.-]+")
    wrong = []
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".toml", ".json", ".sh", ".yaml", ".cfg", ""}
            and path.stat().st_size < MIB
        ):
            text = path.read_text(encoding="utf-8", errors="ignore")
            wrong += [f"{path.relative_to(ROOT)}: {m[0]}" for m in personal.finditer(text)]
    assert not wrong, "\n".join(wrong[:20])
