"""The options: `fields` defines each once, `bundles` holds presets and looks, `values` validates and formats."""

from styler.options.bundles import LOOKS, PRESETS, Bundle, Value
from styler.options.fields import (
    DEFAULT_LAYER_WEIGHTS,
    INIT_CHOICES,
    LAYERS,
    PRECISION_NAMES,
    VGG16_LAYERS,
    Options,
    ResolvedOptions,
    check_settings,
    list_options,
    normalize_layer,
    resolve_options,
)
from styler.options.values import (
    OptionSpec,
    describe_range,
    format_duration,
    format_estimate,
    format_value,
    list_words,
    parse_quantity,
)

__all__ = [
    "DEFAULT_LAYER_WEIGHTS",
    "INIT_CHOICES",
    "LAYERS",
    "LOOKS",
    "PRECISION_NAMES",
    "PRESETS",
    "VGG16_LAYERS",
    "Bundle",
    "OptionSpec",
    "Options",
    "ResolvedOptions",
    "Value",
    "check_settings",
    "describe_range",
    "format_duration",
    "format_estimate",
    "format_value",
    "list_options",
    "list_words",
    "normalize_layer",
    "parse_quantity",
    "resolve_options",
]
