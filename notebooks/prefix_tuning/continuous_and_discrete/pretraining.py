"""How does the small language model learn its text?

Windows of ``block_size`` symbols start anywhere in the training text; the loss is the cross-entropy
of each next symbol. So the model learns to go on after any single symbol, and prompts of one token
are nothing new to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.corpus import Corpus, documentation, encode
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.runs import Result
from promptlib.training import Progress, Recipe, train, weights_of

CURVE_POINTS = 100
"""Points of the stored learning curve; each is the mean of the steps since the last."""

CHUNK = 256
"""Windows that are measured in one pass."""


def pretrain(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a model on the training text; measure bits a symbol on the held-out text."""
    corpus = text_of(config)
    generator = torch.Generator().manual_seed(2 * config["seed"])
    model = GPT(GPTConfig(**config["model"]), generator)
    text = torch.tensor(encode(corpus.train, corpus.alphabet))
    order = torch.Generator().manual_seed(2 * config["seed"] + 1)
    windows = _windows(text, model.config.block_size, config["batch_size"], config["steps"], order)
    curve = train(
        [weights_of(model, config["learning_rate"])],
        lambda batch: F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()),
        windows,
        Recipe(config["steps"], config["warmup"]),
        label=f"language model, seed {config['seed']}",
        progress=progress,
    )
    pieces = (curve[:, 0] / math.log(2)).tensor_split(min(CURVE_POINTS, len(curve)))
    metrics = {
        "bits_held_out": bits_per_symbol(model, corpus.held_out, corpus.alphabet),
        "curve": [float(piece.mean()) for piece in pieces],
    }
    return Result(metrics, dict(model.state_dict()))


def text_of(config: Mapping[str, Any]) -> Corpus:
    """The corpus that a run names; a ValueError if the text of this Python is another one."""
    corpus = documentation()
    if corpus.digest != config["corpus"]:
        raise ValueError(
            f"the run was planned for the text with digest {config['corpus'][:16]}…, but this "
            f"Python carries {corpus.digest[:16]}…; plan it anew with this Python"
        )
    return corpus


def load_model(config: Mapping[str, Any], result: Result) -> GPT:
    """Rebuild the model of a run, frozen."""
    model = GPT(GPTConfig(**config["model"]))
    model.load_state_dict(result.tensors)
    return model.requires_grad_(False)


@torch.no_grad()
def bits_per_symbol(model: GPT, text: str, alphabet: str) -> float:
    """Mean surprisal of a text's symbols, in bits.

    Windows of ``block_size`` overlap by half, and every symbol is counted where it has at least
    half a window before it (but for the first window).
    """
    tokens = torch.tensor(encode(text, alphabet))
    if len(tokens) < 2:
        raise ValueError(f"a text of at least 2 symbols is needed, got {text!r}")
    block = model.config.block_size
    fresh = block - block // 2  # symbols that a window counts, after the first window

    def losses(windows: Tensor) -> Tensor:
        logits = model(windows[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none").double()

    first, rest = tokens[None, : block + 1], tokens[fresh:]
    total = losses(first).sum()
    if len(rest) > block:
        windows = rest.unfold(0, block + 1, fresh)
        for some in windows.split(CHUNK):
            total += losses(some)[:, -fresh:].sum()
        rest = rest[len(windows) * fresh :]
    if len(tokens) > block + 1 and len(rest) > block // 2 + 1:
        total += losses(rest[None])[:, block // 2 :].sum()
    return float(total) / math.log(2) / (len(tokens) - 1)


@torch.no_grad()
def write(model: GPT, prompt: str, length: int, alphabet: str, generator: torch.Generator) -> str:
    """Let the model go on after `prompt` for `length` symbols, drawn at random."""
    tokens = torch.tensor([encode(prompt, alphabet)])
    for _ in range(length):
        shares = F.softmax(model(tokens[:, -model.config.block_size :], last=1)[0], dim=-1)
        tokens = torch.cat([tokens, torch.multinomial(shares, 1, generator=generator)], dim=1)
    return "".join(alphabet[token] for token in tokens[0, -length:].tolist())


def _windows(
    text: Tensor, block: int, n: int, steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    if len(text) <= block:
        raise ValueError(f"a text of {len(text)} symbols is too short for windows of {block + 1}")
    for _ in range(steps):
        starts = torch.randint(len(text) - block, (n, 1), generator=generator)
        yield text[starts + torch.arange(block + 1)]
