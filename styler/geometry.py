"""Arithmetic of image sizes, without torch."""


def fit_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return width and height in the same proportion with the given long side, each at least 1."""
    ratio = long_side / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def fit_inside(width: int, height: int, box: tuple[int, int]) -> tuple[int, int]:
    """Return width and height in the same proportion, as large as a box (width, height) holds, each at least 1."""
    ratio = min(box[0] / width, box[1] / height)
    return min(box[0], max(1, round(width * ratio))), min(box[1], max(1, round(height * ratio)))


def turn_like(box: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return a box (width, height), turned if it is upright and the picture lies, or the other way round."""
    is_opposite = (width - height) * (box[0] - box[1]) < 0
    return (box[1], box[0]) if is_opposite else box


def crop_to_proportion(width: int, height: int, box: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the largest part in the middle that has the proportion of a box.

    A picture that has it already, to the nearest pixel, is kept whole: cropping twice is the same as once.
    """
    ideal_width, ideal_height = height * box[0] / box[1], width * box[1] / box[0]
    if abs(width - ideal_width) <= 0.5 or abs(height - ideal_height) <= 0.5:
        return 0, 0, width, height
    if width > ideal_width:
        kept = max(1, round(ideal_width))
        left = (width - kept) // 2
        return left, 0, left + kept, height
    kept = max(1, round(ideal_height))
    top = (height - kept) // 2
    return 0, top, width, top + kept


def scale_box(
    box: tuple[int, int, int, int], size: tuple[int, int], other: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return a box (left, top, right, bottom) in a copy of a picture, given the sizes of both; at least a pixel."""
    x, y = other[0] / size[0], other[1] / size[1]
    left, top = min(round(box[0] * x), other[0] - 1), min(round(box[1] * y), other[1] - 1)
    return left, top, max(round(box[2] * x), left + 1), max(round(box[3] * y), top + 1)


def count_halvings(size: tuple[int, int], long_side: int, min_side: int) -> int:
    """Return how often a size (width, height) can be halved before a side is below `long_side` or `min_side`."""
    count, side = 0, max(size) // 2
    while side >= long_side and min(fit_size(*size, side)) >= min_side:
        count, side = count + 1, side // 2
    return count
