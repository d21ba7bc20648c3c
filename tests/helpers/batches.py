"""Helpers of the tests of batches."""

from styler.batch.runner import BatchEvent


def group_kinds(events: list[BatchEvent]) -> dict[str, list[str]]:
    """Return the kinds of the events of each picture, in order; events of different pictures interleave at random."""
    kinds: dict[str, list[str]] = {}
    for event in events:
        kinds.setdefault(event.pair.output, []).append(event.kind)
    return kinds
