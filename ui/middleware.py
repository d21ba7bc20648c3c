"""Stands before Gradio: refuses what the page never asks for, and corrects the addresses in answers behind a proxy.

Gradio would download a file that a request names by URL; this server never contacts another host. It would also put the
address by which a request reached it into its answers, which is wrong if a proxy stands between.
"""

import inspect
import ipaddress
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.queue import show_event
from ui.session import Sessions

if TYPE_CHECKING:
    import gradio as gr

MAX_BODY = 1_000_000
"""Limit on the bytes of a request that is not an upload: the values of the controls."""
MAX_UPLOADS = 200
"""Limit on the files of one upload request."""
KNOWN_PATHS = re.compile(
    r"/|/(healthz|readyz|config/?|theme\.css|robots\.txt|favicon\.ico|manifest\.json|login/?|logout)"
    r"|/(static|assets|svelte)/.+"
    r"|/gradio_api/(info/?|openapi\.json|theme\.css|app_id/?|user/?|token/?|login_check/?|startup-events|reset/?|cancel)"
    r"|/gradio_api/(upload/?|upload_progress|heartbeat/[^/]+|file=.+|run/predict/?|queue/(join|data|status))"
    r"|/gradio_api/call/(v2/)?(stylize|preview)(/[^/]*)?",
    re.DOTALL,
)
"""What the page and Gradio's clients ask for; Gradio has more, such as for editing the page."""
UPLOAD_PATH, LOGIN_PATH = "/gradio_api/upload", "/login"
CANCEL_PATH = "/gradio_api/cancel"
CALL_PATHS = tuple(f"/call/{version}{name}" for version in ("", "v2/") for name in ("stylize", "preview"))
EVENT_PATHS = ("/queue/join", "/run/predict", *CALL_PATHS)
"""Paths that start an event, with its values in the body."""
REMOTE_PREFIXES = ("http:", "https:", "//")
PRIVATE_DOMAINS = ("localhost", "local", "lan", "home", "internal", "localdomain", "intranet", "corp", "test", "arpa")
"""Last parts of names that nobody on the Internet can own."""
SESSION_HASH = re.compile(r"[\w-]{1,64}")

REPLACED_HEADERS = {b"origin", b"range", b"x-forwarded-host", b"x-gradio-server"}
STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
"""Added to streams of events, so that proxies pass each event on at once."""

Refusal = tuple[int, str]
"""HTTP status and message."""


