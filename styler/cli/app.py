"""The verbs, and the only place where errors become text and exit codes."""

import traceback
from collections.abc import Callable
from typing import Any

from cyclopts import App, CycloptsError, Group, MissingArgumentError
from rich.console import Console

from styler import library
from styler.cli import answers, completion, config, doctor, flags, inspect, presets, report, streams, usage
from styler.cli.run import run
from styler.cli.ui import ui
from styler.errors import OutputError, StylerError, UsageError

BUG = 1


def execute(tokens: list[str]) -> int:
    """Run one command and return its exit code; of exceptions only `KeyboardInterrupt` escapes."""
    asked = tokens[: tokens.index("--") if "--" in tokens else None]
    debug, json = "--debug" in asked, "--json" in asked
    try:
        outcome = _app()(streams.marked(tokens), print_error=False, exit_on_error=False, result_action="return_value")
        return outcome if isinstance(outcome, int) else 0
    except CycloptsError as error:
        return _failed(UsageError.__name__, _explained(error), UsageError.exit_code, debug=debug, json=json)
    except StylerError as error:
        return _failed(type(error).__name__, str(error), error.exit_code, debug=debug, json=json)
    except KeyboardInterrupt as error:
        if json:
            answers.failure("Interrupted", str(error) or "Interrupted.", getattr(error, "exit_code", 130))
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours: told as such, with its traceback on request
        name, hint = type(error).__name__, "" if debug else "; run again with --debug to see where"
        return _failed("Bug", f"{name}: {error}. This is a bug in styler{hint}.", BUG, debug=debug, json=json)


def _app() -> App:
    """The verbs, and what the pages of help share."""
    app = App(
        name="styler",
        help=usage.ABOUT,
        usage=usage.ROOT,
        version=_version,
        help_format="plaintext",
        help_formatter=usage.panel,
        help_epilogue=usage.EXIT_CODES,
        group_arguments=Group("Arguments", sort_key=0),
        console=Console(markup=False, highlight=False, emoji=False),
        suppress_keyboard_interrupt=False,
    )
    about = usage.about_run(library.contents(), library.styles())
    app.command(run, name="run", sort_key=0, help=about, usage=usage.RUN, version_flags=[])
    app["run"]["--help"].group = flags.OUTPUT
    others: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("ui", ui, usage.UI),
        ("inspect", inspect.inspect, usage.INSPECT),
        ("presets", presets.presets, usage.PRESETS),
        ("styles", presets.pictures, usage.STYLES),
        ("config", config.settings, usage.CONFIG),
        ("doctor", doctor.doctor, usage.DOCTOR),
        ("completion", completion.verb(app), usage.COMPLETION),
    )
    for order, (name, verb, page) in enumerate(others, start=1):
        app.command(verb, name=name, sort_key=order, usage=page, version_flags=[], help_epilogue=usage.CODES)
        app[name]["--help"].group = flags.OUTPUT
    return app


def _version() -> str:
    from importlib import metadata

    try:
        return f"styler {metadata.version('styler')}"
    except metadata.PackageNotFoundError:
        return "styler, not installed"


def _explained(error: CycloptsError) -> str:
    """What was wrong with the arguments, in a sentence."""
    if isinstance(error, MissingArgumentError) and error.argument and error.argument.index is not None:
        if error.argument.name == "FILE":
            return "FILE is needed: a picture that styler made; see 'styler inspect --help'."
        return "CONTENT and STYLE are needed, in this order; see 'styler run --help'."
    return str(error)


def _failed(kind: str, message: str, code: int, *, debug: bool, json: bool) -> int:
    """Say what went wrong; the traceback only when asked for."""
    if debug:
        traceback.print_exc()
    message = streams.unmarked(message)
    report.complain(f"error: {message}")
    if json:
        try:
            answers.failure(kind, message, code)
        except OutputError as error:  # perhaps the very error that was just told
            if str(error) != message:
                report.complain(f"error: {error}")
    return code
