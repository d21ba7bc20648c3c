"""What can be seen of a photo before it is painted.

`styler preview` shows it in many paintings, as small trial pictures on one sheet; `styler mask` what is found in it.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from styler import config, environment, library
from styler.cli import files, flags, output, report
from styler.cli.flags import FileName, InputOptions, MaskOptions, SheetOptions
from styler.errors import ImageError, NothingMatched, UsageError, quote_name
from styler.options import INIT_CHOICES, Options, list_options, resolve_options
from styler.regions import specs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from styler.engine.result import Result
    from styler.images import Picture

PHOTO_LABEL = "photo"
"""Name of the photo on the sheet."""
PARTIAL_EXTENSION = "jpg"

Photo = Annotated[
    FileName,
    Parameter(name="CONTENT", help="a photo, or the name of one that comes with styler, or - for standard input"),
]
Paintings = Annotated[
    FileName,
    Parameter(
        name="STYLE",
        help="paintings, folders of them, or names of paintings that come with styler (default all of those)",
    ),
]
MaskPhoto = Annotated[
    FileName,
    Parameter(name="PHOTO", help="a photo, or the name of one that comes with styler, or - for standard input"),
]
MaskName = Annotated[
    str, Parameter(name="NAME", help="; ".join(f"{name}: {shown}" for name, shown in specs.BUILT_IN_MASKS.items()))
]
Device = Annotated[
    str | None,
    Parameter(name="--device", group=flags.GROUPS["Machine"], metavar="NAME", help=list_options()["device"].help),
]
Read = Callable[[Path], "Picture"]
Show = Callable[[int, str], None]
"""Called with the number of a painting, from 1, and its name when its turn comes."""


@dataclass(frozen=True, slots=True)
class Painting:
    """A painting to be previewed."""

    path: Path
    is_named: bool
    """Whether it was named itself; one that a folder contains is skipped if it cannot be read."""

    @property
    def name(self) -> str:
        """Its name on the sheet."""
        return output.STDIN_NAME if str(self.path) == output.STREAM_NAME else self.path.stem


@dataclass(slots=True, eq=False)
class Gallery:
    """The paintings, each read when its turn comes, and the previews that are finished."""

    paintings: Sequence[Painting]
    read: Read
    log: report.Logger
    kept: dict[Path, "Picture"]
    """Pictures that are read already, since standard input cannot be read twice."""
    warnings: list[str]
    given: list[Painting] = field(default_factory=list)
    """Those that could be read, in order."""
    results: "dict[int, Result]" = field(default_factory=dict)
    """The finished previews, by the index of their painting among those given."""
    unreadable: int = 0
    """Number of the paintings that could not be read."""

    def list_finished(self) -> "list[tuple[Painting, Result]]":
        """Return the paintings whose previews are finished, in order, and the previews."""
        return [(self.given[index], result) for index, result in sorted(self.results.items())]

    @property
    def is_complete(self) -> bool:
        """Whether every preview is finished."""
        return len(self.results) + self.unreadable == len(self.paintings)

    def iterate_pictures(self, show: Show) -> "Iterator[Picture]":
        """Yield every painting that can be read, and warn of the others.

        Raises:
            ImageError: one that was named cannot be read.
        """
        for number, painting in enumerate(self.paintings, start=1):
            show(number, painting.name)
            try:
                picture = self.kept.pop(painting.path, None) or self.read(painting.path)
            except ImageError as error:
                if painting.is_named:
                    raise
                self.warn([str(error)])
                self.unreadable += 1
                continue
            self.warn(picture.warnings)
            self.given.append(painting)
            yield picture

    def warn(self, warnings: Sequence[str]) -> None:
        """Print warnings and keep them for the answer."""
        self.warnings += warnings
        self.log.warn(warnings)


def preview(
    content: Photo,
    /,
    *styles: Paintings,
    target: SheetOptions = flags.DEFAULT_SHEET,
    settings: flags.Settings = flags.NO_FLAGS,
    inputs: InputOptions = flags.DEFAULT_INPUT,
    reports: flags.ReportOptions = flags.DEFAULT_REPORT,
) -> int:
    """See a photo in many paintings before you choose: small previews on one sheet."""
    reports.check()
    names = [*map(library.find_file, (content, *styles))]
    output.check_streams(names, target.output, json=reports.json)
    start, log = time.perf_counter(), report.Logger(reports)
    with environment.watch_signals() as watch, ExitStack() as stack:
        configuration = config.load_config()
        given = {**flags.read_flags(settings), "regions": ()}  # each preview shows one painting
        resolved = resolve_options(*configuration.layers, ("flag", given))
        options = resolved.options
        photo = files.locate_content(names[0])
        paintings = find_paintings(names[1:], photo)
        masks = files.locate_masks(resolved, photo)
        others = [*(painting.path for painting in paintings), *masks.values()]
        checked = _choose_target(target, photo, others, options, is_bundled=photo != Path(names[0]))
        read = files.make_reader(inputs)
        picture, mask_pictures = read(photo), {name: read(path) for name, path in masks.items()}
        gallery = Gallery(paintings, read, log, _check_named(paintings, read), [])
        warnings = (warning for it in (picture, *mask_pictures.values()) for warning in it.warnings)
        gallery.warn([*configuration.warnings, *warnings])
        log.info([report.format_changes(resolved)])
        stack.enter_context(files.hold_output(checked.path if not checked.default else None))
        with _show_turns(log.console, len(paintings), is_shown=reports.shows_progress) as show:
            _paint(picture, mask_pictures, gallery, options, watch, show)
        is_stopped = watch.stop.is_set() and not gallery.is_complete
        path = _save(picture, gallery, checked, is_stopped=is_stopped)
        if reports.json:
            output.print_document(
                {
                    "output": path and str(path),
                    "content": output.unmark_streams(names[0]),
                    "styles": [_to_json(*pair) for pair in gallery.list_finished()],
                    "stopped": is_stopped,
                    "seconds": time.perf_counter() - start,
                    "warnings": gallery.warnings,
                }
            )
        elif path and not is_stopped:
            files.print_path(path)
        return watch.exit_code if is_stopped else 0


def find_paintings(names: Sequence[str], photo: Path) -> list[Painting]:
    """Return the paintings that names stand for, in their order, each once; all bundled ones without any name.

    Args:
        names: each a file, a folder, a pattern, or the name of a bundled painting.
        photo: left out where a folder contains it.

    Raises:
        NothingMatched: a folder or a pattern contains no picture.
        ImageError: there is no such file or painting.
    """
    from styler.batch import discover

    if not names:
        return [Painting(path, is_named=False) for path in library.list_styles().values()]
    found: dict[str, Painting] = {}
    for name in names:
        if _is_selection(name):
            listing = discover.find_inputs([name], discover.SelectionRules(follow_symlinks=True), Path, "STYLE")
            paths = [Path(item.path) for item in listing.inputs]
            several = [Painting(path, is_named=False) for path in paths if not files.is_same_file(path, photo)]
        else:
            several = [Painting(files.locate_style(name), is_named=True)]
        for painting in several:
            found.setdefault(os.path.abspath(painting.path), painting)  # noqa: PTH100 - keeps links
    if not found:
        raise NothingMatched("There is no painting to preview but the photo itself; name another folder.")
    return [*found.values()]


def _is_selection(name: str) -> bool:
    """Return whether a name stands for a folder, or for what matches a pattern."""
    from styler.batch import discover

    is_pattern = discover.WILDCARD.search(name) and not os.path.lexists(name) and not discover.is_url(name)
    return os.path.isdir(name) or bool(is_pattern)  # noqa: PTH112 - False where `Path.is_dir` raises


def _choose_target(
    target: SheetOptions, photo: Path, others: Sequence[Path], options: Options, *, is_bundled: bool
) -> files.OutputTarget:
    """Choose where the sheet is written, and check that it can be."""
    if options.init == output.STREAM_NAME:
        raise UsageError("The picture to start from cannot come from standard input; name a file with --init.")
    start = [] if options.init in INIT_CHOICES else [Path(options.init)]
    return files.choose_target(
        flags.OutputOptions(output=target.output, extension=target.extension, overwrite=target.overwrite),
        photo,
        [],
        [*others, *start],
        options.seed,
        is_bundled=is_bundled,
        template="{content}.preview.{ext}",
        default_extension="jpg",
    )


def _check_named(paintings: Sequence[Painting], read: Read) -> "dict[Path, Picture]":
    """Read every painting that was named, so that one that cannot be read is reported before any work.

    Only the last is kept, and that from standard input: together they may need more memory than there is.
    """
    kept: dict[Path, Picture] = {}
    for painting in paintings:
        if painting.is_named:
            picture = read(painting.path)
            kept = {path: it for path, it in kept.items() if str(path) == output.STREAM_NAME}
            kept[painting.path] = picture
    return kept


def _paint(
    photo: "Picture",
    masks: "Mapping[str, Picture]",
    gallery: Gallery,
    options: Options,
    watch: environment.SignalWatch,
    show: Show,
) -> None:
    """Load the network, and paint the previews until they are finished or a signal arrives."""
    log = gallery.log
    with log.time("Loaded PyTorch"):
        from styler.batch.stores import DiskScaleStore
        from styler.engine.device import describe_device
        from styler.engine.painter import Painter
    with log.time("Loaded the network"):
        painter = Painter.of(options)
        painter.features(options)
    painter.use_scale_store(DiskScaleStore())
    log.info([f"Device {describe_device(painter.device)}."])
    watch.begin()
    noted: set[str] = set()
    for each in painter.previews(photo, gallery.iterate_pictures(show), options, watch.stop, masks):
        name = gallery.given[each.style].name
        gallery.results[each.style] = each.result
        log.note(f"{name}: {note}" for note in each.result.notes if note not in noted)
        noted |= {*each.result.notes}
        if len(gallery.results) == 1:
            log.info(report.format_masks(report.masks_to_json(each.result.masks), options, 1))
        log.info([f"{name}: loss {each.result.losses.get('total', 0.0):.4g}, {each.result.seconds:.1f} s."])
        log.debug([f"{name}: {report.format_losses(each.result.losses)}."])


def _save(photo: "Picture", gallery: Gallery, target: files.OutputTarget, *, is_stopped: bool) -> Path | None:
    """Write the sheet and return its path, or None if there is no file.

    Raises:
        NothingMatched: no painting could be read.
        OutputError: as `files.save_picture` does.
    """
    from styler import images
    from styler.batch.sheets import draw_grid

    finished = len(gallery.results)
    if is_stopped and not finished:
        report.print_error("Stopped before the first preview was finished; nothing was written.")
        return None
    if not finished:
        raise NothingMatched("None of the pictures in the folder can be read; name paintings in another.")
    pictures: list[tuple[str, NDArray[Any]]] = [(PHOTO_LABEL, photo.pixels)]
    pictures += [(painting.name, result.pixels) for painting, result in gallery.list_finished()]
    sheet = draw_grid(pictures)

    def encode(name: str) -> bytes:
        return images.encode_image(sheet, format=name)

    if is_stopped:
        path = files.save_partial(target, encode, PARTIAL_EXTENSION)
        report.print_error(f"Stopped after {finished} of {len(gallery.paintings)}; saved as {quote_name(path)}.")
        return path
    with gallery.log.time("Wrote the sheet"):
        return files.save_picture(target, encode)


def _to_json(painting: Painting, result: "Result") -> Mapping[str, Any]:
    height, width = result.pixels.shape[:2]
    return {
        "name": painting.name,
        "path": output.unmark_streams(str(painting.path)),
        "width": width,
        "height": height,
        "seconds": result.seconds,
        "losses": result.losses,
    }


@contextmanager
def _show_turns(console: Console, total: int, *, is_shown: bool) -> Iterator[Show]:
    """Yield a function to call when the turn of a painting comes, which shows `3 of 11 · wheat-field`."""

    def describe(number: int, name: str) -> str:
        return f"{number} of {total} · {quote_name(name)[1:-1]}"

    if not is_shown:
        yield lambda _number, _name: None
    elif report.can_draw_bars(console):
        with report.draw_bars(console) as bars:
            task = bars.add_task("Loading the network", total=None, detail="")
            yield lambda number, name: bars.update(
                task, description=describe(number, name), total=total, completed=number - 1
            )
    else:
        yield lambda number, name: report.print_line(console, describe(number, name))


def mask(
    photo: MaskPhoto,
    name: MaskName,
    /,
    *,
    target: MaskOptions = flags.DEFAULT_MASK,
    device: Device = None,
    inputs: InputOptions = flags.DEFAULT_INPUT,
    reports: flags.ReportOptions = flags.DEFAULT_REPORT,
) -> int:
    """Find the subject, the background or the faces of a photo, and write the mask as a gray picture."""
    reports.check()
    if name not in specs.BUILT_IN_MASKS:
        raise UsageError(specs.explain_missing_name(name))
    file = library.find_file(photo)
    output.check_streams([file], target.output, json=reports.json)
    start, log = time.perf_counter(), report.Logger(reports)
    with environment.watch_signals():
        configuration = config.load_config()
        given = {} if device is None else {"device": device}
        options = resolve_options(*configuration.layers, ("flag", given)).options
        path = files.locate_content(file)
        checked = files.choose_target(
            flags.OutputOptions(output=target.output, overwrite=target.overwrite),
            *(path, [], [], options.seed),
            is_bundled=path != Path(file),
            template=f"{{content}}.{name}.{{ext}}",
        )
        picture = files.make_reader(inputs)(path)
        warnings = [*configuration.warnings, *picture.warnings]
        log.warn(warnings)
        values, facts = _find_mask(picture, name, options.device, log)
        with files.hold_output(checked.path if not checked.default else None), log.time("Wrote the mask"):
            written = files.save_picture(checked, lambda form: _encode_mask(values, form))
        if reports.json:
            document = {"output": written and str(written), "content": output.unmark_streams(file), "mask": name}
            seconds = time.perf_counter() - start
            output.print_document({**document, **facts, "seconds": seconds, "warnings": warnings})
        elif written:
            files.print_path(written)
        return 0


def _find_mask(
    picture: "Picture", name: str, device: str, log: report.Logger
) -> "tuple[NDArray[Any], Mapping[str, Any]]":
    """Return a mask of a photo, (H, W) in [0, 1], and facts for the answer.

    Raises:
        NothingMatched: there is nothing of the kind in the photo.
    """
    with log.time("Loaded PyTorch"):
        import torch

        from styler.engine.device import choose_device, describe_device
        from styler.regions.find import MaskFinder

    finder = MaskFinder(choose_device(device))
    log.info([f"Device {describe_device(finder.device)}."])
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None]  # (1, 3, H, W)
    with log.time(f"Found {name}"):
        found = {"subject": finder.subject, "background": finder.background, "faces": finder.faces}[name](pixels)
    if found is None:
        raise NothingMatched(f"No {'face' if name == 'faces' else 'subject'} was found in the photo; paint a mask.")
    network, sha256 = finder.get_network(name)
    coverage = float(found.mean())
    log.info([f"The mask covers {coverage:.1%} of the photo."])
    facts = {"width": picture.width, "height": picture.height, "coverage": coverage}
    return found[0, 0].numpy(), {**facts, "network": {"name": network, "sha256": sha256}}


def _encode_mask(values: "NDArray[Any]", form: str) -> bytes:
    from styler import images

    return images.encode_image(values, format=form)
