"""One flag for every field of `Options`, made from the field: nothing is declared twice.

A flag that was not given is None, so that a verb can tell what was asked for from what is a default. Values stay text
here; `Options` says what is wrong with them.
"""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, Group, Parameter
from cyclopts.config import Dict

from styler import config
from styler.errors import UsageError
from styler.options import LOOKS, PRESETS, Options, OptionSpec, describe_range

if TYPE_CHECKING:
    from styler.batch.ray import ClusterConfig


GROUPS = {
    name: Group(name, sort_key=order)
    for order, name in enumerate(("Picture", "Effort", "Objective", "Machine", "Output"), start=1)
}
PICTURE_GROUP, OUTPUT_GROUP = GROUPS["Picture"], GROUPS["Output"]

_OPTION_BUNDLES = {"preset": PRESETS, "look": LOOKS}


def flag_name(field: str) -> str:
    """The flag of a field."""
    return "--" + field.replace("_", "-")


def read_flags(flags: Any) -> dict[str, Any]:
    """The settings that were given as flags, in the types of their fields where the text allows."""
    found = {field.name: getattr(flags, field.name) for field in dataclasses.fields(Options)}
    return {name: config.parse_value(name, text) for name, text in found.items() if text is not None}


def _make_flag(field: "dataclasses.Field[Any]") -> tuple[str, Any, Any]:
    knob: OptionSpec = field.metadata["spec"]
    parameter = Parameter(
        name=flag_name(field.name),
        help=_format_help(field, knob),
        group=GROUPS[knob.group],
        metavar=_choose_metavar(field.type, knob),
        choices=knob.choices or None,
    )
    return field.name, Annotated[str | None, parameter], None


def _format_help(field: "dataclasses.Field[Any]", knob: OptionSpec) -> str:
    """The field's help, what it can be, and its default."""
    several = typing.get_origin(field.type) is tuple
    bundles = _OPTION_BUNDLES.get(field.name, {})
    facts = []
    if knob.low is not None:
        facts.append(("each " if several else "") + describe_range(knob))
    if knob.choices and not bundles:
        facts.append(", ".join(knob.choices))
    if (default := format_value(field.default)) != "":
        facts.append(f"default {default}")
    wide = max(map(len, bundles), default=0)
    lines = [f"  {name:{wide}}  {bundle.help}" for name, bundle in bundles.items()]
    return "\n".join([f"{knob.help} ({'; '.join(facts)})" if facts else knob.help, *lines])


