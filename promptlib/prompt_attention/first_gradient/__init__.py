"""What would refute the chapter *The first gradient finds the prompt*? Its claims, one function "
"each.

Every function takes the implementation under test as an argument, so that a test can hand over a
wrong one and see the claim fail, and draws from the seed that is passed in.
"""

from promptlib.prompt_attention.first_gradient.how_many_bags import (
    alignment_formula,
    best_from_means,
    labels_out_of_balance,
    linear_growth,
    two_bags_suffice,
)
from promptlib.prompt_attention.first_gradient.population_steps import (
    closed_form,
    first_steps,
    logistic_prompt,
    step_too_long,
)
from promptlib.prompt_attention.first_gradient.three_steps_or_training import (
    attention_beats_its_rivals,
    close_to_training,
    training_uses_fewer_bags,
)
from promptlib.prompt_attention.first_gradient.where_attention_goes import (
    best_scale,
    finite_tokens,
    limit_is_a_floor,
    log_rule,
)

__all__ = [
    "alignment_formula",
    "attention_beats_its_rivals",
    "best_from_means",
    "best_scale",
    "close_to_training",
    "closed_form",
    "finite_tokens",
    "first_steps",
    "labels_out_of_balance",
    "limit_is_a_floor",
    "linear_growth",
    "log_rule",
    "logistic_prompt",
    "step_too_long",
    "training_uses_fewer_bags",
    "two_bags_suffice",
]
