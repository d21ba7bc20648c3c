"""Settings inside pictures, for `styler run`: written into the new one, taken over from an earlier one.

Its flags come as one group, so that a verb takes them by one argument.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from styler.cli.flags import FROM_LAYER, ReplayOptions
from styler.errors import UsageError, quote_name

if TYPE_CHECKING:
    from styler.engine.result import Result
    from styler.images import Picture
    from styler.provenance import Record
    from styler.schedule import Replay


@dataclass(frozen=True, slots=True, eq=False)
class EarlierPicture:
    """An earlier picture's settings, and the work to be repeated; both None when there is no such picture."""

    record: "Record | None" = None
    replay: "Replay | None" = None

    @property
    def layers(self) -> list[tuple[str, Mapping[str, Any]]]:
        """For `options.resolve`."""
        from styler import provenance

        return [(FROM_LAYER, provenance.settings_from_record(self.record))] if self.record else []


def load_earlier(keeping: ReplayOptions, asked: Mapping[str, Any]) -> EarlierPicture:
    """What there is to take over; a flag that is about the plan has it made anew.

    Raises:
        ImageError: the picture carries no settings that can be read.
        UsageError: the earlier painting began with a picture file, and none is given.
    """
    if keeping.source is None:
        return EarlierPicture()
    from styler import provenance

    record = provenance.read_record(keeping.source)
    if record["options"]["init"] == provenance.INIT_FILE and "init" not in asked:
        raise UsageError(
            f"What made {quote_name(keeping.source)} began with a picture file; give that file with --init FILE."
        )
    anew = any(name in asked for name in provenance.SCHEDULE_OPTIONS)
    return EarlierPicture(record, None if anew else provenance.replay_from_record(record))


def warn_inputs(
    earlier: EarlierPicture, content: "Picture", styles: "list[Picture]", start: "Picture | None"
) -> list[str]:
    """Sentences on which inputs are others than they were, and on work that was not finished then."""
    from styler import provenance

    if not earlier.record:
        return []
    found = provenance.compare_inputs(earlier.record, content, styles, start)
    if earlier.record["stopped"] and earlier.replay:
        found.append("That painting was stopped, and is repeated as far as it went; --iterations has it done in full.")
    return found


def warn_machine(earlier: EarlierPicture, result: "Result") -> list[str]:
    """Sentences on what was different here, so that the pixels may be."""
    from styler import provenance

    return provenance.compare_machine(earlier.record, result) if earlier.record else []


def save_options(keeping: ReplayOptions) -> dict[str, bool]:
    """What goes into the new picture besides its pixels, as `finish.encoded` takes it."""
    return {"settings": not keeping.no_metadata, "keep_metadata": keeping.keep_metadata}
