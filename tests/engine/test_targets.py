"""Targets: layers and weights, strength, stroke size, several styles, and the cache."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from styler import resample
from styler.engine import targets
from styler.engine.color import measure_colors, transfer_colors
from styler.engine.sources import SourceImage
from styler.engine.styles import (
    MIN_ROUGHNESS,
    StyleCache,
    analyze_style,
    compute_style_size,
    measure_roughness,
    prepare_blend,
)
from styler.errors import OptionError
from styler.objective.losses import coarse_chroma, total_variation
from styler.objective.moments import Moments, compute_moments
from styler.objective.terms import Targets
from styler.objective.wasserstein import WassersteinTarget
from styler.options import Options
from styler.resample import Downsample, resize
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Picture = Callable[..., Tensor]
GRAM = Options(distance="gram")


@pytest.fixture
def features(tiny: Weights) -> Features:
    layers = (*targets.resolve_content_layers(Options(), "tiny"), *targets.resolve_style_layers(Options(), "tiny"))
    return Features(tiny, layers, "average")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record width and height of every image that passes through the network."""
    seen: list[tuple[int, int]] = []
    forward = Features.forward

    def counted(self: Features, image: Tensor, *rest: object, **settings: bool) -> dict[str, Tensor]:
        seen.append((image.shape[-1], image.shape[-2]))
        return forward(self, image, *rest, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Features, "forward", counted)
    return seen


def gram(actual: Targets, layer: str) -> Moments:
    target = actual.style[layer]
    assert isinstance(target, Moments)
    return target


def source(image: Tensor) -> SourceImage:
    return SourceImage.of(image)


def compute(
    features: Features,
    content: SourceImage,
    styles: list[SourceImage],
    size: tuple[int, int],
    options: Options,
    cache: StyleCache,
) -> Targets:
    blend = prepare_blend(content, styles, options)
    return targets.compute_targets(features, content, blend, size, options, cache)


def test_resizing_keeps_the_range_and_the_mean(picture: Picture) -> None:
    image = picture(64, 96)
    for width, height in ((48, 32), (96, 64), (192, 130), (1, 1)):
        actual = resize(image, width, height)
        assert actual.shape == (1, 3, height, width)
        assert actual.min() >= 0
        assert actual.max() <= 1
        torch.testing.assert_close(actual.mean(dim=(2, 3)), image.mean(dim=(2, 3)), rtol=0.05, atol=0)


def test_resizing_to_the_same_size_returns_the_image(picture: Picture) -> None:
    image = picture(20, 30)
    assert resize(image, 30, 20) is image


@pytest.mark.parametrize("size", [(30, 20), (31, 17), (8, 64)])
def test_downsample_and_its_adjoint_match_interpolation(picture: Picture, size: tuple[int, int]) -> None:
    image = picture(64, 64, 2)
    reduction = Downsample((64, 64), size, image.device)
    small = reduction(image.requires_grad_())
    torch.testing.assert_close(small.clamp(0, 1), resize(image, *size), rtol=0, atol=1e-6)
    weights = picture(size[1], size[0], 3)
    (expected,) = torch.autograd.grad((small * weights).sum(), image)
    total = picture(64, 64, 4)
    torch.testing.assert_close(reduction.add_adjoint(total.clone(), weights, 0.7), total + 0.7 * expected)


def test_downsample_is_the_same_in_parts(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    image, weights, (width, height) = picture(50, 64, 2), picture(20, 31, 3), (31, 20)
    whole = Downsample((64, 50), (width, height), image.device)
    monkeypatch.setattr(resample, "RESIZED_VALUES", 3 * 64 * 7)  # of 7 rows each
    parts = Downsample((64, 50), (width, height), image.device)
    torch.testing.assert_close(parts(image), whole(image), rtol=0, atol=1e-6)
    zero = torch.zeros_like(image)
    torch.testing.assert_close(parts.add_adjoint(zero.clone(), weights), whole.add_adjoint(zero, weights))


def test_shrinking_does_not_alias() -> None:
    """Stripes of one pixel become gray, not another pattern."""
    stripes = (torch.arange(128) % 2).float().expand(1, 3, 128, 128).contiguous()
    inside = resize(stripes, 30, 30)[..., 3:-3, 3:-3]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), rtol=0, atol=0.02)


