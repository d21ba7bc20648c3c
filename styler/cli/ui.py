"""`styler ui`: the page, reachable only from this machine unless another host is given."""

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from styler import environment
from styler.cli import report
from styler.cli.flags import OUTPUT_GROUP
from styler.errors import UsageError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

HostFlag = Annotated[str, Parameter(metavar="NAME", help="address to listen on (default 127.0.0.1: this machine only)")]
PortFlag = Annotated[int, Parameter(metavar="N", help="port to listen on (default 7860)")]
RootPathFlag = Annotated[str, Parameter(metavar="PATH", help="path of the page behind a proxy, such as /styler")]
AuthFlag = Annotated[str | None, Parameter(metavar="USER:FILE", help="require a login; FILE contains the password")]
MaxUploadFlag = Annotated[str, Parameter(metavar="SIZE", help="maximum size of an upload (default 25mb)")]
QueueFlag = Annotated[int, Parameter(metavar="N", help="maximum number of waiting requests (default 32)")]
OpenFlag = Annotated[
    bool,
    Parameter(
        name="--open",
        negative="--no-open",
        group=OUTPUT_GROUP,
        help="open the page in a browser; --no-open (the default) does not",
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
    """Serve the page: upload pictures, watch them being painted, download the results."""
    if not 1 <= port <= 65535:
        raise UsageError(f"--port is {port}; it can be 1 to 65535.")
    if queue < 1:
        raise UsageError(f"--queue is {queue}; it can be 1 or more.")
    if root_path and not re.fullmatch(r"(/[\w.~-]+)+", root_path):
        raise UsageError(f"--root-path is '{root_path}'; it can be a path such as /styler.")
    login, max_bytes = _read_login(auth), _parse_bytes(max_upload)
    environment.prepare_process()
    from ui import server

    settings = server.ServerConfig(
        host=host, port=port, root_path=root_path, auth=login, max_upload=max_bytes, queue=queue, open_browser=opens
    )
    server.open_listener(host, port).close()  # reports a port in use before anything is loaded
    if host not in LOCAL_HOSTS and not auth:
        report.print_warning(f"everyone who can reach {host} can use this page; require a login with --auth.")
    report.print_error(f"The page is at {settings.address} (Ctrl-C stops it).")
    server.serve_page(settings)
    return 0


def _read_login(auth: str | None) -> tuple[str, str] | None:
    """Return the user and the password, which is the text of the file.

    Raises:
        UsageError: the user or the password is missing.
    """
    if auth is None:
        return None
    user, _, name = auth.partition(":")
    if not user or not name:
        raise UsageError(f"--auth is '{auth}'; it can be USER:FILE, where FILE contains the password.")
    try:
        password = Path(name).read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise UsageError(f"Cannot read the password in '{name}': {error.strerror}; name another file.") from error
    except ValueError as error:
        raise UsageError(
            f"The password in '{name}' is not UTF-8 text; save it as UTF-8, or name another file."
        ) from error
    if not password:
        raise UsageError(f"The file '{name}' is empty; write the password into it.")
    return user, password


def _parse_bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})(kb|mb|gb)", text.strip().lower())
    if not match or not int(match[1]):
        raise UsageError(f"--max-upload is '{text}'; it can be a number with kb, mb or gb, such as 25mb.")
    return int(match[1]) * {"kb": 10**3, "mb": 10**6, "gb": 10**9}[match[2]]
