"""The record inside a picture is complete, contains no file names, and is validated when it is read."""

import copy
import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, provenance
from styler.cli.flags import Flags, read_flags
from styler.engine.result import Result
from styler.errors import ImageError, UsageError
from styler.images import Picture, encode_image
from styler.options import Options, resolve_options
from styler.provenance import (
    MACHINE_OPTIONS,
    RECORD_SCHEMA,
    SCHEDULE_OPTIONS,
    EarlierPicture,
    Record,
    ScaleRecord,
    format_command,
    read_record,
)
from styler.regions.resolve import MaskEntry
from styler.schedule import Replay, Scale
from styler.vgg import importers

Array = NDArray[np.float32]
FORMATS = ("png", "jpeg", "webp", "avif", "tiff")
PIXELS = np.full((48, 64, 3), 0.5, np.float32)
CONTENT, STYLE, OTHER = (Picture(PIXELS, sha256=digit * 64) for digit in "abc")
EXECUTED = (Scale(32, 24, 6, "lbfgs", sketch=True), Scale(64, 48, 3, "adam", planned=8, half_size_copies=1))


def make_result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "pixels": PIXELS,
        "options": Options.of(preset="draft", look="gram", size=64, strength=70, threads=2, seed=2**32 - 1),
        "schedule": EXECUTED,
        "losses": {"content relu4_2": 0.1, "total": 1 / 3, "style relu1_1": float("inf")},
        "units": 4.5,
        "seconds": 1.23456,
        "scale_seconds": (1.0, 0.2),
        "stopped": True,
        "device": "cpu",
        "precision": "float32",
        "threads": 2,
        "weights_sha256": "d" * 64,
        "slim_sha256": "f" * 64,
        "processor": "AVX2",
        "torch": "2.14.1",
        "content_sha256": "a" * 64,
        "style_sha256": ("b" * 64,),
    }
    return Result(**{**fields, **changes})


def encode_record(record: Any, format_: str = "png") -> bytes:
    """Encode a picture with anything in place of the record."""
    return encode_image(
        PIXELS, format=format_, text={provenance.RECORD_KEY: record if isinstance(record, str) else json.dumps(record)}
    )


@pytest.fixture
def record() -> Record:
    return provenance.make_record(make_result())


@pytest.mark.parametrize("format_", FORMATS)
def test_a_record_is_read_from_every_format(format_: str, record: Record) -> None:
    assert read_record(encode_image(PIXELS, format=format_, text=provenance.record_to_text(record))) == record


def test_a_record_describes_the_result(record: Record) -> None:
    assert record["schema"] == RECORD_SCHEMA
    assert record["options"] == make_result().options.to_dict()
    assert (record["content"], record["styles"], record["init"]) == ("a" * 64, ["b" * 64], "")
    assert (record["width"], record["height"]) == (64, 48)
    assert (record["iterations"], record["units"], record["seconds"]) == (9, 4.5, 1.235)
    assert record["losses"] == {"content relu4_2": 0.1, "total": 1 / 3}
    assert provenance.replay_from_record(record) == make_result().replay == Replay(EXECUTED, 64, 48)
    empty = provenance.make_record(make_result(schedule=(), scale_seconds=()))
    assert provenance.replay_from_record(empty) is None


def test_the_settings_of_a_record_give_the_same_options_except_for_the_machine(record: Record) -> None:
    options = make_result().options.replace(device="cuda:1", precision="bf16", checkpoint="on", threads=0)
    record = provenance.make_record(make_result(options=options))
    settings = provenance.settings_from_record(record)
    assert not set(settings) & set(MACHINE_OPTIONS)
    assert settings["threads"] == 2, "the number that was used, although the option was 0"
    assert settings["precision"] == "fp32", "the one that was used, whatever the option was"
    chosen = {"precision": "fp32", "protect": ("none",)}
    assert resolve_options(("--from", settings)).options == make_result().options.replace(**chosen)
    again = resolve_options(("--from", settings), ("flag", {"preset": "fine", "strength": 10})).options
    assert (again.iterations, again.strength, again.distance) == (140, 10, "gram")


def test_every_option_that_determines_the_schedule_is_listed() -> None:
    determining = {"size", "time", "patience", "iterations", "taper", "sketch", "multiscale", "first_size", "optimizer"}
    assert set(SCHEDULE_OPTIONS) == determining | {"preset", "paper", "fit"}


