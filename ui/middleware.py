"""What a request may not do, told before Gradio sees it: fill the disk, send a huge body, or have other hosts asked.

Gradio would fetch a file for whoever names it by address; this server asks nobody for anything.
"""

import json
from typing import Any

import anyio.to_thread
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.session import Sessions

MAX_BODY = 1_000_000
"""Bytes of what is no upload: the values of the controls."""
MAX_UPLOADS = 200
"""Files of one request."""
REMOTE_PREFIXES = ("http:", "https:", "//")

Refused = tuple[int, str]


class RequestGuard:
    """Stands before the page, as ASGI middleware.

    Args:
        app: the page.
        visits: whose folder may not grow beyond its limit.
        max_upload: bytes of one file.
    """

    def __init__(self, app: ASGIApp, visits: Sessions, max_upload: int) -> None:
        self.app, self.visits, self.max_upload = app, visits, max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand over."""
        refused: Refused | None = None
        if scope["type"] == "http":
            if scope["path"].endswith("/upload") and scope["method"] == "POST":
                refused = await self._upload(scope)
            elif scope["method"] == "POST":
                refused, receive = await _inspect_body(receive)
            elif _is_remote_path(scope["path"]):
                refused = 404, "This server has no files of other hosts."
        if refused:
            await PlainTextResponse(refused[1], refused[0])(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Scope) -> Refused | None:
        """Whether an upload has no room."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The upload does not say how long it is; say it in its header."
        if int(length) > MAX_UPLOADS * self.max_upload:
            return 413, f"That is too much at once; send {MAX_UPLOADS} files at most."
        if not await anyio.to_thread.run_sync(self.visits.has_room, int(length)):
            return 503, "The server has no room for more pictures now; try again in ten minutes."
        return None


async def _inspect_body(receive: Receive) -> tuple[Refused | None, Receive]:
    """The body, read up to its limit, and a way to read it once more."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None, _replay_body(receive, message)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return (413, f"The request is too large; send {MAX_BODY // 1000} kB at most."), receive
    whole: Message = {"type": "http.request", "body": body, "more_body": False}
    if _names_remote_file(body):
        return (400, "The request names a file of another host; upload the file itself."), receive
    return None, _replay_body(receive, whole)


def _replay_body(receive: Receive, first: Message) -> Receive:
    """A way to receive that begins with a message that was received already."""
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _names_remote_file(body: bytes) -> bool:
    """Whether a file in it is named by an address of another host."""
    try:
        found = json.loads(body)
    except ValueError:  # a form, or damage: Gradio says so
        return False
    except RecursionError:  # nobody's controls are that deep
        return True
    waiting: list[Any] = [found]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            path = item.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(REMOTE_PREFIXES):
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


def _is_remote_path(path: str) -> bool:
    _, found, name = path.partition("/file=")
    return "/proxy=" in path or (bool(found) and name.strip().lower().startswith(REMOTE_PREFIXES))
