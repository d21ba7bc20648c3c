"""Measure time and memory of planning very many pairs: a new batch, and one that is finished.

    python tests/bench/plan_batch.py [PAIRS]

The contents are empty files in folders of a thousand; the manifest is that of a finished batch.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from styler.batch import manifest, plan
from styler.batch.discover import SelectionRules
from styler.batch.plan import BatchPlan, BatchRequest
from styler.options import Options


def make_plan(folder: Path) -> tuple[BatchPlan, float, float]:
    """Return the plan, and the seconds of CPU time for the manifest and for everything."""
    start = time.process_time()
    history = manifest.read_manifest(folder / "out")
    manifest_seconds = time.process_time() - start
    request = BatchRequest(
        contents=(str(folder / "photos"),),
        styles=(str(folder / "style.png"),),
        out=folder / "out",
        options=Options(),
        rules=SelectionRules(recursive=True),
    )
    return plan.plan_batch(request, history, Path, Path), manifest_seconds, time.process_time() - start


def write_manifest(folder: Path, batch: BatchPlan) -> None:
    """Write what a finished batch leaves: two lines for each picture, and the pictures, which are empty here."""
    settings = plan.hash_settings(batch.settings)
    with (
        manifest.Manifest(folder / "out", manifest.ManifestHistory()) as open_manifest,
        mock.patch("os.fsync"),  # the speed of the disk is not measured
    ):
        open_manifest.add(
            manifest.RUN, settings=settings, options=batch.settings, pairs=len(batch.pairs), todo=len(batch.pairs)
        )
        for pair in batch.pairs:
            content = {**batch.files.describe(pair.content.path), "sha256": "0" * 64}
            styles = [{**batch.files.describe(style.path), "sha256": "0" * 64} for style in pair.styles]
            facts = {"output": pair.output, "settings": settings, "content": content, "styles": styles}
            open_manifest.add(manifest.WRITING, **facts, sha256="0" * 64)
            open_manifest.add(manifest.DONE, output=pair.output, seconds=1.0)
            create_empty(folder / "out" / pair.output)


def create_empty(path: Path) -> None:
    """Create an empty file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def main() -> None:
    """Plan, write the manifest and plan again, in separate processes that measure their own memory."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    if len(sys.argv) > 2:
        batch, manifest_seconds, seconds = make_plan(Path(sys.argv[2]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        state = batch.state
        counts = f"{len(state.todo)} to do, {len(state.done)} done"
        print(f"{counts}: manifest {manifest_seconds:.1f} s, all {seconds:.1f} s, {peak:.0f} MB.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_empty(folder / "style.png")
        for number in range(pairs):
            create_empty(folder / "photos" / str(number // 1000) / f"img{number}.jpg")
        command = f"{sys.executable} {__file__} {pairs} {folder}"
        os.system(command)
        write_manifest(folder, make_plan(folder)[0])
        os.system(command)


if __name__ == "__main__":
    main()
