"""`styler ui`: the page, on this machine unless another host is asked for."""

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from styler import environment
from styler.cli import report
from styler.cli.flags import OUTPUT_GROUP
from styler.errors import UsageError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

HostFlag = Annotated[
    str, Parameter(metavar="NAME", help="address to listen at (default 127.0.0.1: this machine alone)")
]
PortFlag = Annotated[int, Parameter(metavar="N", help="port to listen at (default 7860)")]
RootPathFlag = Annotated[str, Parameter(metavar="PATH", help="where a proxy puts the page, such as /styler")]
AuthFlag = Annotated[
    str | None, Parameter(metavar="USER:FILE", help="ask for a name and a password, which is the text in FILE")
]
MaxUploadFlag = Annotated[str, Parameter(metavar="SIZE", help="largest file, such as 25mb (default 25mb)")]
QueueFlag = Annotated[int, Parameter(metavar="N", help="how many may wait for their turn (default 32)")]
OpenFlag = Annotated[
    bool,
    Parameter(
        name="--open",
        negative="--no-open",
        group=OUTPUT_GROUP,
        help="open a browser on the page; --no-open, the default, does not",
    ),
]


def ui(
    *,
    host: HostFlag = "127.0.0.1",
    port: PortFlag = 7860,
    root_path: RootPathFlag = "",
    auth: AuthFlag = None,
    max_upload: MaxUploadFlag = "25mb",
    queue: QueueFlag = 32,
    opens: OpenFlag = False,
) -> int:
    """Show the page in the browser: upload, watch it being painted, keep what you like."""
    if not 1 <= port <= 65535:
        raise UsageError(f"--port is {port}; it can be 1 to 65535.")
    if queue < 1:
        raise UsageError(f"--queue is {queue}; it can be 1 or more.")
    if root_path and not re.fullmatch(r"(/[\w.~-]+)+", root_path):
        raise UsageError(f"--root-path is '{root_path}'; it can be a path such as /styler.")
    who, most = _read_login(auth), _parse_bytes(max_upload)
    environment.prepare_process()
    from ui import server

    serving = server.ServerConfig(
        host=host, port=port, root_path=root_path, auth=who, max_upload=most, queue=queue, opens=opens
    )
    server.open_listener(host, port).close()  # a taken port is told before anything is loaded
    if host not in LOCAL_HOSTS and not auth:
        report.print_error(f"warning: everybody who reaches {host} can use this page; ask for a password with --auth.")
    report.print_error(f"The page is at {serving.address} (Ctrl-C ends it).")
    server.serve_page(serving)
    return 0


def _read_login(auth: str | None) -> tuple[str, str] | None:
    """The user, and the password that stands in the file.

    Raises:
        UsageError: there is no user, or no password.
    """
    if auth is None:
        return None
    user, _, name = auth.partition(":")
    if not user or not name:
        raise UsageError(f"--auth is '{auth}'; it can be USER:FILE, where FILE holds the password.")
    try:
        password = Path(name).read_text(encoding="utf-8").strip("\r\n")
    except OSError as problem:
        raise UsageError(f"Cannot read the password in '{name}': {problem.strerror}; name another file.") from problem
    except ValueError as problem:
        raise UsageError(
            f"The password in '{name}' is no UTF-8 text; write it anew, or name another file."
        ) from problem
    if not password:
        raise UsageError(f"The file '{name}' is empty; write the password into it.")
    return user, password


def _parse_bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})(kb|mb|gb)", text.strip().lower())
    if not found or not int(found[1]):
        raise UsageError(f"--max-upload is '{text}'; it can be a number with kb, mb or gb, such as 25mb.")
    return int(found[1]) * {"kb": 10**3, "mb": 10**6, "gb": 10**9}[found[2]]