def test_a_look_that_changes_the_schedule_replaces_the_recorded_one(tmp_path: Path) -> None:
    options = Options.of(size=64, smoothness=0.1)
    path = images.write_file(tmp_path / "a.png", encode_record(provenance.make_record(make_result(options=options))))
    assert provenance.load_earlier(str(path), {"look": "gatys"}).replay is None
    assert provenance.load_earlier(str(path), {"look": "oil"}).replay == make_result().replay


def test_the_command_in_a_record_gives_the_same_options(record: Record) -> None:
    assert format_command(record) == (
        "styler run CONTENT STYLE --size 64 --preset draft --look gram --strength 70 --seed 4294967295 --threads 2"
    )
    odd = Options.of(
        preset="fine",
        taper=0.1 + 0.2,
        style_weights=(1, 0.3),
        content_layers=(),
        layer_weights=(1e-3, 2, 3, 4, 5, 1e9),
        size="original",
    )
    words = shlex.split(
        format_command(provenance.make_record(make_result(options=odd, style_sha256=("b" * 64, "c" * 64))))
    )
    assert words[:5] == ["styler", "run", "CONTENT", "STYLE1", "STYLE2"]
    pairs = dict(zip(words[5::2], words[6::2], strict=True))
    flags = Flags(**{flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs.items()})
    assert resolve_options(("flag", read_flags(flags))).options == odd
    assert format_command(provenance.make_record(make_result(options=Options()))) == "styler run CONTENT STYLE"


FACES = MaskEntry("faces", "found", "1" * 64, 0.04, "centerface", "2" * 64)
SKY = MaskEntry("in/some/sky.png", "file", "3" * 64, 0.3)
MASKED = {
    "options": Options(protect=("in/some/sky.png=80", "other/sky.png", "C:\\x\\faces"), regions=("faces",)),
    "style_sha256": ("b" * 64, "c" * 64),
    "masks": (
        SKY,
        dataclasses.replace(SKY, name="other/sky.png"),
        dataclasses.replace(SKY, name="C:\\x\\faces"),
        FACES,
    ),
}


def test_masks_are_recorded_without_their_folders() -> None:
    record = provenance.make_record(make_result(**MASKED))
    assert record["options"]["protect"] == ["sky.png=80", "sky-2.png", "./faces"]
    assert [mask["name"] for mask in record["masks"]] == ["sky.png", "sky-2.png", "./faces", "faces"]
    assert read_record(encode_record(record)) == record
    assert shlex.split(provenance.format_replay_command(record))[4:] == [
        *("CONTENT", "STYLE1", "--protect", "sky.png=80", "--protect", "sky-2.png", "--protect", "./faces"),
        *("--region", "faces=STYLE2"),
    ]
    long = Options(labels=f"{'y' * 150}\x07.png", protect=("#ff0000",))
    record = provenance.make_record(make_result(options=long))
    assert record["options"]["labels"] == f"{'y' * 100}.png"
    assert read_record(encode_record(record)) == record


def test_faces_are_replayed_only_if_they_were_found(record: Record) -> None:
    assert provenance.settings_from_record(record)["protect"] == ["none"]
    record = provenance.make_record(make_result(masks=(FACES,)))
    assert provenance.settings_from_record(record)["protect"] == []


def test_records_of_versions_without_masks_can_be_replayed(record: Record) -> None:
    old: Any = copy.deepcopy(record)
    del old["masks"]
    for name in ("protect", "regions", "labels"):
        del old["options"][name]
    assert read_record(encode_record(old)) == record


@pytest.mark.parametrize(
    "options",
    [
        {"protect": ["../secret.png"]},
        {"labels": "/etc/labels.png", "protect": ["#ff0000"]},
        {"regions": ["x\\y.png"]},
        {"regions": ["subject", "faces"]},
        {"protect": ["faces=200"]},
    ],
)
def test_masks_in_a_record_are_validated(options: dict[str, Any], record: Record) -> None:
    masked = {**record, "options": {**record["options"], **options}, "styles": ["b" * 64] * 2}
    with pytest.raises(ImageError, match="damaged"):
        read_record(encode_record(masked))


