"""From a request to a batch that can be painted: found, paired, named, and held against what was done before.

Everything that can be known to be wrong is refused here, before the network is loaded.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styler import images
from styler.batch import discover, pairs, resume
from styler.batch.discover import Find, Rules
from styler.batch.ledger import Past
from styler.batch.pairs import Pair
from styler.batch.resume import Files, Standing
from styler.errors import OptionError, UsageError, quote_name
from styler.options import INIT_CHOICES, Options
from styler.schedule import Replay

ENDINGS = {"png": "png", "jpg": "jpeg", "webp": "webp", "avif": "avif", "tiff": "tiff"}
"""Ends of names, and the formats that they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants painted."""

    contents: str
    styles: str
    out: Path
    options: Options = field(default_factory=Options)
    rules: Rules = field(default_factory=Rules)
    zipped: bool = False
    blended: bool = False
    template: str | None = None
    format: str = "png"
    bit_depth: int = 8
    overwrite: bool = False
    retry: bool = False
    """Whether what failed before is tried again."""
    more: dict[str, Any] = field(default_factory=dict)
    """Settings beside the options that the pixels depend on."""
    repeat: Replay | None = None
    """The work of an earlier picture, in place of the plan that the options ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch that can be painted."""

    request: Request
    pairs: list[Pair]
    standing: Standing
    files: Files
    settings: dict[str, Any]
    problems: list[str]
    """Sentences on folders that could not be listed: what is in them is not painted."""
    links: int
    """Links that were not followed."""

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.request.out


def prepare(request: Request, past: Past, find_content: Find, find_style: Find) -> Batch:
    """Find everything that is to be painted.

    Args:
        request: what is wanted.
        past: what the manifest in the folder says.
        find_content: finds a content that is no file.
        find_style: finds a style that is no file.

    Raises:
        NothingMatched: there is nothing to paint.
        UsageError: it makes no sense, or something may not be replaced.
        OutputError: nothing can be written there.
    """
    out = request.out
    if os.path.lexists(out) and not out.is_dir():
        raise UsageError(f"The output {quote_name(out)} is a file; a batch needs a folder: give another name with -o.")
    _check_depth(request)
    rules = _without(request.rules, out)
    contents = discover.find(request.contents, rules, find_content, "CONTENTS")
    styles = discover.find(request.styles, rules, find_style, "STYLES")
    couples = pairs.couples(contents.inputs, styles.inputs, zipped=request.zipped, blended=request.blended)
    weights = request.options.style_weights
    if weights and len(weights) != len(couples[0][1]):
        raise OptionError(
            f"style_weights has {len(weights)} numbers, but each picture has {len(couples[0][1])} styles; give one for "
            "each, with --blend where several are blended."
        )
    kept = resume.kept_names(past) if request.template is None else {}
    ending = f".{request.format}"
    kept = {key: name for key, name in kept.items() if name.endswith(ending)}
    found = pairs.named(couples, request.template, request.format, request.options.seed, kept)
    _check_outputs(found, request)
    files = Files()
    settings = resume.settings_of(
        request.options.to_dict(),
        files,
        INIT_CHOICES,
        bit_depth=request.bit_depth,
        **request.more,
        **_work(request.repeat),
    )
    standing = resume.standing(found, past, out, settings, files, overwrite=request.overwrite, retry=request.retry)
    return Batch(
        request=request,
        pairs=found,
        standing=standing,
        files=files,
        settings=settings,
        problems=contents.problems + styles.problems,
        links=contents.links + styles.links,
    )


def _work(repeat: Replay | None) -> dict[str, Any]:
    return {"repeat": repr(repeat)} if repeat else {}


def _without(rules: Rules, out: Path) -> Rules:
    return Rules(
        recursive=rules.recursive,
        follow=rules.follow,
        include=rules.include,
        exclude=rules.exclude,
        without=os.path.realpath(out),
    )


def _check_depth(request: Request) -> None:
    kind = ENDINGS[request.format]
    if request.bit_depth not in images.FORMATS[kind].depths:
        raise OptionError(f"{images.FORMATS[kind].shown} has no {request.bit_depth} bit; take --format png or tiff.")


def _check_outputs(found: list[Pair], request: Request) -> None:
    """Refuse names of another format, pictures over their own inputs, and folders that cannot be written.

    Raises:
        UsageError: a name has another format, or is an input.
        OutputError: a folder cannot be written.
    """
    inputs = _real({it.path for pair in found for it in (pair.content, *pair.styles)})
    out, real = request.out, os.path.realpath(request.out)
    folders: set[str] = set()
    endings: set[str] = set()
    for pair in found:
        folder, _, name = pair.output.rpartition("/")
        ending = name.rpartition(".")[2]
        if ending not in endings and images.find_format(out / pair.output) != ENDINGS[request.format]:
            raise UsageError(
                f"--name makes {quote_name(pair.output)}, but --format is {request.format}; end the template in {{ext}}, "
                "or give the format it names."
            )
        if os.path.join(real, pair.output) in inputs:  # noqa: PTH118 - very many
            raise UsageError(
                f"The output {quote_name(out / pair.output)} is one of the inputs; give another folder with -o."
            )
        endings.add(ending)
        if folder not in folders:
            folders.add(folder)
            images.check_output(out / pair.output, overwrite=True)


def _real(paths: set[str]) -> set[str]:
    """Paths with the links among their folders followed, each folder once."""
    folders: dict[str, str] = {}
    found = set()
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or ".")
        found.add(f"{folders[folder]}{os.sep}{name}")
    return found
