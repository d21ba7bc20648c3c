"""`styler ui`: the page, reachable only from this machine unless another host is given.

The options in `styler.toml`, its table `[ui]` and the environment are the defaults of the page and of `/stylize`; those
of the machine are the server's alone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from cyclopts import Parameter

from styler import config, environment
from styler.cli import flags, report
from styler.cli.flags import OUTPUT_GROUP
from styler.errors import UsageError
from styler.options import INIT_CHOICES, Options, parse_quantity, resolve_options

SERVER_DEFAULTS: Mapping[str, Any] = {
    "host": "127.0.0.1",
    "port": 7860,
    "root_path": "",
    "auth": None,
    "max_upload": "25mb",
    "queue": 32,
    "max_seconds": 0,
    "previews": True,
    "open": False,
}
"""The flags of the server, which the table `[ui]` can set besides options, and their defaults."""

MAX_UPLOAD_LIMIT = 10**15
"""Largest `--max-upload`, in bytes."""

HostFlag = Annotated[
    str | None, Parameter(metavar="NAME", help="address to listen on (default 127.0.0.1: this machine only)")
]
PortFlag = Annotated[int | None, Parameter(metavar="N", help="port to listen on (default 7860)")]
RootPathFlag = Annotated[
    str | None,
    Parameter(
        metavar="PATH", help="path or whole address of the page behind a proxy: /paint, https://example.org/paint"
    ),
]
AuthFlag = Annotated[str | None, Parameter(metavar="USER:FILE", help="require a login; FILE contains the password")]
MaxUploadFlag = Annotated[str | None, Parameter(metavar="SIZE", help="maximum size of an upload (default 25mb)")]
QueueFlag = Annotated[int | None, Parameter(metavar="N", help="maximum number of waiting requests (default 32)")]
MaxSecondsFlag = Annotated[
    int | None,
    Parameter(
        metavar="N",
        help="refuse pictures that are expected to take more than N seconds, and stop at N those that take longer "
        "than expected (default 0: no limit)",
    ),
]
PreviewsFlag = Annotated[
    bool | None,
    Parameter(
        name="--previews",
        negative="--no-previews",
        help="show visitors their photo in every painting (the default); --no-previews saves that work",
    ),
]
OpenFlag = Annotated[
    bool | None,
    Parameter(
        name="--open",
        negative="--no-open",
        group=OUTPUT_GROUP,
        help="open the page in a browser; --no-open (the default) does not",
    ),
]


@dataclass(frozen=True, slots=True)
class _Setting:
    """The value of a flag of the server, and the name by which a message calls it."""

    value: Any
    name: str

    def refuse(self, what: str) -> UsageError:
        """Return the error that says what the value can be."""
        return UsageError(f"{self.name} is {self.value!r}; it can be {what}.")


def ui(
    *,
    host: HostFlag = None,
    port: PortFlag = None,
    root_path: RootPathFlag = None,
    auth: AuthFlag = None,
    max_upload: MaxUploadFlag = None,
    queue: QueueFlag = None,
    max_seconds: MaxSecondsFlag = None,
    previews: PreviewsFlag = None,
    opens: OpenFlag = None,
    machine: flags.MachineSettings = flags.NO_MACHINE_FLAGS,
) -> int:
    """Serve the page: upload pictures, watch them being painted, download the results."""
    given = (host, port, root_path, auth, max_upload, queue, max_seconds, previews, opens)
    settings = _merge_settings(dict(zip(SERVER_DEFAULTS, given, strict=True)))
    login, max_bytes = _read_login(settings["auth"]), _parse_bytes(settings["max_upload"])
    address = _read_text(settings["host"], "an address of this machine, such as 127.0.0.1").strip("[]")
    port, queue = _read_number(settings["port"], 1, 65535), _read_number(settings["queue"], 1)
    max_seconds = _read_number(settings["max_seconds"], 0)
    previews, opens = (_read_switch(settings[name]) for name in ("previews", "open"))
    configuration = config.load_config(command="ui", command_flags=SERVER_DEFAULTS)
    options = resolve_options(*configuration.layers, ("flag", flags.read_flags(machine))).options
    _check_init(options)
    environment.find_temporary_folder()  # for uploads and pictures; an error if there is none
    environment.prepare_process()
    from ui import server

    page = server.ServerConfig(
        host=address,
        port=port,
        root_path=_parse_root_path(settings["root_path"]),
        auth=login,
        max_upload=max_bytes,
        queue=queue,
        max_seconds=max_seconds,
        has_previews=previews,
        open_browser=opens,
        options=options,
    )
    listener = server.listen(page)
    for warning in configuration.warnings:
        report.print_warning(warning)
    if address not in server.LOCAL_HOSTS and not login:
        report.print_warning(f"everyone who can reach {address} can use this page; require a login with --auth.")
    report.print_error(f"The page is at {page.address} (Ctrl-C stops it).")
    server.serve_page(page, listener)
    return 0


def _merge_settings(given: Mapping[str, Any]) -> dict[str, _Setting]:
    """Return the flags of the server: those that were given, then those in the tables `[ui]`, then the defaults.

    Raises:
        StylerError: a file cannot be read.
    """
    settings = {name: _Setting(value, name) for name, value in SERVER_DEFAULTS.items()}
    for path in config.list_config_paths():
        for name, value in config.read_command_flags(path, "ui", SERVER_DEFAULTS).items():
            settings[name] = _Setting(value, f"In '{path}': {name}")
    for name, value in given.items():
        if value is not None:
            settings[name] = _Setting(value, flags.flag_name(name))
    return settings


def _check_init(options: Options) -> None:
    """Refuse a picture to start from: each visitor has another photo.

    Raises:
        UsageError: `init` is a file.
    """
    if options.init not in INIT_CHOICES:
        raise UsageError(
            f"init is '{options.init}', which the page cannot start from; it can be {', '.join(INIT_CHOICES)}, "
            f"as in {config.get_variable_name('init')}={INIT_CHOICES[0]}."
        )


def _read_text(setting: _Setting, what: str) -> str:
    """Return the text of a setting.

    Raises:
        UsageError: it is not a text, or empty.
    """
    if not isinstance(setting.value, str) or not setting.value.strip():
        raise setting.refuse(what)
    return setting.value.strip()


def _read_number(setting: _Setting, low: int, high: int | None = None) -> int:
    """Return the whole number in a setting.

    Raises:
        UsageError: it is not a number, or out of range.
    """
    value = setting.value
    if type(value) is not int or value < low or (high is not None and value > high):
        raise setting.refuse(f"{low} or more" if high is None else f"{low} to {high}")
    return value


def _read_switch(setting: _Setting) -> bool:
    """Return whether a setting is on.

    Raises:
        UsageError: it is neither true nor false.
    """
    if not isinstance(setting.value, bool):
        raise setting.refuse("true or false")
    return setting.value


def _parse_root_path(setting: _Setting) -> str:
    """Return the path or the whole address of the page, without a slash at its end.

    Raises:
        UsageError: it is neither.
    """
    text = setting.value.strip().rstrip("/") if isinstance(setting.value, str) else setting.value
    if text == "":
        return ""
    parts = urlsplit(text) if isinstance(text, str) else None
    if parts is None or not re.fullmatch(r"(/[\w.~-]+)*", parts.path) or parts.query or parts.fragment:
        raise setting.refuse("a path such as /paint, or an address such as https://example.org/paint")
    if not (parts.scheme in {"http", "https"} and parts.hostname) and not (text.startswith("/") and not parts.netloc):
        raise setting.refuse("a path such as /paint, or an address such as https://example.org/paint")
    return str(text)


def _read_login(setting: _Setting) -> tuple[str, str] | None:
    """Return the user and the password, which is the text of the file.

    Raises:
        UsageError: the user or the password is missing.
    """
    if setting.value is None:
        return None
    user, _, name = setting.value.partition(":") if isinstance(setting.value, str) else ("", "", "")
    if not user or not name:
        raise setting.refuse("USER:FILE, where FILE contains the password")
    try:
        password = Path(name).read_text(encoding="utf-8-sig").strip("\r\n")
    except OSError as error:
        raise UsageError(f"Cannot read the password in '{name}': {error.strerror}; name another file.") from error
    except ValueError as error:
        raise UsageError(
            f"The password in '{name}' is not UTF-8 text; save it as UTF-8, or name another file."
        ) from error
    if not password:
        raise UsageError(f"The file '{name}' is empty; write the password into it.")
    return user, password


def _parse_bytes(setting: _Setting) -> int:
    size = parse_quantity(setting.value, "b") if isinstance(setting.value, str) else 0
    if isinstance(size, str) or not 0 < size <= MAX_UPLOAD_LIMIT:
        raise setting.refuse("a number with kb, mb or gb, such as 25mb")
    return int(size)