def test_masks_are_compared_if_the_photo_is_the_same() -> None:
    earlier = EarlierPicture(provenance.make_record(make_result(**MASKED)))
    other = dataclasses.replace(SKY, name="sky.png", sha256="4" * 64)
    assert earlier.compare_masks(make_result(**MASKED)) == []
    options = Options(protect=("moved/sky.png",))
    same = dataclasses.replace(SKY, name="moved/sky.png")
    assert earlier.compare_masks(make_result(options=options, masks=(same,))) == []
    for entry in (other, dataclasses.replace(FACES, sha256="4" * 64)):
        sentence = f"The mask '{entry.name}' differs from the recorded one."
        assert earlier.compare_masks(make_result(masks=(entry,))) == [sentence]
        assert earlier.compare_masks(make_result(masks=(entry,), content_sha256="9" * 64)) == []


def test_an_initial_picture_file_is_recorded_by_its_hash(tmp_path: Path) -> None:
    options = Options(init=str(tmp_path / "secret.png"))
    record = provenance.make_record(make_result(options=options, start_sha256="c" * 64))
    assert (record["options"]["init"], record["init"]) == ("file", "c" * 64)
    assert "secret" not in json.dumps(record)
    assert "init" not in provenance.settings_from_record(
        read_record(encode_image(PIXELS, text=provenance.record_to_text(record)))
    )
    assert format_command(record) == "styler run CONTENT STYLE --init START"
    assert provenance.format_replay_command(record) == "styler run --from FILE CONTENT STYLE --init START"
    earlier = EarlierPicture(record)
    assert earlier.compare_inputs(CONTENT, [STYLE], OTHER) == []
    assert earlier.compare_inputs(CONTENT, [STYLE], STYLE) == [
        "The picture given with --init differs from the recorded file."
    ]


def test_a_weights_file_is_recorded_by_its_hash(tmp_path: Path) -> None:
    """Its path may name a person, and a record must not choose which files are read."""
    assert set(provenance.WEIGHTS_SUFFIXES) == set(importers.READERS)
    record = provenance.make_record(make_result(options=Options(backbone=str(tmp_path / "secret.PTH"))))
    assert "secret" not in json.dumps(record)
    path = images.write_file(
        tmp_path / "a.png", encode_image(PIXELS, text=provenance.record_to_text(record)), overwrite=False
    )
    assert "backbone" not in provenance.settings_from_record(read_record(path))
    assert format_command(record) == "styler run CONTENT STYLE --backbone WEIGHTS"
    assert provenance.format_replay_command(record) == "styler run --from FILE CONTENT STYLE --backbone WEIGHTS"
    with pytest.raises(UsageError, match=r"was made with a network file; give that file with --backbone FILE\.$"):
        provenance.load_earlier(str(path), {})
    assert provenance.load_earlier(str(path), {"backbone": "net.pth"}).record
    named = provenance.make_record(make_result(options=Options(backbone="my.net")))
    assert provenance.settings_from_record(named)["backbone"] == "my.net"


def test_different_inputs_are_named(record: Record) -> None:
    earlier = EarlierPicture(record)
    assert earlier.compare_inputs(CONTENT, [STYLE]) == []
    assert earlier.compare_inputs(STYLE, [OTHER]) == [
        "The content differs from the recorded file.",
        "The style differs from the recorded file.",
    ]
    assert earlier.compare_inputs(CONTENT, [STYLE, OTHER]) == ["The number of styles is 2; 1 was recorded."]
    two = EarlierPicture(provenance.make_record(make_result(style_sha256=("b" * 64, "c" * 64))))
    assert two.compare_inputs(CONTENT, [STYLE, CONTENT]) == ["Style 2 differs from the recorded file."]
    assert two.compare_inputs(Picture(PIXELS), [STYLE, OTHER]) == [], "pixels without a file are not compared"
    assert EarlierPicture().compare_inputs(STYLE, [OTHER]) == []


