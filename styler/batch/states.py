"""Keep the state of a painting in progress on disk, so that it goes on after a crash, a kill or a power cut.

Knows when to save, and under which name; `engine.resume` knows what a state is.
"""

import time
from pathlib import Path

from styler.engine.memory.measure import is_out_of_memory
from styler.engine.result import Progress
from styler.engine.resume.file import is_tree
from styler.engine.resume.state import Snapshot
from styler.errors import OutputError, ResumeError, StylerError, quote_name

SAVE_SECONDS = 60.0
"""Seconds after a save until the next; what is shorter is not saved at all."""
STATE_SUFFIX = ".resume"
"""What follows the name of the picture in that of its state."""


def locate_state(picture: Path) -> Path:
    """Return the path of the state of a picture: `painted.png.resume` beside `painted.png`."""
    return picture.with_name(picture.name + STATE_SUFFIX)


class StateKeeper:
    """Saves the state of one painting whenever it is due, and removes it when the picture is written.

    A state that cannot be written does not end the painting; it is tried again when the next is due.

    Args:
        picture: where the picture will be written.
        interval: seconds after a save until the next.
    """

    def __init__(self, picture: Path, interval: float = SAVE_SECONDS) -> None:
        self.path, self._interval = locate_state(picture), interval
        self._last = self._updated = time.perf_counter()
        self.count, self.seconds = 0, 0.0
        """How often it was saved, and the time that this took."""
        self._has_failed = False

    @property
    def is_foreign(self) -> bool:
        """Whether a file that styler has not written has the name of the state; it is neither replaced nor removed."""
        try:
            return not is_tree(self.path)
        except FileNotFoundError:
            return False
        except OSError:  # what cannot be read is not known to be ours
            return True

    def load(self) -> Snapshot | None:
        """Return the state of an earlier run; None if there is none.

        Raises:
            ResumeError: it cannot be read, or is damaged.
        """
        try:
            return Snapshot.load(self.path)
        except FileNotFoundError:
            return None

    def update(self, progress: Progress) -> str | None:
        """Save the state after an iteration if it is due; return a sentence the first time that this fails.

        It is due if the interval since the last save would be over after another iteration as long as the last one, and
        at the end of every scale of a painting that takes longer.
        """
        if progress.result is not None:
            return None
        before, self._updated = self._updated, time.perf_counter()
        is_due = 2 * self._updated - before - self._last >= self._interval
        ends_scale = progress.iteration >= progress.iterations
        if not is_due and not (ends_scale and progress.seconds + (progress.eta or 0.0) >= self._interval):
            return None
        begin, problem = time.perf_counter(), None
        try:
            if self.is_foreign:
                problem = f"{quote_name(self.path)} is not a state of styler; rename it."
            else:
                progress.save_state(self.path)
                self.count += 1
        except OutputError as error:
            problem = str(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = "There is not enough memory for a copy."
        self._last = time.perf_counter()
        self.seconds += self._last - begin
        is_first, self._has_failed = not self._has_failed, self._has_failed or problem is not None
        return f"The state of the painting is not saved. {problem}" if problem and is_first else None

    def explain(self, error: ResumeError, names: dict[str, str]) -> str:
        """Return a sentence that says why the state cannot be used; `names` are the files of inputs, by subject."""
        reason = error.reason
        if quote_name(self.path) in reason:
            return str(error)
        if name := names.get(error.subject):
            reason = reason.replace(error.subject, f"{error.subject} ({quote_name(name)})", 1)
        return f"Cannot resume from {quote_name(self.path)}: {reason}; {error.advice}."

    def remove(self) -> None:
        """Remove the state, since the picture has been written.

        Raises:
            StylerError: the system refuses.
        """
        if self.is_foreign:
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StylerError(
                f"The picture was written, but {quote_name(self.path)} cannot be removed ({reason}); remove it."
            ) from error
