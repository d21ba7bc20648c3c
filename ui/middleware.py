"""Stands before Gradio: refuses what the page never asks for, and makes the addresses in answers right behind a proxy.

Gradio would download a file that a request names by URL; this server never contacts another host. It would also put the
address by which a request reached it into its answers, which is wrong if a proxy stands between.
"""

import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.session import Sessions

MAX_BODY = 1_000_000
"""Limit on the bytes of a request that is not an upload: the values of the controls."""
MAX_UPLOADS = 200
"""Limit on the files of one upload request."""
REMOTE_PREFIXES = ("http:", "https:", "//")
PRIVATE_DOMAINS = ("localhost", "local", "lan", "home", "internal", "localdomain", "intranet", "corp", "test", "arpa")
"""Last parts of names that nobody on the Internet can own."""

Refusal = tuple[int, str]
"""HTTP status and message."""


class RequestGuard:
    """ASGI middleware in front of the page.

    Args:
        app: the page.
        sessions: their folder may not grow beyond its limit.
        max_upload: limit on the bytes of one file.
        root_path: path of the page behind a proxy, or its whole address there.
        is_local: whether the server listens on this machine alone.
    """

    def __init__(
        self, app: ASGIApp, sessions: Sessions, max_upload: int, root_path: str = "", *, is_local: bool = False
    ) -> None:
        self.app, self.sessions, self.max_upload = app, sessions, max_upload
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
        refusal = self._check_sender(scope, headers)
        if not refusal and scope["method"] == "POST":
            if scope["path"].endswith("/upload"):
                refusal = await self._check_upload(scope)
            else:
                refusal, receive = await _check_body(receive)
        elif not refusal and _is_remote_path(scope["path"]):
            refusal = 404, "This server does not serve files from other hosts."
        if refusal:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
        else:
            await self.app(self._set_address(scope, headers), receive, send)

    def _strip_root_path(self, scope: Scope) -> Scope:
        """Remove the path behind the proxy from the path of a request, if the proxy has not done so."""
        root, path = self.public.path, scope["path"]
        return {**scope, "path": path[len(root) :]} if root and f"{path}/".startswith(f"{root}/") else scope

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

        For a browser it is relative: whatever stands between, the files are where the page is. No page of another origin
        may read the answers, so Gradio does not see the origin either.
        """
        is_browser = scope["path"] == "/" or any(name in headers for name in ("origin", "referer", "sec-fetch-site"))
        address = "." if is_browser else self._find_address(scope, headers)
        dropped = {b"origin", b"x-forwarded-host", b"x-gradio-server"}
        kept = [(name, value) for name, value in scope["headers"] if name not in dropped]
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


async def _check_body(receive: Receive) -> tuple[Refusal | None, Receive]:
    """Read the body up to its limit; return why it is refused, or None, and a callable that receives it again."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None, _replay_message(receive, message)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return (413, f"The request is too large; send {MAX_BODY // 1000} kB at most."), receive
    if _names_remote_file(body):
        return (400, "The request names a file on another host; upload the file itself."), receive
    return None, _replay_message(receive, {"type": "http.request", "body": body, "more_body": False})


def _replay_message(receive: Receive, message: Message) -> Receive:
    """Return a callable that receives `message` first, then whatever `receive` does."""
    pending = [message]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _names_remote_file(body: bytes) -> bool:
    """Return whether a JSON body contains a file whose path is a URL."""
    try:
        pending: list[Any] = [json.loads(body)]
    except ValueError:  # a form, or damaged: Gradio reports it
        return False
    except RecursionError:  # no control has a value this deep
        return True
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