def format_value(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choose_metavar(kind: Any, knob: OptionSpec) -> str:
    if typing.get_origin(kind) is tuple:
        return "NAME,..." if typing.get_args(kind)[0] is str else "N,..."
    if kind is str or knob.choices:
        return "NAME"
    if knob.unit:
        return "TIME"
    return "N" if kind in (int, float) else "N|original"


if TYPE_CHECKING:
    Flags = Any
    FileName = str
else:
    FileName = str | Path  # comes as the text that was typed; shells complete it as a file
    Flags = dataclasses.make_dataclass(
        "Flags",
        [_make_flag(field) for field in dataclasses.fields(Options)],
        namespace={"__module__": __name__},  # its own would be `types`, and cyclopts looks into no built-in class
        frozen=True,
        kw_only=True,
    )

NO_FLAGS = Flags()
"""No flag at all."""

Settings = Annotated[Flags, Parameter(name="*")]
"""What a verb takes that has a flag for every field."""


BitDepth = Annotated[
    Literal["8", "16"],
    Parameter(name="--bit-depth", group=OUTPUT_GROUP, metavar="N", help="8, or 16 for PNG and TIFF (default 8)"),
]
Overwrite = Annotated[
    bool, Parameter(name="--overwrite", group=OUTPUT_GROUP, negative=(), help="replace the output if it exists")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Where the picture goes, and in which form."""

    output: Annotated[
        FileName | None,
        Parameter(
            name=("-o", "--output"),
            group=PICTURE_GROUP,
            metavar="FILE",
            help="where the picture goes: a name that ends in .png, .jpg, .webp, .avif or .tif, a folder, or - for "
            "standard output; {content}, {style}, {seed} and {ext} are filled in (default CONTENT.STYLE.png beside "
            "CONTENT, with a number if that exists)",
        ),
    ] = None
    extension: Annotated[
        Literal["png", "jpg", "jpeg", "webp", "avif", "tif", "tiff"] | None,
        Parameter(
            name="--format",
            group=OUTPUT_GROUP,
            metavar="NAME",
            help="png, jpg, webp, avif or tif, where the output's name does not say it: in a folder, on standard "
            "output, for {ext} (default png)",
        ),
    ] = None
    bit_depth: BitDepth = "8"
    overwrite: Overwrite = False


DEFAULT_OUTPUT = OutputOptions()


INPUT_GROUP, RESUME_GROUP, ENGINE_GROUP = (
    Group("What goes in", sort_key=0.1),
    Group("How it goes on", sort_key=0.2),
    Group("Where", sort_key=0.3),
)


def _switch(text: str, group: Group, *names: str) -> Any:
    return Parameter(name=names or None, group=group, negative=(), help=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """What is painted, and under which names."""

    recursive: Annotated[bool, _switch("walk the folders in folders, too", INPUT_GROUP, "-r", "--recursive")] = False
    include: Annotated[
        list[str],
        Parameter(
            group=INPUT_GROUP, metavar="PATTERN", negative=(), help="take only such names, as '*.jpg'; repeatable"
        ),
    ] = ()  # type: ignore[assignment] # nothing adds to it
    exclude: Annotated[
        list[str], Parameter(group=INPUT_GROUP, metavar="PATTERN", negative=(), help="leave such names out; repeatable")
    ] = ()  # type: ignore[assignment] # likewise
    follow_symlinks: Annotated[bool, _switch("follow links in folders", INPUT_GROUP)] = False
    zip: Annotated[bool, _switch("pair the first content with the first style, and so on", INPUT_GROUP)] = False
    blend: Annotated[bool, _switch("paint every content in all styles at once", INPUT_GROUP)] = False
    name: Annotated[
        str | None,
        Parameter(
            group=PICTURE_GROUP,
            metavar="TEMPLATE",
            help="names of the pictures; {content}, {style}, {seed} and {ext} are filled in\n"
            "(default {content}.{style}.{ext}, and what makes it unique)",
        ),
    ] = None
    format: Annotated[
        Literal["png", "jpg", "webp", "avif", "tiff"],
        Parameter(group=PICTURE_GROUP, metavar="NAME", help="png, jpg, webp, avif or tiff (default png)"),
    ] = "png"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOptions:
    """How a batch goes on, and when it ends."""

    retry_failed: Annotated[bool, _switch("try again what failed in an earlier run", RESUME_GROUP)] = False
    fail_fast: Annotated[bool, _switch("stop at the first picture that fails", RESUME_GROUP)] = False
    max_failures: Annotated[
        int | None, Parameter(group=RESUME_GROUP, metavar="N", help="stop when so many have failed")
    ] = None
    no_index: Annotated[bool, _switch("make no index.html and contact-sheet.jpg", RESUME_GROUP)] = False
    status: Annotated[
        FileName | None,
        Parameter(group=RESUME_GROUP, metavar="FOLDER", help="only say how the batch in this folder stands"),
    ] = None

    @property
    def limit(self) -> int | None:
        """Failures after which to stop."""
        return 1 if self.fail_fast else self.max_failures


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What paints."""

    engine: Annotated[
        Literal["local", "ray"],
        Parameter(group=ENGINE_GROUP, metavar="NAME", help="local, or ray: the machines of a cluster (default local)"),
    ] = "local"
    devices: Annotated[
        str,
        Parameter(group=ENGINE_GROUP, metavar="NAME,...", help="a worker for each of these, such as cuda:0,cuda:1"),
    ] = ""
    ray_address: Annotated[
        str | None,
        Parameter(
            group=ENGINE_GROUP,
            metavar="ADDRESS",
            help="auto: a cluster that runs; local: one that is started and ended; or ray://HOST:PORT (default auto)",
        ),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        Parameter(
            group=ENGINE_GROUP, metavar="N", help="with ray: a worker for so many processors, in place of one a GPU"
        ),
    ] = None

    @property
    def listed(self) -> tuple[str, ...]:
        """The devices."""
        return tuple(name for part in self.devices.split(",") if (name := part.strip()))

    def check(self, *, device: bool) -> None:
        """Refuse what contradicts itself.

        Args:
            device: whether `--device` was given, too.

        Raises:
            UsageError: it does.
        """
        of_ray = {"--ray-address": self.ray_address, "--cpus-per-worker": self.cpus_per_worker}
        for name, value in of_ray.items():
            if value is not None and self.engine != "ray":
                raise UsageError(f"{name} is of Ray; add --engine ray, or leave it out.")
        if self.listed and self.engine == "ray":
            raise UsageError("--devices is of this machine, and Ray finds its own; give one of --devices and --engine.")
        if self.listed and device:
            raise UsageError("--device and --devices exclude each other; give one of them.")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise UsageError(f"cpus_per_worker is {self.cpus_per_worker}; it can be a whole number above 0.")

    def cluster(self) -> "ClusterConfig | None":
        """Where Ray paints, if it does."""
        from styler.batch.ray import ClusterConfig

        if self.engine != "ray":
            return None
        return ClusterConfig(address=self.ray_address or "auto", cpus_per_worker=self.cpus_per_worker)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """How pictures are read."""

    background: Annotated[
        str,
        Parameter(
            name="--background",
            group=OUTPUT_GROUP,
            metavar="COLOR",
            help="what is painted where CONTENT or STYLE is transparent: a name or #rrggbb (default white)",
        ),
    ] = "white"
    max_pixels: Annotated[
        str,
        Parameter(
            name="--max-pixels",
            group=OUTPUT_GROUP,
            metavar="N",
            help="refuse pictures of more pixels, such as 250000000 or 250M (default 250M)",
        ),
    ] = "250M"


DEFAULT_INPUT = InputOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What is taken from an earlier picture, and what goes into the new one besides its pixels."""

    source: Annotated[
        str | None,
        Parameter(
            name="--from",
            group=OUTPUT_GROUP,
            metavar="FILE",
            help="paint as this picture, which styler made, was painted; flags override its settings",
        ),
    ] = None
    no_metadata: Annotated[
        bool,
        Parameter(
            name="--no-metadata", group=OUTPUT_GROUP, negative=(), help="do not write the settings into the picture"
        ),
    ] = False
    keep_metadata: Annotated[
        bool,
        Parameter(
            name="--keep-metadata",
            group=OUTPUT_GROUP,
            negative=(),
            help="copy camera, lens, date, artist and copyright from CONTENT",
        ),
    ] = False


NO_REPLAY = ReplayOptions()


DryRun = Annotated[
    bool, Parameter(group=OUTPUT_GROUP, negative=(), help="say what would be done, at what cost, and do nothing")
]


Json = Annotated[
    bool, Parameter(name="--json", group=OUTPUT_GROUP, negative=(), help="answer with one JSON object, errors too")
]


Quiet = Annotated[
    bool, Parameter(name=("-q", "--quiet"), group=OUTPUT_GROUP, negative=(), help="show neither progress nor warnings")
]


Verbose = Annotated[
    int,
    Parameter(
        name=("-v", "--verbose"),
        group=OUTPUT_GROUP,
        count=True,
        help="tell what is decided and how it went; -vv also how long each part took",
    ),
]


NoProgress = Annotated[bool, Parameter(name="--no-progress", group=OUTPUT_GROUP, negative=(), help="show no progress")]


Debug = Annotated[
    bool, Parameter(group=OUTPUT_GROUP, negative=(), help="as -vv, and show where in the program an error arose")
]


SHARED_FLAGS = ("bit_depth", "no_metadata", "keep_metadata", "quiet", "no_progress")
BATCH_FLAGS = frozenset(
    {
        field.name
        for kind in (SelectionOptions, ResumeOptions, EngineOptions, InputOptions)
        for field in dataclasses.fields(kind)
    }
    | {*SHARED_FLAGS}
) - {"status"}
"""What the table `[batch]` can have besides options: nothing that is asked once, such as `--overwrite`."""


def fill_from_files(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give flags that were not typed the values that styler.toml has for them; what cyclopts calls a config.

    Raises:
        StylerError: a file cannot be read, or has an unknown setting.
    """
    for path in reversed(config.list_config_paths()):
        found = {
            name.replace("_", "-"): value
            for name, value in config.read_command_flags(path, "batch", BATCH_FLAGS).items()
        }
        Dict(found, source=str(path), use_commands_as_keys=False)(app, commands, arguments)