def test_the_color_behind_transparent_parts_is_recorded() -> None:
    record = provenance.make_record(make_result(options=Options(), background=(1.0, 0.0, 0.5)))
    assert record["background"] == "#ff0080"
    assert format_command(record) == "styler run CONTENT STYLE --background '#ff0080'"
    assert provenance.format_replay_command(record).endswith("STYLE --background '#ff0080'")
    message = "The background is not #ff0080, which was recorded; give --background '#ff0080'."
    earlier, on_white = EarlierPicture(record), dataclasses.replace(CONTENT, background=(1, 1, 1))
    assert earlier.compare_inputs(on_white, [STYLE]) == [message]
    assert earlier.compare_inputs(CONTENT, [dataclasses.replace(STYLE, background=(1, 0, 0.5))]) == []
    opaque = provenance.make_record(make_result(options=Options()))
    assert EarlierPicture(opaque).compare_inputs(on_white, [STYLE]) == []
    for color in ((1.0, 1.0, 1.0), None):
        assert "--background" not in format_command(provenance.make_record(make_result(background=color)))


def test_a_stopped_run_is_reported_when_it_is_replayed(record: Record) -> None:
    replayed = EarlierPicture(record, provenance.replay_from_record(record))
    assert "give --iterations for a complete run" in replayed.compare_inputs(CONTENT, [STYLE])[0]


def test_a_different_machine_is_reported(record: Record) -> None:
    assert EarlierPicture(record).compare_machine(make_result()) == []
    hashes = {"weights_sha256": "e" * 64, "slim_sha256": "e" * 64}
    other = make_result(
        threads=3, device="cuda:0", processor="NVIDIA H200", precision="bfloat16", torch="2.15.0", **hashes
    )
    earlier = EarlierPicture({**record, "version": "0.0"})
    assert earlier.compare_machine(other) == [
        "The network's weights differ from those recorded.",
        "The slim network's weights differ from those recorded.",
        f"The version of styler is {provenance.get_version()}; 0.0 was recorded.",
        "The version of PyTorch is 2.15.0; 2.14.1 was recorded.",
        "The device is cuda:0; cpu was recorded.",
        "The processor is NVIDIA H200; AVX2 was recorded.",
        "The precision is bfloat16; float32 was recorded.",
        "The number of threads is 3; 2 was recorded.",
    ]
    assert EarlierPicture().compare_machine(other) == []
    assert EarlierPicture(record).compare_machine(make_result(slim_sha256="")) == [], "a schedule without a sketch"


def test_unknown_fields_are_dropped_and_unknown_settings_are_refused(record: Record) -> None:
    assert read_record(encode_record({**record, "mood": "blue"})) == record
    options = {**record["options"], "texture": 3}
    with pytest.raises(ImageError, match=r"contain 'texture', which this version does not know; update styler\.$"):
        read_record(encode_record({**record, "options": options}))
    with pytest.raises(ImageError, match=r"were written by a newer version; update styler\.$"):
        read_record(encode_record({"schema": RECORD_SCHEMA + 1, "options": "of another shape"}))


