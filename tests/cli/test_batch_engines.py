"""`styler batch`: workers, the table in styler.toml, and a full disk."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images
from styler.cli import main

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--threads", "1"]
CPU = ["--device", "cpu"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with three photos, one of them in a folder, and a painting; the network is tiny."""
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "photos/sub/c.png", "x.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["batch", "photos", "x.png", "-o", "out", *TINY, *tokens])


def test_every_device_is_a_worker(folder: Path, capsys: Capture) -> None:
    assert paint("--devices", "cpu, cpu") == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["out/a.x.png", "out/b.x.png"]
    assert paint("--devices", "cpu") == 0, "the device does not change the pictures"
    assert "0 done, 0 failed, 2 skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["--devices", "cpu,cpu", *CPU], "--device and --devices are mutually exclusive; give only one of them."),
        (
            ["--devices", "cpu,cpu", "--engine", "ray"],
            "--devices names devices of this machine, but Ray chooses its own",
        ),
        (["--ray-address", "local"], "--ray-address requires --engine ray; add it, or omit --ray-address."),
        (["--cpus-per-worker", "2"], "--cpus-per-worker requires --engine ray; add it, or omit --cpus-per-worker."),
        (["--engine", "ray", "--cpus-per-worker", "0"], "cpus_per_worker is 0; it can be a whole number above 0."),
        (["--engine", "spark"], "spark"),
    ],
    ids=" ".join,
)
def test_contradictory_flags_are_rejected(tokens: list[str], sentence: str, folder: Path, capsys: Capture) -> None:
    assert paint(*tokens) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_a_file_url_is_a_valid_output_folder(folder: Path, capsys: Capture) -> None:
    out = folder / "far away"
    assert main(["batch", "photos", "x.png", "-o", f"file://{out}", *TINY, *CPU, "--no-index"]) == 0
    assert {path.name for path in out.glob("*.png")} == {"a.x.png", "b.x.png"}
    assert main(["batch", "photos", "x.png", "-o", "s3://bucket/out", *TINY, *CPU]) == 2
    assert re.search(r"are written on this machine.*give a local folder with -o", capsys.readouterr().err)


def test_a_dry_run_counts_the_workers_and_opens_urls(folder: Path, capsys: Capture) -> None:
    tokens = ["batch", f"file://{folder}/photos", "x.png", "-o", "out", *TINY, "--dry-run", "--devices", "cpu,cpu"]
    assert main(tokens) == 0
    page = capsys.readouterr().out
    assert "if all are like the first one, with 2 workers" in page
    assert f"'file://{folder}/photos/a.png' × 'x.png' → 'out/a.x.png'" in page
    assert not (folder / "out").exists()


def test_the_batch_table_sets_flags(folder: Path, capsys: Capture) -> None:
    (folder / "styler.toml").write_text(
        'seed = 3\n[batch]\nrecursive = true\nexclude = ["b*"]\nformat = "jpg"\nno_index = true\niterations = 2\n'
        'devices = "cpu,cpu"\nmax_failures = 2\nname = "{content}-{seed}.{ext}"\nbackground = "black"\n'
    )
    assert paint() == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["out/a-3.jpg", "out/sub/c-3.jpg"]
    assert not (folder / "out" / "index.html").exists()
    assert main(["batch", "photos", "x.png", "-o", "two", *TINY, "--format", "png", "--name", "{content}.{ext}"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["two/a.png", "two/sub/c.png"]
    assert main(["run", "photos/a.png", "x.png", *TINY, *CPU, "-o", "one.png", "-q"]) == 0


def test_flags_override_the_local_file_which_overrides_the_user_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    (home / "styler").mkdir()
    (home / "styler" / "styler.toml").write_text('[batch]\nformat = "webp"\nno_index = true\n')
    (folder / "styler.toml").write_text('[batch]\nformat = "jpg"\n')
    assert paint(*CPU) == 0
    assert capsys.readouterr().out.splitlines() == ["out/a.x.jpg", "out/b.x.jpg"]
    assert not (folder / "out" / "index.html").exists()


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ('formt = "jpg"', 2, r"In 'styler.toml': There is no setting 'formt'"),
        ("overwrite = true", 2, r"In 'styler.toml': There is no setting 'overwrite'"),
        ('format = "bmp"', 2, r"bmp"),
        ('max_failures = "many"', 2, r"many"),
        ("recursive = ", 2, r"The settings in 'styler.toml' are not valid TOML"),
    ],
)
def test_an_invalid_batch_table_is_an_error(text: str, code: int, sentence: str, folder: Path, capsys: Capture) -> None:
    (folder / "styler.toml").write_text(f"[batch]\n{text}\n")
    assert paint(*CPU) == code
    err = capsys.readouterr().err
    assert re.search(f"^styler: error: .*{sentence}", err)
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_fails_one_picture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, capsys: Capture
) -> None:
    spare = tmp_path_factory.mktemp("spare")
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    (folder / "out").mkdir()
    (folder / "out" / "a.x.png").symlink_to("/dev/full")
    assert paint(*CPU, "--overwrite", "-q") == 3
    out, err = capsys.readouterr()
    assert out == "out/b.x.png\n"
    assert err == (
        "styler: error: Cannot write 'out/a.x.png': the disk is full; free up space or choose another folder; the "
        f"picture was saved as '{spare}/a.x.png'.\n"
    )
    assert images.read_image(spare / "a.x.png").width == 64
