"""The record inside a picture: the settings, inputs and schedule that made it, and how to repeat the work.

A stored record may come from anyone, so every part of it is validated before it is used. Does not import torch, and
loads Pillow and pydantic only when a record is read.
"""

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge, Interval, Len, Predicate
from typing_extensions import TypedDict

from styler.errors import ImageError, OptionError, UsageError, quote_name
from styler.options import INIT_CHOICES, PRECISION_NAMES, Options, format_value, list_options, resolve_options
from styler.regions import specs
from styler.schedule import Replay, Scale

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from styler.engine.result import Result
    from styler.images import Picture
    from styler.images.read import Readable
    from styler.regions.resolve import MaskEntry


EARLIER_LAYER = "--from"
"""Layer of the settings of an earlier picture."""
RECORD_SCHEMA = 1
RECORD_KEY = "styler"
"""The key of the record among the texts of a picture."""
FILE_VALUE = "file"
"""The value of `init` or `backbone` in a record if it was a file, of which only the hash is stored."""
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".onnx", ".h5", ".hdf5", ".whl")
"""Extensions of weights files; a backbone without one is a name."""
_FILE_PLACEHOLDERS = {"init": "START", "backbone": "WEIGHTS"}
_FILE_KINDS = {"init": "started from a picture", "backbone": "made with a network"}

MAX_RECORD_LENGTH = 1_000_000  # characters
MAX_TEXT_LENGTH = 200  # characters of any text or key in a record
MAX_COUNT = 1_000_000_000

MACHINE_OPTIONS = ("device", "checkpoint", "tile", "memory")
"""Options of the machine. They are compared but not reused; `precision` and `threads` are, which change the pixels."""
SCHEDULE_OPTIONS = (
    *("size", "paper", "fit"),
    *("preset", "time", "patience", "iterations", "taper", "sketch", "multiscale", "first_size", "optimizer"),
)
"""Options that determine the schedule: setting one of them replaces the recorded schedule by a new one."""


