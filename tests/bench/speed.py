"""Measure the speed of styler against Reference A at equal quality, and against the processor's peak.

    python tests/bench/speed.py [--pairs 4] [--size 256] [--json speed.json] [--contents FOLDER --styles FOLDER]

Quality is Reference A's own objective J on the same network, with its layers and weights, so that only the schedules
are compared. The reference's results are cached in the user's cache folder under a hash of all their inputs, since each
takes 1000 evaluations. All ratios are measured side by side in one run.
"""

import argparse
import dataclasses
import hashlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import reference
import torch
from platformdirs import user_cache_path
from scores import speckle
from torch import Tensor

from styler import Options, Painter, images, library
from styler.engine import targets
from styler.engine.result import Progress, Result
from styler.objective.terms import Targets
from styler.vgg import arch
from styler.vgg.model import Features

WITHIN = 1.02
"""The reference is reached when J is at most this multiple of its final J."""


def reference_options(size: int) -> Options:
    """Return our schedule, about an eighth of the reference's units, with Reference A's layers, weights and pooling."""
    return Options.of(
        size=size,
        iterations=80,
        taper=1.3,
        style_layers=tuple(reference.STYLE_WEIGHTS),
        layer_weights=tuple(reference.STYLE_WEIGHTS.values()),
        content_weight=reference.CONTENT_WEIGHTS["relu4_2"],
        smoothness=reference.SMOOTHNESS,
        multiscale=0.0,
        pooling="max",
    )


def load_tensor(path: Path) -> Tensor:
    """Load a picture as (1, 3, H, W)."""
    return torch.from_numpy(images.read_image(path).pixels).permute(2, 0, 1)[None].contiguous()


def locate_reference(features: Features, content: Path, style: Path, size: int) -> Path:
    """Return the path of the reference's cached result for a pair; its name is a hash of all inputs."""
    key = hashlib.sha256(content.read_bytes() + style.read_bytes() + Path(reference.__file__).read_bytes())
    key.update(f"{size} {features.sha256} {features.layers} {features.pooling}".encode())
    return user_cache_path("styler") / "bench" / f"{key.hexdigest()[:24]}.npz"


