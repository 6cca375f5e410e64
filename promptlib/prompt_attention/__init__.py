"""Part I: what can a prompt do that other ways of reading a bag of tokens cannot?

After Oymak et al. 2023, with the notation of the book:

- :mod:`~promptlib.prompt_attention.mixture`: the data, a contextual mixture;
- :mod:`~promptlib.prompt_attention.models`: prompt-attention and its three rivals;
- :mod:`~promptlib.prompt_attention.expressivity`: the thresholds at which the rivals fail;
- :mod:`~promptlib.prompt_attention.constructions`: explicit weights that reach what is possible;
- :mod:`~promptlib.prompt_attention.population`, :mod:`~promptlib.prompt_attention.search` and
  :mod:`~promptlib.prompt_attention.threshold_map`: exact accuracies, the search against the
  thresholds, and the map of both;
- :mod:`~promptlib.prompt_attention.positional`: a head for each position;
- :mod:`~promptlib.prompt_attention.bag_moments` and :mod:`~promptlib.prompt_attention.reach`: what
  a bag tells on average, and what a prompt can set and read;
- :mod:`~promptlib.prompt_attention.descent`, :mod:`~promptlib.prompt_attention.mass` and
  :mod:`~promptlib.prompt_attention.alignment`: the first steps of gradient descent, where their
  attention goes, and how many bags they take;
- :mod:`~promptlib.prompt_attention.head_price`: the exact error of a learned head, from the law of
  its features (:mod:`~promptlib.prompt_attention.feature_law`), for averaging and ridge heads
  (:mod:`~promptlib.prompt_attention.averaging_head`,
  :mod:`~promptlib.prompt_attention.ridge_head`), with closed forms and limits
  (:mod:`~promptlib.prompt_attention.concentrated_head`,
  :mod:`~promptlib.prompt_attention.head_limits`);
- :mod:`~promptlib.prompt_attention.few_samples`: prompt and head against a whole layer;
- :mod:`~promptlib.prompt_attention.softmax_separates`: the claims of the chapter of that name.

The names below are loaded on first use, so that importing the package does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptlib.prompt_attention.alignment import head_alignment, prompt_alignment
    from promptlib.prompt_attention.attention_layer import (
        LayerWeights,
        containing_layer,
        layer_scores,
    )
    from promptlib.prompt_attention.bag_moments import (
        bag_covariance,
        bag_mean,
        signed_covariance,
        signed_mean,
    )
    from promptlib.prompt_attention.concentrated_head import (
        best_scale,
        context_gain,
        signal_to_noise,
    )
    from promptlib.prompt_attention.constructions import (
        best_gain_argument,
        linear_attention_weights,
        mean_pooling_head,
        prompt_weights,
        self_attention_weights,
    )
    from promptlib.prompt_attention.descent import (
        Descent,
        population_descent,
        population_head,
        three_step_descent,
    )
    from promptlib.prompt_attention.expressivity import (
        aligned_gain,
        linear_attention_threshold,
        mean_pooling_threshold,
        prompt_scale_bound,
        self_attention_bracket,
        self_attention_threshold,
        sign_function,
    )
    from promptlib.prompt_attention.head_limits import (
        hard_attention_error,
        informed_error,
        mean_pooling_error,
    )
    from promptlib.prompt_attention.head_price import head_error, head_error_map
    from promptlib.prompt_attention.mass import (
        attention_mass,
        attention_moments,
        hard_attention_mass,
        limiting_mass,
        sharpest_scale,
    )
    from promptlib.prompt_attention.mixture import Bags, ContextualMixture
    from promptlib.prompt_attention.models import (
        linear_attention,
        mean_pooling,
        prompt_attention,
        prompted_layer,
        self_attention,
    )
    from promptlib.prompt_attention.population import PLANE_MODELS, Population, aligned, mirrored
    from promptlib.prompt_attention.reach import prompt_for_query, query_readout
    from promptlib.prompt_attention.search import search_accuracy, search_mixtures
    from promptlib.prompt_attention.threshold_map import CHALLENGES, map_model

_HOMES = {
    "alignment": ("head_alignment", "prompt_alignment"),
    "attention_layer": ("LayerWeights", "containing_layer", "layer_scores"),
    "bag_moments": ("bag_covariance", "bag_mean", "signed_covariance", "signed_mean"),
    "concentrated_head": ("best_scale", "context_gain", "signal_to_noise"),
    "constructions": (
        "best_gain_argument",
        "linear_attention_weights",
        "mean_pooling_head",
        "prompt_weights",
        "self_attention_weights",
    ),
    "descent": ("Descent", "population_descent", "population_head", "three_step_descent"),
    "expressivity": (
        "aligned_gain",
        "linear_attention_threshold",
        "mean_pooling_threshold",
        "prompt_scale_bound",
        "self_attention_bracket",
        "self_attention_threshold",
        "sign_function",
    ),
    "head_limits": ("hard_attention_error", "informed_error", "mean_pooling_error"),
    "head_price": ("head_error", "head_error_map"),
    "mass": (
        "attention_mass",
        "attention_moments",
        "hard_attention_mass",
        "limiting_mass",
        "sharpest_scale",
    ),
    "mixture": ("Bags", "ContextualMixture"),
    "models": (
        "linear_attention",
        "mean_pooling",
        "prompt_attention",
        "prompted_layer",
        "self_attention",
    ),
    "population": ("PLANE_MODELS", "Population", "aligned", "mirrored"),
    "reach": ("prompt_for_query", "query_readout"),
    "search": ("search_accuracy", "search_mixtures"),
    "threshold_map": ("CHALLENGES", "map_model"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CHALLENGES",
    "PLANE_MODELS",
    "Bags",
    "ContextualMixture",
    "Descent",
    "LayerWeights",
    "Population",
    "aligned",
    "aligned_gain",
    "attention_mass",
    "attention_moments",
    "bag_covariance",
    "bag_mean",
    "best_gain_argument",
    "best_scale",
    "containing_layer",
    "context_gain",
    "hard_attention_error",
    "hard_attention_mass",
    "head_alignment",
    "head_error",
    "head_error_map",
    "informed_error",
    "layer_scores",
    "limiting_mass",
    "linear_attention",
    "linear_attention_threshold",
    "linear_attention_weights",
    "map_model",
    "mean_pooling",
    "mean_pooling_error",
    "mean_pooling_head",
    "mean_pooling_threshold",
    "mirrored",
    "population_descent",
    "population_head",
    "prompt_alignment",
    "prompt_attention",
    "prompt_for_query",
    "prompt_scale_bound",
    "prompt_weights",
    "prompted_layer",
    "query_readout",
    "search_accuracy",
    "search_mixtures",
    "self_attention",
    "self_attention_bracket",
    "self_attention_threshold",
    "self_attention_weights",
    "sharpest_scale",
    "sign_function",
    "signal_to_noise",
    "signed_covariance",
    "signed_mean",
    "three_step_descent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
