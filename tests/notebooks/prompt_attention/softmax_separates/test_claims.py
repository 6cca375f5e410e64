"""Every claim of the chapter holds, and fails when the implementation behind it is wrong."""

import math
from dataclasses import replace

import pytest
import torch

from notebooks.prompt_attention.softmax_separates import (
    data,
    impossible,
    positional,
    possible,
)
from notebooks.prompt_attention.softmax_separates.claims import ROWS, measure
from notebooks.prompt_attention.softmax_separates.positional import positional_scores
from notebooks.prompt_attention.softmax_separates.threshold_map import (
    CHALLENGES,
    constructed_accuracy,
    map_model,
    map_sides,
)
from promptlib import claims
from promptlib.prompt_attention import (
    PLANE_MODELS,
    ContextualMixture,
    linear_attention,
    linear_attention_threshold,
    mean_pooling_threshold,
    prompt_attention,
    prompt_scale_bound,
    prompted_layer,
    self_attention_bracket,
    self_attention_threshold,
    sign_function,
)
from promptlib.prompt_attention.expressivity import aligned_gain, aligned_reading
from tests import rows_of_claims

SEARCH = {"seed": 0, "restarts": 64, "steps": 25}


def judged(name, measured):
    return claims.check_each("prompt-attention/", ROWS, {name: measured})[name]


def small_maps(restarts=128, steps=40, **changed):
    challenges = {**CHALLENGES, **changed}
    return {
        name: map_model(challenge, 4, restarts=restarts, steps=steps, seed=0)
        for name, challenge in challenges.items()
    }


def test_every_claim_holds():
    measured = measure(**SEARCH)
    measured["search-meets-theory"] = map_sides(small_maps())
    measured["prompt-attention-on-the-map"] = constructed_accuracy(3, n=8, seed=0)
    rows_of_claims.hold("prompt-attention/", ROWS, measured)


def refuted(name, measured):
    claim = judged(name, measured)
    assert claim.verdict == "fails", claim.summary()


def resampled(change):
    """A sampler whose bags are changed before anybody sees them."""

    def sample(mixture, n, generator):
        return change(mixture, mixture.sample(n, generator), generator)

    return sample


WRONG_SAMPLERS = {
    "the first tokens are relevant too often": resampled(
        lambda mixture, bags, _: bags._replace(
            relevant=torch.where(
                (torch.arange(len(bags.labels)) % 4 == 0)[:, None],
                torch.arange(mixture.tokens) < mixture.relevant_tokens,
                bags.relevant,
            )
        )
    ),
    "labels are all positive": resampled(
        lambda mixture, bags, _: bags._replace(labels=bags.labels.abs())
    ),
    "deviations are equally likely": lambda mixture, n, generator: replace(
        mixture, probabilities=None
    ).sample(n, generator),
    "too little noise": lambda mixture, n, generator: replace(mixture, noise_std=0.6).sample(
        n, generator
    ),
    "noise on every token": resampled(
        lambda mixture, bags, generator: bags._replace(
            tokens=bags.tokens
            + 0.7
            * bags.relevant[:, :, None]
            * torch.randn(bags.tokens.shape, generator=generator, dtype=torch.float64)
        )
    ),
    "the signal of irrelevant tokens has the wrong sign": lambda mixture, n, generator: replace(
        mixture, deviations=tuple((first, -second) for first, second in mixture.deviations)
    ).sample(n, generator),
}


@pytest.mark.claim("prompt-attention/sampler-matches-model")
@pytest.mark.parametrize("sample", WRONG_SAMPLERS.values(), ids=list(WRONG_SAMPLERS))
def test_a_wrong_sampler_is_refuted(sample):
    refuted("sampler-matches-model", data.sampled_moments(0, sample=sample))


def layer_with_prompts_among_the_keys(tokens, prompts, W_Q, W_K, W_V):
    joined = torch.cat((prompts.expand(*tokens.shape[:-2], *prompts.shape), tokens), dim=-2)
    read, frozen = prompted_layer(joined, prompts, W_Q, W_K, W_V)
    return read, frozen[..., prompts.shape[0] :, :]


