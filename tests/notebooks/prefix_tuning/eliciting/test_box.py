"""Experiment B4 inside the models: identities, limits, gradients, and pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.eliciting import box, results, start
from notebooks.prefix_tuning.eliciting import claims as stated
from notebooks.prefix_tuning.eliciting import figures_attention as figures
from notebooks.prefix_tuning.eliciting.plan import ARMS, PUBLISHED_ARM
from notebooks.prefix_tuning.eliciting.results import Pair
from promptlib import claims
from promptlib.prefix_tuning import gpt as gpt_module
from promptlib.prefix_tuning import inside
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.planning import MIXED, PARAMETRISATIONS
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import ADD_ONE, read_and_answer
from promptlib.prefix_tuning.trials import Plan, Trials
from tests.notebooks.prefix_tuning.eliciting.test_eliciting import ALL_ALIKE, FINE, claim, tiny
from tests.trained_in_memory import TrainedInMemory

__all__ = ["tiny"]  # a fixture

INPUTS, TARGETS = ADD_ONE.sample(5, "test", torch.Generator().manual_seed(11))
TOKENS = read_and_answer(INPUTS, TARGETS)


def some_model(first_layer_norm: bool, seed: int = 0) -> GPT:
    """Draw a model whose attention is far from uniform, in float64."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(GPTConfig(1, 3, 21, 11, 19, first_layer_norm), generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator).double())
    return model.requires_grad_(False)


def some_pair(parametrisation: str, first_layer_norm: bool, seed: int = 0) -> Pair:
    options = PARAMETRISATIONS[parametrisation]
    generator = torch.Generator().manual_seed(seed)
    prefix = Prefix(1, 1, 21, 1.0, generator, **options).double().requires_grad_(False)
    return Pair(some_model(first_layer_norm, seed), prefix)


PAIRS = [
    some_pair("shared", False),
    some_pair("shared", True, 1),
    some_pair("free", True, 2),
    some_pair("free", False, 3),
]


def verdict(name: str, measured: Any) -> str:
    return claims.check_each(stated.CHAPTER, stated.INSIDE, {name: measured})[name].verdict


def verdicts_of_identities(pairs: Sequence[Pair], **wrong: Any) -> dict[str, str]:
    """For a wrong implementation of the gradient's parts if one is given."""
    moved = [box.block_outputs(*pair, TOKENS) for pair in pairs]
    measured = {
        "relative-attention": [inside.model_ratio_errors(*pair, TOKENS) for pair in pairs],
        "box": [part(one) for one in moved for part in (box.box_errors, box.corner_errors)],
        "gradient-parts": [
            start.gradient_errors(*pair, TOKENS, TARGETS, **wrong) for pair in pairs
        ],
    }
    return {name: verdict(name, torch.cat(errors)) for name, errors in measured.items()}