Hash = Annotated[str, Predicate(re.compile("([0-9a-f]{64})?").fullmatch)]
"""A SHA-256 in hexadecimal; empty if there was no file."""
Color = Annotated[str, Predicate(re.compile("(#[0-9a-f]{6})?").fullmatch)]
Count = Annotated[int, Interval(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Interval(ge=1, le=MAX_COUNT)]
Amount = Annotated[float, Interval(ge=-1e30, le=1e30)]


class ScaleRecord(TypedDict):
    """The fields of `Scale`, and no others."""

    width: Positive
    height: Positive
    iterations: Positive
    optimizer: Literal["adam", "lbfgs"]
    planned: Count
    sketch: bool
    half_size_copies: Annotated[int, Interval(ge=0, le=16)]
    opening: bool


class MaskRecord(TypedDict):
    """The fields of `MaskEntry`, and no others."""

    name: str
    kind: Literal["given", "found", "label", "file"]
    sha256: Hash
    coverage: Annotated[float, Interval(ge=0, le=1)]
    network: str
    network_sha256: Hash


class Record(TypedDict):
    """What is stored, as JSON."""

    schema: Annotated[int, Ge(1)]
    version: str
    """Version of styler."""
    options: dict[str, Any]
    """Every field of `Options`."""
    threads: Annotated[int, Interval(ge=1, le=1024)]
    """The number that was used, like `device` and `precision`; the option may be "auto"."""
    device: str
    precision: Annotated[str, Predicate(PRECISION_NAMES.__contains__)]
    processor: str
    """Instruction set of the CPU, or name of the GPU."""
    torch: str
    """Version of PyTorch."""
    weights_sha256: Hash
    slim_sha256: Hash
    """Hash of the slim network; empty if no scale was sketched."""
    content: Hash
    styles: list[Hash]
    trims: list[Annotated[list[Count], Len(4, 4)] | None]
    """For each style the part inside its border, as left, top, right and bottom in pixels; None if used whole."""
    masks: list[MaskRecord]
    """The masks of protected parts and regions."""
    init: Hash
    """Hash of the picture file that `init` named."""
    background: Color
    """Behind transparent parts of the inputs; empty if there were none."""
    width: Positive
    height: Positive
    schedule: list[ScaleRecord]
    """The schedule as executed."""
    stopped: bool
    iterations: Count
    units: Amount
    losses: dict[str, Amount]
    seconds: Amount
    scale_seconds: list[Amount]


class _DamagedRecord(Exception):
    """A record is damaged; the message says how, in a few words."""


class _NewerRecord(Exception):
    """A record needs a newer version of styler; the message is a predicate of "the settings"."""


def make_record(result: "Result") -> Record:
    """Return the record of how a result was made."""
    names = specs.make_plain_names(_list_mask_files(result.options))
    options = _rename_masks(result.options, names).to_dict()
    options |= {name: FILE_VALUE for name in _FILE_PLACEHOLDERS if _is_file(name, options[name])}
    height, width = result.pixels.shape[:2]
    return {
        "schema": RECORD_SCHEMA,
        "version": get_version(),
        "options": options,
        "threads": result.threads,
        "device": result.device,
        "precision": result.precision,
        "processor": result.processor,
        "torch": result.torch,
        "weights_sha256": result.weights_sha256,
        "slim_sha256": result.slim_sha256,
        "content": result.content_sha256,
        "styles": list(result.style_sha256),
        "trims": [None if box is None else list(box) for box in result.trims],
        "masks": [cast("MaskRecord", _describe_mask(mask, names)) for mask in result.masks],
        "init": result.start_sha256,
        "background": _format_color(result.background),
        "width": width,
        "height": height,
        "schedule": [cast("ScaleRecord", dataclasses.asdict(scale)) for scale in result.schedule],
        "stopped": result.stopped,
        "iterations": result.iterations,
        "units": result.units,
        "losses": {name: loss for name, loss in result.losses.items() if math.isfinite(loss)},
        "seconds": round(result.seconds, 3),
        "scale_seconds": [round(seconds, 3) for seconds in result.scale_seconds],
    }


def _list_mask_files(options: Options) -> list[str]:
    return specs.list_mask_files(options.protect, options.regions, options.labels)


def _rename_masks(options: Options, names: Mapping[str, str]) -> Options:
    renamed = specs.rename_masks(names, options.protect, options.regions, options.labels)
    return options.replace(**renamed) if names else options


def _describe_mask(mask: "MaskEntry", names: Mapping[str, str]) -> dict[str, Any]:
    return {**dataclasses.asdict(mask), "name": names.get(mask.name, mask.name)}


def _format_color(color: tuple[float, float, float] | None) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in color) if color else ""


def record_to_text(record: Record) -> dict[str, str]:
    """Return the record as a text for `images.encode_image`."""
    return {RECORD_KEY: json.dumps(record, allow_nan=False, separators=(",", ":"))}


def get_version() -> str:
    """Return the version of the installed styler."""
    import importlib.metadata

    try:
        return importlib.metadata.version("styler")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def read_record(source: "Readable", *, name: str | None = None) -> Record:
    """Read and validate the record in a picture.

    Raises:
        ImageError: the picture cannot be read, or its record is missing, damaged or from a newer version.
    """
    from styler import images
    from styler.images.read import describe_source

    return find_record(images.read_text(source, name=name), describe_source(source, name))


def find_record(texts: Mapping[str, str], picture: str) -> Record:
    """Validate the record among the texts of a picture.

    Args:
        texts: as `images.read_text` returns them.
        picture: name of the picture in messages.

    Raises:
        ImageError: there is no record, or it is damaged or from a newer version.
    """
    if RECORD_KEY not in texts:
        raise ImageError(
            f"There are no settings in {picture}: styler did not make it, it was written with --no-metadata, or "
            "another program saved it again; use the original file."
        )
    try:
        return _validate_record(_parse_json(texts[RECORD_KEY]))
    except _NewerRecord as error:
        raise ImageError(f"The settings in {picture} {error}; update styler.") from error
    except _DamagedRecord as error:
        raise ImageError(f"The settings in {picture} are damaged ({error}); use the original file.") from error


