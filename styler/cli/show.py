"""The commands that only print: `inspect`, `presets`, `styles`, `config`, `doctor` and `completion`.

Every check of `doctor` returns facts or raises; an exception becomes a sentence, and the next check runs.
"""

import importlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from styler import config, library
from styler.cli import flags, output, report
from styler.cli.flags import FileName, Json, flag_name
from styler.errors import OutputError, StylerError, UsageError
from styler.options import LOOKS, PRESETS, Options, Value, format_duration, format_value, resolve_options
from styler.options.paper import convert_to_centimeters

if TYPE_CHECKING:
    from styler.images import StoredSize
    from styler.provenance import Record

NO_VALUE = "–"
"""Printed for an empty value."""
NAME_WIDTH = 18
"""Width of the column of names that `inspect` prints."""


def presets(*, json: Json = False) -> int:
    """List the presets and looks with the options that they set."""
    groups = {"preset": PRESETS, "look": LOOKS}
    values = {group: {name: _list_bundle_values(group, name) for name in bundles} for group, bundles in groups.items()}
    if json:
        output.print_document(
            {
                f"{group}s": {name: {"help": it.help, "values": values[group][name]} for name, it in bundles.items()}
                for group, bundles in groups.items()
            }
        )
        return 0
    lines = []
    for group, bundles in groups.items():
        for name, bundle in bundles.items():
            words = [f"{flag_name(field)} {format_value(value)}" for field, value in values[group][name].items()]
            lines += [f"{flag_name(group)} {name}", f"  {bundle.help}", f"  {' '.join(words)}", ""]
    output.print_lines(lines[:-1])
    return 0


def _list_bundle_values(group: str, name: str) -> dict[str, Value]:
    """Return the options that a preset or look sets; the default one sets what the others would change."""
    resolved = resolve_options(("presets", {group: name}))
    named = f"presets ({group} {name})"
    return {field: getattr(resolved.options, field) for field, origin in resolved.origins.items() if origin == named}


def styles(*, json: Json = False) -> int:
    """List the paintings and photos that come with styler."""
    pictures = {"styles": library.list_styles(), "contents": library.list_contents()}
    credit = library.read_credits()
    if json:
        output.print_document(
            {
                group: {name: {"path": str(path), "credit": credit.get(path.name)} for name, path in paths.items()}
                for group, paths in pictures.items()
            }
        )
        return 0
    lines = []
    for title, paths in zip(("Paintings (STYLE):", "Photos (CONTENT):"), pictures.values(), strict=True):
        rows = [(f"  {name}", credit.get(path.name, "")) for name, path in paths.items()]
        lines += [title, *output.format_columns(rows), ""]
    output.print_lines(lines[:-1])
    return 0


def show_config(*, settings: flags.Settings = flags.NO_FLAGS, json: Json = False) -> int:
    """Print every setting and where its value comes from."""
    configuration = config.load_config()
    resolved = resolve_options(*configuration.layers, ("flag", flags.read_flags(settings)))
    origins = {
        name: config.get_variable_name(name) if origin == config.ENVIRONMENT_LAYER else origin
        for name, origin in resolved.origins.items()
    }
    for warning in configuration.warnings:
        report.print_warning(warning)
    if json:
        values = resolved.options.to_dict()
        output.print_document(
            {
                "settings": {name: {"value": value, "origin": origins[name]} for name, value in values.items()},
                "files": [
                    {"path": str(path), "found": config.is_readable(path)} for path in config.list_config_paths()
                ],
                "warnings": configuration.warnings,
            }
        )
        return 0
    rows = [
        (name, format_value(getattr(resolved.options, name)) or NO_VALUE, origin) for name, origin in origins.items()
    ]
    files = [
        f"{path} ({'read' if config.is_readable(path) else 'not found'})"
        for path in reversed(config.list_config_paths())
    ]
    table = output.format_columns([("setting", "value", "origin"), *rows])
    output.print_lines([*table, "", f"Files: {', '.join(files)}."])
    return 0


PictureFile = Annotated[FileName, Parameter(help="a picture made by styler, or - for standard input")]


def inspect(file: PictureFile, /, *, as_json: Json = False) -> int:
    """Print the settings stored in a picture and the command that made it."""
    from styler import images, provenance

    is_stream = file == output.STREAM_NAME
    name = output.STDIN_NAME if is_stream else str(file)
    data = images.fetch_image_bytes(output.open_stdin() if is_stream else file, name=name)
    record, facts = provenance.read_record(data, name=name), _list_facts(images.read_size(data, name=name))
    text = json.dumps({**record, "file": facts}) if as_json else "\n".join(_format_record(record, facts))
    output.write_stdout(text.encode("utf-8") + b"\n", "The settings were read, but standard output")
    return 0


