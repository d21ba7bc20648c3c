"""Refuses requests before Gradio sees them: uploads that do not fit, large bodies, and files on other hosts.

Gradio would download a file that a request names by URL; this server never contacts another host.
"""

import json
from typing import Any

import anyio.to_thread
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.session import Sessions

MAX_BODY = 1_000_000
"""Limit on the bytes of a request that is not an upload: the values of the controls."""
MAX_UPLOADS = 200
"""Limit on the files of one upload request."""
REMOTE_PREFIXES = ("http:", "https:", "//")

Refusal = tuple[int, str]
"""HTTP status and message."""


class RequestGuard:
    """ASGI middleware in front of the page.

    Args:
        app: the page.
        sessions: their folder may not grow beyond its limit.
        max_upload: limit on the bytes of one file.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, max_upload: int) -> None:
        self.app, self.sessions, self.max_upload = app, sessions, max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        refusal: Refusal | None = None
        if scope["type"] == "http":
            if scope["path"].endswith("/upload") and scope["method"] == "POST":
                refusal = await self._check_upload(scope)
            elif scope["method"] == "POST":
                refusal, receive = await _check_body(receive)
            elif _is_remote_path(scope["path"]):
                refusal = 404, "This server does not serve files from other hosts."
        if refusal:
            await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
        else:
            await self.app(scope, receive, send)

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


def _is_remote_path(path: str) -> bool:
    return "/proxy=" in path or _is_remote(path.partition("/file=")[2])


def _is_remote(path: str) -> bool:
    return path.strip().lower().startswith(REMOTE_PREFIXES)
