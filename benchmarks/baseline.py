"""An ordinary implementation of experiment B3, to measure the library against.

A GPT of stock ``torch.nn`` parts in eager mode, a data set that makes one example at a time, a
``DataLoader``, AdamW, and a cross-entropy over the whole sequence in which the input positions
are ignored. Nothing is slowed down on purpose: there is no dropout, the loader has no workers to
start, frozen weights require no gradient, and the attention is torch's own fused one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


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


class Block(nn.Module):
    """Pre-LayerNorm attention and MLP."""

    def __init__(self, n_head: int, n_embd: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1 = nn.LayerNorm(n_embd)
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.GELU(approximate="tanh"),
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

    def __init__(
        self, n_layer: int, n_head: int, n_embd: int, vocab_size: int, block_size: int
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList(Block(n_head, n_embd) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

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


def training_step(
    *, with_prefix: bool, batch_size: int, generator_seed: int = 0
) -> Callable[[], float]:
    """Return a function that makes one training step of B3 and returns its loss."""
    torch.manual_seed(generator_seed)
    model = GPT(n_layer=1, n_head=1, n_embd=96, vocab_size=11, block_size=19)
    prefix = None
    if with_prefix:
        model.requires_grad_(False)
        prefix = nn.Parameter(0.1 * torch.randn(1, 1, 96))
        parameters = [prefix]
    else:
        parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1)
    loader = iter(DataLoader(SortDataset(descending=with_prefix), batch_size=batch_size))

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
