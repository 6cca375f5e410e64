"""Prompt against layer: what contains what, who is tuned how, and claims that can fail."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from notebooks.prompt_attention.prompt_or_finetune import plan as prompt_or_finetune
from notebooks.prompt_attention.prompt_or_finetune import results
from notebooks.prompt_attention.prompt_or_finetune import training as few_samples_training
from notebooks.prompt_attention.prompt_or_finetune.attention_layer import (
    LayerWeights,
    containing_layer,
    layer_scores,
    random_layer,
)
from notebooks.prompt_attention.prompt_or_finetune.claims import CONTAINS, ROWS
from notebooks.prompt_attention.prompt_or_finetune.training import prompt_scores, train_few_samples
from promptlib import claims
from promptlib.prefix_tuning import trials
from promptlib.prompt_attention.models import prompt_attention, self_attention
from promptlib.runs import RunStore
from tests.trained_in_memory import silent


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.claim("prompt-attention/layer-contains-prompt")
def test_the_layer_contains_the_prompt():
    def verdict(**options):
        errors = results.containment_errors(20, generator(), **options)
        (claim,) = claims.check("prompt-attention/", [CONTAINS], errors).values()
        return claim.verdict

    def queries_look_at_their_tokens(w, q):
        weights = containing_layer(w, q)
        return weights._replace(W_Q=weights.W_K)

    assert verdict() == "holds"
    assert verdict(construct=queries_look_at_their_tokens) == "fails"
    assert verdict(construct=lambda w, q: containing_layer(q, w)) == "fails"


def test_the_layer_is_self_attention_when_its_matrices_are():
    tokens = torch.randn(3, 7, 5, generator=generator(), dtype=torch.float64)
    u, _ = torch.randn(2, 5, generator=generator(1), dtype=torch.float64)
    W_Q, W_K = torch.randn(2, 5, 5, generator=generator(2), dtype=torch.float64)
    eye = torch.eye(5).double()
    weights = LayerWeights(W_Q, W_K, eye, torch.zeros(5).double(), u)
    torch.testing.assert_close(
        layer_scores(tokens, weights), self_attention(tokens, u, W_Q @ W_K.T)
    )


def test_layers_and_prompts_side_by_side():
    tokens = torch.randn(2, 3, 4, 7, 5, generator=generator())
    layers = LayerWeights(*(torch.stack([part] * 3) for part in random_layer((2, 5), generator())))
    layers = layers._replace(head=torch.randn(3, 2, 5, generator=generator()))
    layers = LayerWeights(*(part.transpose(0, 1) for part in layers))
    w, q = torch.randn(2, 2, 3, 5, generator=generator())
    scores, prompts = layer_scores(tokens, layers), prompt_scores(tokens, w, q)
    assert scores.shape == prompts.shape == (2, 3, 4)
    for i in range(2):
        for j in range(3):
            one = LayerWeights(*(part[i, j] for part in layers))
            torch.testing.assert_close(scores[i, j], layer_scores(tokens[i, j], one))
            torch.testing.assert_close(
                prompts[i, j], prompt_attention(tokens[i, j], w[i, j], q[i, j])
            )


def test_weights_of_another_width_are_refused():
    weights = containing_layer(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match=r"W_Q must end in shape \(5, 5\).*got \(4, 4\)"):
        layer_scores(torch.zeros(2, 3, 5), weights)
    with pytest.raises(ValueError, match="one shape"):
        containing_layer(torch.zeros(4), torch.zeros(5))


def config_of(plan, learner, seed):
    (run,) = (run for run in plan.where(learner=learner) if run.config["seed"] == seed)
    return run.config


class TestPlan:
    def test_does_not_load_torch(self):
        script = (
            "import sys, notebooks.prompt_attention.prompt_or_finetune.plan;"
            "sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

    def test_all_learners_get_the_same_data_and_the_same_effort(self):
        plan = prompt_or_finetune.plan(seeds=2, first_seed=5)
        assert len(list(plan)) == 6
        for seed in (5, 6):
            configs = [config_of(plan, name, seed) for name in prompt_or_finetune.LEARNERS]
            for key in ("mixture", "sizes", "seed", "steps", "batch", "check_every", "test_bags"):
                assert all(config[key] == configs[0][key] for config in configs)
            for key in ("learning_rates", "weight_decays"):
                assert {len(set(config[key])) for config in configs} == {3}

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"seeds": 0}, "seeds must be at least 1, got 0"),
            ({"first_seed": -1}, "first_seed must be a whole number of at least 0, got -1"),
            ({"first_seed": 0.5}, r"first_seed must be .* got 0.5"),
            ({"sizes": [64, 4]}, "at least 8 bags, got"),
            ({"sizes": []}, "at least 8 bags, got"),
            ({"steps": 30, "check_every": 20}, "multiple of check_every, got 30 and 20"),
        ],
    )
    def test_refusals(self, changed, message):
        with pytest.raises(ValueError, match=message):
            prompt_or_finetune.plan(**changed)


TINY = {"dim": 4, "tokens": 10, "sparsity": 0.2, "sizes": (16, 600), "seeds": 1, "test_bags": 1000}


@pytest.mark.parametrize("learner", prompt_or_finetune.LEARNERS)
def test_every_learner_learns_an_easy_task(learner):
    plan = prompt_or_finetune.plan(
        **TINY, context_norm=3.0, noise_std=0.5, steps=60, check_every=20
    )
    config = config_of(plan, learner, 0)
    small, large = train_few_samples(config, [], silent).metrics["chosen"]
    assert large["test_error"] < 0.05
    assert large["test_error"] <= small["test_error"]
    assert large["learning_rate"] in config["learning_rates"]
    assert large["weight_decay"] in config["weight_decays"]
    assert large["step"] % 20 == 0
    assert train_few_samples(config, [], silent).metrics["chosen"] == [small, large]


def test_an_unknown_learner_is_refused():
    config = {**config_of(prompt_or_finetune.plan(**TINY), "prompt", 0), "learner": "lora"}
    with pytest.raises(ValueError, match="unknown learner 'lora'"):
        train_few_samples(config, [], silent)


def test_results_come_from_the_store(tmp_path):
    plan = prompt_or_finetune.plan(**TINY, steps=20)
    store = RunStore(tmp_path)
    table = trials.read(plan.where(learner="prompt"), store.get)
    errors = results.errors(table, "prompt")
    assert errors.shape == (1, 2)
    assert table[0].metrics["chosen"][1]["test_error"] == errors[0, 1]
    decays = [
        results.errors(table, "prompt", one) for one in prompt_or_finetune.WEIGHT_DECAYS["prompt"]
    ]
    assert any(errors[0, 0] == one[0, 0] for one in decays)


def test_mean_over_sizes():
    sizes = (8, 16, 32)
    errors = np.array([[0.5, 0.3, 0.1], [0.4, 0.2, 0.0]])
    np.testing.assert_allclose(results.mean_over(sizes, errors, [16, 32]), [0.2, 0.1])
    with pytest.raises(ValueError, match="size 9 is not in the plan"):
        results.mean_over(sizes, errors, [9])
    with pytest.raises(ValueError, match="at least one size"):
        results.mean_over(sizes, errors, [])


ATTENTION = {"prompt_read": [1], "layer_read": [0, 3]}  # q; W_Q and b


def trained_gap(monkeypatch, broken=None):
    """How much more often the layer errs than the prompt on an easy task, in percentage points."""
    if broken is not None:
        right = getattr(few_samples_training, broken)

        def mean_pooling(tokens, weights):
            frozen = [
                torch.zeros_like(weight) if number in ATTENTION[broken] else weight
                for number, weight in enumerate(weights)
            ]
            return right(tokens, frozen)

        monkeypatch.setattr(few_samples_training, broken, mean_pooling)
    options = {**TINY, "sizes": (600,), "context_norm": 3.0, "signal_norm": 0.5}
    plan = prompt_or_finetune.plan(**options, noise_std=0.5, steps=60)
    prompt, layer = (
        train_few_samples(config_of(plan, name, 0), [], silent).metrics["chosen"][0]["test_error"]
        for name in ("prompt", "layer")
    )
    return 100 * (layer - prompt)


@pytest.mark.claim("prompt-attention/prompt-wins-on-few-bags")
@pytest.mark.claim("prompt-attention/layer-catches-up")
def test_a_learner_that_cannot_move_its_attention_decides_the_claims(monkeypatch):
    assert abs(trained_gap(monkeypatch)) < 1.0
    with monkeypatch.context() as patch:
        assert trained_gap(patch, "prompt_read") < 0.0  # contradicts that the prompt wins
    with monkeypatch.context() as patch:
        assert trained_gap(patch, "layer_read") > 1.0  # contradicts that the layer catches up


PROMPT = np.array(
    [
        [0.2, 0.15, 0.1, 0.08],
        [0.25, 0.12, 0.1, 0.075],
        [0.2, 0.2, 0.15, 0.07],
        [0.2, 0.2, 0.1, 0.08],
    ]
)


def judged(layer, prompt=PROMPT, pooled=0.3):
    """Verdicts of the control, of the window, and of the most bags."""
    sizes = (128, 192, 256, 1024)
    compared = results.Compared(prompt, layer, sizes, sizes[:3], pooled, 16, 4000)
    found = claims.check("prompt-attention/", ROWS, compared)
    return tuple(claim.verdict for claim in found.values())


@pytest.mark.claim("prompt-attention/both-learn-attention")
@pytest.mark.claim("prompt-attention/prompt-wins-on-few-bags")
@pytest.mark.claim("prompt-attention/layer-catches-up")
def test_every_outcome_can_be_contradicted():
    mixed = 0.05 * np.array([[1, 1, 1, 0], [-1, -1, -1, 0], [1, -1, 1, 0], [-1, 1, -1, 0]])
    assert judged(PROMPT + 0.002) == ("supported", "supported", "supported")
    assert judged(PROMPT - 0.01) == ("supported", "contradicted", "supported")
    assert judged(PROMPT + 0.05) == ("supported", "supported", "contradicted")
    assert judged(PROMPT + mixed)[1] == "undecided"


@pytest.mark.claim("prompt-attention/both-learn-attention")
def test_a_learner_that_guesses_takes_the_meaning_from_the_others():
    guess = np.full(PROMPT.shape, 0.5)
    assert judged(guess) == ("contradicted", "uninformative", "uninformative")
    assert judged(guess, guess) == ("contradicted", "uninformative", "uninformative")
