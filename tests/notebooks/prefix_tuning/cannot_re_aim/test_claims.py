"""Every claim of the chapter holds, and fails when the implementation is wrong."""

from __future__ import annotations

import pytest
import torch

from notebooks.prefix_tuning.cannot_re_aim import (
    kernels,
    measuring,
    one_layer,
    re_aiming,
    trained_layer,
)
from notebooks.prefix_tuning.cannot_re_aim.claims import ROWS
from notebooks.prefix_tuning.cannot_re_aim.one_layer import random_cases
from promptlib import claims
from promptlib.attention import attend
from promptlib.prefix_tuning import gpt, inside, reach
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cases():
    return list(random_cases(seeded(), 1))


def judge(name, measured):
    return claims.check_each("prefix-tuning/", ROWS, {name: measured})[name]


# Wrong attention functions, each a mistake that implementations make.


def prefix_in_the_logits(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The prefix is added to every content key besides being attended to."""
    if prefix_keys is not None:
        k = k * (1 + prefix_keys.mean(-2, keepdim=True))
    return attend(q, k, v, prefix_keys, prefix_values, causal)


def content_normalised_alone(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The prefix takes its share, and the content keeps all of its own."""
    outputs, plain = attend(q, k, v, causal=causal)
    if prefix_keys is None:
        return outputs, plain
    _, attention = attend(q, k, v, prefix_keys, prefix_values, causal)
    to_prefix = attention[..., : prefix_keys.shape[-2]]
    return outputs + to_prefix @ prefix_values, torch.cat((to_prefix, plain), -1)


def mask_counts_the_prefix(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The causal mask is laid over the joined sequence: query i sees its first i + 1 positions."""
    if prefix_keys is None or not causal:
        return attend(q, k, v, prefix_keys, prefix_values, causal)
    prefix_keys, prefix_values = (
        prefix.expand(*k.shape[:-2], *prefix.shape[-2:]) for prefix in (prefix_keys, prefix_values)
    )
    scores = q @ torch.cat((prefix_keys, k), -2).mT * q.shape[-1] ** -0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    attention = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return attention @ torch.cat((prefix_values, v), -2), attention


def positions_shift(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The prefix pushes every content key one position on."""
    if prefix_keys is not None:
        k = k.roll(1, -2)
    return attend(q, k, v, prefix_keys, prefix_values, causal)


def values_reversed(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The content's values go to the wrong keys as soon as there is a prefix."""
    if prefix_keys is not None:
        v = v.flip(-2)
    return attend(q, k, v, prefix_keys, prefix_values, causal)


def bias_too_long(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The prefix values count one and a half times."""
    outputs, attention = attend(q, k, v, prefix_keys, prefix_values, causal)
    if prefix_keys is None:
        return outputs, attention
    to_prefix = attention[..., : prefix_keys.shape[-2]]
    return outputs + 0.5 * to_prefix @ prefix_values, attention


def prefix_reads_the_content(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The prefix value is mixed with the last content value: the prefix is no constant."""
    if prefix_values is not None:
        prefix_values = prefix_values + v[..., -1:, :]
    return attend(q, k, v, prefix_keys, prefix_values, causal)


def without_square_root(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """Logits are not divided by the square root of the width."""
    return attend(q, k, v, prefix_keys, prefix_values, causal, scale=1.0)


RE_AIMERS = [prefix_in_the_logits, mask_counts_the_prefix, positions_shift]


def test_claims_hold(cases):
    found = [
        judge("relative-attention", measuring.errors(measuring.relative_attention, cases)),
        judge("biased-output", measuring.errors(one_layer.output_errors, cases)),
        judge("bias-in-hull", measuring.errors(one_layer.hull_distances, cases)),
        judge("two-statistics", measuring.statistics_errors(cases, seeded())),
        judge("attainable-attention", measuring.attainment_errors(30, seeded())),
        judge("layer-norm-limit", measuring.normalised_shares(5, seeded())),
        judge("layer-norm-limit-reached", measuring.normalised_shares(5, seeded())),
        judge("rank-one-re-aims", measuring.rank_one_errors(30, seeded())),
        judge("normalised-kernels", measuring.kernel_errors(cases[::7])),
    ]
    assert {claim.id: claim.verdict for claim in found} == {claim.id: "holds" for claim in found}


@pytest.mark.claim("prefix-tuning/relative-attention")
@pytest.mark.parametrize("wrong", [*RE_AIMERS, content_normalised_alone])
def test_relative_attention_fails(cases, wrong):
    assert (
        judge(
            "relative-attention", measuring.errors(measuring.relative_attention, cases, wrong)
        ).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/biased-output")
@pytest.mark.parametrize(
    "wrong", [*RE_AIMERS, content_normalised_alone, values_reversed, bias_too_long]
)
def test_biased_output_fails(cases, wrong):
    assert (
        judge("biased-output", measuring.errors(one_layer.output_errors, cases, wrong)).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/bias-in-hull")
@pytest.mark.parametrize("wrong", [*RE_AIMERS, bias_too_long, prefix_reads_the_content])
def test_bias_in_hull_fails(cases, wrong):
    assert (
        judge("bias-in-hull", measuring.errors(one_layer.hull_distances, cases, wrong)).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/two-statistics")
@pytest.mark.parametrize(
    "wrong", [prefix_in_the_logits, positions_shift, values_reversed, prefix_reads_the_content]
)
def test_two_statistics_fails(cases, wrong):
    assert (
        judge("two-statistics", measuring.statistics_errors(cases, seeded(), wrong)).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/attainable-attention")
@pytest.mark.parametrize(
    "wrong", [prefix_in_the_logits, positions_shift, content_normalised_alone, without_square_root]
)
def test_attainable_attention_fails(wrong):
    assert (
        judge("attainable-attention", measuring.attainment_errors(10, seeded(), wrong)).verdict
        == "fails"
    )


def forgets_the_length(*arguments):
    return reach.largest_share(*arguments[:-1], 1)


def forgets_the_shift(queries, normaliser, weight, gain, shift, bias, length):
    return reach.largest_share(queries, normaliser, weight, gain, 0 * shift, bias, length)


def doubles_the_radius(queries, normaliser, weight, gain, shift, bias, length):
    return reach.largest_share(queries, normaliser, weight, 2 * gain, shift, bias, length)


def halves_the_radius(queries, normaliser, weight, gain, shift, bias, length):
    return reach.largest_share(queries, normaliser, weight, gain / 2, shift, bias, length)


@pytest.mark.claim("prefix-tuning/layer-norm-limit")
@pytest.mark.parametrize("wrong", [forgets_the_length, forgets_the_shift, halves_the_radius])
def test_layer_norm_limit_fails(wrong):
    shares = measuring.normalised_shares(5, seeded(), limit=wrong)
    assert judge("layer-norm-limit", shares).verdict == "fails"


@pytest.mark.claim("prefix-tuning/layer-norm-limit-reached")
@pytest.mark.parametrize(
    "wrong", [forgets_the_length, forgets_the_shift, halves_the_radius, doubles_the_radius]
)
def test_a_limit_that_is_too_high_is_not_reached(wrong):
    shares = measuring.normalised_shares(5, seeded(), limit=wrong)
    assert judge("layer-norm-limit-reached", shares).verdict == "fails"


@pytest.mark.claim("prefix-tuning/layer-norm-limit")
@pytest.mark.claim("prefix-tuning/layer-norm-limit-reached")
def test_layer_norm_limit_fails_when_the_logits_are_not_scaled():
    shares = measuring.normalised_shares(5, seeded(), attend=without_square_root)
    assert judge("layer-norm-limit", shares).verdict == "fails"
    assert judge("layer-norm-limit-reached", shares).verdict == "fails"


@pytest.mark.claim("prefix-tuning/rank-one-re-aims")
def test_rank_one_re_aims_fails():
    def forgets_where_it_starts(content, query, attention, wanted):
        return re_aiming.rank_one_key_update(
            content, query, torch.full_like(attention, 1 / len(attention)), wanted
        )

    def no_update(content, query, attention, wanted):
        return query, torch.zeros_like(content[0])

    for update in (forgets_where_it_starts, no_update):
        claim = judge("rank-one-re-aims", measuring.rank_one_errors(5, seeded(), update=update))
        assert claim.verdict == "fails"
    claim = judge(
        "rank-one-re-aims", measuring.rank_one_errors(5, seeded(), attend=without_square_root)
    )
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/normalised-kernels")
def test_normalised_kernels_fails_for_sparsemax_and_sigmoid(cases):
    for name, function in {
        "sparsemax": kernels.sparsemax(),
        "sigmoid": kernels.sigmoid(),
    }.items():
        assert (
            judge("normalised-kernels", measuring.kernel_errors(cases, {name: function})).verdict
            == "fails"
        )


# Inside a model.


def small_model(seed: int) -> GPT:
    """Untrained, with weights large enough for attention to differ between positions."""
    generator = seeded(seed)
    model = GPT(GPTConfig(n_layer=1, n_head=3, n_embd=33, vocab_size=11, block_size=19), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return inside.in_float64(model)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 8, (13, 19), generator=seeded())


@pytest.fixture(scope="module")
def pairs():
    return [
        (
            small_model(seed),
            inside.in_float64(Prefix(1, length, 33, 1.0, seeded(seed + 10))),
        )
        for seed, length in [(0, 2), (1, 2)]
    ]


def trained_relative_attention(pairs, tokens):
    errors = [inside.model_ratio_errors(model, prefix, tokens) for model, prefix in pairs]
    return judge("trained-relative-attention", torch.cat(errors))


def trained_biased_output(pairs, tokens):
    errors = [trained_layer.model_output_errors(model, prefix, tokens) for model, prefix in pairs]
    return judge("trained-biased-output", torch.cat(errors))


def fine_tuning_re_aims(models, tokens, movement=trained_layer.model_movement):
    moved = [movement(before, after, tokens) for before, after in models]
    return judge("fine-tuning-re-aims", moved)


def test_claims_about_models_hold(pairs, tokens):
    assert trained_relative_attention(pairs, tokens).verdict == "holds"
    assert trained_biased_output(pairs, tokens).verdict == "holds"
    assert (
        judge("trained-layer-norm-limit", measuring.trained_shares(pairs, tokens)).verdict
        == "holds"
    )
    models = [(small_model(0), small_model(1)), (small_model(2), small_model(3))]
    assert fine_tuning_re_aims(models, tokens).verdict == "supported"
    assert fine_tuning_re_aims(models[:1], tokens).verdict == "single run"


@pytest.mark.claim("prefix-tuning/trained-relative-attention")
@pytest.mark.parametrize("wrong", [*RE_AIMERS, content_normalised_alone])
def test_trained_relative_attention_fails(pairs, tokens, wrong, monkeypatch):
    monkeypatch.setattr(gpt, "attend", wrong)
    assert trained_relative_attention(pairs, tokens).verdict == "fails"


@pytest.mark.claim("prefix-tuning/trained-biased-output")
@pytest.mark.parametrize("wrong", [*RE_AIMERS, content_normalised_alone, bias_too_long])
def test_trained_biased_output_fails(pairs, tokens, wrong, monkeypatch):
    monkeypatch.setattr(gpt, "attend", wrong)
    assert trained_biased_output(pairs, tokens).verdict == "fails"


@pytest.mark.claim("prefix-tuning/trained-layer-norm-limit")
def test_trained_layer_norm_limit_fails_without_the_layer_norm(pairs, tokens):
    free = []
    for model, _ in pairs:
        outside = inside.in_float64(Prefix(1, 2, 33, 1.0, seeded(), layer_norm=False))
        outside.vectors.mul_(50)
        free.append((model, outside))
    assert (
        judge("trained-layer-norm-limit", measuring.trained_shares(free, tokens)).verdict == "fails"
    )


@pytest.mark.claim("prefix-tuning/trained-layer-norm-limit")
def test_trained_layer_norm_limit_fails_when_half_the_vectors_are_forgotten(tokens):
    model = small_model(0)
    content = model.blocks[0].norm_attention(model.token(tokens[0]) + model.position.weight[:19])
    query = model.blocks[0].attention.heads(model.blocks[0].attention.query(content))[0, 5]
    weight = model.blocks[0].attention.key.weight[:11]
    best = reach.best_normalised_vector(query[None], weight, model.blocks[0].norm_attention.weight)
    prefix = inside.in_float64(Prefix(1, 2, 33, 1.0, seeded()))
    prefix.vectors.copy_(1e4 * best.expand(1, 2, -1))  # long, so that LayerNorm's epsilon is small
    right = judge("trained-layer-norm-limit", measuring.trained_shares([(model, prefix)], tokens))
    wrong = judge(
        "trained-layer-norm-limit",
        measuring.trained_shares(
            [(model, prefix)],
            tokens,
            lambda model, tokens, length: inside.largest_shares(model, tokens, length // 2),
        ),
    )
    assert (right.verdict, wrong.verdict) == ("holds", "fails")
    assert right.value < 1e-9  # the vector of the proof reaches the limit inside a model, too


@pytest.mark.claim("prefix-tuning/fine-tuning-re-aims")
def test_fine_tuning_re_aims_fails_for_a_model_that_did_not_change(pairs, tokens):
    same = [(model, model) for model, _ in pairs]
    assert fine_tuning_re_aims(same, tokens).verdict == "contradicted"

    def about_the_limit(before, after, tokens):
        return torch.tensor([0.09 if before is pairs[0][0] else 0.12])

    claim = fine_tuning_re_aims(same, tokens, about_the_limit)
    assert claim.verdict == "undecided"


@pytest.mark.claim("prefix-tuning/fine-tuning-re-aims")
def test_a_prefix_in_the_place_of_fine_tuning_moves_nothing(pairs, tokens):
    (model, prefix), _ = pairs

    def by_prefix(before, after, tokens):
        return trained_layer.model_movement(before, after, tokens, prefix)

    claim = fine_tuning_re_aims([(model, model)] * 2, tokens, by_prefix)
    assert claim.verdict == "contradicted"
    assert claim.value < 1e-10