def paint_reference(features: Features, content: Path, style: Path, size: int) -> dict[str, Any]:
    """Return final J, seconds and picture of Reference A, from the cache if possible."""
    path = locate_reference(features, content, style, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        began, last = time.perf_counter(), None
        for last in reference.paint(features, load_tensor(content), load_tensor(style), size, every=100):
            print(f"  reference: {last.units:.0f} units", flush=True)
        assert last is not None
        sharp = reference.fit_size(load_tensor(content), size)
        j = reference.build_objective(features, sharp, reference.fit_size(load_tensor(style), size, upwards=False))
        np.savez(
            path,
            image=last.image.numpy(),
            j=reference.evaluate(j, last.image),
            units=last.units,
            seconds=time.perf_counter() - began,
        )
    with np.load(path) as stored:
        return {name: stored[name] if name == "image" else float(stored[name]) for name in stored.files}


def _simplify_objective(steps: Iterator[Progress]) -> Iterator[Progress]:
    """Paint with Reference A's objective: without our content scale, relative roughness and chroma smoothness."""
    compute = targets.compute_targets

    def compute_plain(*args: Any) -> Targets:
        return dataclasses.replace(compute(*args), content_scale=1.0, roughness=1.0)

    with (
        mock.patch.object(targets, "compute_targets", compute_plain),
        mock.patch.object(targets, "CHROMA_SMOOTHNESS", 0.0),
    ):
        yield from steps


def paint_ours(painter: Painter, content: Path, style: Path, size: int, goal: float) -> dict[str, Any]:
    """Run our schedule on the same objective; report when it reaches the goal, its result and the first live view."""
    report: dict[str, Any] = {"units_to_goal": None, "seconds_to_goal": None}
    result: Result | None = None
    photo, painting = images.read_image(content), images.read_image(style)  # decoding is not timed
    began = time.perf_counter()
    for progress in _simplify_objective(painter.stream(photo, painting, reference_options(size))):
        if "first_view" not in report:
            progress.live_view()
            report["first_view"] = time.perf_counter() - began
        at_end = progress.scale == len(progress.schedule) - 1
        if at_end and report["units_to_goal"] is None and progress.loss <= goal:
            report |= {"units_to_goal": progress.units, "seconds_to_goal": progress.seconds}
        result = progress.result
    assert result is not None
    return report | {"units": result.units, "seconds": result.seconds, "result": result}


def measure_peak() -> float:
    """Return the GFLOP/s of the best of five float32 products of 2048 × 2048 matrices."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = min(_time(lambda: a @ b) for _ in range(5))
    return 2 * 2048**3 / best / 1e9


def _time(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_evaluation(painter: Painter, side: int, rounds: int = 5) -> dict[str, float]:
    """Measure one evaluation of the default objective at side × side: seconds and share of the matmul peak.

    Both are medians of interleaved rounds; only the operations of the convolutions are counted.
    """
    options = Options.of(size=side, first_size=side, iterations=rounds + 1, optimizer="adam")
    features = painter.features(options)
    work = 2 * arch.count_flops(features.network, features.layers, side * side)
    pixels = np.random.default_rng(0).random((side, side, 3), dtype=np.float32)
    shares, seconds, last = [], [], None
    for progress in painter.stream(pixels, pixels[::-1], options):
        now = time.perf_counter()
        if last is not None and progress.result is None:
            seconds.append(now - last)
            shares.append(work / seconds[-1] / 1e9 / measure_peak())
        last = time.perf_counter()
    return {"seconds": float(np.median(seconds)), "share_of_peak": float(np.median(shares)), "gflop": work / 1e9}


def list_pairs(args: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Yield each content with a style, cycling through the styles."""
    contents = sorted(args.contents.iterdir()) if args.contents else list(library.list_contents().values())
    styles = sorted(args.styles.iterdir()) if args.styles else list(library.list_styles().values())
    for index in range(min(args.pairs, len(contents))):
        yield contents[index], styles[index % len(styles)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--contents", type=Path)
    parser.add_argument("--styles", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    painter = Painter()
    rows = [_pair_row(painter, content, style, args.size) for content, style in list_pairs(args)]
    print(
        "\n| pair | reference J | ours J | units to within 2 % | share of the reference's units "
        "| speckle, ours / reference | first live view |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        goal = "not reached" if row["units_to_goal"] is None else f"{row['units_to_goal']:.0f}"
        share = "–" if row["units_to_goal"] is None else f"1/{row['reference_units'] / row['units_to_goal']:.1f}"
        print(
            f"| {row['pair']} | {row['reference_j']:.4f} | {row['j']:.4f} | {goal} of {row['units']:.0f} | {share} "
            f"| {row['speckle_ratio']:.2f} | {row['first_view']:.2f} s |"
        )
    sizes = {side: measure_evaluation(painter, side) for side in (256, 512)}
    print("\n| one evaluation | seconds | share of the float32 matmul peak |\n|---|---|---|")
    for side, row in sizes.items():
        print(f"| {side}² | {row['seconds']:.3f} | {100 * row['share_of_peak']:.0f} % |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory {memory:.0f} MiB, {torch.get_num_threads()} threads, torch {torch.__version__}.")
    if args.json:
        args.json.write_text(json.dumps({"pairs": rows, "evaluation": sizes, "peak_mib": memory}, indent=1))


def _pair_row(painter: Painter, content: Path, style: Path, size: int) -> dict[str, Any]:
    print(f"{content.stem} in the style of {style.stem}", flush=True)
    features = painter.features(reference_options(size))
    target = paint_reference(features, content, style, size)
    sharp = reference.fit_size(load_tensor(content), size)
    j = reference.build_objective(features, sharp, reference.fit_size(load_tensor(style), size, upwards=False))
    target["j"] = reference.evaluate(j, torch.from_numpy(target["image"]))
    run = paint_ours(painter, content, style, size, WITHIN * target["j"])
    result = run.pop("result")
    picture = torch.from_numpy(result.pixels).permute(2, 0, 1)[None]
    return run | {
        "pair": f"{content.stem} × {style.stem}",
        "reference_j": target["j"],
        "reference_units": target["units"],
        "j": reference.evaluate(j, picture),
        "speckle_ratio": speckle(picture) / speckle(torch.from_numpy(target["image"])),
    }


if __name__ == "__main__":
    main()
