"""Part I: what can a prompt do that other ways of reading a bag of tokens cannot?

After Oymak et al. 2023, with the notation of the book:

- `mixture`: the data, a contextual mixture; `bag_moments`: what a bag tells on average;
- `models`: prompt-attention and its three rivals; `expressivity`: the thresholds at which the
  rivals fail; `population`: exact accuracies;
- `descent`, `sampled_descent` and `mass`: the first steps of gradient descent, in the mean and on
  samples, and where their attention goes;
- `head_price`: the exact error of a learned head, from the law of its features (`feature_law`), for
  averaging and ridge heads (`ridge_head`).

The names below are the public ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptlib.lazy import public_names

if TYPE_CHECKING:
    from promptlib.prompt_attention.bag_moments import (
        bag_covariance,
        bag_mean,
        signed_covariance,
        signed_mean,
    )
    from promptlib.prompt_attention.descent import population_descent, population_head
    from promptlib.prompt_attention.expressivity import (
        aligned_gain,
        linear_attention_threshold,
        mean_pooling_threshold,
        prompt_scale_bound,
        self_attention_bracket,
        self_attention_threshold,
        sign_function,
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
    from promptlib.prompt_attention.sampled_descent import Descent, three_step_descent

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        ".bag_moments": ["bag_covariance", "bag_mean", "signed_covariance", "signed_mean"],
        ".descent": ["population_descent", "population_head"],
        ".expressivity": [
            "aligned_gain",
            "linear_attention_threshold",
            "mean_pooling_threshold",
            "prompt_scale_bound",
            "self_attention_bracket",
            "self_attention_threshold",
            "sign_function",
        ],
        ".head_price": ["head_error", "head_error_map"],
        ".mass": [
            "attention_mass",
            "attention_moments",
            "hard_attention_mass",
            "limiting_mass",
            "sharpest_scale",
        ],
        ".mixture": ["Bags", "ContextualMixture"],
        ".models": [
            "linear_attention",
            "mean_pooling",
            "prompt_attention",
            "prompted_layer",
            "self_attention",
        ],
        ".population": ["PLANE_MODELS", "Population", "aligned", "mirrored"],
        ".sampled_descent": ["Descent", "three_step_descent"],
    },
)
