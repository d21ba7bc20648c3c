"""Figures about matched features: what the parts cost, how exact the matches are, what a step and its memory cost.

    python tests/bench/matching.py parts --sizes 256 512 1024   # seconds of the parts, exactness against brute force
    python tests/bench/matching.py steps --sizes 512            # with and without brushwork, in turns in one process
    python tests/bench/matching.py memory --sizes 512           # peak above the memory before, each in a process

All take `--precisions fp32 bf16` and `--pair CONTENT STYLE` (bundled names or files). Everything is measured with one
scale, so that a picture of 512 pixels has a half-size copy.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from styler import environment

environment.prepare_process()

SAMPLE = 1024
"""Queries that are compared with every candidate by brute force."""
TIE = 1e-3
"""Difference of similarity that makes no difference."""
BRUSHWORK = 50


def make_options(size: int, precision: str, **settings: Any) -> Any:
    """Return the options of a painting of one scale."""
    from styler import Options

    given = {"optimizer": "adam", "brushwork": BRUSHWORK, **settings}
    return Options.of(size=size, first_size=size, precision=precision, **given)


def find_inputs(pair: list[str]) -> tuple[Any, Any]:
    """Return the content and the style."""
    from styler import library

    content, style = pair
    return library.list_contents().get(content, content), library.list_styles().get(style, style)


def clock(name: str, work: Callable[[], Any], rounds: int = 1) -> Any:
    """Print the median of the seconds of some rounds and return the result of the last."""
    seconds, result = [], None
    for _ in range(rounds):
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
    print(f"    {name:<24}{median(seconds):8.3f} s", flush=True)
    return result


def measure_parts(size: int, precision: str, pair: list[str]) -> None:
    """Print the seconds of every part of the matching of a scale, and the exactness of the matches."""
    import torch

    from styler import Painter
    from styler.engine import targets
    from styler.engine.device import prepare_torch
    from styler.engine.sources import load_content, load_styles
    from styler.geometry import fit_size
    from styler.objective.candidates import compute_columns, gather_features, prepare_candidates
    from styler.objective.matching import find_matches
    from styler.resample import resize

    options = make_options(size, precision)
    painter = Painter.of(options)
    content, styles = find_inputs(pair)
    with prepare_torch(painter.device), torch.no_grad():
        network = painter.features(options).select(targets.MATCHED_LAYERS)
        photo, style = load_content(content).image, load_styles(styles)[0].image
        photo, style = (resize(each, *fit_size(each.shape[-1], each.shape[-2], size)) for each in (photo, style))
        maps = network(photo)
        turned = [torch.rot90(style, turns, (-2, -1)) for turns in range(targets.MATCHED_VIEWS)]
        views = clock("views", lambda: [network(each) for each in turned])
        base = targets.BASE_LAYER
        limit = targets.MAX_CANDIDATES
        candidates = clock("candidates", lambda: prepare_candidates([views], compute_columns(maps, base), base, limit))
        queries = clock("columns of the query", lambda: compute_columns(maps, base), 3)
        matches = clock("matching", lambda: find_matches(queries, candidates), 3 if size <= 512 else 1)
        grid = matches.view(maps[base].shape[-2:])
        sizes = {layer: (each.shape[-2], each.shape[-1]) for layer, each in maps.items()}
        clock("gathering", lambda: [gather_features(layer, sizes[layer], grid, candidates) for layer in maps], 3)
        lost = measure_losses(queries, matches, candidates)
        index = float((lost == 0).float().mean())
        tied = float((lost < TIE).float().mean())
        print(
            f"    {len(queries)} queries, {len(candidates.columns)} candidates; exact {index:.3f}, "
            f"within {TIE} of the best {tied:.3f}, largest loss of similarity {float(lost.max()):.4f}",
            flush=True,
        )


def measure_losses(queries: Any, matches: Any, candidates: Any) -> Any:
    """Return how much less similar than the best candidate the match of some queries is; 0 only if it is the best."""
    import torch

    from styler.objective.candidates import normalize_columns

    some = torch.randperm(len(queries), generator=torch.Generator().manual_seed(1))[:SAMPLE]
    wide = candidates.columns.float()
    cosines = torch.cat([part @ wide.T for part in torch.split(normalize_columns(queries[some]), 128)])  # (n, K)
    best, found = cosines.max(dim=1), cosines.gather(1, matches[some, None])[:, 0]
    return torch.where(matches[some] == best.indices, 0, (best.values - found).clamp(min=1e-9))


def measure_steps(size: int, precision: str, pair: list[str], rounds: int) -> None:
    """Print the seconds of a step with and without brushwork, each over whole intervals between matches, in turns."""
    from styler import Painter
    from styler.engine.targets import MATCHING_INTERVAL

    painter = Painter.of(make_options(size, precision))
    runs: dict[str, Iterator[Any]] = {}
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for name in seconds:
        options = make_options(size, precision, brushwork=BRUSHWORK * (name == "with"), iterations=1000)
        runs[name] = painter.stream(*find_inputs(pair), options)
        for _ in range(MATCHING_INTERVAL):
            next(runs[name])
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            for _ in range(MATCHING_INTERVAL):
                next(run)
            seconds[name].append((time.perf_counter() - began) / MATCHING_INTERVAL)
    without, brushed = (median(each) for each in seconds.values())
    print(f"    step {without:.3f} s, with brushwork {brushed:.3f} s: {brushed / without:.2f} ×", flush=True)


def measure_memory(size: int, precision: str, pair: list[str]) -> None:
    """Print the peak of a painting of three steps without and with brushwork."""
    peaks = []
    for brushwork in (0, BRUSHWORK):
        command = [sys.executable, __file__, "paint", "--sizes", str(size), "--precisions", precision, "--pair", *pair]
        done = subprocess.run([*command, "--brushwork", str(brushwork)], check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(float(done.stdout))
    print(f"    peak {peaks[0]:.0f} MB, with brushwork {peaks[1]:.0f} MB: {peaks[1] / peaks[0]:.2f} ×", flush=True)


def paint(size: int, precision: str, pair: list[str], brushwork: float) -> None:
    """Paint three steps and print the megabytes that this takes at its peak."""
    import resource

    import psutil

    from styler import Painter

    options = make_options(size, precision, brushwork=brushwork, iterations=3, checkpoint="off")
    painter = Painter.of(options)
    painter.features(options)
    before = psutil.Process().memory_info().rss
    painter.stylize(*find_inputs(pair), options)
    print((1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6, flush=True)


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("parts", "steps", "memory", "paint"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[512])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--pair", nargs=2, default=["astronaut", "starry-night"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--brushwork", type=float, default=BRUSHWORK)
    args = parser.parse_args()
    for size in args.sizes:
        for precision in args.precisions:
            if args.what == "paint":
                paint(size, precision, args.pair, args.brushwork)
                continue
            print(f"{' × '.join(args.pair)}, {size} px, {precision}:", flush=True)
            if args.what == "parts":
                measure_parts(size, precision, args.pair)
            elif args.what == "steps":
                measure_steps(size, precision, args.pair, args.rounds)
            else:
                measure_memory(size, precision, args.pair)


if __name__ == "__main__":
    main()
