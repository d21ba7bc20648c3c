"""`styler vgg slim`, `compare` and `diagnose`: the verbs of the workshop that look at pictures."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import library
from styler.cli import answers, report
from styler.cli.answers import Json
from styler.cli.flags import OUTPUT, FileName
from styler.errors import OptionError, OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from styler.vgg.weights import Weights
    from styler.workshop.distill import DistillSettings

Backbone = Annotated[str, Parameter(help="a backbone by name, or a file of weights")]
Images = Annotated[
    FileName | None, Parameter(metavar="FOLDER", help="pictures to go by (default: those that come with styler)")
]
Overwrite = Annotated[bool, Parameter(group=OUTPUT, negative=(), help="replace what is there")]
Plot = Annotated[FileName | None, Parameter(group=OUTPUT, metavar="FILE", help="draw it, as .png")]
TOLD_EVERY = 10
"""Steps of distillation between two lines."""


def check_free(path: Path, *, overwrite: bool) -> None:
    """Find out before any work whether a file of that name is there already.

    Raises:
        OutputError: it is, and may not go.
    """
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"Cannot write '{path}': it exists already; choose another name or give --overwrite.")


def slim(
    network: Backbone = "vgg16",
    /,
    *,
    output: Annotated[
        FileName, Parameter(name=("-o", "--output"), group=OUTPUT, metavar="FILE", help="the file to write")
    ] = "slim.safetensors",
    keep: Annotated[float, Parameter(metavar="SHARE", help="of the channels, above 0 to 1 (default 0.5)")] = 0.5,
    images: Images = None,
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
    overwrite: Overwrite = False,
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
    where, target = report.console(), Path(output)
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
        say=lambda line: report.say(where, line),
    )
    if from_scratch:
        found = distill.reinitialize(found, seed)
    if distill_steps:
        settings = distill.DistillSettings(steps=distill_steps, seed=seed, freeze=freeze, batch_norm=batch_norm)
        state = target.with_name(target.name + ".state")
        found = _distilled(found, teacher, pictures, settings, choose_device(device), state)
    data = slimming.dump_network(found)
    path = files.write_file(target, data, overwrite=overwrite)
    target.with_name(target.name + ".state").unlink(missing_ok=True)
    kept = {conv.name: conv.outputs for conv in found.convs}
    if json:
        answers.document({"output": str(path), "bytes": len(data), "channels": kept})
    else:
        answers.lines([str(path)])
    return 0


def _distilled(
    beginning: "Weights",
    teacher: "Weights",
    pictures: "list[Tensor]",
    settings: "DistillSettings",
    device: Any,
    state: Path,
) -> "Weights":
    from styler.workshop import distill

    where = report.console()
    found = beginning
    for step, weights in distill.distill(beginning, teacher, pictures, settings, device=device, state=state):
        last = step.number == settings.steps
        if step.number % TOLD_EVERY == 0 or last:
            missed = f"gradient {step.gradient:.1%}, features {step.features:.1%}, Gram {step.gram:.1%} missed"
            report.say(where, f"step {step.number} of {settings.steps}: {missed}")
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
    steps: Annotated[int, Parameter(metavar="N", help="of painting, at the first scale (default 40)")] = 40,
    timed_at: Annotated[
        int, Parameter(metavar="N", help="long side that evaluations are timed at (default 512)")
    ] = 512,
    pictures: Annotated[
        FileName | None, Parameter(group=OUTPUT, metavar="FOLDER", help="keep what was painted")
    ] = None,
    plot: Plot = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Tell which network to take: what each costs, and how well it paints by A's judgement. Answers in Markdown."""
    from styler.options import Options
    from styler.workshop import compare as comparison
    from styler.workshop import compare as told
    from styler.workshop import plots

    if a.endswith(".onnx"):
        raise UsageError("A must have gradients, which an ONNX model has not; name a backbone or a file of weights.")
    where = report.console()
    chosen = comparison.load_pairs(Path(images) if images else None, pairs, 2 * size)
    rows = comparison.compare_networks(
        [a, b, *more],
        chosen,
        Options(size=size, steps=steps),
        timed_at=timed_at,
        keep=Path(pictures) if pictures else None,
        say=lambda line: report.say(where, line),
    )
    if plot is not None:
        plots.write_plot(plots.plot_comparison(rows), Path(plot), overwrite=overwrite)
    if json:
        answers.document({"networks": told.scores_to_json(rows)})
    else:
        answers.lines(told.format_table(rows))
    return 0


def diagnose(
    content: Annotated[FileName, Parameter(help="the photo, or the name of one that comes with styler")],
    style: Annotated[FileName, Parameter(help="the painting, likewise")],
    result: Annotated[FileName | None, Parameter(help="what was painted, if anything was")] = None,
    /,
    *,
    backbone: Backbone = "vgg16",
    size: Annotated[int, Parameter(metavar="N", help="long side to look at, in pixels (default 256)")] = 256,
    sheet: Annotated[
        FileName | None, Parameter(group=OUTPUT, metavar="FILE", help="maps and Gram matrices as a picture")
    ] = None,
    overwrite: Overwrite = False,
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
        answers.document(study.diagnosis_to_json(found))
        return 0
    names = [*found.layers[0].similarity]
    rows = [("layer", *names, "dead", "saturated")]
    for layer in found.layers:
        cosines = [f"{layer.similarity[name]:.3f}" for name in names]
        rows.append((layer.name, *cosines, f"{layer.dead}/{layer.channels}", str(layer.saturated)))
    pulls = [("term", "norm of its gradient"), *((name, f"{norm:.3g}") for name, norm in found.gradients.items())]
    told = [*found.problems, *([found.convention] if found.convention and not found.problems else [])]
    answers.lines([*answers.columns(rows), "", *answers.columns(pulls), "", *(told or ["Nothing is wrong."])])
    return 0
