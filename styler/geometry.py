"""Arithmetic of image sizes, without torch."""


def fit_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return width and height in the same proportion with the given long side, each at least 1."""
    ratio = long_side / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def count_halvings(size: tuple[int, int], long_side: int, min_side: int) -> int:
    """Return how often a size (width, height) can be halved before a side is below `long_side` or `min_side`."""
    count, side = 0, max(size) // 2
    while side >= long_side and min(fit_size(*size, side)) >= min_side:
        count, side = count + 1, side // 2
    return count
