"""The objective of painting through any network, which distillation, comparison and diagnosis measure networks by.

This module knows how the parts of the engine are put together; it does not know what is done with the objective.
"""

from torch import Tensor

from styler.engine.sources import SourceImage
from styler.engine.styles import StyleCache, prepare_blend
from styler.engine.targets import compute_targets, compute_term_weights, resolve_layers
from styler.objective.terms import Objective
from styler.options import Options
from styler.vgg.model import Features
from styler.vgg.weights import Weights


def build_features(weights: Weights, options: Options) -> Features:
    """Build a network that computes the content and style layers of the options."""
    return Features(weights, resolve_layers(options, weights.network), options.pooling)


def build_objective(features: Features, options: Options, content: Tensor, style: Tensor) -> Objective:
    """Build the objective of an image of the content's size.

    Args:
        content: (1, 3, H, W), RGB in [0, 1], on the CPU.
        style: the same, of any size.
    """
    size = (content.shape[-1], content.shape[-2])
    sources = SourceImage.of(content), SourceImage.of(style.contiguous())
    blend = prepare_blend(sources[0], [sources[1]], options)
    targets = compute_targets(features, sources[0], blend, size, options, StyleCache())
    return Objective(features, targets, compute_term_weights(options, features.network))