@pytest.mark.claim("prompt-attention/prompt-is-a-query")
@pytest.mark.parametrize(
    "wrong",
    [
        {"layer": layer_with_prompts_among_the_keys},
        {"model": lambda tokens, w, q: prompt_attention(tokens, w, q / 5**0.5)},
        {"model": linear_attention},
    ],
)
def test_a_prompt_that_is_more_than_a_query_is_refuted(wrong):
    refuted("prompt-is-a-query", data.prompted_layer_errors(0, instances=5, **wrong))


def with_model(name, read):
    return {**PLANE_MODELS, name: replace(PLANE_MODELS[name], read=read)}


def prompt_without_counting_tokens(population, w, q):
    balanced = replace(population, sparsity=torch.full_like(population.sparsity, 0.5))
    return PLANE_MODELS["prompt-attention"].read(balanced, w=w, q=q)


@pytest.mark.claim("prompt-attention/plane-reduction")
@pytest.mark.parametrize(
    "plane_models",
    [
        with_model("prompt-attention", prompt_without_counting_tokens),
        with_model(
            "self-attention",
            lambda population, u, A: PLANE_MODELS["self-attention"].read(population, u=u, A=A.mT),
        ),
        with_model(
            "linear-attention",
            lambda population, w, q: PLANE_MODELS["prompt-attention"].read(population, w=w, q=q),
        ),
    ],
)
def test_a_wrong_reduction_is_refuted(plane_models):
    refuted("plane-reduction", data.plane_errors(0, instances=5, plane_models=plane_models))


@pytest.mark.claim("prompt-attention/mean-pooling-one-deviation")
@pytest.mark.parametrize(
    "head",
    [
        lambda mixture: mixture.signal_only,  # the sign is missing
        lambda mixture: mixture.signal,  # not blind to the context
    ],
)
def test_a_wrong_head_for_mean_pooling_is_refuted(head):
    refuted("mean-pooling-one-deviation", possible.mean_pooling_errors(0, instances=20, head=head))


@pytest.mark.claim("prompt-attention/prompt-score")
@pytest.mark.parametrize(
    "model",
    [
        lambda tokens, w, q: prompt_attention(tokens, w, q / tokens.shape[-1] ** 0.5),
        lambda tokens, w, q: prompt_attention(tokens, w, -q),
        linear_attention,
    ],
)
def test_a_wrong_prompt_attention_is_refuted(model):
    refuted("prompt-score", possible.prompt_score_errors(0, instances=5, model=model))


def bound_without_sparsity(mixture):
    """Forgets how many irrelevant tokens there are."""
    return prompt_scale_bound(replace(mixture, tokens=2, sparsity=0.5))


def bound_without_angle(mixture):
    return prompt_scale_bound(mixture) * (1 - mixture.cosine**2)


def bound_without_context(mixture):
    """Forgets that a deviation against the context helps the prompt."""
    stripped = tuple((0.0, delta_w) for _, delta_w in mixture.deviations)
    return prompt_scale_bound(replace(mixture, deviations=stripped))


@pytest.mark.claim("prompt-attention/prompt-attention-is-perfect")
@pytest.mark.parametrize("scale_bound", [bound_without_sparsity, bound_without_angle])
def test_a_scale_that_is_too_small_is_refuted(scale_bound):
    refuted(
        "prompt-attention-is-perfect",
        possible.shares_wrong_beyond(0, instances=20, scale_bound=scale_bound),
    )


@pytest.mark.claim("prompt-attention/prompt-scale-bound-is-sharp")
@pytest.mark.parametrize("scale_bound", [bound_without_context, bound_without_sparsity])
def test_a_scale_that_is_larger_than_needed_is_refuted(scale_bound):
    refuted(
        "prompt-scale-bound-is-sharp",
        possible.shares_right_below(0, instances=20, scale_bound=scale_bound),
    )


def gain_with_core_queries(c, deviation, sparsity):
    """Takes the queries of irrelevant tokens for zero, as at δ = 0."""
    first = aligned_reading(1.0, c, deviation, sparsity)
    second = aligned_reading(0.0, c, deviation, sparsity)
    return sparsity * first + (1 - sparsity) * second


