r"""What is different for a prefix that starts large?

A prefix vector :math:`s` from :math:`N(0, \tau^2)` attracts from query :math:`q` the logit
:math:`\bar z = q^\top W_K s/\sqrt{d_k}` (and a constant), whose spread is proportional to
:math:`\tau` if there is no LayerNorm. Then the share :math:`\alpha = \sigma(\bar z - \log Z)` is
close to 0 or to 1 for most queries. The gradient of the loss splits by the product rule into a
part through the key, which carries the factor :math:`\alpha(1-\alpha)`, and a part through the
value, which carries :math:`\alpha`:

.. math::

    \nabla_s L = \sum_{h,i} \alpha_i^h (1-\alpha_i^h)\, (g_i^h)^\top(\bar v^h - t_i^h)\,
        \frac{W_K^{h\top} q_i^h}{\sqrt{d_k}}
        + \sum_{h,i} \alpha_i^h\, W_V^{h\top} g_i^h,

with :math:`g_i^h` the gradient of the loss with respect to what head :math:`h` reads at :math:`i`.

Both are measured on untrained prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import first_layer, prefix_head_values, shares_taken
from promptlib.prefix_tuning.planning import PARAMETRISATIONS
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import Task, read_and_answer

SATURATED = 0.01
"""A share this close to 0 or to 1 has, through its key, less than 1/25 of the gradient at 1/2."""

GradientParts = Callable[[GPT, Prefix, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of a model, its prefix, tokens and targets."""


@dataclass(frozen=True)
class Start:
    """Untrained prefixes of one initial scale, means over prefixes.

    Of all rows (head, answering position, input), `wiped` is the part that leaves less than
    `SATURATED` to the content, and `unheard` the part that gives less to the prefix.
    """

    init_std: float
    wiped: float
    unheard: float
    key_gradient: float  # length, nats a symbol per unit of the vector; geometric mean
    value_gradient: float
    loss: float  # nats a symbol

    @property
    def saturated(self) -> float:
        """Part of all rows whose share is next to 0 or to 1."""
        return self.wiped + self.unheard

    @property
    def gradient(self) -> float:
        """Length of both parts together, as of two vectors that learn apart."""
        return math.hypot(self.key_gradient, self.value_gradient)


def start(
    model: GPT,
    parametrisation: str,
    task: Task,
    init_std: float,
    *,
    prefixes: int,
    sequences: int,
    generator: torch.Generator,
) -> Start:
    """Measure untrained prefixes of one vector for a task, in a model of one layer."""
    if parametrisation not in PARAMETRISATIONS:
        names = ", ".join(PARAMETRISATIONS)
        raise ValueError(f"parametrisation must be one of {names}, got {parametrisation!r}")
    options = PARAMETRISATIONS[parametrisation]
    inputs, targets = task.sample(sequences, "test", generator)
    tokens = read_and_answer(inputs, targets)
    dtype = model.head.weight.dtype
    drawn = []
    for _ in range(prefixes):
        # Two vectors even where one serves as both: their gradients are the two parts.
        prefix = Prefix(
            1,
            1,
            model.config.n_embd,
            init_std,
            generator,
            separate_values=True,
            layer_norm=options["layer_norm"],
        ).to(dtype)
        if not options["separate_values"]:
            assert prefix.value_vectors is not None
            with torch.no_grad():
                prefix.value_vectors.copy_(prefix.vectors)
        drawn.append(prefix)
    seen: list[Tensor] = []
    attention = model.blocks[0].attention
    hook = attention.register_forward_hook(lambda _, __, out: seen.append(out[1].detach()))
    try:
        losses = sequence_loss(model, tokens, targets, PrefixBatch(drawn))  # (C,)
    finally:
        hook.remove()
    parameters = [part for prefix in drawn for part in prefix.parameters()]
    gradients = torch.autograd.grad(losses.sum(), parameters)
    lengths = torch.stack([part.norm() for part in gradients]).clamp_min(1e-30).log().view(-1, 2)
    key_part, value_part = lengths.mean(dim=0).exp().tolist()
    taken = seen[0][..., 0]  # (C, B, H, 10): the only layer attends where the loss asks
    return Start(
        init_std=init_std,
        wiped=float((taken > 1 - SATURATED).double().mean()),
        unheard=float((taken < SATURATED).double().mean()),
        key_gradient=key_part,
        value_gradient=value_part,
        loss=float(losses.detach().mean()),
    )


