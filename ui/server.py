"""The server: the page on FastAPI, its health endpoints, and the regular removal of old files.

Nothing is shared with, reported to, or fetched from other servers.
"""

import os
import shutil
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from styler.errors import StylerError
from ui.middleware import RequestGuard
from ui.queue import is_full
from ui.studio import Studio

if TYPE_CHECKING:
    import gradio as gr

MIN_FREE_DISK = 500_000_000
"""Free bytes below which the server is not ready."""
CLEANUP_SECONDS = 300.0
"""Seconds between two removals of old files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of the server."""

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    auth: tuple[str, str] | None = None
    """User and password."""
    max_upload: int = 25_000_000
    """Limit on the bytes of one file."""
    queue: int = 32
    """Limit on the requests that wait."""
    open_browser: bool = False

    @property
    def address(self) -> str:
        """URL of the page for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{self.port}{self.root_path}/"


def open_listener(host: str, port: int) -> socket.socket:
    """Open a socket that listens at an address.

    Raises:
        StylerError: the port is in use, or the host is not an address of this machine.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as problem:
        if listener:
            listener.close()
        reason = (problem.strerror or str(problem)).lower()
        raise StylerError(f"Cannot listen at {host}:{port}: {reason}; give another --port or --host.") from problem
    return listener


def make_server(studio: Studio, config: ServerConfig) -> FastAPI:
    """Return the page with `/healthz` and `/readyz`; the studio is closed together with the server."""
    os.environ["GRADIO_TEMP_DIR"] = str(studio.sessions.uploads)  # before Gradio is imported
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ui.app import build_page

    page = build_page(studio, config.queue)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        closed = threading.Event()
        threading.Thread(target=studio.warm_up, daemon=True).start()
        threading.Thread(target=_clean_up, args=(studio, closed), daemon=True).start()
        yield
        closed.set()
        studio.close()

    server = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    server.state.page = page

    @server.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @server.get("/readyz")
    async def readyz() -> JSONResponse:
        reasons = list_unready(studio, page)
        status = "not ready" if reasons else "ready"
        return JSONResponse({"status": status, "lacking": reasons}, 503 if reasons else 200)

    _mount_page(server, page, config)
    server.add_middleware(RequestGuard, sessions=studio.sessions, max_upload=config.max_upload)
    return server


def _mount_page(server: FastAPI, page: "gr.Blocks", config: ServerConfig) -> None:
    """Mount the page on the server, with every feature disabled that contacts other servers."""
    import gradio as gr

    from ui.app import make_css, make_head, make_theme

    gr.mount_gradio_app(
        server,
        page,
        path="",
        auth=config.auth,
        root_path=config.root_path or None,
        show_error=False,
        max_file_size=config.max_upload,
        enable_monitoring=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=make_theme(),
        css=make_css(),
        head=make_head(),
    )


def list_unready(studio: Studio, page: "gr.Blocks") -> list[str]:
    """Return the reasons why no work can be accepted now, as sentences; empty if it can."""
    reasons = []
    if not studio.is_ready:
        reasons.append(str(studio.load_error or "The weights are not loaded yet."))
    if shutil.disk_usage(studio.sessions.root).free < MIN_FREE_DISK:
        reasons.append("The disk is almost full.")
    if is_full(page):
        reasons.append("The queue is full.")
    return reasons


def serve_page(config: ServerConfig) -> None:
    """Serve the page until interrupted.

    Raises:
        StylerError: the port is in use.
    """
    with open_listener(config.host, config.port) as listener:
        settings = uvicorn.Config(
            make_server(Studio(), config), log_level="warning", timeout_graceful_shutdown=3, root_path=config.root_path
        )
        if config.open_browser:
            threading.Timer(0.5, webbrowser.open, [config.address]).start()
        uvicorn.Server(settings).run(sockets=[listener])


def _clean_up(studio: Studio, closed: threading.Event) -> None:
    """Remove old files at regular intervals until the server is closed."""
    while not closed.wait(CLEANUP_SECONDS):
        studio.sessions.sweep()
