"""Where do transformers and peft come in? Here and nowhere else: offline, and quietly.

The environment variables below are set before the libraries are imported, so nothing is fetched.
What the libraries say about each other while they are imported is no concern of a reader.
"""

from __future__ import annotations

import os
import warnings

from notebooks.prefix_tuning.real_architectures import extra

for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

if not extra.installed():
    raise ImportError(extra.explanation())

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import PrefixTuningConfig, get_peft_model
    from tokenizers import Tokenizer
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        BertModel,
        DynamicCache,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )
    from transformers.masking_utils import eager_mask
    from transformers.models.bert.modeling_bert import BertSelfAttention
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
    from transformers.models.llama.modeling_llama import LlamaAttention
    from transformers.utils import logging

logging.disable_progress_bar()

__all__ = [
    "AttentionInterface",
    "AttentionMaskInterface",
    "BertModel",
    "BertSelfAttention",
    "DynamicCache",
    "GPT2Attention",
    "GPT2Config",
    "GPT2LMHeadModel",
    "LlamaAttention",
    "LlamaConfig",
    "LlamaForCausalLM",
    "PrefixTuningConfig",
    "Tokenizer",
    "eager_mask",
    "get_peft_model",
]