def _list_facts(size: "StoredSize") -> dict[str, Any]:
    """Return what a file says about its size: pixels, dots per inch, and from both centimeters on paper."""
    facts: dict[str, Any] = {"format": size.kind, "width": size.width, "height": size.height, "dpi": round(size.dpi, 1)}
    if size.dpi:
        sides = (round(convert_to_centimeters(side, size.dpi), 1) for side in (size.width, size.height))
        facts |= dict(zip(("width_cm", "height_cm"), sides, strict=True))
    return facts


def _format_record(record: "Record", facts: Mapping[str, Any]) -> Iterator[str]:
    """Format the facts of the file and everything in its record as lines; the commands come last."""
    from styler import provenance

    stopped = ", stopped before it was finished" if record["stopped"] else ""
    yield f"{record['width']}×{record['height']}, made by styler {record['version']}{stopped}"
    if facts["dpi"]:
        yield f"{facts['dpi']:g} dpi: {facts['width_cm']:g} × {facts['height_cm']:g} cm on paper"
    settings = ((name, format_value(value) or NO_VALUE) for name, value in record["options"].items())
    for title, rows in (("Settings", settings), ("Work", _list_work(record)), ("Inputs", _list_inputs(record))):
        yield f"\n{title}:"
        yield from (f"  {name:{NAME_WIDTH}}{value}" for name, value in rows)
    if record["masks"]:
        options = provenance.options_from_record(record["options"])
        yield "\nRegions and protected parts:"
        yield from (f"  {line}" for line in report.format_masks(record["masks"], options, len(record["styles"])))
    yield f"\nCommand:\n  {provenance.format_command(record)}"
    yield f"\nReplay:\n  {provenance.format_replay_command(record)}"


def _list_work(record: "Record") -> Iterator[tuple[str, str]]:
    for scale, seconds in zip(record["schedule"], record["scale_seconds"], strict=False):
        planned = f"{scale['iterations']} of " if scale["planned"] else ""
        iterations = report.format_count(scale["planned"] or scale["iterations"], "iteration")
        method = report.format_method(scale["optimizer"], sketch=scale["sketch"], copies=scale["half_size_copies"])
        yield f"{scale['width']}×{scale['height']}", f"{planned}{iterations} of {method}, in {seconds:.1f} s"
    yield "iterations", f"{record['iterations']}, equivalent to {record['units']:.1f} at the final size"
    yield "time", format_duration(record["seconds"])
    yield "losses", report.format_losses(record["losses"]) or NO_VALUE
    machine = (record["device"], record["processor"], record["precision"], f"PyTorch {record['torch']}")
    yield "machine", ", ".join((*machine, report.format_count(record["threads"], "thread")))


def _list_inputs(record: "Record") -> Iterator[tuple[str, str]]:
    """Format the hashes of the inputs."""
    yield "content", record["content"] or "not a file"
    for number, sha256 in enumerate(record["styles"], start=1):
        yield f"style {number}" if len(record["styles"]) > 1 else "style", sha256 or "not a file"
    for mask in record["masks"]:
        yield f"mask {mask['name']}", mask["sha256"]
    if record["init"]:
        yield "init", record["init"]
    if record["background"]:
        yield "background", record["background"]
    yield "weights", record["weights_sha256"]
    if record["slim_sha256"]:
        yield "slim weights", record["slim_sha256"]


EXTRA_MODULES = {"heif": "pillow_heif", "jxl": "pillow_jxl"}
"""Modules of the optional extras that `run` can use."""

Facts = Mapping[str, Any]


def doctor(*, json: Json = False) -> int:
    """Check the installation; the exit code is 1 if a check fails."""
    facts: dict[str, Facts] = {}
    broken: list[str] = []
    for name, check in CHECKS.items():
        try:
            facts[name] = check()
        except StylerError as error:
            broken.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 - finding any error is the purpose of this command
            broken.append(f"{name}: {type(error).__name__}: {error}")
    if json:
        output.print_document({"ok": not broken, **facts, "broken": broken})
    else:
        rows = [
            (name, ", ".join(f"{key} {_format_fact(value)}" for key, value in values.items()))
            for name, values in facts.items()
        ]
        output.print_lines([*output.format_columns(rows), "", *(broken or ["All checks passed."])])
    return 1 if broken else 0


def _check_program() -> Facts:
    from styler import provenance

    return {
        "styler": provenance.get_version(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processors": os.cpu_count(),
    }


def _check_torch() -> Facts:
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}


def _check_settings() -> Facts:
    configuration = config.load_config()
    origins = resolve_options(*configuration.layers).origins
    return {
        "files": [str(path) for path in config.list_config_paths() if config.is_readable(path)],
        "set": [name for name, origin in origins.items() if origin != "default"],
        "warnings": list(configuration.warnings),
    }


def _check_devices() -> Facts:
    """Return the free memory of every device, by name."""
    import torch

    from styler.engine.device import choose_device, describe_device
    from styler.engine.memory.measure import measure_free_memory

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    devices = [choose_device(name) for name in names]
    free = {describe_device(device): f"{measure_free_memory(device) / 1e9:.1f} GB free" for device in devices}
    return {"chosen": str(choose_device(_load_options().device)), **free}


