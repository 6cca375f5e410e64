"""Which models are the theorems checked on?

GPT-2 (learned absolute positions, LayerNorm, all heads with keys of their own) and LLaMA (rotary
positions, RMSNorm, two key-value heads that serve six query heads), as `transformers` builds them
from a configuration: three layers deep, with random weights large enough for attention to be
uneven. A prefix reaches them in two ways: a cache of past keys and values filled by hand, and the
prefix-tuning of `peft`.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.real_architectures.library import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PrefixTuningConfig,
    get_peft_model,
)
from notebooks.prefix_tuning.real_architectures.recording import NAME, PastKeyValues

VOCABULARY = 53


def random_gpt2(generator: torch.Generator, implementation: str = NAME) -> nn.Module:
    """A GPT-2 of three layers, five heads of width 7, in float64, not training."""
    config = GPT2Config(
        n_layer=3,
        n_head=5,
        n_embd=35,
        vocab_size=VOCABULARY,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=implementation,
    )
    return _randomised(GPT2LMHeadModel, config, generator)


def random_llama(generator: torch.Generator, implementation: str = NAME) -> nn.Module:
    """A LLaMA of three layers, six query heads and two key-value heads of width 10, in float64."""
    config = LlamaConfig(
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        hidden_size=66,
        intermediate_size=76,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=implementation,
    )
    return _randomised(LlamaForCausalLM, config, generator)


def random_past(
    model: nn.Module, length: int, generator: torch.Generator, scale: float = 1.0
) -> PastKeyValues:
    """Keys and values drawn from N(0, scale²) for every layer of a GPT-2 or LLaMA."""
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    config: Any = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = next(model.parameters()).dtype

    def draw() -> list[Tensor]:
        return [
            scale * torch.randn(heads, length, width, generator=generator, dtype=torch.float64)
            for _ in range(config.num_hidden_layers)
        ]

    keys, values = ([part.to(dtype) for part in draw()] for _ in range(2))
    return PastKeyValues(keys, values)


def cache_of(model: nn.Module, past: PastKeyValues, n_sequences: int) -> Any:
    """A fresh cache with the prefix in it, as if the model had read it before; fit for one pass."""
    cache: Any = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(zip(past.keys, past.values, strict=True)):
        cache.update(
            keys.expand(n_sequences, *keys.shape), values.expand(n_sequences, *values.shape), layer
        )
    return cache


def with_peft(model: nn.Module, length: int, generator: torch.Generator) -> nn.Module:
    """The model wrapped by the prefix-tuning of `peft`, its prefix drawn from N(0, 1)."""
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it reads deprecated attributes of transformers
        tuned = get_peft_model(
            model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
        )
    learned: Tensor = tuned.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        learned.copy_(torch.randn(learned.shape, generator=generator))
    return tuned.eval()


def past_of_peft(tuned: Any) -> PastKeyValues:
    """The keys and values that `peft` hands to the model."""
    with torch.no_grad():
        cache = tuned.get_prompt(1)
    layers = list(cache.layers)
    return PastKeyValues([one.keys[0] for one in layers], [one.values[0] for one in layers])


def _randomised(kind: Any, config: Any, generator: torch.Generator) -> nn.Module:
    """Build a model and draw its weights so that logits have a standard deviation near 2."""
    with torch.random.fork_rng(devices=[]):  # the constructor draws from the global stream
        model = kind(config)
    built: nn.Module = model.double().eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if "wpe" in name or "wte" in name or "embed" in name:
            parameter.copy_(noise)
        elif parameter.dim() == 1:
            parameter.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
        else:
            parameter.copy_(1.4 * noise / parameter.shape[0] ** 0.5)
    return built
