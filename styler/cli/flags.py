"""The flags of the commands. Those of a picture are derived from `Options`: nothing is declared twice.

A flag of `Options` that was not given is None, so that a command can tell it from a default. Values stay text here;
`Options` validates them. The other flags are the fields of dataclasses, which cyclopts flattens (`name="*"`).
"""

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, Group, Parameter
from cyclopts.config import Dict

from styler import config, library
from styler.errors import UsageError
from styler.options import LOOKS, PRESETS, Options, OptionSpec, describe_range, format_value, list_words
from styler.regions import specs

if TYPE_CHECKING:
    from styler.batch.ray import ClusterConfig


GROUPS = {
    name: Group(name, sort_key=order)
    for order, name in enumerate(("Picture", "Print", "Regions", "Effort", "Objective", "Machine", "Output"), start=1)
}
PICTURE_GROUP, OUTPUT_GROUP = GROUPS["Picture"], GROUPS["Output"]
INPUT_GROUP, RESUME_GROUP, ENGINE_GROUP = (
    Group(name, sort_key=order / 10) for order, name in enumerate(("Inputs", "Resuming", "Workers"), start=1)
)

_OPTION_BUNDLES = {"preset": PRESETS, "look": LOOKS}
_REPEATED = {"protect": "MASK[=N]", "regions": "MASK=STYLE"}
"""Options whose flag is repeated for every item, since names of files may contain commas, and what an item is."""


def flag_name(field: str) -> str:
    """Return the flag of a field of `Options`."""
    return "--region" if field == "regions" else "--" + field.replace("_", "-")


def read_flags(flags: Any) -> dict[str, Any]:
    """Return the options that were given as flags, in the types of their fields where the text allows.

    Raises:
        OptionError: a flag cannot be read.
    """
    texts = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    given = {name: text for name, text in texts.items() if text is not None}
    if given.get("paper") and "size" in given:
        raise UsageError("--paper and --size are mutually exclusive; give only one of them.")
    if "regions" in given:
        given["regions"] = [mask for mask, _ in _parse_regions(given["regions"])]
    return {
        name: config.parse_value(name, value) if isinstance(value, str) else _freeze(value)
        for name, value in given.items()
    }


def read_region_styles(flags: Any) -> list[str]:
    """Return the styles of the regions that were given as flags, which follow all other styles.

    Raises:
        OptionError: a flag cannot be read.
    """
    return [style for _, style in _parse_regions(flags.regions or [])]


