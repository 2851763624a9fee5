"""The server: Gradio inside FastAPI, with our static files and security headers, run by uvicorn."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quant.errors import BadInput, EnvironmentFault

from ..plots.theme import vendor_folder
from .bench import Bench
from .library import Library
from .shell import build
from .theme import theme

WEB = Path(__file__).parent / "web"
LARGEST_UPLOAD = "8mb"
Auth = tuple[str, str] | list[tuple[str, str]] | None

# Gradio builds functions and styles at run time, hence the two unsafe words; everything else,
# pictures and connections included, comes from this server or does not load.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)


class SecurityHeaders:
    """Adds the headers to every answer; plain ASGI, so that event streams pass unbuffered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = _headers(bool(os.environ.get("SPACE_ID")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; put the headers into the start of the answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def _headers(in_space: bool) -> list[tuple[bytes, bytes]]:
    """A hosted Space shows the app in a frame of the hub; nobody else may frame it."""
    frames = "'self' https://huggingface.co https://*.hf.space" if in_space else "'none'"
    headers = {
        "content-security-policy": f"{POLICY}; frame-ancestors {frames}",
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    if not in_space:
        headers["x-frame-options"] = "DENY"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def make_app(bench: Bench, auth: Auth = None) -> FastAPI:
    """The whole app, ready for an ASGI server."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityHeaders)
    app.mount("/vendor", StaticFiles(directory=vendor_folder()))
    app.mount("/web", StaticFiles(directory=WEB))
    options: dict[str, Any] = {
        "auth": auth,
        "theme": theme(),
        "css_paths": sorted(WEB.glob("*.css")),
        "favicon_path": str(WEB / "favicon.svg"),
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "max_file_size": LARGEST_UPLOAD,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "app_kwargs": {"docs_url": None, "redoc_url": None, "openapi_url": None},
    }
    return gr.mount_gradio_app(app, build(bench), path="/", **options)


def launch(
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: Auth = None,
    study: Path | str | None = None,
) -> None:
    """Serve the app until it is interrupted.

    Args:
        host: address to listen on; beyond loopback without `auth`, a warning is printed.
        port: port to listen on.
        auth: a name and a password, or several.
        study: a study folder to open first, also one outside the studies folder.
    """
    if study is not None and not Path(study).is_dir():
        raise BadInput(f"there is no study folder {study}")
    check_port(host, port)
    local = is_loopback(host)
    if not local and not auth:
        print(exposed(host, port), file=sys.stderr, flush=True)
    library = Library(None if study is None else Path(study).resolve())
    bench = Bench(library=library, local_folders=local)
    app = make_app(bench, auth)
    bench.desk.wake()  # jobs of an app that was stopped go on
    shown = f"[{host}]" if ":" in host else host
    print(f"DQ-Viz is at http://{shown}:{port}  (Ctrl+C stops it)", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)


def check_port(host: str, port: int) -> None:
    """Stop with one clear line when the port cannot be had."""
    if not 1 <= port <= 65535:
        raise BadInput(f"port {port} is out of range; 1 to 65535, e.g. --port 7860")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        hint = f"choose another, e.g. --port {port + 1 if port < 65535 else 7860}"
        raise EnvironmentFault(f"port {port} on {host} cannot be used ({reason}); {hint}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposed(host: str, port: int) -> str:
    """The warning for an app that others can reach."""
    bar = "!" * 78
    return (
        f"{bar}\nWARNING: serving on {host}:{port} WITHOUT a password. Everybody who reaches this address\n"
        "can run models on this machine, see every study and delete it. Add --auth NAME:PASSWORD,\n"
        f"or keep the default host 127.0.0.1.\n{bar}"
    )
