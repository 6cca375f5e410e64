"""The four models against loops, in their symmetries, gradients, limits and refusals."""

import math

import pytest
import torch

from promptlib.prompt_attention import (
    linear_attention,
    mean_pooling,
    prompt_attention,
    prompted_layer,
    self_attention,
)

N, T, D = 3, 7, 5  # distinct primes: a swapped axis cannot pass


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X = normal(N, T, D)
W, Q, A = normal(D, seed=1), normal(D, seed=2), normal(D, D, seed=3)
CALLS = {
    "prompt": lambda tokens: prompt_attention(tokens, W, Q),
    "self": lambda tokens: self_attention(tokens, W, A),
    "linear": lambda tokens: linear_attention(tokens, W, Q),
    "mean": lambda tokens: mean_pooling(tokens, W),
}


def dot(first, second):
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def softmax(logits):
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def prompt_by_loops(bag, w, q):
    weights = softmax([dot(token, q) for token in bag])
    return math.fsum(weight * dot(token, w) for weight, token in zip(weights, bag, strict=True))


def self_by_loops(bag, u, matrix):
    total = 0.0
    for query in bag:
        bent = [dot(query, column) for column in zip(*matrix, strict=True)]
        total += prompt_by_loops(bag, u, bent)
    return total / len(bag)


def linear_by_loops(bag, w, q):
    return math.fsum(dot(token, w) * dot(token, q) for token in bag) / len(bag)


def mean_by_loops(bag, w):
    return math.fsum(dot(token, w) for token in bag) / len(bag)


@pytest.mark.parametrize(
    ("name", "slow", "weights"),
    [
        ("prompt", prompt_by_loops, (W, Q)),
        ("self", self_by_loops, (W, A)),
        ("linear", linear_by_loops, (W, Q)),
        ("mean", mean_by_loops, (W,)),
    ],
)
def test_scores_are_those_of_explicit_loops(name, slow, weights):
    expected = [slow(bag, *(weight.tolist() for weight in weights)) for bag in X.tolist()]
    scores = CALLS[name](X)
    assert scores.shape == (N,)
    assert (scores - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-10


@pytest.mark.parametrize("name", CALLS)
def test_one_bag_scores_as_in_a_batch(name):
    scores = CALLS[name](X)
    assert CALLS[name](X[1]).shape == ()
    assert abs(CALLS[name](X[1]) - scores[1]) < 1e-12
    nested = CALLS[name](X.expand(2, N, T, D))
    assert nested.shape == (2, N)
    assert (nested - scores).abs().max() < 1e-12


@pytest.mark.parametrize("name", CALLS)
def test_the_order_of_the_tokens_does_not_matter(name):
    order = torch.randperm(T, generator=torch.Generator().manual_seed(4))
    assert (CALLS[name](X[:, order]) - CALLS[name](X)).abs().max() < 1e-12


def test_scores_do_not_depend_on_the_choice_of_axes():
    rotation = torch.linalg.qr(normal(D, D, seed=5)).Q
    turned = X @ rotation
    w, q, matrix = W @ rotation, Q @ rotation, rotation.T @ A @ rotation
    pairs = [
        (prompt_attention(turned, w, q), prompt_attention(X, W, Q)),
        (self_attention(turned, w, matrix), self_attention(X, W, A)),
        (linear_attention(turned, w, q), linear_attention(X, W, Q)),
        (mean_pooling(turned, w), mean_pooling(X, W)),
    ]
    assert all((one - two).abs().max() < 1e-10 for one, two in pairs)


def test_models_contain_one_another():
    zero = torch.zeros(D, dtype=torch.float64)
    mean = mean_pooling(X, W)
    assert (prompt_attention(X, W, zero) - mean).abs().max() < 1e-12
    assert (self_attention(X, W, torch.zeros(D, D, dtype=torch.float64)) - mean).abs().max() < 1e-12
    # A sharp prompt reads the token that it likes best.
    best = (X @ Q).argmax(dim=1)
    sharp = prompt_attention(X, W, 1e3 * Q)
    assert (sharp - X[torch.arange(N), best] @ W).abs().max() < 1e-9


def test_prompt_attention_ignores_what_all_tokens_share_along_the_prompt():
    shift = normal(D, seed=6)
    shifted = prompt_attention(X + shift, W, Q) - W @ shift
    assert (shifted - prompt_attention(X, W, Q)).abs().max() < 1e-10


def test_one_head_at_every_position_is_the_shared_head():
    rows = W.expand(T, D)
    assert (self_attention(X, rows, A) - self_attention(X, W, A)).abs().max() < 1e-12
    rows = normal(T, D, seed=7)
    expected = torch.zeros(N, dtype=torch.float64)
    for bag in range(N):
        outputs = torch.softmax(X[bag] @ A @ X[bag].T, dim=-1) @ X[bag]
        expected[bag] = sum(rows[t] @ outputs[t] for t in range(T)) / T
    assert (self_attention(X, rows, A) - expected).abs().max() < 1e-10


def test_gradient_at_the_zero_prompt_is_the_covariance_of_the_bag_times_the_head():
    q = torch.zeros(D, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(prompt_attention(X[0], W, q), q)
    centred = X[0] - X[0].mean(dim=0)
    assert (gradient - centred.T @ centred @ W / T).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        (prompt_attention, (W, Q)),
        (self_attention, (W, A)),
        (linear_attention, (W, Q)),
        (mean_pooling, (W,)),
    ],
)
def test_gradients_are_those_of_finite_differences(model, weights):
    leaves = tuple(weight.clone().requires_grad_() for weight in weights)
    assert torch.autograd.gradcheck(lambda *parts: model(X, *parts), leaves)