def test_style_layer_weights_are_normalized() -> None:
    options = Options(layer_weights=(256.0, 64.0, 16.0, 4.0, 2.0, 1.0))
    actual = targets.resolve_style_layers(options, "vgg16")
    assert tuple(actual) == options.style_layers
    assert math.fsum(actual.values()) == pytest.approx(1)
    assert actual["relu1_1"] / actual["relu4_3"] == pytest.approx(256 / 2)


def test_one_layer_weight_applies_to_all_layers() -> None:
    actual = targets.resolve_style_layers(Options(layer_weights=(7.0,)), "vgg16")
    assert list(actual.values()) == pytest.approx([1 / 6] * 6)


@pytest.mark.parametrize("network", ["vgg11", "vgg13"])
def test_a_default_layer_that_is_missing_becomes_the_last_of_its_block(network: str) -> None:
    actual = targets.resolve_style_layers(Options(), network)
    assert list(actual) == ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1"]
    assert math.fsum(actual.values()) == pytest.approx(1)
    full = targets.resolve_style_layers(Options(), "vgg16")
    assert actual["relu4_2"] == pytest.approx(full["relu4_3"])


def test_the_layers_of_a_look_are_default_layers() -> None:
    assert "relu4_2" in targets.resolve_style_layers(Options.of(look="gram"), "vgg11")


def test_a_chosen_layer_that_is_missing_is_an_error_that_lists_the_layers() -> None:
    with pytest.raises(OptionError, match="'relu4_3' is not a layer of vgg11") as caught:
        targets.resolve_style_layers(Options(style_layers=("relu1_1", "relu4_3"), layer_weights=(1.0,)), "vgg11")
    assert "relu4_2" in str(caught.value)
    with pytest.raises(OptionError, match="'relu4_3' is not a layer of vgg11"):
        targets.resolve_content_layers(Options(content_layers=("relu4_3",)), "vgg11")


def test_a_repeated_layer_counts_twice_and_conv_means_its_rectified_output() -> None:
    options = Options(style_layers=("conv1_1", "relu1_1", "relu2_1"), layer_weights=(1.0, 2.0, 3.0))
    assert targets.resolve_style_layers(options, "vgg16") == pytest.approx({"relu1_1": 0.5, "relu2_1": 0.5})
    assert targets.resolve_content_layers(Options(content_layers=("conv4_2", "relu4_2")), "vgg16") == ("relu4_2",)


def test_strength_first_mixes_in_the_style_and_then_releases_the_content() -> None:
    assert [targets.style_mix(strength) for strength in (0, 50, 75, 100)] == [0, 1, 1, 1]
    assert [targets.content_falloff(strength) for strength in (0, 25, 50)] == [1, 1, 1]
    assert [targets.release_content(strength) for strength in (0, 50, 75, 100)] == [0, 0, 0.5, 1]
    assert targets.content_falloff(75) == pytest.approx(30**-0.5)
    assert targets.content_falloff(100) == pytest.approx(1 / 30)
    for step in range(100):
        assert targets.style_mix(step) <= targets.style_mix(step + 1)
        assert targets.content_falloff(step) >= targets.content_falloff(step + 1)
        assert (targets.style_mix(step), -targets.content_falloff(step)) < (
            targets.style_mix(step + 1),
            -targets.content_falloff(step + 1),
        )


def test_options_give_the_weight_of_every_term() -> None:
    layers = ("relu3_1", "relu4_2")
    options = Options(strength=25, brushwork=0, keep_color=0.5, content_layers=layers, content_weight=0.3)
    actual = targets.compute_term_weights(options, "vgg16")
    assert actual.content == pytest.approx({"relu3_1": 0.15, "relu4_2": 0.15})
    assert actual.style == targets.resolve_style_layers(options, "vgg16")
    assert actual.smoothness == pytest.approx(options.smoothness * targets.style_mix(25))
    assert actual.color == pytest.approx(targets.COLOR_WEIGHT / 2)
    strong = targets.compute_term_weights(options.replace(strength=100), "vgg16")
    assert sum(strong.content.values()) == pytest.approx(0.3 / 30)
    assert strong.smoothness == options.smoothness


