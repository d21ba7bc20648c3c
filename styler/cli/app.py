"""The commands of the program, and the only place where errors become messages and exit codes."""

import io
import os
import re
import shutil
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from rich.console import Console

from styler import environment, library
from styler.cli import flags, output, report, show, usage, vgg
from styler.cli.batch import batch
from styler.cli.preview import mask, preview
from styler.cli.run import run
from styler.cli.ui import ui
from styler.errors import OutputError, StylerError, UsageError, explain_failure, quote_name

BUG_EXIT = 1
DEBUG = "--debug"


def execute(tokens: list[str]) -> int:
    """Run one command and return its exit code; the only exception that escapes is `KeyboardInterrupt`."""
    words, rest = _split_tokens(_expand_home(_replace_aliases(tokens)))
    debug, json = DEBUG in words, "--json" in words
    tokens = [*_move_debug(words), *rest]
    streamed = tokens[:1] == ["batch"]
    fail = partial(_report_failure, debug=debug, json=json, streamed=streamed)
    page = io.StringIO()
    try:
        environment.check_working_folder()
        width = min(max(usage.MIN_PAGE_WIDTH, shutil.get_terminal_size().columns), usage.MAX_WIDTH)
        app = _build_app(Console(file=page, width=width, markup=False, highlight=False, emoji=False))
        result = app(output.mark_streams(tokens), print_error=False, exit_on_error=False, result_action="return_value")
        if page.getvalue():  # help or version; printed like every other answer, since stdout may be full or closed
            output.print_lines(line.rstrip() for line in page.getvalue().splitlines())
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return fail(UsageError.__name__, _explain(error, tokens), UsageError.exit_code)
    except StylerError as error:
        return fail(type(error).__name__, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        if json:
            message, code = str(error) or "Interrupted.", getattr(error, "exit_code", 130)
            output.print_failure("Interrupted", message, code, streamed=streamed)
        raise
    except Exception as error:  # noqa: BLE001 - reported as a bug, unless the machine is the cause
        if reason := explain_failure(error):
            return fail(StylerError.__name__, reason, StylerError.exit_code)
        name, hint = type(error).__name__, "" if debug else "; run again with --debug for the traceback"
        return fail("Bug", f"{name}: {error}. This is a bug in styler{hint}.", BUG_EXIT)


def _replace_aliases(tokens: list[str]) -> list[str]:
    """Return the tokens with `help …`, `version` and `-V`, which other programs have, as flags."""
    if tokens[:1] == ["help"]:
        return [*tokens[1:], "--help"]
    return ["--version"] if tokens in (["version"], ["-V"]) else tokens


def _expand_home(tokens: list[str]) -> list[str]:
    """Return the tokens with `~` expanded where no shell does that: in quotes, and in `--output=~/x.png`."""
    parts = (re.fullmatch(r"(--[a-z-]+=|)(~(?:[/\\].*)?)", token, re.DOTALL) for token in tokens)
    return [
        part[1] + os.path.expanduser(part[2]) if part and not os.path.lexists(part[2]) else token  # noqa: PTH111
        for part, token in zip(parts, tokens, strict=True)
    ]


def _split_tokens(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Return the tokens before `--`, and `--` with those after it, which are names even if they begin with a dash."""
    end = tokens.index("--") if "--" in tokens else len(tokens)
    return tokens[:end], tokens[end:]


def _move_debug(words: list[str]) -> list[str]:
    """Return the words with `--debug` after those of its command, wherever it stood; without a command, omit it."""
    others = [word for word in words if word != DEBUG]
    has_command = bool(others) and not others[0].startswith("-") and others != [vgg.GROUP]
    return [*others, DEBUG] if has_command and DEBUG in words else others


def _build_app(console: Console) -> App:
    """Create the application with all commands."""
    app = App(
        name="styler",
        help=usage.ABOUT_STYLER,
        usage=usage.format_usage(""),
        version=_format_version,
        help_format="plaintext",
        help_formatter=usage.print_panel,
        help_epilogue=usage.RUN_EXIT_CODES,
        group_arguments=Group("Arguments", sort_key=0),
        console=console,
        suppress_keyboard_interrupt=False,
    )
    commands: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("run", run, usage.RUN_EXIT_CODES),
        ("preview", preview, usage.PREVIEW_EXIT_CODES),
        ("mask", mask, usage.MASK_EXIT_CODES),
        ("batch", batch, usage.BATCH_EXIT_CODES),
        ("ui", ui, usage.EXIT_CODES),
        ("inspect", show.inspect, usage.EXIT_CODES),
        ("presets", show.presets, usage.EXIT_CODES),
        ("styles", show.styles, usage.EXIT_CODES),
        ("config", show.show_config, usage.EXIT_CODES),
        ("doctor", show.doctor, usage.EXIT_CODES),
        ("completion", show.make_completion(app), usage.EXIT_CODES),
    )
    for order, (name, command, exit_codes) in enumerate(commands):
        page = usage.format_usage(name)
        accepting = flags.accept_debug(command)
        app.command(accepting, name=name, sort_key=order, usage=page, version_flags=[], help_epilogue=exit_codes)
        app[name]["--help"].group = flags.OUTPUT_GROUP
    app["run"].help = usage.describe_run(library.list_contents(), library.list_styles())
    app["batch"].config = flags.fill_from_files
    app.command(vgg.make_app(sort_key=len(commands)))
    return app


def _format_version() -> str:
    from styler import provenance  # loaded for the commands that need it, not for help pages

    return f"styler {provenance.get_version()}"


def _explain(error: CycloptsError, tokens: list[str]) -> str:
    """Return the error in the arguments as a sentence."""
    command = " ".join(error.command_chain or ())
    words, _ = _split_tokens(tokens)
    if isinstance(error, UnknownCommandError) and not command and (os.path.lexists(words[0]) or "." in words[0]):
        return f"There is no command {quote_name(words[0])}; paint a picture with 'styler run photo.jpg painting.jpg'."
    if isinstance(error, UnknownOptionError) and (files := [word for word in words if _is_dashed_file(word)]):
        return f"{quote_name(files[0])} is read as an option, not as a file; write {quote_name(f'./{files[0]}')}."
    if isinstance(error, MissingArgumentError) and error.argument and error.argument.index is not None:
        if command == "run":
            return "CONTENT and STYLE are required, in this order; see 'styler run --help'."
        return f"{error.argument.name} is required; see 'styler {command} --help'."
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"Unexpected argument '{error.unused_tokens[0]}'; see 'styler {command} --help'."
    return str(error)


def _is_dashed_file(word: str) -> bool:
    return word.startswith("-") and os.path.lexists(word)


def _report_failure(kind: str, message: str, code: int, *, debug: bool, json: bool, streamed: bool) -> int:
    """Print an error, with its traceback if requested, and return the exit code."""
    if debug:
        traceback.print_exc()
    message = output.unmark_streams(message)
    report.print_error(f"error: {message}")
    if json:
        try:
            output.print_failure(kind, message, code, streamed=streamed)
        except OutputError as error:  # perhaps the same error again
            if str(error) != message:
                report.print_error(f"error: {error}")
    return code
