"""How long a plan of very many pairs takes, and how much memory: made anew, and resumed when all of it is done.

    python tests/bench/plan_batch.py [PAIRS]

Contents are empty files, in folders of a thousand; the manifest is what a batch of them would have left.
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


def planned(folder: Path) -> tuple[BatchPlan, float, float]:
    """The plan, and seconds of the processor for the manifest and for all."""
    began = time.process_time()
    past = manifest.read_manifest(folder / "out")
    read = time.process_time() - began
    request = BatchRequest(
        contents=str(folder / "photos"),
        styles=str(folder / "style.png"),
        out=folder / "out",
        options=Options(),
        rules=SelectionRules(recursive=True),
    )
    return plan.plan_batch(request, past, Path, Path), read, time.process_time() - began


def write_manifest(folder: Path, batch: BatchPlan) -> None:
    """What a batch that is done leaves: two lines a picture, and the pictures themselves, which are empty here."""
    settings = plan.hash_settings(batch.settings)
    with (
        manifest.Manifest(folder / "out", manifest.ManifestHistory()) as book,
        mock.patch("os.fsync"),
    ):  # it is no bench of the disk
        book.add(manifest.RUN, settings=settings, options=batch.settings, pairs=len(batch.pairs), todo=len(batch.pairs))
        for pair in batch.pairs:
            content = {**batch.files.state(pair.content.path), "sha256": "0" * 64}
            styles = [{**batch.files.state(style.path), "sha256": "0" * 64} for style in pair.styles]
            facts = {"output": pair.output, "settings": settings, "content": content, "styles": styles}
            book.add(manifest.WRITING, **facts, sha256="0" * 64)
            book.add(manifest.DONE, output=pair.output, seconds=1.0)
            place = folder / "out" / pair.output
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def main() -> None:
    """Plan, write the manifest, plan again in a process of its own, so that its memory is its own."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    if len(sys.argv) > 2:
        batch, read, whole = planned(Path(sys.argv[2]))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        now = batch.state
        print(f"{len(now.todo)} to do, {len(now.done)} done: manifest {read:.1f} s, all {whole:.1f} s, {most:.0f} MB.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "style.png").touch()
        for number in range(pairs):
            place = folder / "photos" / str(number // 1000) / f"img{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        again = f"{sys.executable} {__file__} {pairs} {folder}"
        os.system(again)
        write_manifest(folder, planned(folder)[0])
        os.system(again)


if __name__ == "__main__":
    main()
