"""What `diagnose` says of models of `transformers` is what their own layers did.

Needs the optional extra `real`; CI installs it.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from notebooks.prefix_tuning.real_architectures import extra
from promptlib.prefix_tuning.diagnosis import diagnose

if not extra.installed():
    pytest.skip(
        f"needs EXTRAS=real; not installed: {', '.join(extra.missing())}", allow_module_level=True
    )

from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model

from notebooks.prefix_tuning.real_architectures.architectures import (
    past_of_peft,
    random_gpt2,
    random_llama,
    with_peft,
)
from notebooks.prefix_tuning.real_architectures.recording import NAME, record
from promptlib.prefix_tuning.geometry import effective_rank, number_in_use

LENGTH, TOKENS = 3, 7
IDS = torch.randint(0, 50, (2, TOKENS), generator=torch.Generator().manual_seed(5))
ARCHITECTURES = pytest.mark.parametrize("make", [random_gpt2, random_llama])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def adapted(make, config, implementation="eager"):
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # peft reads deprecated attributes of transformers
        torch.manual_seed(1)
        return get_peft_model(make(seeded(), implementation), config).eval()


def soft_prompt(make):
    tuned = adapted(make, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH))
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.mul_(2)
    return tuned


@ARCHITECTURES
def test_a_prefix_is_measured_as_its_layers_were_called(make):
    tuned = with_peft(make(seeded(), "eager"), LENGTH, seeded())
    found = diagnose(tuned, None, IDS)
    twin = with_peft(make(seeded(), NAME), LENGTH, seeded())
    calls = record(twin, lambda: twin(input_ids=IDS))
    past = past_of_peft(twin)
    assert found.kind == "free prefix"
    assert found.length == LENGTH
    assert found.reach is None
    for layer, call in enumerate(calls):
        weights = call.attention[..., :LENGTH].transpose(0, 1).flatten(1, 2)  # (H, rows, p)
        groups = weights.shape[0] // past.values[layer].shape[0]
        values = past.values[layer].repeat_interleave(groups, 0)
        close = {"rtol": 1e-4, "atol": 1e-6}  # these architectures take softmax in float32
        np.testing.assert_allclose(found.shares[layer], weights.sum(-1).mean(-1), **close)
        np.testing.assert_allclose(found.vectors_used[layer], number_in_use(weights), **close)
        rank = effective_rank(weights @ values)
        np.testing.assert_allclose(found.bias_rank[layer], rank, **close)


@ARCHITECTURES
def test_prefixes_and_prompts_leave_the_first_layer_and_move_the_others(make):
    for tuned in (with_peft(make(seeded(), "eager"), LENGTH, seeded()), soft_prompt(make)):
        found = diagnose(tuned, None, IDS)
        assert (found.moved[0] <= found.rounding).all()
        assert (found.moved[1:].max(-1) > 0.05).all()
        assert ((found.shares > 0.01) & (found.shares < 0.99)).all()
        assert "unchanged in layer 1, as it must be" in found.sentences()[1]
    assert found.kind == "soft prompt"
    assert "Reach: not computed" in found.sentences()[4]


@ARCHITECTURES
def test_a_lora_moves_the_first_layer_once_it_has_learned(make):
    for zero in (True, False):
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=zero)
        found = diagnose(adapted(make, config), None, IDS)
        assert found.kind == "LoRA"
        assert found.shares is None
        assert found.moved.shape[0] == 3
        if zero:
            assert (found.moved <= found.rounding).all()
        else:
            assert (found.moved > found.rounding).all()
            assert "It re-aims layer 1" in found.sentences()[1]


@ARCHITECTURES
def test_padding_does_not_count(make):
    tuned = with_peft(make(seeded(), "eager"), LENGTH, seeded())
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    mask[:, 5:] = 0
    padded = diagnose(tuned, None, {"input_ids": IDS[:1], "attention_mask": mask})
    alone = diagnose(tuned, None, IDS[:1, :5])
    for name in ("shares", "moved", "vectors_used", "bias_rank"):
        np.testing.assert_allclose(getattr(padded, name), getattr(alone, name), atol=1e-5)
    with pytest.raises(ValueError, match="the last 2 positions of all inputs are padding"):
        diagnose(tuned, None, {"input_ids": IDS[:1], "attention_mask": mask}, last=2)


def test_what_cannot_be_diagnosed_is_refused():
    plain = random_llama(seeded(), "eager")
    with pytest.raises(ValueError, match=r"got LlamaForCausalLM; wrap .*get_peft_model"):
        diagnose(plain, None, IDS)
    lora = LoraConfig(task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=r"attends with 'sdpa' .* attn_implementation=\"eager\""):
        diagnose(adapted(random_llama, lora, "sdpa"), None, IDS)
    with pytest.raises(ValueError, match=r"must be one of PREFIX_TUNING.*, got IA3"):
        diagnose(adapted(random_llama, IA3Config(task_type="CAUSAL_LM")), None, IDS)
    tuned = adapted(random_llama, lora)
    with pytest.raises(ValueError, match="must have input_ids, got labels"):
        diagnose(tuned, None, {"labels": IDS})
    with pytest.raises(ValueError, match=r"token ids of shape \(B, T\), got torch.float32 \(2,\)"):
        diagnose(tuned, None, torch.zeros(2))
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        diagnose(tuned.train(), None, IDS)
