"""Every error that a user can cause or resolve, as one tree.

    StylerError                exit code 1 unless a subclass says otherwise
    ├── UsageError             2: the request itself is invalid
    │   └── OptionError        2: a setting is unknown or out of its range
    ├── NothingMatched         4: there is nothing to paint
    ├── ImageError             a picture cannot be read
    ├── OutputError            a picture cannot be written
    ├── ResumeError            a painting cannot go on from its saved state
    ├── WeightsError           a network's weights are missing, altered or unusable
    └── DeviceError            a device is missing or cannot do what was requested
        └── OutOfMemory        the picture needs more memory than is available

Each message is one sentence: what failed, which file, why, and what to do. Front ends catch `StylerError` once; any
other exception that escapes is a bug. Does not know how errors are shown.
"""

import errno
import os
import re


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


class ResumeError(StylerError):
    """A painting cannot go on from a saved state, which is damaged or of another painting.

    Args:
        reason: why, as the second half of a sentence.
        advice: what to do.
        subject: the input that differs, if `reason` begins with one: `the photo`, `style 2` …
    """

    def __init__(self, reason: str, advice: str, subject: str = "") -> None:
        super().__init__(f"The painting cannot be resumed: {reason}; {advice}.")
        self.reason, self.advice, self.subject = reason, advice, subject


class WeightsError(StylerError):
    """Weights are missing, altered or truncated, or do not fit the network."""


class DeviceError(StylerError):
    """The device is missing, or cannot do what was requested."""


class OutOfMemory(DeviceError):
    """The picture does not fit in memory; the message names a size that would."""


SHORTAGE = re.compile(
    r"failed to map segment|(can't|cannot|could not|unable to) allocate( memory)?|can't start new thread|"
    r"not enough memory|paging file is too small|bad_alloc|out of memory",
    re.IGNORECASE,
)
"""What libraries and systems say when memory runs out, whatever the type of their exception."""


RESTRICTIONS = {
    "initialize cpuinfo": "it reads /proc/cpuinfo; mount /proc",
    "could not create a primitive": "it needs memory, also for code that it generates; close other programs, "
    "and remove MemoryDenyWriteExecute from the service if it has it",
}
"""What PyTorch says in containers and services that are too restricted, and the reason with the advice."""


def explain_failure(error: BaseException) -> str | None:
    """Return a sentence about an exception that the machine or the installation causes; None if it may be a bug."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, OSError) and link.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
            return (
                f"This process has reached a limit of the system ({link.strerror}); raise the limits of open files "
                "('ulimit -n') and processes ('ulimit -u'), or end other programs."
            )
        for sign, reason in RESTRICTIONS.items():
            if isinstance(link, RuntimeError) and sign in str(link):
                return f"PyTorch cannot run here ({sign}): {reason}."
        if isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno == errno.ENOMEM):
            return _explain_shortage(str(link))
        if isinstance(link, ImportError | OSError | RuntimeError) and (found := SHORTAGE.search(str(link))):
            return _explain_shortage(found[0])
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in ("styler", "ui"):
        return (
            f"A library cannot be loaded ({_get_last_line(error)}); the installation is incomplete or damaged: install "
            "styler again, in a new environment."
        )
    return None


def _explain_shortage(reason: str) -> str:
    detail = f" ({reason.strip()})" if reason.strip() else ""
    return (
        f"There is not enough memory{detail}; close other programs, raise the "
        "limits of this process if it has any ('ulimit -v', 'ulimit -u'), or choose a smaller size."
    )


def _get_last_line(error: BaseException) -> str:
    return next(
        (line.strip().rstrip(".") for line in reversed(str(error).splitlines()) if line.strip()), "no reason given"
    )


def quote_name(name: str | os.PathLike[str]) -> str:
    r"""Quote `name` for a message, with control characters, line breaks and undecodable bytes as `\x…`."""
    return "'" + "".join(c if c.isprintable() else _escape(c) for c in os.fspath(name)) + "'"


def _escape(character: str) -> str:
    # Python decodes bytes that are not UTF-8 to lone surrogates U+DC80 to U+DCFF, which no terminal can print.
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()
