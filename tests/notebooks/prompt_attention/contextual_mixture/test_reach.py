"""What a prompt can set and what it reads."""

import pytest
import torch

from notebooks.prompt_attention.contextual_mixture import claims as chapter
from notebooks.prompt_attention.contextual_mixture import reach
from promptlib import claims
from promptlib.attention import attend


def verdict(name, measure, **options):
    measured = measure(0, **options)
    return claims.check_each("prompt-attention/", chapter.ROWS, {name: measured})[name].verdict


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_full_rank_layer_reaches_every_query():
    W_Q, W_K, query = normal(0, 5, 5), normal(1, 5, 5), normal(2, 5)
    best = reach.prompt_for_query(W_Q, W_K, query)
    torch.testing.assert_close(W_K @ W_Q.T @ best.prompt, query, rtol=1e-9, atol=1e-9)
    assert float(best.cosine) == pytest.approx(1.0)


def test_a_narrow_head_reaches_the_projection():
    W_Q, W_K, query = normal(0, 7, 3), normal(1, 7, 3), normal(2, 7)
    best = reach.prompt_for_query(W_Q, W_K, query)
    torch.testing.assert_close(W_K @ W_Q.T @ best.prompt, best.query)
    # What is left over is orthogonal to all that a prompt can do.
    assert float((W_K.T @ (query - best.query)).abs().max()) < 1e-10
    expected = torch.cosine_similarity(best.query, query, dim=0)
    assert float(best.cosine) == pytest.approx(float(expected))


def test_several_queries_read_like_one_each():
    tokens, queries = normal(0, 2, 5, 3), normal(1, 4, 3)
    together = reach.query_readout(tokens, queries)
    assert together.shape == (2, 4, 3)
    torch.testing.assert_close(together[:, 1], reach.query_readout(tokens, queries[1]))


def test_refusals_name_the_shapes():
    with pytest.raises(ValueError, match=r"\(5, 2\), \(5, 3\)"):
        reach.prompt_for_query(normal(0, 5, 2), normal(0, 5, 3), normal(0, 5))
    with pytest.raises(ValueError, match="must not be zero"):
        reach.prompt_for_query(normal(0, 5, 2), normal(0, 5, 2), torch.zeros(5).double())


@pytest.mark.claim("prompt-attention/readout-is-a-gradient")
def test_readout_claim():
    assert verdict("readout-is-a-gradient", chapter.readout_errors) == "holds"

    def unweighted(tokens, q):
        return tokens.mean(0)

    assert verdict("readout-is-a-gradient", chapter.readout_errors, readout=unweighted) == "fails"


@pytest.mark.claim("prompt-attention/prompts-as-keys")
def test_prompts_as_keys_claim():
    assert verdict("prompts-as-keys", chapter.errors_of_joined_rows) == "holds"

    def keys_only(queries, keys, values, prefix_keys, prefix_values):
        outputs, weights = attend(queries, keys, values, prefix_keys, 0 * prefix_values)
        return outputs, weights

    assert verdict("prompts-as-keys", chapter.errors_of_joined_rows, attention=keys_only) == "fails"


@pytest.mark.claim("prompt-attention/low-rank-reach")
def test_low_rank_reach_claim():
    assert verdict("low-rank-reach", chapter.shares_reached) == "holds"

    def from_the_query_side(W_Q, W_K, query):
        # The range of W_Q W_Kᵀ times a fixed matrix: one direction too many.
        wider = torch.cat((W_K, W_K[..., :1].roll(1, dims=-2)), dim=-1)
        basis = torch.linalg.qr(wider).Q
        cosine = (query @ basis).norm(dim=-1) / query.norm()
        return reach.Reach(query, query, cosine)

    assert verdict("low-rank-reach", chapter.shares_reached, solve=from_the_query_side) == "fails"