def test_huge_logits_stay_finite():
    assert prompt_attention(X, W, 1e6 * Q).isfinite().all()
    assert self_attention(X, W, 1e6 * A).isfinite().all()


def test_single_precision_agrees_with_double():
    single = prompt_attention(X.float(), W.float(), Q.float())
    assert single.dtype == torch.float32
    assert (single - prompt_attention(X, W, Q)).abs().max() < 1e-5
    # Weights of another precision are welcome; the wider one is used.
    assert prompt_attention(X, W.float(), Q.float()).dtype == torch.float64


def test_prompts_among_the_queries_leave_the_frozen_part_untouched():
    P = normal(2, D, seed=8)
    W_Q, W_K, W_V = (normal(D, width, seed=9 + width) for width in (11, 11, 13))
    read, frozen = prompted_layer(X, P, W_Q, W_K, W_V)
    assert read.shape == (N, 2, 13)
    assert frozen.shape == (N, T, 13)
    _, other = prompted_layer(X, 3 * P, W_Q, W_K, W_V)
    assert torch.equal(frozen, other)
    head = normal(13, seed=30)
    score = prompt_attention(X, W_V @ head, W_K @ W_Q.T @ P[1])
    assert (read[:, 1] @ head - score).abs().max() < 1e-10


REFUSED = [
    (
        lambda: prompt_attention(X, W[:4], Q),
        r"w must be a tensor of shape \(5,\).*got shape \(4,\)",
    ),
    (lambda: prompt_attention(X, W, Q[None]), r"q must be a tensor.*got shape \(1, 5\)"),
    (lambda: self_attention(X, W, A[:4]), r"A must be a tensor of shape \(5, 5\).*shape \(4, 5\)"),
    (lambda: self_attention(X, A, A), r"u must be a tensor of shape \(5,\) or \(7, 5\)"),
    (lambda: linear_attention(X[0, 0], W, Q), r"tokens must be a tensor.*got shape \(5,\)"),
    (lambda: mean_pooling(X.tolist(), W), "tokens must be a Tensor.*list"),
    (lambda: mean_pooling(X, W.tolist()), "w must be a Tensor.*list"),
    (lambda: mean_pooling(X[:, :0], W), "a bag needs at least one token"),
    (lambda: mean_pooling(X.long(), W.long()), "floating-point"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
