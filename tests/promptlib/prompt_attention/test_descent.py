"""The three steps: gradients against autograd, population against samples, limits, refusals."""

import math

import pytest
import torch

from notebooks.prompt_attention.first_gradient import claims as chapter
from notebooks.prompt_attention.first_gradient import long_steps, measured_steps, step_orders
from notebooks.prompt_attention.first_gradient.measured_steps import mean_gradient
from promptlib import claims
from promptlib.prompt_attention import bag_moments, descent, mass, models, sampled_descent
from promptlib.prompt_attention.instances import POINTS
from promptlib.prompt_attention.mixture import ContextualMixture


def verdict(name, measured):
    return claims.check_each("prompt-attention/", chapter.ROWS, {name: measured})[name].verdict


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_gradients_against_autograd(loss):
    bags = POINTS[3].sample(11, generator())
    w = torch.randn(3, 5, generator=generator(1), dtype=torch.float64)
    q = torch.randn(3, 5, generator=generator(2), dtype=torch.float64)
    grad_w, grad_q = sampled_descent.gradients(bags.tokens, bags.labels, w, q, loss)
    for row in range(3):
        head, prompt = w[row].clone().requires_grad_(), q[row].clone().requires_grad_()
        scores = models.prompt_attention(bags.tokens, head, prompt)
        if loss == "squared":
            value = 0.5 * (scores - bags.labels).square().mean()
        else:
            value = torch.nn.functional.softplus(-bags.labels * scores).mean()
        expected = torch.autograd.grad(value, (head, prompt))
        torch.testing.assert_close(grad_w[row], expected[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(grad_q[row], expected[1], rtol=1e-10, atol=1e-12)


def test_figures_of_the_specification():
    mixture = ContextualMixture(30, 20, 0.3, 1.2, 0.8, 0.7)
    w1, q1 = descent.population_descent(mixture, 0.9, 5.0)
    assert float(w1[1]) == pytest.approx(0.2160, abs=5e-5)
    assert float(q1[0]) == pytest.approx(0.20788, abs=5e-6)


def test_core_formula_is_the_special_case():
    eta, share, norm, std, tokens = 0.9, 0.3, 0.8, 0.7, 20
    c = eta * share
    expected = c * share * (1 - share) * norm**2 * (1 - c * (share * norm**2 - std**2 / tokens))
    along_context, along_signal = descent.first_prompt_coefficients(
        eta=eta, sparsity=share, tokens=tokens, signal_norm=norm, noise_std=std
    )
    assert float(along_context) == pytest.approx(expected, rel=1e-12)
    assert float(along_signal) == 0.0


def test_coefficients_work_on_tensors_of_parameters():
    shares = torch.tensor([0.1, 0.3, 0.6])
    etas = torch.tensor([[0.5], [2.0]])
    table = torch.tensor([[0.0, 0.0], [1.0, -0.5]])
    together = descent.first_prompt_coefficients(
        eta=etas, sparsity=shares, tokens=10, cosine=0.3, noise_std=1.0, deviations=table
    )
    alone = descent.first_prompt_coefficients(
        eta=2.0, sparsity=0.3, tokens=10, cosine=0.3, noise_std=1.0, deviations=table
    )
    for part, single in zip(together, alone, strict=True):
        assert part.shape == (2, 3)
        assert float(part[1, 1]) == pytest.approx(float(single), rel=1e-6)


def test_the_prompt_points_along_the_context_when_orthogonal():
    _, q1 = descent.population_descent(POINTS[4], 0.5, 1.0)
    assert float(q1[1:].abs().max()) < 1e-15


def test_small_steps_of_an_oblique_core_model_have_the_stated_cosine():
    for rho in (-0.8, 0.3, 0.6):
        mixture = ContextualMixture(4, 10, 0.3, 1.3, 0.7, 0.5, rho)
        _, q1 = descent.population_descent(mixture, 1e-7, 1e7)
        cosine = torch.cosine_similarity(q1, mixture.context, dim=0)
        expected = (1 + rho**2) / math.sqrt(1 + 3 * rho**2)
        assert float(cosine) == pytest.approx(expected, abs=1e-6)


def test_three_steps_approach_the_population():
    mixture = POINTS[0]
    run = sampled_descent.three_step_descent(mixture, 60_000, 0.9, 5.0, generator(3))
    w1, q1 = descent.population_descent(mixture, 0.9, 5.0)
    w2 = descent.population_head(mixture, q1, 0.9)
    for measured, expected in zip(run, (w1, q1, w2), strict=True):
        assert float((measured - expected).norm()) < 0.02 * float(expected.norm())


def test_step_sizes_broadcast_over_the_same_bags():
    mixture = POINTS[1]
    etas, gammas = torch.tensor([[0.5], [1.0]]), torch.tensor([1.0, 2.0, 3.0])
    together = sampled_descent.three_step_descent(mixture, 50, etas, gammas, generator(7))
    alone = sampled_descent.three_step_descent(mixture, 50, 1.0, 3.0, generator(7))
    assert together.w2.shape == (2, 3, 5)
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1, 2], one)


