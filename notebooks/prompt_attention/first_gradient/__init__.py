"""What would refute the chapter *The first gradient finds the prompt*? One function a claim.

Every function takes the implementation under test as an argument, so that a test can hand over a
wrong one and see the claim fail, and draws from the seed that is passed in.
"""

from notebooks.prompt_attention.first_gradient.claims_bags import (
    alignment_formula,
    average_is_best,
    best_from_means,
    grows_no_faster,
    grows_no_slower,
    labels_out_of_balance,
    law_of_two_steps,
    two_bags_suffice,
)
from notebooks.prompt_attention.first_gradient.claims_mass import (
    best_scale,
    excess_over_the_limit,
    finite_tokens,
    limit_is_a_floor,
    log_rule,
)
from notebooks.prompt_attention.first_gradient.claims_steps import (
    closed_form,
    first_steps,
    logistic_prompt,
    logistic_sign,
    step_too_long,
)
from notebooks.prompt_attention.first_gradient.claims_training import (
    attention_beats_its_rivals,
    close_to_training,
    rivals_learn,
    training_attends,
    training_uses_fewer_bags,
)

__all__ = [
    "alignment_formula",
    "attention_beats_its_rivals",
    "average_is_best",
    "best_from_means",
    "best_scale",
    "close_to_training",
    "closed_form",
    "excess_over_the_limit",
    "finite_tokens",
    "first_steps",
    "grows_no_faster",
    "grows_no_slower",
    "labels_out_of_balance",
    "law_of_two_steps",
    "limit_is_a_floor",
    "log_rule",
    "logistic_prompt",
    "logistic_sign",
    "rivals_learn",
    "step_too_long",
    "training_attends",
    "training_uses_fewer_bags",
    "two_bags_suffice",
]
