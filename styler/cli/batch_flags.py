"""The flags that `styler batch` has besides those of `styler run`; its table in styler.toml takes them, too."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, Group, Parameter
from cyclopts.config import Dict

from styler import config
from styler.cli.flags import PICTURE, FileName
from styler.cli.inputs import Reading
from styler.errors import UsageError

if TYPE_CHECKING:
    from styler.batch.worker import ClusterConfig

IN, ON, WHERE = Group("What goes in", sort_key=0.1), Group("How it goes on", sort_key=0.2), Group("Where", sort_key=0.3)


def _switch(text: str, group: Group, *names: str) -> Any:
    return Parameter(name=names or None, group=group, negative=(), help=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """What is painted, and under which names."""

    recursive: Annotated[bool, _switch("walk the folders in folders, too", IN, "-r", "--recursive")] = False
    include: Annotated[
        list[str],
        Parameter(group=IN, metavar="PATTERN", negative=(), help="take only such names, as '*.jpg'; repeatable"),
    ] = ()  # type: ignore[assignment] # nothing adds to it
    exclude: Annotated[
        list[str], Parameter(group=IN, metavar="PATTERN", negative=(), help="leave such names out; repeatable")
    ] = ()  # type: ignore[assignment] # likewise
    follow_symlinks: Annotated[bool, _switch("follow links in folders", IN)] = False
    zip: Annotated[bool, _switch("pair the first content with the first style, and so on", IN)] = False
    blend: Annotated[bool, _switch("paint every content in all styles at once", IN)] = False
    name: Annotated[
        str | None,
        Parameter(
            group=PICTURE,
            metavar="TEMPLATE",
            help="names of the pictures; {content}, {style}, {seed} and {ext} are filled in\n"
            "(default {content}.{style}.{ext}, and what makes it unique)",
        ),
    ] = None
    format: Annotated[
        Literal["png", "jpg", "webp", "avif", "tiff"],
        Parameter(group=PICTURE, metavar="NAME", help="png, jpg, webp, avif or tiff (default png)"),
    ] = "png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """How a batch goes on, and when it ends."""

    retry_failed: Annotated[bool, _switch("try again what failed in an earlier run", ON)] = False
    fail_fast: Annotated[bool, _switch("stop at the first picture that fails", ON)] = False
    max_failures: Annotated[int | None, Parameter(group=ON, metavar="N", help="stop when so many have failed")] = None
    no_index: Annotated[bool, _switch("make no index.html and contact-sheet.jpg", ON)] = False
    status: Annotated[
        FileName | None,
        Parameter(group=ON, metavar="FOLDER", help="only say how the batch in this folder stands"),
    ] = None

    @property
    def limit(self) -> int | None:
        """Failures after which to stop."""
        return 1 if self.fail_fast else self.max_failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What paints."""

    engine: Annotated[
        Literal["local", "ray"],
        Parameter(group=WHERE, metavar="NAME", help="local, or ray: the machines of a cluster (default local)"),
    ] = "local"
    devices: Annotated[
        str,
        Parameter(group=WHERE, metavar="NAME,...", help="a worker for each of these, such as cuda:0,cuda:1"),
    ] = ""
    ray_address: Annotated[
        str | None,
        Parameter(
            group=WHERE,
            metavar="ADDRESS",
            help="auto: a cluster that runs; local: one that is started and ended; or ray://HOST:PORT (default auto)",
        ),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        Parameter(group=WHERE, metavar="N", help="with ray: a worker for so many processors, in place of one a GPU"),
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
        from styler.batch.worker import ClusterConfig

        if self.engine != "ray":
            return None
        return ClusterConfig(address=self.ray_address or "auto", cpus_per_worker=self.cpus_per_worker)


OTHERS = ("bit_depth", "no_metadata", "keep_metadata", "quiet", "no_progress")
OWN = frozenset(
    {field.name for kind in (Choosing, Going, Where, Reading) for field in dataclasses.fields(kind)} | {*OTHERS}
) - {"status"}
"""What the table `[batch]` can have besides options: nothing that is asked once, such as `--overwrite`."""


def from_files(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give flags that were not typed the values that styler.toml has for them; what cyclopts calls a config.

    Raises:
        StylerError: a file cannot be read, or has an unknown setting.
    """
    for path in reversed(config.config_paths()):
        found = {name.replace("_", "-"): value for name, value in config.read_command_flags(path, "batch", OWN).items()}
        Dict(found, source=str(path), use_commands_as_keys=False)(app, commands, arguments)