def _parse_json(text: str) -> dict[str, Any]:
    """Parse the JSON of a record, and check that its schema is known and its texts are safe to print."""
    if len(text) > MAX_RECORD_LENGTH:
        raise _DamagedRecord(f"longer than {MAX_RECORD_LENGTH} characters")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        texts_are_safe = all(len(part) <= MAX_TEXT_LENGTH and part.isprintable() for part in _iter_texts(data))
    except (ValueError, RecursionError) as error:
        raise _DamagedRecord("invalid JSON") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if type(schema) is not int or schema < 1:
        raise _DamagedRecord("no schema version")
    if schema > RECORD_SCHEMA:
        raise _NewerRecord("were written by a newer version")
    if not texts_are_safe:
        raise _DamagedRecord("a text is too long or not printable")
    return cast("dict[str, Any]", data)


def _refuse_constant(name: str) -> None:
    """Reject NaN and Infinity, which are not valid JSON but which Python accepts."""
    raise _DamagedRecord(f"{name} is not a number")


def _iter_texts(value: Any) -> Iterator[str]:
    """Yield every text and key, at any depth."""
    if isinstance(value, str):
        yield value
    for part in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _iter_texts(part)


@cache
def _make_validator() -> "TypeAdapter[Record]":
    from pydantic import ConfigDict, TypeAdapter, with_config  # slow to load, and most runs read no record

    with_config(ConfigDict(extra="forbid"))(ScaleRecord)  # elsewhere unknown fields are dropped
    return TypeAdapter(Record)


def _validate_record(data: Mapping[str, Any]) -> Record:
    """Validate every field, and drop the ones that this version does not know."""
    from pydantic import ValidationError

    try:
        record = _make_validator().validate_python({"masks": [], **data}, strict=True)  # older versions had no masks
        options = options_from_record(record["options"])
    except ValidationError as error:
        raise _DamagedRecord(f"'{error.errors()[0]['loc'][0]}' is missing or wrong") from error
    except OptionError as error:
        raise _DamagedRecord(str(error)[:MAX_TEXT_LENGTH].rstrip(".")) from error
    if len(record["schedule"]) != len(record["scale_seconds"]):
        raise _DamagedRecord("'scale_seconds' does not fit the schedule")
    if options.regions and len(options.regions) >= len(record["styles"]):
        raise _DamagedRecord("'regions' does not fit the styles")
    if any(scale["width"] > record["width"] or scale["height"] > record["height"] for scale in record["schedule"]):
        raise _DamagedRecord("a scale is larger than the picture")
    record["options"] = options.to_dict() | dict.fromkeys(_list_file_options(record), FILE_VALUE)
    return record


def _is_file(name: str, value: Any) -> bool:
    """Return whether the value of `init` or `backbone` is the path of a file."""
    if name == "init":
        return value not in INIT_CHOICES
    return isinstance(value, str) and value.lower().endswith(WEIGHTS_SUFFIXES)


def _list_file_options(record: Record) -> list[str]:
    """Return the options that were files."""
    return [name for name in _FILE_PLACEHOLDERS if record["options"].get(name) == FILE_VALUE]


def options_from_record(stored: Mapping[str, Any]) -> Options:
    """Return stored options, validated. None is a path: only the user decides which files are read."""
    if unknown := [name for name in stored if name not in list_options()]:
        raise _NewerRecord(f"contain '{unknown[0]}', which this version does not know")
    given = {name: value for name, value in stored.items() if name not in _FILE_PLACEHOLDERS or value != FILE_VALUE}
    if wrong := [name for name in _FILE_PLACEHOLDERS if name in given and _is_file(name, given[name])]:
        raise _DamagedRecord(f"'{wrong[0]}' is wrong")
    options = Options(**given)
    if any(map(specs.has_folder, _list_mask_files(options))):
        raise _DamagedRecord("the name of a mask has a folder")
    return options