def test_brushwork_holds_the_content_and_smooths() -> None:
    """Against small faces that dissolve, and against grain; from 50 on the content is released again."""
    kinds = [targets.compute_term_weights(Options(brushwork=each), "vgg16") for each in (0, 25, 50, 75, 100)]
    content = [kind.content["relu4_2"] / kinds[0].content["relu4_2"] for kind in kinds]
    assert content == pytest.approx([1, 1.3, 1.3, 1.15, 1])
    assert [kind.smoothness / kinds[0].smoothness for kind in kinds] == pytest.approx([1, 3.5, 3.5, 3.5, 3.5])
    assert kinds[0].style == kinds[4].style


def test_the_content_scale_grows_with_the_distance_of_the_means(features: Features, picture: Picture) -> None:
    content, style = picture(48, 64, 1), picture(40, 64, 2)

    def demand(image: Tensor, options: Options = GRAM) -> float:
        actual = compute(features, source(content), [source(image)], (64, 48), options, StyleCache())
        return float(actual.content_scale)

    ours, theirs = features(content), features(style)
    shares = targets.resolve_style_layers(GRAM, features.network)
    apart = [
        share * (ours[layer].mean((0, 2, 3)) - theirs[layer].mean((0, 2, 3))).square().mean()
        for layer, share in shares.items()
    ]
    expected = math.sqrt(max(targets.MIN_CONTENT_SCALE, float(sum(apart))))
    assert demand(style) == pytest.approx(expected, rel=1e-4)
    assert demand(content) == targets.MIN_CONTENT_SCALE**0.5
    assert demand(style, GRAM.replace(strength=20)) == demand(style)
    far = compute(features, source(0.1 * content), [source(1 - 0.1 * style)], (64, 48), GRAM, StyleCache())
    assert float(far.content_scale) > demand(style)


def test_roughness_is_the_root_of_the_total_variation_of_the_style(features: Features, picture: Picture) -> None:
    styles = [picture(40, 64, 2), 0.5 + 0.25 * (picture(40, 64, 3) - 0.5)]
    one, other, both = (
        compute(
            features, source(picture(48, 64, 1)), [source(style) for style in actual], (64, 48), options, StyleCache()
        ).roughness
        for actual, options in (
            (styles[:1], GRAM),
            (styles[1:], GRAM),
            (styles, GRAM.replace(style_weights=(1.0, 3.0))),
        )
    )
    assert one == pytest.approx(float(total_variation(styles[0])) ** 0.5)
    assert 0 < other < one
    assert both == pytest.approx((one + 3 * other) / 4)
    flat = source(torch.full((1, 3, 48, 48), 0.5))
    assert measure_roughness(flat, (48, 48)) == MIN_ROUGHNESS


def test_content_targets_are_features_of_the_content(features: Features, picture: Picture) -> None:
    content, style = picture(48, 64, 1), picture(48, 64, 2)
    actual = compute(features, source(content), [source(style)], (64, 48), GRAM, StyleCache())
    assert set(actual.content) == {"relu4_2"}
    torch.testing.assert_close(actual.content["relu4_2"], features(content)["relu4_2"], rtol=0, atol=0)
    assert actual.color is None


def test_style_targets_are_statistics_of_the_style(features: Features, picture: Picture) -> None:
    content, style = picture(48, 64, 1), picture(40, 64, 2)
    actual = compute(features, source(content), [source(style)], (64, 48), GRAM, StyleCache())
    assert list(actual.style) == list(Options().style_layers)
    for layer, maps in features(style).items():
        if layer in actual.style:
            torch.testing.assert_close(gram(actual, layer).second, compute_moments(maps).second)


def test_the_wasserstein_distance_has_prepared_targets(features: Features, picture: Picture) -> None:
    content, style = source(picture(48, 48, 1)), source(picture(48, 48, 2))
    actual = compute(features, content, [style], (48, 48), Options(), StyleCache())
    assert all(isinstance(target, WassersteinTarget) for target in actual.style.values())


