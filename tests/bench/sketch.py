"""Measure what a sketch by the slim network gains: paintings of equal work with and without one.

    python tests/bench/sketch.py [--preset draft] [--size 256] [--shares 0.6] [--pairs 4] [--rounds 2] [--images FOLDER]

Prints one line per pair and share: seconds of painting (the minimum of interleaved rounds), the objective of the full
network, its distance of style at layers that no objective uses, and the distance of style and the structure of
`quality.py`. All but the seconds are ratios to the painting without a sketch.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from heldout import StyleJudge
from quality import to_image
from reference import fit_size

from styler import Options, Painter, Result
from styler.vgg import registry, weights
from styler.workshop import compare
from styler.workshop.compare import NetworkScore


class Scorer:
    """Scores paintings of a pair."""

    def __init__(self, options: Options) -> None:
        self._full, self._other = compare.Judge(registry.load_backbone(weights.EMBEDDED), options), StyleJudge()

    def score(self, pair: compare.PicturePair, result: Result) -> tuple[float, ...]:
        """Return the objective, the held-out distance of style, that of the other network, and the structure."""
        name, _, style = pair
        picture = torch.from_numpy(result.pixels).permute(2, 0, 1)[None].contiguous()
        row = NetworkScore("", 0, 0)
        self._full.score(row, pair, picture)
        painting = to_image(fit_size(style, max(picture.shape[-2:]), upwards=False))
        distance = self._other.distance(to_image(picture), painting)
        return row.objective[name], row.held_out[name], distance, row.structure[name]


def main() -> None:
    """Paint in turns, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=Path, help="with folders contents and styles in it")
    args = parser.parse_args()
    settings = {"preset": args.preset, "size": args.size, "multiscale": 0.0}  # one objective for all
    options = [Options.of(**settings, sketch=share) for share in (0.0, *args.shares)]
    painter, scorer = Painter(), Scorer(options[0])
    for each in options:  # so that the first painting is not timed with loading
        painter.load_networks(each)
    print("| pair | sketch | iterations | seconds | objective | held-out | style | structure |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for pair in compare.load_pairs(args.images, args.pairs, 2 * args.size):
        content, style = (np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()) for image in pair[1:])
        results: dict[float, list[Result]] = {}
        for _ in range(args.rounds):
            for each in options:
                results.setdefault(each.sketch, []).append(painter.stylize(content, style, each))
        plain: tuple[float, ...] = ()
        for share, repeats in results.items():
            seconds = min(result.seconds for result in repeats)
            now = (seconds, *scorer.score(pair, repeats[0]))
            plain = plain or now
            ratios = " | ".join(f"{ours / theirs:.3f} ×" for ours, theirs in zip(now[1:], plain[1:], strict=True))
            steps = ", ".join(f"{s.iterations}{' slim' * s.sketch}" for s in repeats[0].schedule)
            print(f"| {pair[0]} | {share:g} | {steps} | {seconds:.2f} s | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