def _check_precision() -> Facts:
    """Return the precision that the options give on the chosen device, and what `auto` knows of that device."""
    from styler.engine import precision
    from styler.engine.device import choose_device, prepare_torch

    options = _load_options()
    device = choose_device(options.device)
    with prepare_torch(device, options.threads):
        measured = precision.measure_precision(device)
        file = precision.find_measurement_file(precision.describe_machine(device))
    return {
        "chosen": measured.choice if options.precision == "auto" else options.precision,
        **{f"{name}_ms": 1e3 * seconds for name, seconds in measured.seconds.items()},
        **{f"{name}_cosine": f"{cosine:.5f}" for name, cosine in measured.cosines.items()},
        **measured.failures,
        "file": str(file) if file and file.exists() else None,
    }


def _check_weights() -> Facts:
    """Return the hashes of the bundled weights and of those in the cache; reading them verifies the hashes."""
    import torch

    from styler.regions import networks
    from styler.vgg import registry, weights

    cached = [name for name in registry.FROM_TORCHVISION if registry.is_cached(name)]
    return {name: registry.load_backbone(name).sha256 for name in (*weights.SHA256, *cached)} | {
        name: networks.load_mask_network(name, torch.device("cpu")).sha256 for name in networks.MASK_SHA256
    }


def _check_cache() -> Facts:
    from styler.vgg import registry

    folder = registry.get_cache_folder()
    if folder is None:
        return {"folder": None, "bytes": 0}
    return {"folder": str(folder), "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())}


def _check_extras() -> Facts:
    """Return which optional extras are installed; one that is installed but cannot be loaded is an error."""
    installed = {}
    for name, module in EXTRA_MODULES.items():
        try:
            importlib.import_module(module)
            installed[name] = True
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            installed[name] = False
    return installed


def _run_self_test() -> Facts:
    """Paint a bundled photo in the style of a bundled painting, 64 pixels wide, on the chosen device.

    Raises:
        StylerError: the loss did not decrease.
    """
    from styler import images
    from styler.engine.painter import Painter

    chosen = _load_options()
    options = Options(size=64, first_size=64, iterations=5, device=chosen.device, precision=chosen.precision)
    photo, painting = next(iter(library.list_contents().values())), next(iter(library.list_styles().values()))
    start = time.perf_counter()
    painter = Painter.of(options)
    losses = [
        progress.result.losses["total"] if progress.result else progress.loss
        for progress in painter.stream(images.read_image(photo), images.read_image(painting), options)
    ]
    if not losses[-1] < losses[0]:
        raise StylerError(
            f"Painting on {painter.device} did not decrease the loss ({losses[0]:.4g}, then {losses[-1]:.4g}); "
            "try --device cpu or --precision fp32."
        )
    return {
        "device": str(painter.device),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "seconds": round(time.perf_counter() - start, 2),
    }


CHECKS: Mapping[str, Callable[[], Facts]] = {
    "program": _check_program,
    "torch": _check_torch,
    "settings": _check_settings,
    "devices": _check_devices,
    "precision": _check_precision,
    "weights": _check_weights,
    "cache": _check_cache,
    "extras": _check_extras,
    "self_test": _run_self_test,
}


def _load_options() -> Options:
    """Return the options from files and environment; the defaults if those are invalid, which another check reports."""
    try:
        return resolve_options(*config.load_config().layers).options
    except StylerError:
        return Options()


def _format_fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


ShellName = Literal["bash", "zsh", "fish", "powershell"]
ShellArgument = Annotated[
    ShellName | None, Parameter(metavar="SHELL", help="bash, zsh, fish or powershell (default: the current shell)")
]
InstallFlag = Annotated[
    bool, Parameter(group=flags.OUTPUT_GROUP, negative=(), help="install the script where new shells load it")
]


def make_completion(app: App) -> Callable[..., int]:
    """Return the `completion` command for an application."""

    def completion(shell: ShellArgument = None, /, *, install: InstallFlag = False) -> int:
        """Print a completion script, or install it."""
        name = shell or _detect_shell()
        if not install:
            output.print_lines([app.generate_completion(shell=name)])
            return 0
        try:
            path = app.install_completion(shell=name)
        except (OSError, RuntimeError) as error:  # the latter if this user has no home
            raise OutputError(
                f"The completion for {name} cannot be installed ({error}); save the output of 'styler completion "
                f"{name}' where your shell loads completions."
            ) from error
        report.print_line(report.make_console(), "Start a new shell to use it.")
        output.print_lines([str(path)])
        return 0

    return completion


def _detect_shell() -> ShellName:
    """Return the shell that started the program.

    Raises:
        UsageError: it is unknown.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        return detect_shell()
    except ShellDetectionError as error:
        raise UsageError(
            "The current shell cannot be detected; name it: styler completion bash, zsh, fish or powershell."
        ) from error
