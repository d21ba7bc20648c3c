"""The server: the page on FastAPI, whether it is alive and ready, and the janitor.

Nothing is shared, counted or fetched elsewhere.
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
from ui.studio import Studio

if TYPE_CHECKING:
    import gradio as gr

MIN_FREE_DISK = 500_000_000
"""Free bytes below which no more is taken on."""
CLEANUP_SECONDS = 300.0
"""Seconds between two rounds of the janitor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How the page is served."""

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    auth: tuple[str, str] | None = None
    """A user and the password."""
    max_upload: int = 25_000_000
    """Bytes of one file."""
    queue: int = 32
    """Who may wait."""
    opens: bool = False
    """Whether a browser is opened on it."""

    @property
    def address(self) -> str:
        """For a person on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{self.port}{self.root_path}/"


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        StylerError: the port is taken, or the host is not this machine's.
    """
    listener = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as problem:
        if listener:
            listener.close()
        why = (problem.strerror or str(problem)).lower()
        raise StylerError(f"Cannot listen at {host}:{port}: {why}; give another --port or --host.") from problem
    return listener


def make_server(studio: Studio, serving: ServerConfig) -> FastAPI:
    """The page with `/healthz` and `/readyz`, on a studio that is closed with it."""
    os.environ["GRADIO_TEMP_DIR"] = str(studio.visits.uploads)  # before Gradio is loaded
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ui.app import build_page

    page = build_page(studio, serving.queue)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ended = threading.Event()
        threading.Thread(target=studio.warm, daemon=True).start()
        threading.Thread(target=_clean_up, args=(studio, ended), daemon=True).start()
        yield
        ended.set()
        studio.close()

    server = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    server.state.page = page

    @server.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @server.get("/readyz")
    async def readyz() -> JSONResponse:
        lacking = list_unready(studio, page)
        return JSONResponse(
            {"status": "not ready" if lacking else "ready", "lacking": lacking}, 503 if lacking else 200
        )

    _mount_page(server, page, serving)
    server.add_middleware(RequestGuard, visits=studio.visits, max_upload=serving.max_upload)
    return server


def _mount_page(server: FastAPI, page: "gr.Blocks", serving: ServerConfig) -> None:
    """Put the page on the server, with everything switched off that is asked of, or told to, others."""
    import gradio as gr

    from ui.app import make_css, make_head, make_theme

    gr.mount_gradio_app(
        server,
        page,
        path="",
        auth=serving.auth,
        root_path=serving.root_path or None,
        show_error=False,
        max_file_size=serving.max_upload,
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
    """In sentences, why no work can be taken on now."""
    from ui.queue import is_full

    lacking = []
    if not studio.is_ready:
        lacking.append(str(studio.trouble) if studio.trouble else "The weights are not loaded yet.")
    if shutil.disk_usage(studio.visits.root).free < MIN_FREE_DISK:
        lacking.append("The disk is almost full.")
    if is_full(page):
        lacking.append("The queue is full.")
    return lacking


def serve_page(serving: ServerConfig) -> None:
    """Serve until somebody interrupts.

    Raises:
        StylerError: the port is taken.
    """
    with open_listener(serving.host, serving.port) as listener:
        config = uvicorn.Config(
            make_server(Studio(), serving),
            log_level="warning",
            timeout_graceful_shutdown=3,
            root_path=serving.root_path,
        )
        if serving.opens:
            threading.Timer(0.5, webbrowser.open, [serving.address]).start()
        uvicorn.Server(config).run(sockets=[listener])


def _clean_up(studio: Studio, ended: threading.Event) -> None:
    while not ended.wait(CLEANUP_SECONDS):
        studio.visits.sweep()