class RequestGuard:
    """ASGI middleware in front of the page.

    Args:
        app: the page.
        sessions: their folder may not grow beyond its limit.
        check_event: returns why the body of a request that starts an event is refused, or an empty text.
        max_upload: limit on the bytes of one file.
        root_path: path of the page behind a proxy, or its whole address there.
        is_local: whether the server listens on this machine alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        check_event: Callable[[str, Any], str],
        max_upload: int,
        root_path: str = "",
        *,
        is_local: bool = False,
    ) -> None:
        self.app, self.sessions, self.check_event, self.max_upload = app, sessions, check_event, max_upload
        self.public = urlsplit(root_path)
        self.is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope, headers = self._strip_root_path(scope), Headers(scope=scope)
        if not scope["path"]:
            await RedirectResponse(f"{self.public.path}/")(scope, receive, send)
            return
        refusal = self._check_path(scope["path"]) or self._check_sender(scope, headers)
        if not refusal and scope["method"] == "POST":
            if scope["path"].rstrip("/") == UPLOAD_PATH:
                refusal = await self._check_upload(scope)
            else:
                body, receive = await _read_body(receive)
                refusal = self._check_body(scope["path"].rstrip("/"), body)
        if refusal:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
        else:
            await _pass_on(self.app, self._set_address(scope, headers), receive, send)

    def _strip_root_path(self, scope: Scope) -> Scope:
        """Remove the path behind the proxy from the path of a request, if the proxy has not done so."""
        root, path = self.public.path, scope["path"]
        return {**scope, "path": path[len(root) :]} if root and f"{path}/".startswith(f"{root}/") else scope

    def _check_path(self, path: str) -> Refusal | None:
        """Return why a path is refused, or None."""
        if _is_remote_path(path):
            return 404, "This server does not serve files from other hosts."
        return None if KNOWN_PATHS.fullmatch(path) else (404, "There is nothing at this address.")

    def _check_body(self, path: str, body: bytes | None) -> Refusal | None:
        """Return why the body of a request is refused, or None; it is None beyond its limit."""
        if body is None:
            return 413, f"The request is too large; send {MAX_BODY // 1000} kB at most."
        if path == LOGIN_PATH:
            return None
        try:
            value = _parse_json(body)
        except ValueError as error:
            return 400, f"The request is not JSON: {error}; correct it."
        except RecursionError:
            return 400, "The request is nested too deeply; no control has such a value."
        if _names_remote_file(value):
            return 400, "The request names a file on another host; upload the file itself."
        if path == CANCEL_PATH and isinstance(value, dict):
            show_event(value.get("event_id"))
        reason = self.check_event(path, value) if path.endswith(EVENT_PATHS) else ""
        return (400, reason) if reason else None

    def _check_sender(self, scope: Scope, headers: Headers) -> Refusal | None:
        """Return why a request is refused that another web site makes a browser send, or None.

        Browsers add `Sec-Fetch-Site` to requests by HTTPS or to their own machine, and no script can set it. Without
        it, a public name for a server of this machine may be one whose address changed after its page was loaded.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "")
        if scope["method"] not in {"GET", "HEAD"} and site in {"cross-site", "same-site"}:
            return 403, "Another web site made this request; open the page itself."
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        is_rebound = self.is_local and not site and origin.startswith("http:") and _is_public_name(host)
        if is_rebound and host != self.public.hostname:
            return 403, f"This server is not known as {host}; start it with --root-path {origin}{self.public.path}."
        return None

    def _set_address(self, scope: Scope, headers: Headers) -> Scope:
        """Give Gradio the address that it puts before those of files, in the header that it reads first.

        For a browser it is relative: whatever stands between, the files are where the page is. No page of another
        origin may read the answers, so Gradio does not see the origin either.
        """
        is_browser = scope["path"] == "/" or any(name in headers for name in ("origin", "referer", "sec-fetch-site"))
        address = "." if is_browser else self._find_address(scope, headers)
        kept = [(name, value) for name, value in scope["headers"] if name not in REPLACED_HEADERS]
        if parts := headers.get("range"):  # in this spelling, Starlette answers it; Gradio's own answer is wrong
            kept.append((b"range", parts.replace("bytes=", "Bytes=", 1).encode("latin-1")))
        return {**scope, "headers": [*kept, (b"x-gradio-server", address.encode("latin-1"))]}

    def _find_address(self, scope: Scope, headers: Headers) -> str:
        """Return the address of the page for a program, which may come through a proxy."""
        if self.public.netloc:
            return self.public.geturl()
        host, scheme = headers.get("x-forwarded-host") or headers.get("host", ""), headers.get("x-forwarded-proto")
        first_scheme = (scheme or scope["scheme"]).split(",")[0].strip()
        return f"{first_scheme}://{host.split(',')[0].strip()}{self.public.path}"

    async def _check_upload(self, scope: Scope) -> Refusal | None:
        """Return why an upload is refused, or None."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The upload has no Content-Length header; add one."
        if int(length) > MAX_UPLOADS * self.max_upload:
            return 413, f"The upload is too large; send {MAX_UPLOADS} files at most."
        if not await anyio.to_thread.run_sync(self.sessions.has_room, int(length)):
            return 503, "The server has no room for more pictures now; try again in ten minutes."
        return None


async def _pass_on(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the page, and end a response that it gave up because what it sends no longer exists."""
    start: Message | None = None

    async def send_on(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            if Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream"):
                message["headers"] = [*message["headers"], *STREAM_HEADERS]
        await send(message)

    try:
        await app(scope, receive, send_on)
    except RuntimeError as error:  # Starlette's, in place of an answer that came after the start of another
        if start is None or not _is_vanished(error):
            raise
        if "content-length" not in Headers(raw=start["headers"]):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def handle_errors(app: FastAPI) -> None:
    """Answer those errors of the page that are the visitor's: the connection was lost, or the file removed."""

    @app.exception_handler(ClientDisconnect)
    async def answer_nobody(_request: Request, _error: Exception) -> Response:
        return Response(status_code=400)

    @app.exception_handler(FileNotFoundError)
    async def answer_removed(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("This file is no longer on the server.", 404)

    @app.exception_handler(RuntimeError)
    async def answer_vanished(request: Request, error: Exception) -> Response:
        if not _is_vanished(error):
            raise error
        return await answer_removed(request, error)


def _is_vanished(error: BaseException) -> bool:
    """Return whether an error comes from what a response sends: a file was removed, or a session has ended."""
    while isinstance(error, RuntimeError) and error.__context__:
        error = error.__context__
    return isinstance(error, (HTTPException, FileNotFoundError))


async def _read_body(receive: Receive) -> tuple[bytes | None, Receive]:
    """Return the body, or None beyond its limit, and a callable that receives it again."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return b"", _replay_message(receive, message)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None, receive
    return body, _replay_message(receive, {"type": "http.request", "body": body, "more_body": False})


def _parse_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, or has numbers and characters that an answer could not repeat, such as NaN.
        RecursionError: it is too deep.
    """
    value = json.loads(body)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _replay_message(receive: Receive, message: Message) -> Receive:
    """Return a callable that receives `message` first, then whatever `receive` does."""
    pending = [message]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _names_remote_file(value: Any) -> bool:
    """Return whether a value contains a file whose path is a URL."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            path = item.get("path")
            if isinstance(path, str) and _is_remote(path):
                return True
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return False


def _is_public_name(host: str) -> bool:
    """Return whether a host is named as on the Internet: neither an address nor a name of a local network."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host and host.rpartition(".")[2] not in PRIVATE_DOMAINS
    return False


def _is_remote_path(path: str) -> bool:
    return "/proxy=" in path or _is_remote(path.partition("/file=")[2])


def _is_remote(path: str) -> bool:
    return path.strip().lower().startswith(REMOTE_PREFIXES)


def explain_event(page: "gr.Blocks", path: str, body: Any) -> str:
    """Return why a request cannot start an event of the page, or an empty text if it can.

    Args:
        page: its events are those that can be started.
        path: of the request; a call names the event there.
        body: of the request.
    """
    if "/call/v2/" in path:
        return _explain_named_call(page, path.rpartition("/")[2], body)
    return _explain_listed_values(page, path, body)


def _explain_listed_values(page: "gr.Blocks", path: str, body: Any) -> str:
    """Return why an event with its values in a list cannot start, or an empty text if it can."""
    if not isinstance(body, dict) or not isinstance(body.get("data"), list):
        return "The request has no list 'data'; give the values of the event."
    name, index, session = path.rpartition("/call/")[2], body.get("fn_index"), body.get("session_hash")
    is_call = name != path
    named = (fn for fn in page.fns.values() if fn.api_name == name)
    event: Any = next(named, None) if is_call else page.fns.get(index) if type(index) is int else None
    if event is None or event.fn is None:
        return "The page has no such event; reload it."
    if not (is_call and session is None) and not (isinstance(session, str) and SESSION_HASH.fullmatch(session)):
        return "The request has no valid 'session_hash'; give up to 64 letters and digits."
    if len(body["data"]) != len(event.inputs):
        return f"The event takes {len(event.inputs)} values, not {len(body['data'])}; see 'styler ui' in the README."
    details = body.get("event_data")
    is_complete = isinstance(details, dict) and type(details.get("index")) is int and "value" in details
    if event.collects_event_data and not is_complete:
        return "The request does not say what was selected; reload the page."
    return "The page has no batched events; leave out 'batched'." if body.get("batched") else ""


def _explain_named_call(page: "gr.Blocks", endpoint: str, body: Any) -> str:
    """Return why a call with its values by name cannot start, or an empty text if it can."""
    event: Any = next((fn for fn in page.fns.values() if fn.api_name == endpoint), None)
    if event is None:
        return f"The page has no endpoint {endpoint}."
    parameters = [each for each in inspect.signature(event.fn).parameters.values() if each.name != "request"]
    names = [each.name for each in parameters]
    if not isinstance(body, dict):
        return "The request is not a JSON object; give the values by name."
    for name in body:
        if name not in names:
            return f"{endpoint} has no parameter '{name[:60]}'; it can be {', '.join(names)}."
    missing = [each.name for each in parameters if each.default is each.empty and each.name not in body]
    return f"The request has no '{missing[0]}'; give the values by name." if missing else ""