def test_memory_limit_splits_the_bags_and_keeps_their_number():
    mixture = ContextualMixture(7, 6, 0.5)
    size = 7 * 6 * 8
    parts = [
        len(bags.labels) for bags in sampled_descent.batches(mixture, 11, generator(), 4 * size)
    ]
    assert parts == [4, 4, 3]
    with pytest.raises(ValueError, match="more than memory_limit=100"):
        list(sampled_descent.batches(mixture, 11, generator(), 100))


def test_batched_steps_are_the_average_over_all_bags():
    """The sum over batches equals one gradient on all the bags that were drawn."""
    mixture = POINTS[1]
    limit = 3 * mixture.tokens * mixture.dim * 8
    source = generator(4)
    state = source.get_state()
    parts = list(sampled_descent.batches(mixture, 10, source, limit))
    tokens = torch.cat([part.tokens for part in parts])
    labels = torch.cat([part.labels for part in parts])
    source.set_state(state)
    run = sampled_descent.three_step_descent(mixture, 10, 0.7, 1.0, source, memory_limit=limit)
    torch.testing.assert_close(run.w1, 0.7 * labels @ tokens.mean(1) / 10)


def test_the_schedule_of_result_a2_is_the_three_steps():
    mixture = POINTS[3]
    run = sampled_descent.three_step_descent(mixture, 40, 0.6, 2.0, generator(9), loss="logistic")
    w, q = step_orders.run_schedule(
        mixture, ("head", "prompt", "head afresh"), 40, 0.6, 2.0, generator(9), loss="logistic"
    )
    torch.testing.assert_close(w, run.w2)
    torch.testing.assert_close(q, run.q1)


def test_a_prompt_step_from_nothing_does_nothing():
    _, q = step_orders.run_schedule(POINTS[0], ("prompt",), 20, 1.0, 1.0, generator())
    assert float(q.abs().max()) == 0.0


def test_error_rates_agree_with_the_model():
    mixture = POINTS[0]
    w, q = torch.stack((mixture.signal, -mixture.signal)), torch.zeros(2, mixture.dim)
    rates = step_orders.error_rates(mixture, w, q.double(), 500, generator(2))
    bags = mixture.sample(500, generator(2))
    wrong = models.mean_pooling(bags.tokens, mixture.signal) * bags.labels < 0
    assert float(rates[0]) == pytest.approx(float(wrong.double().mean()))
    assert float(rates.sum()) == pytest.approx(1.0)
    zero = torch.zeros(mixture.dim, dtype=torch.float64)
    assert float(step_orders.error_rates(mixture, zero, zero, 10, generator())) == 0.5


def test_logistic_head_is_half_of_the_squared_one():
    mixture = POINTS[4]
    q = 0.7 * mixture.context
    squared = descent.population_head(mixture, q, 1.0)
    torch.testing.assert_close(
        descent.population_head(mixture, q, 1.0, loss="logistic"), squared / 2
    )


def test_the_head_for_many_tokens_is_the_limit_of_the_exact_one():
    few = ContextualMixture(4, 1000, 0.2, 1.5, 1.0, 0.8, 0.4, ((0.0, 0.0), (1.0, 0.5)))
    q = 0.8 * few.context + 0.1 * few.signal
    exact = descent.population_head(few, q, 1.0)
    limit = descent.population_head(few, q, 1.0, infinite_tokens=True)
    assert float((exact - limit).norm()) < 0.02 * float(limit.norm())


def test_without_noise_and_prompt_the_head_is_the_first_head():
    mixture = ContextualMixture(4, 10, 0.3, deviations=((0.0, 0.0), (1.0, 2.0)))
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(
        descent.population_head(mixture, zero, 0.5),
        descent.population_descent(mixture, 0.5, 1.0)[0],
    )
    torch.testing.assert_close(
        descent.population_head(mixture, zero, 0.5), 0.5 * bag_moments.signed_mean(mixture)
    )


def test_critical_step_is_where_the_prompt_vanishes():
    limit = long_steps.critical_step(0.3, 1.5, 0.7, 20)
    along, _ = descent.first_prompt_coefficients(
        eta=limit, sparsity=0.3, tokens=20, signal_norm=1.5, noise_std=0.7
    )
    assert abs(float(along)) < 1e-15
    assert math.isinf(float(long_steps.critical_step(0.1, 1.0, 2.0, 10)))


