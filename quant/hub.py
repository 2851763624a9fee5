"""The hub of models: a pipeline by `owner/name` and revision, as a folder of the hub's own cache.

A file enters that cache under its name only when it is whole; what a connection broke off is asked
for again from where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BadCheckpoint, BadInput, EnvironmentFault
from .models import CARD_NAME
from .weight_files import safetensors_header

CONFIG = "transformer/config.json"


def download(
    name: str, revision: str | None, *, offline: bool = False, transformer: bool = True
) -> tuple[Path, str]:
    """Folder of a hub pipeline, downloaded where the cache lacks it, and the commit that it is of.

    Args:
        name: owner/name.
        revision: branch, tag or commit; None: main.
        offline: nothing is asked of the hub.
        transformer: False leaves the transformer's weights out, not its configuration.

    Raises BadInput for what the hub does not have, EnvironmentFault for what it does not give.
    """
    from huggingface_hub import errors

    with _faults(name, revision, offline):
        try:
            folder = _fetch(name, revision, offline, transformer)
        except errors.HTTPError as error:  # no answer, or none in time
            if offline or isinstance(error, errors.HfHubHTTPError):
                raise
            try:
                folder = _fetch(name, revision, True, transformer)
            except errors.LocalEntryNotFoundError:
                raise error from None
    return folder, folder.name


def _fetch(name: str, revision: str | None, offline: bool, transformer: bool) -> Path:
    from diffusers import DiffusionPipeline
    from huggingface_hub import errors, hf_hub_download

    left_out = {} if transformer else {"transformer": None}
    folder = Path(
        DiffusionPipeline.download(
            name, revision=revision, use_safetensors=True, local_files_only=offline, **left_out
        )
    )
    if not transformer:
        hf_hub_download(name, CONFIG, revision=folder.name, local_files_only=offline)
    with suppress(errors.RemoteEntryNotFoundError, errors.LocalEntryNotFoundError):  # few have one
        hf_hub_download(name, CARD_NAME, revision=folder.name, local_files_only=offline)
    if not offline:
        _mend(folder, name, folder.name)
    return folder


def _mend(folder: Path, name: str, commit: str) -> None:
    """Fetch again what is damaged in the cache, by disk or hand."""
    from huggingface_hub import hf_hub_download

    for file in sorted(folder.glob("**/*.safetensors")):
        try:
            safetensors_header(file)
        except BadCheckpoint:
            inside = file.relative_to(folder).as_posix()
            hf_hub_download(name, inside, revision=commit, force_download=True)


@contextmanager
def _faults(name: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Errors of the hub, the network, the disk and diffusers as ours, in one line each."""
    from huggingface_hub import constants, errors

    try:
        yield
    except (errors.HTTPError, OSError, ValueError, KeyError) as error:
        # diffusers says of many that the cache lacks the model; why is behind that
        cause = error.__cause__
        behind = cause if isinstance(cause, errors.HfHubHTTPError) else error
        raise _fault(behind, name, revision, offline or constants.is_offline_mode()) from None


def _fault(
    error: BaseException, name: str, revision: str | None, offline: bool
) -> BadInput | EnvironmentFault:
    from huggingface_hub import constants, errors

    at = f"{name}@{revision}" if revision else name
    page = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, errors.GatedRepoError):
        todo = f"accept its licence on {page}, then: hf auth login (or set HF_TOKEN)"
        if error.response.status_code == 403:
            todo = (
                "your account is not on its list, or your token may not read gated repositories; ask for "
                f"access on {page}, and see: hf auth whoami"
            )
        return EnvironmentFault(f"{at} is gated: {todo}")
    if isinstance(error, errors.RevisionNotFoundError):
        return BadInput(
            f"{name} has no revision '{revision}'; name a branch, tag or commit of {page}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return BadInput(
            f"the hub has no repository '{name}', or it is private: look at {page}; for a private one: "
            "hf auth login (or set HF_TOKEN)"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and offline:
        return EnvironmentFault(
            f"{at} is not whole in the hub's cache ({constants.HF_HUB_CACHE}), and offline mode asks for "
            "nothing; download it once without --offline and HF_HUB_OFFLINE"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        missing = _first(error.args[0].strip().splitlines()[-1]).rpartition("/")[2].rstrip(". ")
        return BadInput(
            f"{at} is not a diffusers pipeline (it has no {missing}); name a repository with a "
            "model_index.json"
        )
    if isinstance(error, errors.HFValidationError):
        return BadInput(f"'{at}' cannot be a name on the hub: {_first(error)}")
    if "necessary `safetensors` weights" in str(error):
        return BadInput(
            f"{at} holds pickled weights alone; only safetensors are read: look for a revision with them "
            f"on {page}, or save it with safe_serialization=True"
        )
    if isinstance(error, errors.HTTPError | OSError):
        return _unreachable(at, error)
    return BadInput(f"{at}: diffusers cannot open it: {_first(error)}")


def _unreachable(at: str, error: BaseException) -> EnvironmentFault:
    cause = error.__cause__ or error
    return EnvironmentFault(
        f"the hub does not give {at} ({type(cause).__name__}: {_first(cause)}); try again (complete files "
        "stay in the cache), take what the cache has with --offline, or give a local folder or an embedded "
        "model (dqviz models)"
    )


def _first(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")[:200]
