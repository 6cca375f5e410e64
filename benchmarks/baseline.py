"""An ordinary implementation of the experiments, to measure the library against.

A GPT of stock ``torch.nn`` parts in eager mode, a data set that makes one example at a time, a
``DataLoader``, AdamW, and a cross-entropy over the whole sequence in which the input positions
are ignored. Nothing is slowed down on purpose: there is no dropout, the loader has no workers to
start, frozen weights require no gradient, and the attention is torch's own fused one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from promptlib.prefix_tuning.gpt import GPTConfig

Method = Literal["pretraining", "prefix", "LoRA"]


class SortDataset(Dataset):
    """Training examples, made one by one: tokens ``[19]`` and targets ``[19]``, -1 is ignored."""

    def __init__(self, descending: bool) -> None:
        self.descending = descending

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        while True:
            must_repeat = torch.rand(1).item() < 0.5
            digits = torch.randint(8, (10,))
            while must_repeat and digits.unique().numel() > 5:
                digits = torch.randint(8, (10,))
            code = hashlib.sha256(bytes(digits.tolist())).digest()
            if code[0] % 4 != 0:  # the others are the test split
                break
        answer = digits.sort(descending=self.descending).values
        sequence = torch.cat([digits, answer])
        targets = sequence[1:].clone()
        targets[:9] = -1
        return sequence[:-1], targets


class LoRA(nn.Module):
    """A frozen linear layer with a correction of low rank."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(0.02 * torch.randn(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.a), self.b)


class Block(nn.Module):
    """Pre-LayerNorm attention and MLP."""

    def __init__(
        self, n_head: int, n_embd: int, layer_norm: bool = True, gelu: str = "tanh"
    ) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1 = nn.LayerNorm(n_embd) if layer_norm else nn.Identity()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(approximate="tanh" if gelu == "tanh" else "none"),
            nn.Linear(4 * n_embd, n_embd),
        )

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(D, dim=2)
        q, k, v = (y.view(B, T, self.n_head, -1).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, D))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A GPT; a prefix, ``[n_layer, p, D]``, is put in front of the input of each block."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        D = config.n_embd
        self.wte = nn.Embedding(config.vocab_size, D)
        self.wpe = nn.Embedding(config.block_size, D)
        self.blocks = nn.ModuleList(
            Block(config.n_head, D, config.first_layer_norm or layer > 0, config.gelu)
            for layer in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(D)
        self.lm_head = nn.Linear(D, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, prefix: Tensor | None = None) -> Tensor:
        B, T = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(T))
        for layer, block in enumerate(self.blocks):
            if prefix is None:
                x = block(x)
            else:
                p = prefix.shape[1]
                x = block(torch.cat([prefix[layer].expand(B, -1, -1), x], dim=1))[:, p:]
        return self.lm_head(self.ln_f(x))


def prepare(
    config: GPTConfig, method: Method, prefix_length: int
) -> tuple[GPT, nn.Parameter | None, list[nn.Parameter]]:
    """Return a model, the prefix if there is one, and what is learned.

    LoRA has rank 1 and corrects the two layers of each MLP.
    """
    model = GPT(config)
    if method == "pretraining":
        return model, None, list(model.parameters())
    model.requires_grad_(False)
    if method == "prefix":
        shape = (config.n_layer, prefix_length, config.n_embd)
        prefix = nn.Parameter(0.1 * torch.randn(shape))
        return model, prefix, [prefix]
    for block in model.blocks:
        for layer in (0, 2):
            block.mlp[layer] = LoRA(block.mlp[layer], rank=1)
    return model, None, [factor for factor in model.parameters() if factor.requires_grad]


def training_step(
    config: GPTConfig,
    method: Method,
    *,
    prefix_length: int = 1,
    batch_size: int,
    generator_seed: int = 0,
) -> Callable[[], float]:
    """Return a function that makes one training step and returns its loss."""
    torch.manual_seed(generator_seed)
    model, prefix, parameters = prepare(config, method, prefix_length)
    optimiser = torch.optim.AdamW(parameters, lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1)
    data = SortDataset(descending=method != "pretraining")
    loader = iter(DataLoader(data, batch_size=batch_size))

    def step() -> float:
        tokens, targets = next(loader)
        logits = model(tokens, prefix)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        return loss.item()

    return step
