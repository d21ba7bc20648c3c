"""Everything a user can cause to go wrong, as one tree.

    StylerError                exit code 1 unless a subclass says otherwise
    ├── UsageError             2: the request itself makes no sense
    │   └── OptionError        2: a setting is unknown or out of its range
    ├── NothingMatched         4: there is nothing to paint
    ├── ImageError             a picture cannot be read
    ├── OutputError            a picture cannot be written
    ├── WeightsError           a network's weights are missing, altered or unusable
    └── DeviceError            a device is absent or cannot do what was asked
        └── OutOfMemory        the picture is too large for the memory there is

Each message is one sentence for a person: what failed, which file, why, and what to do. Front ends catch `StylerError`
once; anything else that escapes is a bug of ours. This module does not know how errors are shown.
"""

import os


class StylerError(Exception):
    """The root: one sentence a person can act on, and the exit code of the command line."""

    exit_code = 1


class UsageError(StylerError):
    """The request itself makes no sense; nothing was begun."""

    exit_code = 2


class OptionError(UsageError):
    """A setting is unknown, malformed or out of its range."""


class NothingMatched(StylerError):
    """What was asked for by a folder, a pattern or a list is not there."""

    exit_code = 4


class ImageError(StylerError):
    """A picture is missing, unreadable, damaged, of an unknown kind or too large."""


class OutputError(StylerError):
    """A picture cannot be written where it was asked for."""


class WeightsError(StylerError):
    """Weights are missing, altered, truncated, or do not fit the network."""


class DeviceError(StylerError):
    """The device asked for is absent, or cannot do what was asked."""


class OutOfMemory(DeviceError):
    """The picture does not fit in the memory there is; the sentence names a size that would."""


def quote_name(name: str | os.PathLike[str]) -> str:
    r"""Give `name` in quotes, safe to show: control characters, line breaks and undecodable bytes become `\x…`."""
    return "'" + "".join(c if c.isprintable() else _escape(c) for c in os.fspath(name)) + "'"


def _escape(character: str) -> str:
    # Bytes of a name that are not UTF-8 reach Python as lone surrogates U+DC80 to U+DCFF, which no terminal can print.
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