def settings_from_record(record: Record) -> dict[str, Any]:
    """Return the settings to reuse, as a layer for `resolve_options`; without those that were files.

    If no face was protected, none is looked for.
    """
    excluded = {*MACHINE_OPTIONS, *_list_file_options(record)}
    settings = {name: value for name, value in record["options"].items() if name not in excluded}
    if not settings["protect"] and all(mask["name"] != "faces" for mask in record["masks"]):
        settings["protect"] = [specs.NOTHING]
    return {**settings, "precision": PRECISION_NAMES[record["precision"]], "threads": record["threads"]}


def replay_from_record(record: Record) -> Replay | None:
    """Return the executed schedule for `Painter.stream`; None if it is empty, as at strength 0."""
    scales = tuple(Scale(**scale) for scale in record["schedule"])
    return Replay(scales, record["width"], record["height"]) if scales else None


def format_command(record: Record) -> str:
    """Return the command that made the picture, with the flags that differ from its preset and look."""
    options = options_from_record(record["options"])
    defaults = resolve_options(("record", {"preset": options.preset, "look": options.look})).options.to_dict()
    defaults |= {"preset": Options().preset, "look": Options().look}
    words = ["styler", "run", *_list_input_placeholders(record)]
    for name, value in options.to_dict().items():
        if name in ("protect", "regions", "memory"):  # memory is of that machine at that time; it changes no pixels
            continue
        if value != defaults[name]:
            flag = name.replace("_", "-")
            is_switch = isinstance(value, bool)
            words += [f"--{flag}" if value else f"--no-{flag}"] if is_switch else [f"--{flag}", format_value(value)]
    return shlex.join([*words, *_list_mask_flags(options), *_list_region_flags(record), *_list_file_flags(record)])


def format_replay_command(record: Record) -> str:
    """Return the command that repeats the work that made the picture FILE."""
    words = ["styler", "run", "--from", "FILE", *_list_input_placeholders(record)]
    options = options_from_record(record["options"])
    if _list_mask_files(options):  # a flag replaces all that the record says about the same option
        words += [*_list_mask_flags(options), *(["--labels", options.labels] if options.labels else [])]
    return shlex.join([*words, *_list_region_flags(record), *_list_file_flags(record)])


def _list_mask_flags(options: Options) -> list[str]:
    return [word for text in options.protect for word in ("--protect", text)]


def _list_region_flags(record: Record) -> list[str]:
    """Return a flag for each region, with a placeholder for its style."""
    masks, count = record["options"]["regions"], len(record["styles"])
    pairs = zip(masks, range(count - len(masks) + 1, count + 1), strict=True)
    return [word for mask, number in pairs for word in ("--region", f"{mask}=STYLE{number}")]


def _list_file_flags(record: Record) -> list[str]:
    words = [word for name in _list_file_options(record) for word in (f"--{name}", _FILE_PLACEHOLDERS[name])]
    return words if record["background"] in ("", "#ffffff") else [*words, "--background", record["background"]]


def _list_input_placeholders(record: Record) -> list[str]:
    count = len(record["styles"])
    shared = count - len(record["options"]["regions"])
    return ["CONTENT", *(["STYLE"] if count == 1 else [f"STYLE{number + 1}" for number in range(shared)])]


