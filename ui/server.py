"""The server: the page on FastAPI, its health endpoints, and the regular removal of old files.

Nothing is shared with, reported to, or fetched from other servers.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.routing import Mount

from styler.engine.device import choose_device
from styler.errors import StylerError
from styler.options import Options
from ui.middleware import RequestGuard, explain_event, handle_errors
from ui.queue import PAINTER
from ui.studio import Studio

if TYPE_CHECKING:
    import gradio as gr

MIN_FREE_DISK = 500_000_000
"""Free bytes below which the server is not ready."""
CLEANUP_SECONDS = 300.0
"""Seconds between two removals of old files."""
GRACE_SECONDS = 1.0
"""Seconds that downloads get to end when the server shuts down; the streams of open pages would never end."""
PROXY_VARIABLES = ("all_proxy", "http_proxy", "https_proxy", "no_proxy")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
SLASH_SCRIPT = (
    "<script>if (!location.pathname.endsWith('/')) location.replace(`${location.pathname}/${location.search}`)</script>"
)
"""Script that adds the slash that some proxies do not; the addresses on the page are relative to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of the server."""

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    """Path of the page behind a proxy, or its whole address there."""
    auth: tuple[str, str] | None = None
    """User and password."""
    max_upload: int = 25_000_000
    """Limit on the bytes of one file."""
    queue: int = 32
    """Limit on the requests that wait."""
    has_previews: bool = True
    """Whether visitors see their photo in every painting before they choose."""
    max_seconds: int = 0
    """Limit on the seconds of one painting; 0 for none."""
    open_browser: bool = False
    options: Options = field(default_factory=Options)
    """Defaults of the page and of `/stylize`; a visitor cannot change those of the machine."""

    @property
    def address(self) -> str:
        """URL of the page for a browser on this machine, or the address that a proxy gives it."""
        if "://" in self.root_path:
            return f"{self.root_path}/"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{self.root_path}/"


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


def listen(config: ServerConfig) -> socket.socket:
    """Open the socket of a server; what can be known before anything is loaded is checked here.

    Raises:
        StylerError: the device is not available, the port is in use, or the host is not an address of this machine.
    """
    choose_device(config.options.device)
    return open_listener(config.host, config.port)


def make_server(studio: Studio, config: ServerConfig) -> FastAPI:
    """Return the page with `/healthz` and `/readyz`; the studio is closed together with the server."""
    os.environ["GRADIO_TEMP_DIR"] = str(studio.sessions.uploads)  # before Gradio is imported
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["MPLCONFIGDIR"] = str(studio.sessions.root)  # or Matplotlib looks for a home that may be read-only
    os.environ["MPLBACKEND"] = "agg"  # or it chooses one when Gradio asks, at the first event, for a second
    with _without_proxies():
        from ui.app import build_page

        page = build_page(studio, config.queue)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        closed = threading.Event()
        threading.Thread(target=_warm_up, args=(studio,), daemon=True).start()
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
        reasons = list_unready(studio)
        status = "not ready" if reasons else "ready"
        return JSONResponse({"status": status, "lacking": reasons}, 503 if reasons else 200)

    _mount_page(server, page, config)
    server.add_middleware(
        RequestGuard,
        sessions=studio.sessions,
        check_event=partial(_check_event, studio, page),
        max_upload=config.max_upload,
        root_path=config.root_path,
        is_local=config.host in LOCAL_HOSTS,
    )
    return server


def _mount_page(server: FastAPI, page: "gr.Blocks", config: ServerConfig) -> None:
    """Mount the page on the server, with every feature disabled that contacts other servers."""
    import gradio as gr

    from ui.app import install_head, make_css, make_head, make_theme

    install_head(SLASH_SCRIPT + make_head())

    gr.mount_gradio_app(
        server,
        page,
        path="",
        auth=config.auth,
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
    )
    for route in server.routes:
        if isinstance(route, Mount) and isinstance(route.app, FastAPI):
            handle_errors(route.app)


@contextmanager
def _without_proxies() -> Iterator[None]:
    """Hide the proxies in the environment: Gradio makes HTTP clients while it is loaded, which need none.

    A client for a SOCKS proxy would require another package. Weights may still be fetched through a proxy afterwards.
    """
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if name.lower() in PROXY_VARIABLES}
    try:
        yield
    finally:
        os.environ.update(hidden)


def list_unready(studio: Studio) -> list[str]:
    """Return the reasons why no work can be accepted now, as sentences; empty if it can."""
    reasons = []
    if not studio.is_ready:
        reasons.append(str(studio.load_error or "The weights are not loaded yet."))
    if shutil.disk_usage(studio.sessions.root).free < MIN_FREE_DISK:
        reasons.append("The disk is almost full.")
    if studio.thread.is_full:
        reasons.append("The queue is full.")
    return reasons


def serve_page(config: ServerConfig, listener: socket.socket) -> None:
    """Serve the page on the socket that `listen` returned, until interrupted."""
    with listener:
        studio = Studio(config.options, has_previews=config.has_previews, max_seconds=config.max_seconds)
        try:
            server = PageServer(make_server(studio, config))
        except BaseException:  # Ctrl-C, too: then nobody else would remove its folder
            studio.close()
            raise
        if config.open_browser:
            threading.Timer(0.5, webbrowser.open, [config.address]).start()
        server.run(sockets=[listener])


class PageServer(uvicorn.Server):
    """A server that ends within seconds, however many visitors are connected.

    Each open page keeps a stream of events open, for whose end Uvicorn would wait in vain.
    """

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as Uvicorn does, but close the connections that are still open after a second."""
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._close_connections)
        await super().shutdown(sockets)

    def _close_connections(self) -> None:
        """Close all connections; to the page this is the same as if every visitor had left."""
        for connection in [*self.server_state.connections]:
            transport: asyncio.Transport | None = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGHUP, too, unless the parent process had it ignored: the terminal was closed."""
        hangup: Any = getattr(signal, "SIGHUP", None)
        with super().capture_signals():
            if hangup is None or threading.current_thread() is not threading.main_thread():
                yield
                return
            previous = signal.getsignal(hangup)
            if previous is not signal.SIG_IGN:
                signal.signal(hangup, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(hangup, previous)


def _check_event(studio: Studio, page: "gr.Blocks", path: str, body: Any) -> str:
    """Return why a request cannot start an event, or an empty text; previews stop before an event that paints."""
    if refusal := explain_event(page, path, body):
        return refusal
    index = body.get("fn_index")  # of any type in the calls of programs, which do not need it
    event = page.fns.get(index) if type(index) is int else None
    if event is not None and event.concurrency_id == PAINTER["concurrency_id"]:
        studio.thread.announce()
    return ""


def _warm_up(studio: Studio) -> None:
    """Load what painting needs, and log why it cannot be loaded; visitors are told as well."""
    with suppress(ImportError):
        import_module("matplotlib")  # which Gradio does at the first event
    studio.warm_up()
    if studio.load_error:
        logging.getLogger("uvicorn.error").error("Nothing can be painted: %s", studio.load_error)


def _clean_up(studio: Studio, closed: threading.Event) -> None:
    """Remove old files at regular intervals until the server is closed."""
    while not closed.wait(CLEANUP_SECONDS):
        studio.sessions.sweep()