@pytest.mark.claim("prompt-attention/self-attention-factor")
@pytest.mark.parametrize(
    "wrong",
    [
        {"gain": gain_with_core_queries},
        {"gain": lambda c, size, share: aligned_gain(c, size, 1 - share)},
        {"sign": lambda x, size, share: sign_function(x, size, share) * (1 + 1e-6)},
        {"sign": lambda x, size, share: sign_function(x, size * (1 + 1e-6), share)},
    ],
)
def test_a_wrong_factor_is_refuted(wrong):
    refuted("self-attention-factor", impossible.factor_errors(0, instances=5, **wrong))


def closed_form_below(sparsity):
    return self_attention_bracket(sparsity)[0]


def closed_form_above(sparsity):
    return self_attention_bracket(sparsity)[1]


def shrunk(threshold):
    def smaller(sparsity):
        return 0.97 * threshold(sparsity)

    return smaller


@pytest.mark.claim("prompt-attention/self-attention-threshold")
@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": closed_form_below},
        {"threshold": shrunk(self_attention_threshold)},
        {"model": PLANE_MODELS["prompt-attention"]},
    ],
)
def test_a_self_attention_ceiling_that_is_too_low_is_refuted(wrong):
    refuted("self-attention-threshold", impossible.attack("self-attention", **SEARCH, **wrong))


@pytest.mark.claim("prompt-attention/self-attention-threshold-is-sharp")
@pytest.mark.parametrize(
    "threshold", [closed_form_above, lambda share: 1.002 * self_attention_threshold(share)]
)
def test_a_self_attention_threshold_that_is_too_high_is_refuted(threshold):
    refuted(
        "self-attention-threshold-is-sharp", impossible.self_attention_below(0, threshold=threshold)
    )


@pytest.mark.claim("prompt-attention/self-attention-threshold-two-ways")
@pytest.mark.parametrize(
    "threshold",
    [closed_form_below, lambda share: self_attention_threshold(share) * (1 + 1e-8)],
)
def test_an_inaccurate_threshold_is_refuted(threshold):
    refuted("self-attention-threshold-two-ways", impossible.threshold_errors(threshold=threshold))


@pytest.mark.claim("prompt-attention/self-attention-bracket")
@pytest.mark.parametrize(
    "bracket",
    [
        lambda share: (closed_form_below(share), 1.04 * closed_form_below(share)),
        lambda share: (1.001 * closed_form_below(share), closed_form_above(share)),
        lambda share: (closed_form_below(share), 2 + closed_form_above(share)),
    ],
)
def test_a_wrong_bracket_is_refuted(bracket):
    refuted("self-attention-bracket", impossible.bracket_sides(bracket=bracket, points=49))


def careless_adversary(readouts, c, deviation, relevant_tokens):
    """Tries one relevant set, the first tokens."""
    chosen = readouts[..., :relevant_tokens].sum(dim=-1)
    share = relevant_tokens / readouts.shape[-1]
    scores = positional_scores(readouts, chosen, c, deviation, share)
    return torch.stack(scores).amin(dim=0)


@pytest.mark.claim("prompt-attention/heads-by-position")
def test_a_careless_adversary_is_beaten_by_a_head_for_each_position(monkeypatch):
    monkeypatch.setattr(
        "notebooks.prompt_attention.softmax_separates.positional.worst_case", careless_adversary
    )
    refuted("heads-by-position", positional.worst_cases(0, restarts=32, steps=60))


@pytest.mark.claim("prompt-attention/heads-by-position")
def test_below_the_threshold_even_the_adversary_is_beaten():
    refuted("heads-by-position", positional.worst_cases(0, restarts=32, steps=60, excess=0.9))


@pytest.mark.claim("prompt-attention/escape-by-position")
@pytest.mark.parametrize(
    "heads",
    [
        lambda count, raised: torch.ones(count, dtype=torch.float64),
        lambda count, raised: torch.linspace(-1.0, 1.0, count, dtype=torch.float64),
    ],
)
def test_heads_that_do_not_escape_are_refuted(heads):
    refuted("escape-by-position", positional.escape_errors(heads=heads))