@dataclass(frozen=True, slots=True, eq=False)
class EarlierPicture:
    """The record to take settings from and the schedule to replay; both None if no earlier picture was given."""

    record: Record | None = None
    replay: Replay | None = None

    @property
    def layers(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The settings, as layers for `resolve_options`."""
        return [(EARLIER_LAYER, settings_from_record(self.record))] if self.record else []

    def compare_inputs(
        self, content: "Picture", styles: "Sequence[Picture]", start: "Picture | None" = None
    ) -> list[str]:
        """Return a sentence for each input that differs from the recorded one, and one if the run was stopped."""
        if not self.record:
            return []
        inputs = [("The content", self.record["content"], content)]
        sentences = []
        if len(styles) == len(self.record["styles"]):
            names = [f"Style {number + 1}" for number in range(len(styles))] if len(styles) > 1 else ["The style"]
            inputs += zip(names, self.record["styles"], styles, strict=True)
        else:
            sentences = [f"The number of styles is {len(styles)}; {len(self.record['styles'])} was recorded."]
        if start:
            inputs.append(("The picture given with --init", self.record["init"], start))
        sentences += [
            f"{name} differs from the recorded file."
            for name, sha256, picture in inputs
            if sha256 and picture.sha256 and sha256 != picture.sha256
        ]
        given = {_format_color(picture.background) for picture in (content, *styles, *([start] if start else []))}
        if (color := self.record["background"]) and color not in given:
            sentences.append(f"The background is not {color}, which was recorded; give --background '{color}'.")
        if self.record["stopped"] and self.replay:
            sentences.append(
                "The recorded run was stopped and is replayed up to that point; give --iterations for a complete run."
            )
        return sentences

    def compare_masks(self, result: "Result") -> list[str]:
        """Return a sentence for each mask that differs from those recorded for the same photo."""
        if not self.record or self.record["content"] != result.content_sha256:
            return []
        recorded: dict[tuple[str, str], str] = {
            (mask["kind"], mask["name"]): mask["sha256"] for mask in self.record["masks"]
        }
        files = {sha256 for (kind, _), sha256 in recorded.items() if kind == "file"}
        names = specs.make_plain_names(_list_mask_files(result.options))
        sentences = []
        for mask in result.masks:
            before = recorded.get((mask.kind, names.get(mask.name, mask.name)))
            is_other = before is None and mask.kind == "file" and files and mask.sha256 not in files
            if is_other or before not in (None, mask.sha256):
                sentences.append(f"The mask {quote_name(mask.name)} differs from the recorded one.")
        return sentences

    def compare_machine(self, result: "Result") -> list[str]:
        """Return a sentence for each difference of the machine that may change the pixels."""
        if not self.record:
            return []
        record, sentences = self.record, []
        if record["weights_sha256"] != result.weights_sha256:
            sentences.append("The network's weights differ from those recorded.")
        if record["slim_sha256"] and result.slim_sha256 and record["slim_sha256"] != result.slim_sha256:
            sentences.append("The slim network's weights differ from those recorded.")
        facts: tuple[tuple[str, object, object], ...] = (
            ("version of styler", record["version"], get_version()),
            ("version of PyTorch", record["torch"], result.torch),
            ("device", record["device"], result.device),
            ("processor", record["processor"], result.processor),
            ("precision", record["precision"], result.precision),
            ("number of threads", record["threads"], result.threads),
        )
        return sentences + [
            f"The {name} is {current}; {recorded} was recorded."
            for name, recorded, current in facts
            if recorded != current
        ]


def load_earlier(source: str | None, flags: Mapping[str, Any]) -> EarlierPicture:
    """Load the record of the picture given with --from; its schedule is dropped if a flag asks for another one.

    Raises:
        ImageError: the picture has no record that can be used.
        UsageError: the earlier run started from a picture file or used a weights file that is not given again.
    """
    if source is None:
        return EarlierPicture()
    record = read_record(source)
    for name in _list_file_options(record):
        if name not in flags:
            raise UsageError(f"{quote_name(source)} was {_FILE_KINDS[name]} file; give that file with --{name} FILE.")
    needs_new_schedule = any(name in flags for name in SCHEDULE_OPTIONS) or _changes_schedule(record, flags)
    return EarlierPicture(record, None if needs_new_schedule else replay_from_record(record))


def _changes_schedule(record: Record, flags: Mapping[str, Any]) -> bool:
    """Return whether the flags change the pixels of a paper, or set a look that changes the schedule."""
    if "dpi" in flags and record["options"]["paper"] and flags["dpi"] != record["options"]["dpi"]:
        return True
    look = {name: value for name, value in flags.items() if name == "look"}
    layers = (EARLIER_LAYER, settings_from_record(record)), ("flag", look)
    options = resolve_options(*layers).options.to_dict()
    return any(options[name] != record["options"][name] for name in SCHEDULE_OPTIONS)