def starts(
    model: GPT,
    parametrisation: str,
    task: Task,
    init_stds: Sequence[float],
    *,
    prefixes: int,
    sequences: int,
    seed: int,
) -> list[Start]:
    """Measure `start` at several initial scales, with the same random numbers at each."""
    return [
        start(
            model,
            parametrisation,
            task,
            std,
            prefixes=prefixes,
            sequences=sequences,
            generator=torch.Generator().manual_seed(seed),
        )
        for std in init_stds
    ]


def gradient_by_autograd(
    model: GPT, prefix: Prefix, tokens: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss by what the key and the value projection read of the prefix, (D,).

    Their sum is the gradient of one shared vector that passes through no LayerNorm.
    """
    _, read_by_key, read_by_value = _run(model, prefix, tokens, targets)
    return read_by_key, read_by_value


def gradient_parts(
    model: GPT, prefix: Prefix, tokens: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from shares, outputs without the prefix, and what the loss asks of them.

    The sums in the module's docstring, over heads, sequences and all positions.
    """
    by_outputs, _, _ = _run(model, prefix, tokens, targets)  # g, (B, H, T, d)
    block = model.blocks[0]
    layer = block.attention
    taken = shares_taken(model, prefix, tokens)[..., None]  # (B, H, T, 1)
    outputs, _ = first_layer(model, tokens)
    values = prefix_head_values(model, prefix)  # (H, 1, d)
    with torch.no_grad():
        content = model.token(tokens) + model.position.weight[: tokens.shape[1]]
        queries = layer.heads(layer.query(block.norm_attention(content)))
        pull = (by_outputs * (values - outputs)).sum(-1, keepdim=True)
        by_keys = (taken * (1 - taken) * pull * queries).sum(dim=(0, 2)) * queries.shape[-1] ** -0.5
        by_values = (taken * by_outputs).sum(dim=(0, 2))  # (H, d)
        return by_keys.flatten() @ layer.key.weight, by_values.flatten() @ layer.value.weight


def gradient_errors(
    model: GPT,
    prefix: Prefix,
    tokens: Tensor,
    targets: Tensor,
    parts: GradientParts = gradient_parts,
) -> Tensor:
    """Largest error of either part, relative to its longest entry, (2,)."""
    batch = model, prefix, tokens, targets
    return torch.stack(
        [
            (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)
            for ours, theirs in zip(parts(*batch), gradient_by_autograd(*batch), strict=True)
        ]
    )


def _run(
    model: GPT, prefix: Prefix, tokens: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the loss by what the heads, and the two projections, read."""
    for_keys, for_values = model.read_prefix(prefix, 0) or (None, None)
    assert for_keys is not None
    assert for_values is not None
    free = Prefix(1, 1, model.config.n_embd, separate_values=True, layer_norm=False)
    free = free.to(for_keys.dtype)
    assert free.value_vectors is not None
    with torch.no_grad():
        free.vectors[0] = for_keys
        free.value_vectors[0] = for_values
    layer = model.blocks[0].attention
    seen: list[Tensor] = []
    hook = layer.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = model(tokens, free, return_attention=True)[0][:, -targets.shape[-1] :]
    finally:
        hook.remove()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    by_outputs, by_keys, by_values = torch.autograd.grad(
        loss, [seen[0], free.vectors, free.value_vectors]
    )
    return layer.heads(by_outputs), by_keys[0, 0], by_values[0, 0]


def content_size(model: GPT) -> float:
    """Root mean square of the entries of what the first attention block reads.

    Over all symbols and positions alike; the scale against which a prefix vector is large or small.
    """
    block = model.blocks[0]
    with torch.no_grad():
        every_pair = model.token.weight[:, None] + model.position.weight  # (V, T, D)
        return float(block.norm_attention(every_pair).square().mean().sqrt())


check_public(__name__)
