"""The verbs, and the only place where errors become text and exit codes."""

import io
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from cyclopts import App, CycloptsError, Group, MissingArgumentError, UnusedCliTokensError
from rich.console import Console

from styler import library
from styler.cli import doctor, flags, output, report, show, usage, vgg
from styler.cli.batch import batch
from styler.cli.run import run
from styler.cli.ui import ui
from styler.errors import OutputError, StylerError, UsageError

BUG_EXIT = 1


def execute(tokens: list[str]) -> int:
    """Run one command and return its exit code; of exceptions only `KeyboardInterrupt` escapes."""
    asked = tokens[: tokens.index("--") if "--" in tokens else None]
    debug, json, streamed = "--debug" in asked, "--json" in asked, asked[:1] == ["batch"]
    failed = partial(_report_failure, debug=debug, json=json, streamed=streamed)
    page = io.StringIO()
    try:
        app = _build_app(Console(file=page, markup=False, highlight=False, emoji=False))
        outcome = app(output.mark_streams(tokens), print_error=False, exit_on_error=False, result_action="return_value")
        if page.getvalue():  # of help, or the version; put like every other answer, for stdout may be full or closed
            output.print_lines(line.rstrip() for line in page.getvalue().splitlines())
        return outcome if isinstance(outcome, int) else 0
    except CycloptsError as error:
        return failed(UsageError.__name__, _explain(error), UsageError.exit_code)
    except StylerError as error:
        return failed(type(error).__name__, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        if json:
            output.print_failure(
                "Interrupted", str(error) or "Interrupted.", getattr(error, "exit_code", 130), streamed=streamed
            )
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours: told as such, with its traceback on request
        name, hint = type(error).__name__, "" if debug else "; run again with --debug to see where"
        return failed("Bug", f"{name}: {error}. This is a bug in styler{hint}.", BUG_EXIT)


def _build_app(console: Console) -> App:
    """The verbs, and what the pages of help share."""
    app = App(
        name="styler",
        help=usage.ABOUT_STYLER,
        usage=usage.STYLER_USAGE,
        version=_show_version,
        help_format="plaintext",
        help_formatter=usage.print_panel,
        help_epilogue=usage.RUN_EXIT_CODES,
        group_arguments=Group("Arguments", sort_key=0),
        console=console,
        suppress_keyboard_interrupt=False,
    )
    about = usage.describe_run(library.list_contents(), library.list_styles())
    app.command(run, name="run", sort_key=0, help=about, usage=usage.RUN_USAGE, version_flags=[])
    app["run"]["--help"].group = flags.OUTPUT_GROUP
    app.command(
        batch, name="batch", sort_key=1, usage=usage.BATCH_USAGE, version_flags=[], help_epilogue=usage.BATCH_EXIT_CODES
    )
    app["batch"].config = flags.fill_from_files
    app["batch"]["--help"].group = flags.OUTPUT_GROUP
    others: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("ui", ui, usage.UI_USAGE),
        ("inspect", show.inspect, usage.INSPECT_USAGE),
        ("presets", show.presets, usage.PRESETS_USAGE),
        ("styles", show.styles, usage.STYLES_USAGE),
        ("config", show.show_config, usage.CONFIG_USAGE),
        ("doctor", doctor.doctor, usage.DOCTOR_USAGE),
        ("completion", show.make_completion(app), usage.COMPLETION_USAGE),
    )
    for order, (name, verb, page) in enumerate(others, start=2):
        app.command(verb, name=name, sort_key=order, usage=page, version_flags=[], help_epilogue=usage.EXIT_CODES)
        app[name]["--help"].group = flags.OUTPUT_GROUP
    app.command(vgg.make_app(console, sort_key=len(others) + 2))
    return app


def _show_version() -> str:
    from styler import provenance

    return f"styler {provenance.get_version()}"


def _explain(error: CycloptsError) -> str:
    """What was wrong with the arguments, in a sentence."""
    if isinstance(error, MissingArgumentError) and error.argument and error.argument.index is not None:
        verb = " ".join(error.command_chain or ())
        if verb.startswith("vgg "):
            return f"{error.argument.name} is needed; see 'styler {verb} --help'."
        if error.argument.name == "FILE":
            return "FILE is needed: a picture that styler made; see 'styler inspect --help'."
        return "CONTENT and STYLE are needed, in this order; see 'styler run --help'."
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        verb = " ".join(error.command_chain or ())
        return f"There is no use for '{error.unused_tokens[0]}' here; see 'styler {verb} --help'."
    return str(error)


def _report_failure(kind: str, message: str, code: int, *, debug: bool, json: bool, streamed: bool) -> int:
    """Say what went wrong; the traceback only when asked for."""
    if debug:
        traceback.print_exc()
    message = output.unmark_streams(message)
    report.print_error(f"error: {message}")
    if json:
        try:
            output.print_failure(kind, message, code, streamed=streamed)
        except OutputError as error:  # perhaps the very error that was just told
            if str(error) != message:
                report.print_error(f"error: {error}")
    return code