def test_a_root_is_prepared_only_for_layers_that_use_it(features: Features, picture: Picture) -> None:
    content, style = source(picture(32, 32, 1)), source(picture(48, 48, 2))
    actual = compute(features, content, [style], (32, 32), Options(), StyleCache()).style
    missing = {
        layer for layer, target in actual.items() if isinstance(target, WassersteinTarget) and not target.root.numel()
    }
    assert missing == {
        layer
        for layer, maps in features(content.image).items()
        if layer in actual and maps[0, 0].numel() < maps.shape[1]
    }
    assert 0 < len(missing) < len(actual)


def test_below_strength_50_the_statistics_of_content_and_style_are_mixed(features: Features, picture: Picture) -> None:
    content, style = picture(48, 48, 1), picture(48, 48, 2)
    actual = compute(features, source(content), [source(style)], (48, 48), GRAM.replace(strength=20), StyleCache())
    ours, theirs = (compute_moments(features(image)["relu3_1"]).second for image in (content, style))
    share = targets.style_mix(20)
    assert 0.2 < share < 0.8
    torch.testing.assert_close(gram(actual, "relu3_1").second, (1 - share) * ours + share * theirs)


@pytest.mark.parametrize(("weights", "share"), [((), 0.5), ((1.0, 3.0), 0.25), ((2.0, 0.0), 1.0)])
def test_several_styles_are_blended_by_their_weights(
    features: Features, picture: Picture, weights: tuple[float, ...], share: float
) -> None:
    styles = [picture(48, 48, 2), picture(48, 48, 3)]
    options = GRAM.replace(style_weights=weights)
    actual = compute(
        features, source(picture(48, 48, 1)), [source(style) for style in styles], (48, 48), options, StyleCache()
    )
    first, second = (compute_moments(features(style)["relu2_1"]).second for style in styles)
    torch.testing.assert_close(gram(actual, "relu2_1").second, share * first + (1 - share) * second)


@pytest.mark.parametrize(
    ("height", "width", "long_side", "stroke_size", "expected"),
    [
        (300, 400, 200, 1.0, (200, 150)),
        (300, 400, 400, 1.0, (400, 300)),
        (300, 400, 4000, 1.0, (400, 300)),  # never enlarged
        (300, 400, 200, 2.0, (400, 300)),
        (300, 400, 4000, 2.0, (800, 600)),  # but for larger strokes
        (300, 400, 200, 0.5, (100, 75)),
        (300, 400, 64, 0.25, (21, 16)),  # never narrower than the network needs
        (4, 400, 64, 1.0, (1600, 16)),
        (8, 8, 512, 1.0, (16, 16)),
    ],
)
def test_the_size_at_which_a_style_is_analyzed(
    height: int, width: int, long_side: int, stroke_size: float, expected: tuple[int, int]
) -> None:
    assert compute_style_size((width, height), long_side, stroke_size, 16) == expected


def test_stroke_size_changes_the_size_at_which_a_style_is_analyzed(
    features: Features, picture: Picture, passes: list[tuple[int, int]]
) -> None:
    content, style = source(picture(64, 64, 1)), source(picture(128, 96, 2))
    for stroke_size in (1.0, 2.0, 0.5):
        compute(features, content, [style], (64, 64), GRAM.replace(stroke_size=stroke_size), StyleCache())
    assert passes == [(64, 64), (48, 64), (64, 64), (96, 128), (64, 64), (24, 32)]


def test_statistics_of_a_style_are_computed_once(
    features: Features, picture: Picture, passes: list[tuple[int, int]]
) -> None:
    cache, style = StyleCache(), source(picture(64, 64, 2))
    for seed in (1, 3):
        compute(features, source(picture(64, 48, seed)), [style, style], (48, 64), GRAM, cache)
    assert passes == [(48, 64), (64, 64), (48, 64)]


def test_other_settings_have_other_cache_entries(
    tiny: Weights, features: Features, picture: Picture, passes: list[tuple[int, int]]
) -> None:
    cache, style = StyleCache(), source(picture(64, 64, 2))
    others = [features, Features(tiny, ["relu1_1"], "average"), Features(tiny, features.layers, "max")]
    others.append(Features(tiny, features.layers, "average", torch.bfloat16))
    for network in others:
        cache.get_moments(network, style, (32, 32), None)
        cache.get_moments(network, style, (32, 32), None)
    assert len(passes) == len(others)


