"""Measure time and memory of very many pairs: planning a new batch and a finished one, and writing its index.

    python tests/bench/plan_batch.py [PAIRS]

Seconds are of CPU time. The contents are empty files in folders of a thousand; the manifest is that of a finished
batch.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from styler import images, library
from styler.batch import manifest, plan, report
from styler.batch.discover import SelectionRules
from styler.batch.plan import BatchPlan, BatchRequest
from styler.options import Options


def make_plan(folder: Path) -> tuple[BatchPlan, manifest.ManifestHistory, float, float]:
    """Return the plan, the manifest, and the seconds of CPU time for the manifest and for everything."""
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
    return plan.plan_batch(request, history, Path, Path), history, manifest_seconds, time.process_time() - start


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


def write_index(folder: Path, batch: BatchPlan, history: manifest.ManifestHistory) -> float:
    """Write the index of a finished batch, in which all thumbnails are the same, and return the seconds."""
    thumbnail = report.make_thumbnail(images.read_image(library.find_style("starry-night")).pixels)
    report.save_thumbnail(folder / "out", "0" * 64, thumbnail)
    with manifest.Manifest(folder / "out", history) as open_manifest, mock.patch("os.fsync"):
        start = time.process_time()
        report.write_index(batch, open_manifest)
        return time.process_time() - start


def measure(folder: Path) -> None:
    """Plan the batch in a folder, write the index if it is finished, and print what that took."""
    batch, history, manifest_seconds, seconds = make_plan(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = f"{len(batch.state.todo)} to do, {len(batch.state.done)} done"
    print(f"{counts}: manifest {manifest_seconds:.1f} s, all {seconds:.1f} s, {peak:.0f} MB.")
    if batch.state.done:
        index_seconds = write_index(folder, batch, history)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pages = [path.stat().st_size for path in (folder / "out").glob("*.html")]
        size = sum(pages) / 1e6
        print(f"index of {len(pages)} pages, {size:.0f} MB: {index_seconds:.1f} s, then {peak:.0f} MB of memory.")


def main() -> None:
    """Plan, write the manifest and plan again, in separate processes that measure their own memory."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if len(sys.argv) > 2:
        measure(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create_empty(folder / "style.png")
        for number in range(pairs):
            create_empty(folder / "photos" / str(number // 1000) / f"img{number}.jpg")
        command = [sys.executable, __file__, str(pairs), str(folder)]
        subprocess.run(command, check=True)
        write_manifest(folder, make_plan(folder)[0])
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