def _parse_regions(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return the mask and the style of each `MASK=STYLE`."""

    def is_style(name: str) -> bool:
        return os.path.lexists(library.find_file(name)) or name in library.list_styles()

    return [specs.parse_region(text, is_style) for text in texts]


def _freeze(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _make_flag(field: "dataclasses.Field[Any]") -> tuple[str, Any, Any]:
    spec: OptionSpec = field.metadata["spec"]
    if field.type is bool:  # a switch; with --no-, since a file may have set it
        switch = Parameter(name=flag_name(field.name), help=spec.help, group=GROUPS[spec.group])
        return field.name, Annotated[bool | None, switch], None
    if field.name in _REPEATED:
        name, metavar = flag_name(field.name), _REPEATED[field.name]
        text = f"{_format_help(field, spec)}; repeatable"
        repeated = Parameter(name=name, help=text, group=GROUPS[spec.group], metavar=metavar, negative=())
        return field.name, Annotated[list[str] | None, repeated], None
    parameter = Parameter(
        name=flag_name(field.name),
        help=_format_help(field, spec),
        group=GROUPS[spec.group],
        metavar=_choose_metavar(field.type, spec),
        choices=spec.choices or None,
    )
    return field.name, Annotated[str | None, parameter], None


def _format_help(field: "dataclasses.Field[Any]", spec: OptionSpec) -> str:
    """Return the help text of a field with its range or choices and its default."""
    bundles = _OPTION_BUNDLES.get(field.name, {})
    facts = []
    if spec.low is not None:
        facts.append("each " * (typing.get_origin(field.type) is tuple) + describe_range(spec))
    if spec.choices and not bundles:
        facts.append(", ".join(spec.choices))
    if (default := format_value(field.default)) != "":
        facts.append(f"default {default}")
    width = max(map(len, bundles), default=0)
    lines = [f"  {name:{width}}  {bundle.help}" for name, bundle in bundles.items()]
    return "\n".join([f"{spec.help} ({'; '.join(facts)})" if facts else spec.help, *lines])


def _choose_metavar(kind: Any, spec: OptionSpec) -> str:
    if typing.get_origin(kind) is tuple:
        return "NAME,..." if typing.get_args(kind)[0] is str else "N,..."
    if kind is str or spec.choices:
        return "NAME"
    if spec.unit:
        return {"s": "TIME", "b": "BYTES"}[spec.unit]
    return "|".join(["N", *list_words(kind)])


def _make_flags_class(name: str, fields: "Iterable[dataclasses.Field[Any]]") -> Any:
    """Return a dataclass with a flag for each of these fields of `Options`."""
    return dataclasses.make_dataclass(
        name,
        [_make_flag(field) for field in fields],
        namespace={"__module__": __name__},  # otherwise `types`, and cyclopts skips classes of the standard library
        frozen=True,
        kw_only=True,
    )


if TYPE_CHECKING:
    Flags = Any
    MachineFlags = Any
    FileName = str
else:
    FileName = str | Path  # arrives as the text that was typed; shells complete it as a file
    Flags = _make_flags_class("Flags", dataclasses.fields(Options))
    MachineFlags = _make_flags_class(
        "MachineFlags", [field for field in dataclasses.fields(Options) if field.metadata["spec"].group == "Machine"]
    )

NO_FLAGS, NO_MACHINE_FLAGS = Flags(), MachineFlags()

Settings = Annotated[Flags, Parameter(name="*")]
"""Parameter of a command that has a flag for every field of `Options`."""
MachineSettings = Annotated[MachineFlags, Parameter(name="*")]
"""Parameter of a command that has only the flags of the group Machine."""


def _switch(text: str, *names: str, group: Group = OUTPUT_GROUP) -> Parameter:
    return Parameter(name=names or None, group=group, negative=(), help=text)


def _value(metavar: str, text: str, *names: str, group: Group = OUTPUT_GROUP) -> Parameter:
    return Parameter(name=names or None, group=group, negative=(), metavar=metavar, help=text)


FormatName = Literal["png", "jpg", "jpeg", "webp", "avif", "tif", "tiff"]
BitDepth = Annotated[Literal["8", "16"], _value("N", "bits per channel: 8, or 16 for PNG and TIFF (default 8)")]
Overwrite = Annotated[bool, _switch("replace the output if it exists")]
Resume = Annotated[bool, _switch("continue a killed run from OUTPUT.resume, where it is saved every minute")]
DryRun = Annotated[bool, _switch("print what would be painted and its estimated cost; write nothing")]
Json = Annotated[bool, _switch("print JSON instead of text, also for errors", "--json")]
Debug = Annotated[bool, _switch("print tracebacks of errors", "--debug")]


def accept_debug(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that accepts `--debug`, which `app.execute` has read; unchanged if it has that flag itself."""
    signature = inspect.signature(command)
    if "reports" in signature.parameters:
        return command

    @functools.wraps(command)
    def accepting(*args: Any, debug: bool = False, **kwargs: Any) -> Any:  # noqa: ARG001 - read by `app.execute`
        return command(*args, **kwargs)

    flag = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    accepting.__signature__ = signature.replace(parameters=[*signature.parameters.values(), flag])  # type: ignore[attr-defined] # read by cyclopts
    accepting.__annotations__ = {**command.__annotations__, "debug": Debug}
    return accepting


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Where the picture is written, and in which format."""

    output: Annotated[
        FileName | None,
        _value(
            "FILE",
            "output: a name ending in .png, .jpg, .webp, .avif or .tif, a folder, or - for standard output; {content}, "
            "{style}, {seed} and {ext} are replaced (default CONTENT.STYLE.png beside CONTENT, with a number if that "
            "exists)",
            "-o",
            "--output",
            group=PICTURE_GROUP,
        ),
    ] = None
    extension: Annotated[
        FormatName | None,
        _value(
            "NAME",
            "png, jpg, webp, avif or tif, for outputs without a file name: a folder, standard output, {ext} "
            "(default png)",
            "--format",
        ),
    ] = None
    bit_depth: BitDepth = "8"
    overwrite: Overwrite = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SheetOptions:
    """Where a sheet of previews is written, and in which format."""

    output: Annotated[
        FileName | None,
        _value(
            "FILE",
            "output: a name ending in .png, .jpg, .webp, .avif or .tif, a folder, or - for standard output; {content}, "
            "{seed} and {ext} are replaced (default CONTENT.preview.jpg beside CONTENT, with a number if that exists)",
            "-o",
            "--output",
            group=PICTURE_GROUP,
        ),
    ] = None
    extension: Annotated[
        FormatName | None,
        _value(
            "NAME",
            "png, jpg, webp, avif or tif, for outputs without a file name: a folder, standard output, {ext} "
            "(default jpg)",
            "--format",
        ),
    ] = None
    overwrite: Overwrite = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOptions:
    """Where a mask is written."""

    output: Annotated[
        FileName | None,
        _value(
            "FILE",
            "output: a name ending in .png, .jpg, .webp, .avif or .tif, a folder, or - for standard output (default "
            "PHOTO.NAME.png beside PHOTO, with a number if that exists)",
            "-o",
            "--output",
        ),
    ] = None
    overwrite: Overwrite = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Which earlier picture is replayed, and which metadata the new one gets."""

    source: Annotated[
        str | None,
        _value("FILE", "replay the settings stored in FILE, a picture made by styler; flags override them", "--from"),
    ] = None
    no_metadata: Annotated[bool, _switch("do not store the settings in the picture")] = False
    keep_metadata: Annotated[bool, _switch("copy camera, lens, date, artist and copyright from CONTENT")] = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """How pictures are read."""

    background: Annotated[
        str, _value("COLOR", "color behind transparent parts of CONTENT and STYLE: a name or #rrggbb (default white)")
    ] = "white"
    max_pixels: Annotated[
        str, _value("N", "reject pictures with more than N pixels, such as 250000000 or 250M (default 250M)")
    ] = "250M"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What is printed besides the answer."""

    json: Json = False
    quiet: Annotated[bool, _switch("print neither progress nor warnings", "-q", "--quiet")] = False
    no_progress: Annotated[bool, _switch("print no progress")] = False
    verbose: Annotated[
        int,
        Parameter(
            name=("-v", "--verbose"), group=OUTPUT_GROUP, count=True, help="log settings and results; -vv also timings"
        ),
    ] = 0
    debug: Annotated[bool, _switch("like -vv, and print tracebacks of errors")] = False

    @property
    def shows_progress(self) -> bool:
        """Whether progress is shown."""
        return not (self.quiet or self.no_progress)

    def check(self) -> None:
        """Check that the flags do not contradict each other.

        Raises:
            UsageError: they do.
        """
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose are mutually exclusive; give only one of them.")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """Which pictures of a batch are painted, and how they are named."""

    recursive: Annotated[bool, _switch("include subfolders", "-r", "--recursive", group=INPUT_GROUP)] = False
    include: Annotated[
        list[str], _value("PATTERN", "only names that match, such as '*.jpg'; repeatable", group=INPUT_GROUP)
    ] = ()  # type: ignore[assignment] # never modified
    exclude: Annotated[list[str], _value("PATTERN", "skip names that match; repeatable", group=INPUT_GROUP)] = ()  # type: ignore[assignment] # never modified
    follow_symlinks: Annotated[bool, _switch("follow symbolic links in folders", group=INPUT_GROUP)] = False
    zip: Annotated[bool, _switch("pair the first content with the first style, and so on", group=INPUT_GROUP)] = False
    blend: Annotated[bool, _switch("paint every content in all styles at once", group=INPUT_GROUP)] = False
    name: Annotated[
        str | None,
        _value(
            "TEMPLATE",
            "file names of the pictures; {content}, {style}, {seed} and {ext} are replaced\n"
            "(default {content}.{style}.{ext}, made unique where needed)",
            group=PICTURE_GROUP,
        ),
    ] = None
    format: Annotated[FormatName, _value("NAME", "png, jpg, webp, avif or tif (default png)", group=PICTURE_GROUP)] = (
        "png"
    )


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOptions:
    """How a batch is resumed, and when it ends early."""

    retry_failed: Annotated[bool, _switch("retry pictures that failed in an earlier run", group=RESUME_GROUP)] = False
    fail_fast: Annotated[bool, _switch("stop at the first picture that fails", group=RESUME_GROUP)] = False
    max_failures: Annotated[int | None, _value("N", "stop after N failures", group=RESUME_GROUP)] = None
    no_index: Annotated[bool, _switch("do not write index.html and contact-sheet.jpg", group=RESUME_GROUP)] = False
    status: Annotated[
        FileName | None, _value("FOLDER", "only print the status of the batch in FOLDER", group=RESUME_GROUP)
    ] = None

    @property
    def limit(self) -> int | None:
        """Number of failures after which the batch stops."""
        return 1 if self.fail_fast else self.max_failures


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Which workers paint a batch."""

    engine: Annotated[
        Literal["local", "ray"], _value("NAME", "local, or ray for a cluster (default local)", group=ENGINE_GROUP)
    ] = "local"
    devices: Annotated[
        str, _value("NAME,...", "one worker on each of these devices, such as cuda:0,cuda:1", group=ENGINE_GROUP)
    ] = ""
    ray_address: Annotated[
        str | None,
        _value(
            "ADDRESS",
            "auto: a running cluster; local: one that is started for this batch; or ray://HOST:PORT (default auto)",
            group=ENGINE_GROUP,
        ),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        _value("N", "with ray: CPU workers with N cores each, instead of one worker per GPU", group=ENGINE_GROUP),
    ] = None

    @property
    def device_names(self) -> tuple[str, ...]:
        """The names in `devices`."""
        return tuple(name for part in self.devices.split(",") if (name := part.strip()))

    def check(self, *, has_device: bool) -> None:
        """Check that the flags do not contradict each other or `--device`, if that was given.

        Raises:
            UsageError: they do.
        """
        for name, value in (("--ray-address", self.ray_address), ("--cpus-per-worker", self.cpus_per_worker)):
            if value is not None and self.engine != "ray":
                raise UsageError(f"{name} requires --engine ray; add it, or omit {name}.")
        if self.device_names and self.engine == "ray":
            raise UsageError(
                "--devices names devices of this machine, but Ray chooses its own; give only one of --devices and "
                "--engine."
            )
        if self.device_names and has_device:
            raise UsageError("--device and --devices are mutually exclusive; give only one of them.")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise UsageError(f"cpus_per_worker is {self.cpus_per_worker}; it can be a whole number above 0.")

    def make_cluster(self) -> "ClusterConfig | None":
        """Return the configuration of the Ray cluster; None without --engine ray."""
        if self.engine != "ray":
            return None
        from styler.batch.ray import ClusterConfig

        return ClusterConfig(address=self.ray_address or "auto", cpus_per_worker=self.cpus_per_worker)


# Defaults of the commands' parameters.
DEFAULT_OUTPUT = OutputOptions()
DEFAULT_SHEET = SheetOptions()
DEFAULT_MASK = MaskOptions()
DEFAULT_REPLAY = ReplayOptions()
DEFAULT_INPUT = InputOptions()
DEFAULT_REPORT = ReportOptions()
DEFAULT_SELECTION = SelectionOptions()
DEFAULT_RESUME = ResumeOptions()
DEFAULT_ENGINE = EngineOptions()

BATCH_FLAGS = frozenset(
    {
        field.name
        for group in (SelectionOptions, ResumeOptions, EngineOptions, InputOptions)
        for field in dataclasses.fields(group)
        if field.name != "status"
    }
    | {"bit_depth", "no_metadata", "keep_metadata", "quiet", "no_progress"}
)
"""Flags that the table `[batch]` can set besides options; not those of a single run, such as `--overwrite`."""


def fill_from_files(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Set flags that were not given to their values in `styler.toml`; a config function of cyclopts.

    Raises:
        StylerError: a file cannot be read, or has an unknown setting.
    """
    for path in reversed(config.list_config_paths()):
        values = {
            name.replace("_", "-"): value
            for name, value in config.read_command_flags(path, "batch", BATCH_FLAGS).items()
        }
        Dict(values, source=str(path), use_commands_as_keys=False)(app, commands, arguments)