def test_logistic_coefficient_tends_to_half_the_squared_one_for_small_steps():
    mixture = POINTS[0]
    eta = 1e-6
    squared, _ = descent.first_prompt_coefficients(
        eta=eta / 2, sparsity=0.3, tokens=20, context_norm=1.2, signal_norm=0.8, noise_std=0.7
    )
    assert float(long_steps.logistic_prompt_coefficient(mixture, eta)) == pytest.approx(
        float(squared) / 2, rel=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be < 1"),
        ({"tokens": 1}, "tokens must be > 1"),
        ({"noise_std": -1.0}, "noise_std must be >= 0"),
        ({"cosine": -1.0}, "cosine must be > -1"),
        ({"eta": math.inf}, "eta must be finite"),
        ({"deviations": torch.tensor([[-1.0, 0.0]])}, "every δq must be >= 0"),
        ({"probabilities": torch.tensor([0.4])}, "sum to 1"),
    ],
)
def test_coefficients_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        descent.first_prompt_coefficients(
            **{"eta": 1.0, "sparsity": 0.3, "tokens": 10, **arguments}
        )


def test_other_refusals():
    with pytest.raises(ValueError, match=r"needs cosine=0, got 0\.5"):
        long_steps.logistic_prompt_coefficient(POINTS[2], 1.0)
    with pytest.raises(ValueError, match="loss must be one of 'squared', 'logistic'; got 'hinge'"):
        sampled_descent.three_step_descent(POINTS[0], 5, 1.0, 1.0, generator(), loss="hinge")
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        sampled_descent.three_step_descent(POINTS[0], 0, 1.0, 1.0, generator())
    with pytest.raises(ValueError, match="moves must be some of"):
        step_orders.run_schedule(POINTS[0], ("leap",), 5, 1.0, 1.0, generator())


@pytest.mark.claim("prompt-attention/first-steps")
def test_first_steps_claim():
    assert verdict("first-steps", measured_steps.steps_beside_gradients(0, 60_000)) == "holds"

    def without_the_noise_term(mixture, eta, gamma):
        quiet = ContextualMixture(
            mixture.dim, mixture.tokens, mixture.sparsity, mixture.context_norm,
            mixture.signal_norm, 0.0, mixture.cosine, mixture.deviations, mixture.probabilities,
        )  # fmt: skip
        return descent.population_descent(quiet, eta, gamma)

    measured = measured_steps.steps_beside_gradients(0, 60_000, population=without_the_noise_term)
    assert verdict("first-steps", measured) == "fails"

    def pooled(mixture, q, eta):
        return descent.population_head(mixture, 0 * q, eta)

    measured = measured_steps.steps_beside_gradients(0, 10_000, head=pooled)
    assert verdict("first-steps", measured) == "fails"


@pytest.mark.claim("prompt-attention/first-prompt-closed-form")
def test_closed_form_claim():
    assert verdict("first-prompt-closed-form", measured_steps.closed_form_errors(0)) == "holds"

    def orthogonal_only(mixture, eta, gamma):
        w1, q1 = descent.population_descent(mixture, eta, gamma)
        return w1, (q1 @ mixture.context_only) * mixture.context

    measured = measured_steps.closed_form_errors(0, population=orthogonal_only)
    assert verdict("first-prompt-closed-form", measured) == "fails"


@pytest.mark.claim("prompt-attention/head-step-too-long")
def test_step_too_long_claim():
    measured = measured_steps.gradients_around_critical_step(0, 5000)
    assert verdict("head-step-too-long", measured) == "holds"

    def twice(*parameters):
        return 2 * long_steps.critical_step(*parameters)

    measured = measured_steps.gradients_around_critical_step(0, 5000, critical=twice)
    assert verdict("head-step-too-long", measured) == "fails"


@pytest.mark.claim("prompt-attention/logistic-first-prompt")
def test_logistic_claim():
    assert verdict("logistic-first-prompt", measured_steps.logistic_prompts(1, 20_000)) == "holds"

    def half_of_squared(mixture, eta):
        return descent.population_descent(mixture, eta / 2, 0.5)[1].norm() / mixture.context_norm

    measured = measured_steps.logistic_prompts(1, 20_000, coefficient=half_of_squared)
    assert verdict("logistic-first-prompt", measured) == "fails"


@pytest.mark.claim("prompt-attention/logistic-sign")
def test_logistic_sign_claim():
    assert verdict("logistic-sign", measured_steps.logistic_signs(0, 10_000)) == "holds"

    def squared(mixture, eta, samples, source):
        # Under squared loss the same head steps are beyond the critical one.
        head = eta / 2 * mixture.sparsity * mixture.signal
        mean, error = mean_gradient(mixture, head, torch.zeros_like(head), samples, source)
        return float(mean[1, 0]), float(error[1, 0])

    measured = measured_steps.logistic_signs(0, 10_000, gradient=squared)
    assert verdict("logistic-sign", measured) == "fails"


def test_population_head_uses_the_exact_mass():
    mixture = POINTS[0]
    q = 1.1 * mixture.context
    spread = 1.1 * mixture.context_norm * mixture.noise_std
    expected, _ = mass.attention_moments(20, 0.3, 1.1 * mixture.context_norm**2, spread)
    torch.testing.assert_close(
        descent.population_head(mixture, q, 1.0), expected * mixture.signal, atol=1e-12, rtol=1e-9
    )
