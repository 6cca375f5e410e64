r"""What would refute the chapter *Softmax separates*? Its claims, one function each.

Every function runs one check on random or adversarial instances and returns the claim with its
verdict. The implementation under test is an argument, so that a test can hand over a wrong one and
see the claim fail. Instances are drawn in float64 from the seed that is passed in.
"""

from notebooks.prompt_attention.softmax_separates.claims_data import (
    plane_reduction,
    prompt_is_a_query,
    sampler_matches_model,
)
from notebooks.prompt_attention.softmax_separates.claims_linear import (
    linear_attention_sharp,
    linear_attention_threshold,
    mean_pooling_threshold,
)
from notebooks.prompt_attention.softmax_separates.claims_map import (
    map_agrees,
    prompt_wins_everywhere,
)
from notebooks.prompt_attention.softmax_separates.claims_possible import (
    margins_by_scale,
    mean_pooling_one_deviation,
    prompt_attention_perfect,
    prompt_scale_sharp,
    prompt_score,
)
from notebooks.prompt_attention.softmax_separates.claims_self_attention import (
    escape_by_position,
    heads_by_position,
    self_attention_bracket,
    self_attention_factor,
    self_attention_sharp,
    self_attention_threshold,
    threshold_two_ways,
)
from notebooks.prompt_attention.softmax_separates.noise import accuracy_by_scale

__all__ = [
    "accuracy_by_scale",
    "escape_by_position",
    "heads_by_position",
    "linear_attention_sharp",
    "linear_attention_threshold",
    "map_agrees",
    "margins_by_scale",
    "mean_pooling_one_deviation",
    "mean_pooling_threshold",
    "plane_reduction",
    "prompt_attention_perfect",
    "prompt_is_a_query",
    "prompt_scale_sharp",
    "prompt_score",
    "prompt_wins_everywhere",
    "sampler_matches_model",
    "self_attention_bracket",
    "self_attention_factor",
    "self_attention_sharp",
    "self_attention_threshold",
    "threshold_two_ways",
]