def test_the_cache_drops_the_least_recently_used(
    monkeypatch: pytest.MonkeyPatch, features: Features, picture: Picture, passes: list[tuple[int, int]]
) -> None:
    cache, styles = StyleCache(), [source(picture(16, 16, seed)) for seed in range(3)]
    cache.get_moments(features, styles[0], (16, 16), None)
    monkeypatch.setattr("styler.engine.styles.MAX_CACHE_BYTES", 2 * cache.bytes)
    passes.clear()
    cache = StyleCache()
    for index in (0, 1, 0, 2, 0):
        cache.get_moments(features, styles[index], (16, 16), None)
    assert len(passes) == 3
    cache.get_moments(features, styles[1], (16, 16), None)
    assert len(passes) == 4


def test_the_cache_is_bounded_by_its_bytes(
    features: Features, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, style = StyleCache(), source(picture(16, 16))
    monkeypatch.setattr("styler.engine.styles.MAX_CACHE_BYTES", 10_000)
    for side in range(16, 80, 2):
        cache.get_moments(features.select(features.layers[side % 3 :]), style, (side, side), None)
        assert cache.bytes <= 10_000
    assert cache.bytes > 5_000


@pytest.mark.parametrize("size", [(250, 181), (48, 333), (399, 40)])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_a_large_style_is_analyzed_in_tiles_with_the_same_result(
    tiny: Weights,
    picture: Picture,
    size: tuple[int, int],
    pooling: str,
    passes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, image = Features(tiny, tiny.layers, pooling).double(), picture(size[1], size[0], 2).double()
    whole = analyze_style(features, image)
    assert passes == [size]
    monkeypatch.setattr("styler.engine.styles.TILE_SIDE", 32)

    def differ() -> float:
        """Return the largest relative difference of the statistics from those of the whole image."""
        tiled = analyze_style(features, image)
        pairs = [pair for layer in features.layers for pair in zip(tiled[layer], whole[layer], strict=True)]
        return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)

    assert differ() < 1e-10
    assert max(map(max, passes[1:])) < 32 + 16 + 2 * features.margin < max(size)  # less than a stride may be left over
    monkeypatch.setattr("styler.vgg.arch.compute_margin", lambda _convs: 16)
    assert differ() > 1e-4  # the zeros around each tile count


def test_an_interrupted_computation_is_not_cached(features: Features, picture: Picture) -> None:
    cache, style, left = StyleCache(), source(picture(32, 32, 2)), [5]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        cache.get_moments(features, style, (32, 32), check)
    actual = cache.get_moments(features, style, (32, 32), None)
    assert set(actual) == set(features.layers)


def test_keep_color_recolors_the_style_and_targets_the_chroma_of_the_content(
    features: Features, picture: Picture
) -> None:
    content, style = picture(48, 64, 1), picture(48, 64, 2)
    options = GRAM.replace(keep_color=0.5)
    actual = compute(features, source(content), [source(style)], (64, 48), options, StyleCache())
    assert actual.color is not None
    repainted = coarse_chroma(transfer_colors(content, measure_colors(style), 1.0))
    torch.testing.assert_close(actual.color, (repainted + coarse_chroma(content)) / 2)
    whole = compute(features, source(content), [source(style)], (64, 48), GRAM.replace(keep_color=1), StyleCache())
    assert whole.color is not None
    torch.testing.assert_close(whole.color, coarse_chroma(content))
    expected = compute_moments(features(transfer_colors(style, measure_colors(content), 0.5))["relu1_1"]).second
    torch.testing.assert_close(gram(actual, "relu1_1").second, expected)


def test_targets_need_no_gradient(features: Features, picture: Picture) -> None:
    actual = compute(
        features, source(picture(32, 32, 1)), [source(picture(32, 32, 2))], (32, 32), Options(), StyleCache()
    )
    parts = [*actual.content.values(), *(part for target in actual.style.values() for part in target)]
    assert not any(part.requires_grad for part in parts if isinstance(part, Tensor))
