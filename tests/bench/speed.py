"""How fast styler is, against Reference A at equal quality and against the machine's own arithmetic.

    python tests/bench/speed.py [--pairs 4] [--size 256] [--json speed.json] [--contents FOLDER --styles FOLDER]

Quality is Reference A's own objective J on the same network, with its layers and weights, so that the schedule alone
is compared. The reference's results are kept in the user's cache folder by the hash of everything they depend on:
they take 1000 evaluations each. All ratios are measured side by side in one run.
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
from styler.engine.objective import Targets
from styler.engine.result import Progress, Result
from styler.vgg import arch
from styler.vgg.model import Features

WITHIN = 1.02
"""Share of the reference's final J that counts as having reached it."""


def reference_options(size: int) -> Options:
    """Our schedule with Reference A's layers, weights and pooling, and about an eighth of its units at two scales."""
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


def tensor(path: Path) -> Tensor:
    """A picture as (1, 3, H, W)."""
    return torch.from_numpy(images.read_image(path).pixels).permute(2, 0, 1)[None].contiguous()


def reference_file(features: Features, content: Path, style: Path, size: int) -> Path:
    """Where the reference's result for this pair is kept: its name is a hash of everything that it depends on."""
    key = hashlib.sha256(content.read_bytes() + style.read_bytes() + Path(reference.__file__).read_bytes())
    key.update(f"{size} {features.sha256} {features.layers} {features.pooling}".encode())
    return user_cache_path("styler") / "bench" / f"{key.hexdigest()[:24]}.npz"


def painted_reference(features: Features, content: Path, style: Path, size: int) -> dict[str, Any]:
    """Final J, seconds and picture of Reference A; from the cache if it was painted before."""
    kept = reference_file(features, content, style, size)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        began, last = time.perf_counter(), None
        for last in reference.paint(features, tensor(content), tensor(style), size, every=100):
            print(f"  reference: {last.units:.0f} units", flush=True)
        assert last is not None
        sharp = reference.fitted(tensor(content), size)
        j = reference.objective(features, sharp, reference.fitted(tensor(style), size, upwards=False))
        np.savez(
            kept,
            image=last.image.numpy(),
            j=reference.value(j, last.image),
            units=last.units,
            seconds=time.perf_counter() - began,
        )
    with np.load(kept) as stored:
        return {name: stored[name] if name == "image" else float(stored[name]) for name in stored.files}


def _plainly(steps: Iterator[Progress]) -> Iterator[Progress]:
    """A painting by Reference A's own objective: without what our weights follow from, and calmer chroma."""
    compute = targets.compute_targets

    def plain(*args: Any) -> Targets:
        return dataclasses.replace(compute(*args), content_scale=1.0, roughness=1.0)

    with mock.patch.object(targets, "compute", plain), mock.patch.object(targets, "CALM", 0.0):
        yield from steps


def ours(painter: Painter, content: Path, style: Path, size: int, goal: float) -> dict[str, Any]:
    """Our schedule on the same objective: when it reaches the goal, what it ends with, when the first preview came."""
    found: dict[str, Any] = {"units_to_goal": None, "seconds_to_goal": None}
    result: Result | None = None
    photo, painting = images.read_image(content), images.read_image(style)  # decoding is not painting
    began = time.perf_counter()
    for progress in _plainly(painter.stream(photo, painting, reference_options(size))):
        if "first_preview" not in found:
            progress.live_view()
            found["first_preview"] = time.perf_counter() - began
        at_end = progress.scale == len(progress.schedule) - 1
        if at_end and found["units_to_goal"] is None and progress.loss <= goal:
            found |= {"units_to_goal": progress.units, "seconds_to_goal": progress.seconds}
        result = progress.result
    assert result is not None
    return found | {"units": result.units, "seconds": result.seconds, "result": result}


def peak_gflops() -> float:
    """Best of five float32 products of 2048 × 2048 matrices."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = min(_timed(lambda: a @ b) for _ in range(5))
    return 2 * 2048**3 / best / 1e9


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def evaluation(painter: Painter, side: int, rounds: int = 5) -> dict[str, float]:
    """Seconds of one evaluation at side × side with the default objective, and its share of the matmul peak.

    Both are medians of interleaved rounds; the work counted is that of the convolutions alone.
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
            shares.append(work / seconds[-1] / 1e9 / peak_gflops())
        last = time.perf_counter()
    return {"seconds": float(np.median(seconds)), "share_of_peak": float(np.median(shares)), "gflop": work / 1e9}


def pairs(args: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Contents with styles, in turn."""
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
    rows = [_pair_row(painter, content, style, args.size) for content, style in pairs(args)]
    print(
        "\n| pair | reference J | ours J | units to within 2 % | share of the reference's units "
        "| speckle, ours / reference | first preview |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        goal = "not reached" if row["units_to_goal"] is None else f"{row['units_to_goal']:.0f}"
        share = "–" if row["units_to_goal"] is None else f"1/{row['reference_units'] / row['units_to_goal']:.1f}"
        print(
            f"| {row['pair']} | {row['reference_j']:.4f} | {row['j']:.4f} | {goal} of {row['units']:.0f} | {share} "
            f"| {row['speckle_ratio']:.2f} | {row['first_preview']:.2f} s |"
        )
    sizes = {side: evaluation(painter, side) for side in (256, 512)}
    print("\n| one evaluation | seconds | share of the float32 matmul peak |\n|---|---|---|")
    for side, row in sizes.items():
        print(f"| {side}² | {row['seconds']:.3f} | {100 * row['share_of_peak']:.0f} % |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nPeak memory {memory:.0f} MiB, {torch.get_num_threads()} threads, torch {torch.__version__}.")
    if args.json:
        args.json.write_text(json.dumps({"pairs": rows, "evaluation": sizes, "peak_mib": memory}, indent=1))


def _pair_row(painter: Painter, content: Path, style: Path, size: int) -> dict[str, Any]:
    print(f"{content.stem} in the manner of {style.stem}", flush=True)
    features = painter.features(reference_options(size))
    target = painted_reference(features, content, style, size)
    sharp = reference.fitted(tensor(content), size)
    j = reference.objective(features, sharp, reference.fitted(tensor(style), size, upwards=False))
    target["j"] = reference.value(j, torch.from_numpy(target["image"]))
    run = ours(painter, content, style, size, WITHIN * target["j"])
    result = run.pop("result")
    picture = torch.from_numpy(result.pixels).permute(2, 0, 1)[None]
    return run | {
        "pair": f"{content.stem} × {style.stem}",
        "reference_j": target["j"],
        "reference_units": target["units"],
        "j": reference.value(j, picture),
        "speckle_ratio": speckle(picture) / speckle(torch.from_numpy(target["image"])),
    }


if __name__ == "__main__":
    main()
