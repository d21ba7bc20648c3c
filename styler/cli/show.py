"""`styler presets` and `styler styles`: what there is to choose from, by name."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from styler import config, library
from styler.cli import flags, output, report
from styler.cli.flags import NO_FLAGS, OUTPUT_GROUP, FileName, Json, Settings, flag_name, format_value, read_flags
from styler.errors import OutputError, UsageError
from styler.options import LOOKS, PRESETS, Bundle, Value, resolve_options

if TYPE_CHECKING:
    from styler.provenance import Record


def presets(*, json: Json = False) -> int:
    """List the presets and looks with what they set."""
    kinds = {"preset": PRESETS, "look": LOOKS}
    if json:
        output.print_document({f"{kind}s": _describe_bundles(kind, bundles) for kind, bundles in kinds.items()})
        return 0
    text = []
    for kind, bundles in kinds.items():
        for name, bundle in bundles.items():
            flags = " ".join(
                f"{flag_name(field)} {format_value(value)}"
                for field, value in _bundle_values(kind, bundles, name).items()
            )
            text += [f"{flag_name(kind)} {name}", f"  {bundle.help}", f"  {flags}", ""]
    output.print_lines(text[:-1])
    return 0


def styles(*, json: Json = False) -> int:
    """List the paintings and photos that come with styler."""
    kinds = {"styles": library.list_styles(), "contents": library.list_contents()}
    credit = library.read_credits()
    if json:
        output.print_document(
            {
                kind: {name: {"path": str(path), "credit": credit.get(path.name)} for name, path in found.items()}
                for kind, found in kinds.items()
            }
        )
        return 0
    text = []
    for title, found in zip(("Paintings (STYLE):", "Photos (CONTENT):"), kinds.values(), strict=True):
        text += [title, *output.format_columns([_picture_row(name, path, credit) for name, path in found.items()]), ""]
    output.print_lines(text[:-1])
    return 0


def _picture_row(name: str, path: Path, credit: Mapping[str, str]) -> tuple[str, str]:
    return f"  {name}", credit.get(path.name, "")


def _describe_bundles(kind: str, bundles: Mapping[str, Bundle]) -> dict[str, Any]:
    return {
        name: {"help": bundle.help, "values": _bundle_values(kind, bundles, name)} for name, bundle in bundles.items()
    }


def _bundle_values(kind: str, bundles: Mapping[str, Bundle], name: str) -> dict[str, Value]:
    """What a bundle sets; the default one sets what the others would change."""
    options = resolve_options(("presets", {kind: name})).options
    return {field: getattr(options, field) for bundle in bundles.values() for field in bundle.values}


def show_config(*, flags: Settings = NO_FLAGS, json: Json = False) -> int:
    """Show every setting and where its value comes from."""
    found = config.load_config()
    resolved = resolve_options(*found.layers, ("flag", read_flags(flags)))
    origins = {name: _name_origin(name, origin) for name, origin in resolved.origins.items()}
    for warning in found.warnings:
        report.print_warning(warning)
    if json:
        values = resolved.options.to_dict()
        output.print_document(
            {
                "settings": {name: {"value": value, "origin": origins[name]} for name, value in values.items()},
                "files": [
                    {"path": str(path), "found": config.is_readable(path)} for path in config.list_config_paths()
                ],
                "warnings": found.warnings,
            }
        )
        return 0
    rows = [(name, format_value(getattr(resolved.options, name)) or "–", origin) for name, origin in origins.items()]
    files = [
        f"{path} ({'read' if config.is_readable(path) else 'not there'})"
        for path in reversed(config.list_config_paths())
    ]
    output.print_lines(
        [*output.format_columns([("setting", "value", "from"), *rows]), "", f"Files: {', '.join(files)}."]
    )
    return 0


def _name_origin(name: str, origin: str) -> str:
    """An origin as a person would look for it: the variable itself for a value from the environment."""
    return config.get_variable_name(name) if origin == config.ENVIRONMENT_LAYER else origin


PictureFile = Annotated[FileName, Parameter(help="a picture that styler made, or - for standard input")]
AsJson = Annotated[bool, Parameter(name="--json", group=flags.OUTPUT_GROUP, negative=(), help="as one JSON object")]

LABEL_COLUMNS = 18
"""Columns of the names."""


def inspect(file: PictureFile, /, *, as_json: AsJson = False) -> int:
    """Print the settings inside a picture and the command that made it."""
    from styler import provenance

    record = (
        provenance.read_record(output.open_stdin(), name=output.STDIN_NAME)
        if file == output.STREAM_NAME
        else provenance.read_record(file)
    )
    printed = json.dumps(record) if as_json else "\n".join(_format_record(record))
    output.write_stdout(printed.encode("utf-8") + b"\n", "The settings were read, but standard output")
    return 0


def _format_record(record: "Record") -> Iterator[str]:
    """Everything a person may want to know, the commands last."""
    from styler import provenance

    yield f"{record['width']}×{record['height']}, made by styler {record['version']}" + (
        ", stopped before it was done" if record["stopped"] else ""
    )
    for title, rows in (
        ("Settings", _settings_rows(record)),
        ("Work", _work_rows(record)),
        ("Inputs", _input_rows(record)),
    ):
        yield f"\n{title}:"
        yield from (f"  {name:{LABEL_COLUMNS}}{value}" for name, value in rows)
    yield "\nMade by:"
    yield f"  {provenance.format_command(record)}"
    yield "\nTo do it again:"
    yield f"  {provenance.format_replay_command(record)}"


def _settings_rows(record: "Record") -> Iterator[tuple[str, str]]:
    for name, value in record["options"].items():
        yield name, flags.format_value(tuple(value) if isinstance(value, list) else value) or "–"


def _work_rows(record: "Record") -> Iterator[tuple[str, str]]:
    for scale, seconds in zip(record["schedule"], record["scale_seconds"], strict=False):
        planned = f" of {scale['planned']}" if scale["planned"] else ""
        manner = report.format_manner(scale.get("sketch", False), scale.get("half_size_copies", 0))
        made = f"{scale['iterations']}{planned} steps of {scale['optimizer']}{manner} in {seconds:.1f} s"
        yield f"{scale['width']}×{scale['height']}", made
    total = f"{record['iterations']}, the work of {record['units']:.1f} at the final size"
    yield "iterations", total
    yield "time", report.format_clock(record["seconds"])
    yield "losses", ", ".join(f"{name} {value:.4g}" for name, value in record["losses"].items()) or "–"
    yield "machine", f"{record['device']}, {record['precision']}, threads: {record['threads']}"


def _input_rows(record: "Record") -> Iterator[tuple[str, str]]:
    """Hashes of the files."""
    yield "content", record["content"] or "no file"
    for number, found in enumerate(record["styles"], start=1):
        yield f"style {number}" if len(record["styles"]) > 1 else "style", found or "no file"
    if record["init"]:
        yield "init", record["init"]
    yield "weights", record["weights_sha256"]


ShellName = Literal["bash", "zsh", "fish", "powershell"]
ShellArgument = Annotated[
    ShellName | None, Parameter(metavar="SHELL", help="bash, zsh, fish or powershell; yours if not given")
]
InstallFlag = Annotated[
    bool, Parameter(group=OUTPUT_GROUP, negative=(), help="put it where the shell finds it, from its start on")
]


def make_completion(app: App) -> Callable[..., int]:
    """The verb, for the verbs and flags of an application."""

    def completion(shell: ShellArgument = None, /, *, install: InstallFlag = False) -> int:
        """Print a completion script, or install it."""
        chosen = shell or _detect_shell()
        if not install:
            output.print_lines([app.generate_completion(shell=chosen)])
            return 0
        try:
            path = app.install_completion(shell=chosen)
        except OSError as error:
            raise OutputError(
                f"The completion for {chosen} cannot be installed ({error}); save what 'styler completion {chosen}' "
                "prints where your shell looks."
            ) from error
        report.print_line(report.make_console(), "Start a new shell to use it.")
        output.print_lines([str(path)])
        return 0

    return completion


def _detect_shell() -> ShellName:
    """The shell that started us.

    Raises:
        UsageError: it cannot be told.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        return detect_shell()
    except ShellDetectionError as error:
        raise UsageError(
            "Your shell is not known; name it: styler completion bash, zsh, fish or powershell."
        ) from error
