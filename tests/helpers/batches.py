"""What tests of batches share."""

from styler.batch.runner import BatchEvent


def by_picture(told: list[BatchEvent]) -> dict[str, list[str]]:
    """The kinds of the events of each picture, in order; how two pictures' lie among each other is left to chance."""
    found: dict[str, list[str]] = {}
    for event in told:
        found.setdefault(event.pair.output, []).append(event.kind)
    return found
