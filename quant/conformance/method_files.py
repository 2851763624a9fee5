"""A method in a file of its own, found like one of an installed package for as long as it is looked at."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..cards import ENTRY_POINTS, FILES, Card, load_method, methods
from ..errors import BadInput


@contextmanager
def file_method(file: Path) -> Iterator[str]:
    """Let `file` be the method that its card names, during a block of code; gives its key.

    A file among ours is found already. Another one is found by an entry point, as a package's is, that
    lies in a folder of its own on `sys.path`. The file's code is run. Raises BadInput where it is no method.
    """
    file = file.resolve()
    card = _card(file)
    if file.parent == FILES.folder.resolve():
        yield card.key
        return
    if card.key in methods():
        raise BadInput(
            f"{file}: its key '{card.key}' is that of a method that is here; choose another"
        )
    _check_name(file)
    with TemporaryDirectory() as folder:
        _register(Path(folder), card.key, file.stem)
        added = [folder, str(file.parent)]
        sys.path[:0] = added
        importlib.invalidate_caches()
        methods.cache_clear()
        try:
            _load(file, card.key)
            yield card.key
        finally:
            for path in added:
                sys.path.remove(path)
            sys.modules.pop(file.stem, None)
            importlib.invalidate_caches()
            methods.cache_clear()


def _card(file: Path) -> Card:
    if not file.is_file():
        raise BadInput(
            f"there is no file {file}; name a method (dqviz methods), or a method's file"
        )
    try:
        card = FILES.read(file)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: not Python: {error}") from None
    except (TypeError, ValueError) as error:
        raise BadInput(f"{file}: its card is not made of literal arguments: {error}") from None
    if card is None:
        raise BadInput(
            f"{file}: no method, it has no line CARD = Card(...); see docs/adding-a-method.md"
        )
    return card


def _check_name(file: Path) -> None:
    """Stop at a name under which another module, or none, would be imported."""
    if not file.stem.isidentifier():
        raise BadInput(f"{file}: '{file.stem}' is no module's name; rename it, e.g. my_method.py")
    found = importlib.util.find_spec(file.stem)
    if found is not None and (found.origin is None or Path(found.origin).resolve() != file):
        raise BadInput(
            f"{file}: '{file.stem}' is the name of an installed module; rename the file, e.g. my_{file.stem}.py"
        )


def _register(folder: Path, key: str, module: str) -> None:
    info = folder / "checked_method-0.dist-info"
    info.mkdir()
    described = "Metadata-Version: 2.1\nName: checked-method\nVersion: 0\n"
    (info / "METADATA").write_text(described, encoding="utf-8")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\n{key} = {module}\n", encoding="utf-8"
    )


def _load(file: Path, key: str) -> None:
    try:
        module = load_method(key)
    except (Exception, SystemExit) as error:  # of the file's own code, whatever it is
        raise BadInput(f"{file}: cannot be imported: {type(error).__name__}: {error}") from None
    lacking = [
        n for n in ("Options", "quantize_group", "stored_transform") if not hasattr(module, n)
    ]
    if lacking:
        raise BadInput(f"{file}: lacks {', '.join(lacking)}; see docs/adding-a-method.md")
