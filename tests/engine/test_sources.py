"""Input images: every form that callers have."""

from collections.abc import Callable

from torch import Tensor

from styler.engine.sources import SourceImage

Picture = Callable[..., Tensor]


def test_the_digest_depends_on_pixels_and_shape(picture: Picture) -> None:
    image = picture(16, 24)
    assert SourceImage.of(image).digest == SourceImage.of(image.clone()).digest
    assert SourceImage.of(image).digest != SourceImage.of(image.reshape(1, 3, 24, 16)).digest
    other = image.clone()
    other[0, 0, 0, 0] += 0.01
    assert SourceImage.of(image).digest != SourceImage.of(other).digest