def attend_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a prefix sharpen the attention over the content, which it cannot."""
    right = gpt_module.attend

    def re_aiming(q: Tensor, k: Tensor, v: Tensor, *prefix: Any, **how: Any) -> Any:
        return right(q if prefix[0] is None else 1.1 * q, k, v, *prefix, **how)

    monkeypatch.setattr(gpt_module, "attend", re_aiming)


@pytest.mark.claim("prefix-tuning/eliciting-relative-attention")
@pytest.mark.claim("prefix-tuning/eliciting-box")
def test_attention_that_is_re_aimed_refutes_the_identities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("relative-attention", "box")
    assert {verdicts_of_identities(PAIRS)[name] for name in names} == {"holds"}
    attend_elsewhere(monkeypatch)
    assert {verdicts_of_identities(PAIRS)[name] for name in names} == {"fails"}


def test_the_output_is_a_mixture_of_the_corners_of_the_box() -> None:
    block = box.block_outputs(PAIRS[0].model, PAIRS[0].prefix, TOKENS)
    mixed = torch.zeros_like(block.plain)
    heads = block.steps.shape[-2]
    for pick in torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * heads):
        corner = block.plain + (pick[:, None] * block.steps).sum(-2)
        weight = (pick * block.shares + (1 - pick) * (1 - block.shares)).prod(-1)
        mixed += weight[..., None] * corner
    assert torch.allclose(mixed, block.moved, atol=1e-12)


def test_the_block_writes_what_the_model_adds_to_its_stream() -> None:
    pair = PAIRS[2]
    block = box.block_outputs(pair.model, pair.prefix, TOKENS)
    seen: list[Tensor] = []
    layer = pair.model.blocks[0].attention.project
    hook = layer.register_forward_hook(lambda *call: seen.append(call[2]))
    pair.model(TOKENS, pair.prefix)
    hook.remove()
    assert torch.allclose(seen[0][:, -10:], block.moved, atol=1e-12)


def test_only_equal_shares_move_straight() -> None:
    block = box.block_outputs(PAIRS[0].model, PAIRS[0].prefix, TOKENS)
    _, astray = box.straightness(block)
    assert float(astray.max()) > 0.01
    even = box.BlockOutputs(
        block.plain,
        block.plain + 0.3 * block.steps.sum(-2),
        torch.full_like(block.shares, 0.3),
        block.steps,
        block.fixed_point,
    )
    way, astray = box.straightness(even)
    assert torch.allclose(way, torch.full_like(way, 0.3))
    assert float(astray.max()) < 1e-12
    assert float(box.box_errors(even).max()) < 1e-10


def test_a_fixed_point_needs_one_vector() -> None:
    with pytest.raises(ValueError, match="2 have not"):
        box.block_outputs(PAIRS[0].model, Prefix(1, 2, 21).double(), TOKENS)


# The limit that a LayerNorm sets.


@pytest.mark.claim("prefix-tuning/eliciting-layer-norm-limit")
def test_a_limit_that_is_too_low_is_broken_by_the_search() -> None:
    pairs = [[PAIRS[1]]]
    options: dict[str, Any] = {"restarts": 2, "steps": 60, "searched": 1}

    def judged(**other: Any) -> str:
        generator = torch.Generator().manual_seed(5)
        found = box.taken_and_limits(pairs, TOKENS, generator, **options, **other)
        return verdict("layer-norm-limit", found)

    def too_low(model: GPT, tokens: Tensor) -> Tensor:
        return 0.999 * box.answering_limits(model, tokens)

    assert judged() == "holds"
    assert judged(limit=too_low) == "fails"


def test_what_is_found_jointly_stays_below_the_limits_of_the_queries() -> None:
    model = PAIRS[1].model
    limits = box.answering_limits(model, TOKENS).mean((0, 2))
    found = {
        whole: box.joint_shares(
            model,
            TOKENS,
            torch.Generator().manual_seed(6),
            restarts=3,
            steps=40,
            all_heads=whole,
        )
        for whole in (False, True)
    }
    assert (found[False] <= limits).all()
    assert found[True].mean() <= found[False].mean() + 1e-6
    random_share = box.answering_shares(model, PAIRS[1].prefix, TOKENS).mean((0, 2))
    assert found[False].mean() > random_share.mean()


def test_without_layer_norm_there_is_no_limit_to_search() -> None:
    generator = torch.Generator()
    for search in (
        lambda: box.searched_shares(PAIRS[0].model, TOKENS[:1], generator, restarts=1, steps=1),
        lambda: box.joint_shares(
            PAIRS[0].model, TOKENS, generator, restarts=1, steps=1, all_heads=True
        ),
    ):
        with pytest.raises(ValueError, match="no first LayerNorm"):
            search()


@pytest.mark.claim("prefix-tuning/eliciting-limit-not-needed")
def test_a_limit_that_forgets_the_length_of_the_key_is_exceeded_almost_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = some_pair("free", True, 2)
    pair.prefix.vectors.mul_(10)
    assert box.share_above_limit(pair.model, [pair.prefix], TOKENS) > 0
    pair.prefix.layer_norm = True

    def judged(trials: Trials) -> claims.Claim:
        measured = {
            "limit-not-needed": [box.share_above_limit(pair.model, [pair.prefix], TOKENS)] * 2
        }
        control = {"free-elicits": claim("free-elicits", trials)}
        found = claims.check_each(stated.CHAPTER, stated.INSIDE, measured, control)
        return found["limit-not-needed"]

    assert (judged(FINE).value, judged(FINE).verdict) == (0.0, "supported")
    assert judged(ALL_ALIKE).verdict == "uninformative"

    def short(model: GPT, tokens: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        tiny_key = Prefix(1, 1, 21, 1e-9, generator, layer_norm=False).double()
        return 1e-3 * box.answering_shares(model, tiny_key, tokens)

    monkeypatch.setattr(box, "answering_limits", short)
    assert judged(FINE).verdict == "contradicted"


def test_an_imitated_key_takes_shares_that_a_normalised_vector_can() -> None:
    pair = some_pair("free", True, 2)
    options: dict[str, Any] = {"restarts": 4, "steps": 80}
    generator = torch.Generator().manual_seed(7)
    found = box.imitation(pair.model, pair.prefix, TOKENS, generator, **options)
    limits = box.answering_limits(pair.model, TOKENS)
    shares = box.answering_shares(pair.model, found, TOKENS)
    assert (shares <= limits + 1e-12).all()
    assert found.value_vectors is not None
    assert pair.prefix.value_vectors is not None
    assert torch.equal(found.value_vectors, pair.prefix.value_vectors)
    wanted = box.answering_shares(pair.model, pair.prefix, TOKENS)
    random = some_pair("shared", True, 2)
    other = box.answering_shares(pair.model, random.prefix, TOKENS)
    assert (shares - wanted).square().mean() < (other - wanted).square().mean()

    normalised = random.prefix.vectors[0, 0]
    norm = pair.model.blocks[0].norm_attention
    reachable = Prefix(1, 1, 21, separate_values=True, layer_norm=False).double()
    reachable.requires_grad_(False).vectors[0, 0] = norm(1e4 * normalised)
    again = box.imitation(pair.model, reachable, TOKENS, generator, **options)
    errors = box.answering_shares(pair.model, again, TOKENS)
    errors = errors - box.answering_shares(pair.model, reachable, TOKENS)
    assert float(errors.abs().mean()) < 0.02
    with pytest.raises(ValueError, match="only a free prefix"):
        box.imitation(pair.model, random.prefix, TOKENS, generator, **options)


# The gradient and the start.


@pytest.mark.claim("prefix-tuning/eliciting-gradient-parts")
def test_a_gradient_without_the_factor_that_vanishes_is_refuted() -> None:
    assert verdicts_of_identities(PAIRS)["gradient-parts"] == "holds"

    def forgets(model: GPT, prefix: Prefix, *batch: Tensor) -> tuple[Tensor, Tensor]:
        key_part, value_part = start.gradient_parts(model, prefix, *batch)
        taken = inside.shares_taken(model, prefix, batch[0])
        return key_part / float((1 - taken).mean()), value_part

    assert verdicts_of_identities(PAIRS, parts=forgets)["gradient-parts"] == "fails"


def test_the_parts_add_up_to_the_gradient_of_a_shared_vector() -> None:
    pair = some_pair("shared", False)
    pair.prefix.vectors.requires_grad_(True)
    loss = sequence_loss(pair.model, TOKENS, TARGETS, pair.prefix)
    (whole,) = torch.autograd.grad(loss, [pair.prefix.vectors])
    by_key, by_value = start.gradient_parts(pair.model, pair.prefix, TOKENS, TARGETS)
    assert torch.allclose(whole[0, 0], by_key + by_value, atol=1e-12)


def test_a_large_start_saturates_attention_and_a_layer_norm_prevents_that() -> None:
    options: dict[str, Any] = {"prefixes": 5, "sequences": 7, "seed": 8}
    scales = [0.01, 30.0]
    small, large = start.starts(some_model(False), "shared", ADD_ONE, scales, **options)
    assert large.saturated > 0.8 > small.saturated
    assert large.wiped > 0
    normed = [
        one.saturated
        for one in start.starts(some_model(True), "shared", ADD_ONE, [1.0, 30.0], **options)
    ]
    assert normed[0] == pytest.approx(normed[1], abs=0.01)
    with pytest.raises(ValueError, match=r"parametrisation must be one of .* got 'tied'"):
        start.starts(some_model(True), "tied", ADD_ONE, scales, **options)


@pytest.mark.claim("prefix-tuning/eliciting-start-saturates")
@pytest.mark.claim("prefix-tuning/eliciting-gradient-does-not-vanish")
def test_a_layer_norm_before_the_prefix_refutes_both_statements_on_large_starts() -> None:
    options: dict[str, Any] = {"prefixes": 5, "sequences": 7, "seed": 8}

    def verdicts(first_layer_norm: bool, scales: list[float]) -> list[str]:
        pair = tuple(
            start.starts(some_model(first_layer_norm), "shared", ADD_ONE, scales, **options)
        )
        names = ("start-saturates", "gradient-does-not-vanish")
        return [verdict(name, [pair] * 2) for name in names]

    assert verdicts(False, [0.01, 30.0])[0] == "supported"
    assert verdicts(False, [30.0, 0.01])[0] == "contradicted"
    assert verdicts(True, [0.1, 30.0])[1] == "contradicted"
    assert verdicts(True, [30.0, 0.1])[1] == "supported"


def test_content_size_is_that_of_what_is_read() -> None:
    model = GPT(GPTConfig(1, 3, 21, 11, 19, first_layer_norm=True))
    assert start.content_size(model) == pytest.approx(1.0, abs=0.05)


# Pictures, and everything together.


def test_runs_that_are_too_short_go_through_every_claim_and_picture(
    tiny: tuple[Plan, TrainedInMemory, Trials],
) -> None:
    _, runs, trials = tiny
    arms = {arm: results.best_pairs(trials, runs.get, arm)[0] for arm in ARMS}
    pairs = [one for by_task in arms.values() for one in by_task.values()]
    assert len(pairs) == len(ARMS) * len(MIXED)
    assert set(verdicts_of_identities(pairs).values()) == {"holds"}
    taken = box.taken_and_limits(
        [list(arms["with LayerNorm"].values())],
        TOKENS,
        torch.Generator().manual_seed(9),
        restarts=1,
        steps=3,
        searched=1,
    )
    assert verdict("layer-norm-limit", taken) == "holds"
    for pair in arms["with LayerNorm, free"].values():
        assert 0 <= box.share_above_limit(pair.model, [pair.prefix], TOKENS) <= 100

    chosen = arms[PUBLISHED_ARM]
    blocks = {task: box.block_outputs(*pair, TOKENS) for task, pair in chosen.items()}
    shares = {
        task: box.answering_shares(*pair, TOKENS).mean((0, 2)) for task, pair in chosen.items()
    }
    normalised, free = arms["with LayerNorm"]["add_one"], arms["with LayerNorm, free"]["add_one"]
    drawn = {
        "all maps equal that without a prefix": figures.attention_maps(
            chosen["add_one"].model,
            {task: one.prefix for task, one in chosen.items()},
            TOKENS[0],
            head=2,
        ),
        f"{PUBLISHED_ARM}: from": figures.shares_by_head({PUBLISHED_ARM: shares}),
        "of the distance to the fixed point": figures.movements(blocks, sequences=2),
        "A box of 4 dimensions": figures.box_of_one(blocks["add_one"], 1, 3),
        "charts": figures.movements(blocks),
        "One chart for each of 4 heads": figures.limits_by_head(
            normalised.model, TOKENS, normalised.prefix, free.prefix, "add_one"
        ),
    }
    for words, (figure, alt) in drawn.items():
        assert words in alt, alt
        figure.canvas.draw()
        plt.close(figure)