@pytest.mark.claim("prompt-attention/linear-attention-threshold")
@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": shrunk(linear_attention_threshold)},
        {"model": PLANE_MODELS["prompt-attention"]},
    ],
)
def test_a_linear_attention_ceiling_that_is_too_low_is_refuted(wrong):
    refuted("linear-attention-threshold", impossible.attack("linear-attention", **SEARCH, **wrong))


@pytest.mark.claim("prompt-attention/linear-attention-threshold-is-sharp")
@pytest.mark.parametrize(
    "threshold",
    [
        lambda share: 1.002 * linear_attention_threshold(share),
        mean_pooling_threshold,  # the root was forgotten
    ],
)
def test_a_linear_attention_threshold_that_is_too_high_is_refuted(threshold):
    refuted(
        "linear-attention-threshold-is-sharp",
        impossible.linear_attention_around(0, threshold=threshold),
    )


@pytest.mark.claim("prompt-attention/mean-pooling-threshold")
@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": shrunk(mean_pooling_threshold)},
        {"model": PLANE_MODELS["prompt-attention"]},
    ],
)
def test_a_mean_pooling_ceiling_that_is_too_low_is_refuted(wrong):
    refuted("mean-pooling-threshold", impossible.attack("mean-pooling", **SEARCH, **wrong))


@pytest.mark.claim("prompt-attention/search-meets-theory")
@pytest.mark.parametrize("name", ["mean-pooling", "self-attention", "linear-attention"])
@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_map_with_a_wrong_threshold_is_refuted(name, factor):
    right = CHALLENGES[name]
    wrong = replace(right, threshold=lambda share: factor * right.threshold(share))
    refuted("search-meets-theory", map_sides(small_maps(**{name: wrong})))


@pytest.mark.claim("prompt-attention/search-meets-theory")
def test_a_search_that_hardly_searches_is_refuted():
    refuted("search-meets-theory", map_sides(small_maps(restarts=1, steps=0)))


@pytest.mark.claim("prompt-attention/prompt-attention-on-the-map")
@pytest.mark.parametrize(
    "model", [linear_attention, lambda tokens, w, q: prompt_attention(tokens, w, 0.1 * q)]
)
def test_a_model_that_is_not_prompt_attention_loses_cells(model):
    refuted("prompt-attention-on-the-map", (constructed_accuracy(3, n=8, seed=0, model=model)))


def test_accuracy_under_noise_is_measured_with_its_error():
    clean = ContextualMixture(3, 5, 0.2, deviations=((0.0, 3.0),))
    bound = prompt_scale_bound(clean)
    scales = [0.9 * bound, 1.1 * bound]
    mean, error = possible.accuracy_by_scale(clean, scales, 50, torch.Generator().manual_seed(0))
    assert mean.tolist() == [0.0, 1.0]
    assert error.tolist() == [0.0, 0.0]
    noisy = replace(clean, noise_std=2.0)
    mean, error = possible.accuracy_by_scale(noisy, scales, 400, torch.Generator().manual_seed(0))
    assert 0.05 < mean.min() < mean.max() < 0.95
    assert (error - (mean * (1 - mean) / 400).sqrt()).abs().max() < 1e-12
    with pytest.raises(ValueError, match="n must be at least 2"):
        possible.accuracy_by_scale(clean, scales, 1, torch.Generator())


def test_margins_by_scale_are_the_bracket_of_the_theorem():
    mixture = ContextualMixture(3, 5, 0.2, cosine=0.5, deviations=((0.0, 0.0), (1.0, 2.0)))
    power = 0.75
    margins = possible.margins_by_scale(mixture, [0.0, 1.5])
    assert margins.shape == (2, 2)
    odds = 0.25 * math.exp(1.5 * power * 2)
    mass = odds / (1 + odds)
    assert margins[1, 1].item() == pytest.approx(mass - (1 - mass) * 2.0, abs=1e-10)
    assert margins[0].tolist() == pytest.approx([0.2, 0.2 - 0.8 * 2.0])
