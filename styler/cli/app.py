"""The verbs, and the only place where errors become text and exit codes."""

import traceback

from cyclopts import App, CycloptsError, Group, MissingArgumentError
from rich.console import Console

from styler import library
from styler.cli import flags, report, usage
from styler.cli.inspect import inspect
from styler.cli.run import run
from styler.errors import StylerError, UsageError

BUG = 1


def execute(tokens: list[str]) -> int:
    """Run one command and return its exit code; of exceptions only `KeyboardInterrupt` escapes."""
    debug = "--debug" in tokens[: tokens.index("--") if "--" in tokens else None]
    try:
        outcome = _app()(tokens, print_error=False, exit_on_error=False, result_action="return_value")
        return outcome if isinstance(outcome, int) else 0
    except CycloptsError as error:
        return _failed(_explained(error), UsageError.exit_code, debug=debug)
    except StylerError as error:
        return _failed(str(error), error.exit_code, debug=debug)
    except Exception as error:  # noqa: BLE001 - a bug of ours: told as such, with its traceback on request
        name, hint = type(error).__name__, "" if debug else "; run again with --debug to see where"
        return _failed(f"{name}: {error}. This is a bug in styler{hint}.", BUG, debug=debug)


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
    app.command(run, name="run", help=about, usage=usage.RUN, version_flags=[])
    app.command(
        inspect,
        name="inspect",
        help=usage.ABOUT_INSPECT,
        usage=usage.INSPECT,
        help_epilogue=usage.EXIT_CODES_INSPECT,
        version_flags=[],
    )
    for verb in ("run", "inspect"):
        app[verb]["--help"].group = flags.OUTPUT
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


def _failed(message: str, code: int, *, debug: bool) -> int:
    """Say what went wrong; the traceback only when asked for."""
    if debug:
        traceback.print_exc()
    report.complain(f"error: {message}")
    return code