def test_missing_settings_have_their_defaults(record: Record) -> None:
    options = {name: value for name, value in record["options"].items() if name not in ("stroke_size", "init")}
    assert read_record(encode_record({**record, "options": options})) == record


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not JSON": lambda _: "{",
    "empty": lambda _: "",
    "a list": lambda _: [1],
    "null": lambda _: "null",
    "deep": lambda _: '{"schema": 1, "schedule": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "rather deep": lambda _: '{"schema": 1, "schedule": ' + "[" * 900 + "]" * 900 + "}",
    "huge": lambda r: {**r, "losses": {str(i): i for i in range(100_000)}},
    "NaN": lambda r: json.dumps({**r, "units": float("nan")}),
    "infinite": lambda r: json.dumps(r).replace('"units": 4.5', '"units": 1e999'),
    "endless number": lambda r: json.dumps(r).replace('"units": 4.5', f'"units": {"9" * 5000}'),
    "long number": lambda r: json.dumps(r).replace('"threads": 2', f'"threads": {"9" * 4000}'),
    "long size": lambda r: json.dumps(r).replace('"size": 64', f'"size": {"9" * 4000}'),
    "escape codes": lambda r: {**r, "version": "\x1b]0;owned\x07"},
    "a key with a line break": lambda r: {**r, "losses": {"a\nb": 1}},
    "a long text": lambda r: {**r, "device": "x" * 300},
    "lone surrogate": lambda r: {**r, "device": "\ud800"},
    "no schema": lambda r: {k: v for k, v in r.items() if k != "schema"},
    "schema true": lambda r: {**r, "schema": True},
    "schema 0": lambda r: {**r, "schema": 0},
    "schema text": lambda r: {**r, "schema": "1"},
    "a path as init": lambda r: {**r, "options": {**r["options"], "init": "/etc/passwd"}},
    "a path as backbone": lambda r: {**r, "options": {**r["options"], "backbone": "folder/secret.h5"}},
    "an init of another type": lambda r: {**r, "options": {**r["options"], "init": ["content"]}},
    "an option out of range": lambda r: {**r, "options": {**r["options"], "strength": 1000}},
    "an option of another type": lambda r: {**r, "options": {**r["options"], "seed": [[[]]]}},
    "too few layer weights": lambda r: {**r, "options": {**r["options"], "layer_weights": [1, 2]}},
    "options are a list": lambda r: {**r, "options": []},
    "a hash that is a path": lambda r: {**r, "content": "/home/me/photo.jpg"},
    "a color that is a command": lambda r: {**r, "background": "#fff; rm"},
    "a hash in a list": lambda r: {**r, "styles": "b" * 64},
    "no schedule": lambda r: {**r, "schedule": None},
    "a scale with an unknown field": lambda r: {**r, "schedule": [{**r["schedule"][0], "x": 1}], "scale_seconds": [1]},
    "a text as a scale": lambda r: {**r, "schedule": ["64x48"], "scale_seconds": [1]},
    "a scale of no size": lambda r: {**r, "schedule": [{**r["schedule"][0], "width": 0}], "scale_seconds": [1]},
    "a scale of size 1.5": lambda r: {**r, "schedule": [{**r["schedule"][0], "width": 1.5}], "scale_seconds": [1]},
    "a scale beyond the size": lambda r: {**r, "schedule": [{**r["schedule"][0], "width": 65}], "scale_seconds": [1]},
    "an unknown optimizer": lambda r: {
        **r,
        "schedule": [{**r["schedule"][0], "optimizer": "sgd"}],
        "scale_seconds": [1],
    },
    "seconds of other scales": lambda r: {**r, "scale_seconds": []},
    "stopped 1": lambda r: {**r, "stopped": 1},
    "losses of texts": lambda r: {**r, "losses": {"total": "low"}},
}


@pytest.mark.parametrize("format_", ["png", "tiff"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_record_is_refused_in_one_sentence(case: str, format_: str, record: Record) -> None:
    data = encode_record(HOSTILE[case](copy.deepcopy(dict(record))), format_)
    with pytest.raises(ImageError) as caught:
        read_record(data, name="picture.png")
    message = str(caught.value)
    assert "The settings in 'picture.png' are damaged (" in message
    assert message.endswith("; use the original file.")
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("field", Record.__annotations__)
@pytest.mark.parametrize("value", [None, "x", -1.5, [], {}, [None], {"a": None}, True], ids=repr)
def test_no_value_of_a_field_causes_another_error(field: str, value: Any, record: Record) -> None:
    try:
        checked = read_record(encode_record({**record, field: value}))
    except ImageError:
        return
    assert isinstance(format_command(checked), str)
    assert resolve_options(("--from", provenance.settings_from_record(checked))).options
    provenance.replay_from_record(checked)


def test_a_picture_without_a_record_is_refused(tmp_path: Path) -> None:
    path = images.write_file(tmp_path / "plain.png", encode_image(PIXELS))
    with pytest.raises(ImageError, match=r"^There are no settings in '.*plain\.png': "):
        read_record(path)
    with pytest.raises(ImageError, match="no settings in the picture"):
        read_record(encode_image(PIXELS, format="jpeg", text={"Software": "another"}))
    with pytest.raises(ImageError, match="it is text"):
        read_record(b"styler: {}")
    with pytest.raises(ImageError, match="no such file"):
        read_record(tmp_path / "missing.png")


def test_a_scale_is_stored_with_all_its_fields() -> None:
    assert list(ScaleRecord.__annotations__) == [field.name for field in dataclasses.fields(Scale)]


def test_pydantic_is_loaded_only_to_read_a_record() -> None:
    program = (
        "import sys\n"
        "from styler import provenance\n"
        "provenance.load_earlier(None, {})\n"
        "assert not {'pydantic', 'numpy', 'PIL'} & set(sys.modules)\n"
        "from styler.cli import app, run\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
