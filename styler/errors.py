"""Every error that a user can cause or resolve, as one tree.

    StylerError                exit code 1 unless a subclass says otherwise
    ├── UsageError             2: the request itself is invalid
    │   └── OptionError        2: a setting is unknown or out of its range
    ├── NothingMatched         4: there is nothing to paint
    ├── ImageError             a picture cannot be read
    ├── OutputError            a picture cannot be written
    ├── WeightsError           a network's weights are missing, altered or unusable
    └── DeviceError            a device is missing or cannot do what was requested
        └── OutOfMemory        the picture needs more memory than is available

Each message is one sentence: what failed, which file, why, and what to do. Front ends catch `StylerError` once; any
other exception that escapes is a bug. Does not know how errors are shown.
"""

import os


class StylerError(Exception):
    """Base class: a sentence for the user, and the exit code of the command line."""

    exit_code = 1


class UsageError(StylerError):
    """The request itself is invalid; nothing was started."""

    exit_code = 2


class OptionError(UsageError):
    """A setting is unknown, malformed or out of its range."""


class NothingMatched(StylerError):
    """No input matches the folder, pattern or list."""

    exit_code = 4


class ImageError(StylerError):
    """A picture is missing, unreadable, damaged, of an unknown format or too large."""


class OutputError(StylerError):
    """A picture cannot be written."""


class WeightsError(StylerError):
    """Weights are missing, altered or truncated, or do not fit the network."""


class DeviceError(StylerError):
    """The device is missing, or cannot do what was requested."""


class OutOfMemory(DeviceError):
    """The picture does not fit in memory; the message names a size that would."""


def quote_name(name: str | os.PathLike[str]) -> str:
    r"""Quote `name` for a message, with control characters, line breaks and undecodable bytes as `\x…`."""
    return "'" + "".join(c if c.isprintable() else _escape(c) for c in os.fspath(name)) + "'"


def _escape(character: str) -> str:
    # Python decodes bytes that are not UTF-8 to lone surrogates U+DC80 to U+DCFF, which no terminal can print.
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
