"""A stand-in for the hub of models, on loopback: the part of its protocol that a download speaks.

    GET  /api/models/OWNER/NAME[/revision/REV]    the commit, and the files
    GET  /api/models/OWNER/NAME/tree/COMMIT       files with sizes and digests
    HEAD /OWNER/NAME/resolve/REV/PATH             commit, ETag, size; weights redirect to a store
    GET  /store/DIGEST                            bytes, from where `Range` says

with its errors (401 and 403 gated, 404 of repository, revision and entry, 503), and connections that
break off in the middle of a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORED = ".safetensors"  # kept in the store, like files of git LFS


@dataclass
class Repository:
    """One repository: its files at each commit."""

    commits: dict[str, Path]  # commit -> folder
    names: dict[str, str]  # branch or tag -> commit
    gated: bool = False
    readers: tuple[str, ...] = ()  # tokens that were granted access

    def commit(self, revision: str) -> str | None:
        """The commit that a revision means."""
        return revision if revision in self.commits else self.names.get(revision)

    def files(self, commit: str) -> dict[str, Path]:
        """Files of a commit by their path."""
        folder = self.commits[commit]
        found = sorted(p for p in folder.rglob("*") if p.is_file())
        return {p.relative_to(folder).as_posix(): p for p in found}


@dataclass
class Hub:
    """What the server serves and was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)  # file name -> answers to break off
    status: int | None = None  # of every answer, instead of the right one
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range

    def add(self, name: str, folder: Path, **more: object) -> Repository:
        """A repository with one commit, `main`."""
        made = Repository({COMMIT: folder}, {"main": COMMIT}, **more)  # type: ignore[arg-type]
        self.repositories[name] = made
        return made

    def stored(self) -> dict[str, Path]:
        """Files of the store by digest."""
        every = (
            f for r in self.repositories.values() for c in r.commits for f in r.files(c).items()
        )
        return {_digest(p): p for path, p in every if path.endswith(STORED)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.hub.status is not None:
            return self._fail(self.hub.status, "", "the hub is out of order")
        if match := re.fullmatch(r"/store/(\w+)", path):
            return self._send(self.hub.stored()[match[1]], body)
        if re.fullmatch(r"/api/models/[^/]+/[^/]+", path):
            path += "/revision/main"
        match = re.fullmatch(
            r"(/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)(?:/(.+))?", path
        )
        if match is None:
            return self._fail(404, "", f"no such page: {path}")
        name, what, revision, file = (unquote(part or "") for part in match.groups()[1:])
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._fail(401, "RepoNotFound", "Repository not found")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        # As the hub does: what a gated repository holds may be seen by all, its files may not.
        if repository.gated and what == "resolve" and token not in repository.readers:
            message = f"Access to model {name} is restricted."
            return self._fail(403 if token else 401, "GatedRepo", message)
        commit = repository.commit(revision)
        if commit is None:
            return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.files(commit)
        if what == "revision":
            siblings = [{"rfilename": path} for path in files]
            return self._json({"id": name, "sha": commit, "siblings": siblings})
        if what == "tree":
            return self._json([_entry(path, file) for path, file in files.items()])
        if file not in files:
            return self._fail(404, "EntryNotFound", "Entry not found", commit)
        if file.endswith(STORED):
            return self._redirect(files[file], commit)
        return self._send(files[file], body, commit)

    def _redirect(self, file: Path, commit: str) -> None:
        self.send_response(302)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-ETag", f'"{_digest(file)}"')
        self.send_header("X-Linked-Size", str(file.stat().st_size))
        # The store is another host than the hub, which is what a download looks at.
        store = self.hub.url.replace("127.0.0.1", "localhost")
        self.send_header("Location", f"{store}/store/{_digest(file)}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, file: Path, body: bool, commit: str | None = None) -> None:
        data = file.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_digest(file)}"')
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if not body:
            return
        if self.hub.breaks.get(file.name, 0) > 0:
            self.hub.breaks[file.name] -= 1
            self.wfile.write(data[first : first + (len(data) - first) // 2])
            self.close_connection = True
            return
        self.wfile.write(data[first:])

    def _json(self, data: object) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _fail(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(path: str, file: Path) -> dict[str, object]:
    size = file.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": _digest(file)}
    if path.endswith(STORED):
        entry["lfs"] = {"size": size, "oid": _digest(file), "pointerSize": 130}
    return entry


def _digest(file: Path) -> str:
    said = file.stat()
    return _digest_of(file, said.st_size, said.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_of(file: Path, size: int, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub with nothing in it, for as long as the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}), bind_and_activate=True
    )
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def asked_instead(hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Let this process take `hub` for the hub, with a cache of its own and no waiting between retries."""
    from huggingface_hub import constants, file_download, hf_api

    patch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what is kept of a broken answer
    patch.setattr(hf_api.api, "endpoint", hub.url)
    patch.setattr(file_download.time, "sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy"):
        patch.delenv(name, raising=False)
    yield hub
