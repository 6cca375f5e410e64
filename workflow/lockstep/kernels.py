"""Operations of a lockstep on a GPU that would otherwise read and write the same numbers often.

Two pieces of a block with frozen weights, each as one kernel forwards and one backwards: an
addition to the residual stream with the LayerNorm after it, and the activation of the MLP. They
compute what the usual operations compute; in between nothing is rounded. They need Triton, which
comes with the torch for GPUs; without it the usual operations are used.

Shapes as in `workflow.lockstep.model`; ``R`` rows of each of ``S`` models.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # pragma: no cover
    triton = None

EPSILON = 1e-5
"""Of `torch.nn.LayerNorm`."""

LARGEST_ERROR = 1e-4
"""Of results of about 1 to 10, in float32."""

ELEMENTS = 2048
"""Numbers that a program of `add_norm` handles at a time."""


@lru_cache(maxsize=8)
def available(device: torch.device) -> bool:
    """Whether there are kernels for this device, and they compute what they should.

    Triton needs a compiler of C, which not every machine has. Found out once for each device.
    """
    if triton is None or device.type != "cuda":
        return False
    try:
        apart = worst_error(device)
    except Exception as error:  # whatever it is, the usual operations do the same
        warnings.warn(f"no fused kernels: {type(error).__name__}: {error}", stacklevel=2)
        return False
    if not apart < LARGEST_ERROR:
        warnings.warn(f"no fused kernels: they are wrong by {apart:.1e}", stacklevel=2)
        return False
    return True


@torch.enable_grad()
def worst_error(device: torch.device) -> float:
    """How far results and gradients are from those of the usual operations, at most."""
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    worst = 0.0
    for width in (96, 256):
        x, y, weight = (some(3, 37, width).requires_grad_() for _ in range(3))
        bias, gain, shift = (some(3, width) for _ in range(3))
        stream = x + (y + bias.unsqueeze(1))
        normalised = F.layer_norm(stream, (width,)) * gain.unsqueeze(1) + shift.unsqueeze(1)
        active = F.gelu(weight + bias.unsqueeze(1), approximate="tanh")
        wanted = [stream, normalised, active]
        found = [*add_norm(x, y, bias, gain, shift), gelu(weight, bias)]
        factors = [some(3, 37, width) for _ in wanted]
        for used in ((0, 1, 2), (1, 2)):
            for parts in (wanted, found):
                total = sum((parts[place] * factors[place]).sum() for place in used)
                assert isinstance(total, Tensor)
                parts.extend(torch.autograd.grad(total, (x, y, weight), retain_graph=True))
        pairs = zip(wanted, found, strict=True)
        worst = max(worst, *(float((a - b).detach().abs().max()) for a, b in pairs))
    return worst


def add_norm(x: Tensor, y: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Any:
    """Add to the residual stream, and normalise it.

    Parameters
    ----------
    x : Tensor, ``(S, R, D)``
        The stream, in float32.
    y : Tensor, ``(S, R, D)``
        What is added, in the dtype of products.
    bias, gain, shift : Tensor, ``(S, D)``
        What is added to `y`, and the parameters of the LayerNorm; without gradients.

    Returns
    -------
    stream : Tensor, ``(S, R, D)``
        In float32.
    normalised : Tensor, ``(S, R, D)``
        In the dtype of `y`.
    """
    return _AddNorm.apply(x, y, bias, gain, shift)


def gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The tanh-GELU of ``x + bias``: ``(S, R, N)`` and ``(S, N)``; no gradient for the bias."""
    return _Gelu.apply(x, bias)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, bias: Tensor, gain: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, y = x.contiguous(), y.contiguous()
        rows = _rows(x)
        stream, normalised = torch.empty_like(x), torch.empty_like(y)
        mean = torch.empty(rows, dtype=x.dtype, device=x.device)
        scale = torch.empty_like(mean)
        _add_norm_forward[_grid(x)](
            *(x, y, bias.contiguous(), gain.contiguous(), shift.contiguous()),
            *(stream, normalised, mean, scale, x.shape[1], rows, EPSILON),
            **_tile(x.shape[-1]),
        )
        ctx.save_for_backward(stream, mean, scale, gain)
        ctx.dtype = y.dtype
        ctx.set_materialize_grads(False)
        return stream, normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        of_stream, of_normalised = gradients
        stream, mean, scale, gain = ctx.saved_tensors
        if of_normalised is None:
            assert of_stream is not None
            return of_stream, of_stream.to(ctx.dtype), None, None, None
        of_x = torch.empty_like(stream)
        of_y = torch.empty_like(stream, dtype=ctx.dtype)
        _add_norm_backward[_grid(stream)](
            stream if of_stream is None else of_stream.contiguous(),
            *(of_normalised.contiguous(), stream, mean, scale, gain.contiguous()),
            *(of_x, of_y, stream.shape[1], _rows(stream)),
            ADDED=of_stream is not None,
            **_tile(stream.shape[-1]),
        )
        return of_x, of_y, None, None, None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        x, bias = x.contiguous(), bias.contiguous()
        y = torch.empty_like(x)
        _gelu_forward[_grid(x)](x, bias, y, x.shape[1], _rows(x), **_tile(x.shape[-1]))
        ctx.save_for_backward(x, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        of_x = torch.empty_like(x)
        _gelu_backward[_grid(x)](
            *(gradients[0].contiguous(), x, bias, of_x, x.shape[1], _rows(x)),
            **_tile(x.shape[-1]),
        )
        return of_x, None


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(_rows(x), _tile(x.shape[-1])["ROWS"]),)


def _tile(width: int) -> dict[str, int]:
    padded = triton.next_power_of_2(width)
    return {"WIDTH": width, "PADDED": padded, "ROWS": max(1, ELEMENTS // padded)}


if triton is not None:

    @triton.jit(do_not_specialize=["rows_of_model", "n_rows"])
    def _add_norm_forward(
        x_at,
        y_at,
        bias_at,
        gain_at,
        shift_at,
        stream_at,
        normalised_at,
        mean_at,
        scale_at,
        rows_of_model,
        n_rows,
        epsilon,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.arange(0, PADDED)
        inside = (rows < n_rows)[:, None] & (columns < WIDTH)[None, :]
        at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        of_model = (rows // rows_of_model)[:, None] * WIDTH + columns[None, :]
        x = tl.load(x_at + at, mask=inside, other=0.0)
        x += tl.load(y_at + at, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias_at + of_model, mask=inside, other=0.0).to(tl.float32)
        tl.store(stream_at + at, x, mask=inside)
        mean = tl.sum(x, axis=1) / WIDTH
        centred = tl.where(inside, x - mean[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / WIDTH + epsilon)
        gain = tl.load(gain_at + of_model, mask=inside, other=0.0)
        shift = tl.load(shift_at + of_model, mask=inside, other=0.0)
        y = centred * scale[:, None] * gain + shift
        tl.store(normalised_at + at, y.to(normalised_at.dtype.element_ty), mask=inside)
        tl.store(mean_at + rows, mean, mask=rows < n_rows)
        tl.store(scale_at + rows, scale, mask=rows < n_rows)

    @triton.jit(do_not_specialize=["rows_of_model", "n_rows"])
    def _add_norm_backward(
        of_stream_at,
        of_normalised_at,
        stream_at,
        mean_at,
        scale_at,
        gain_at,
        of_x_at,
        of_y_at,
        rows_of_model,
        n_rows,
        ADDED: tl.constexpr,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.arange(0, PADDED)
        inside = (rows < n_rows)[:, None] & (columns < WIDTH)[None, :]
        at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        of_model = (rows // rows_of_model)[:, None] * WIDTH + columns[None, :]
        mean = tl.load(mean_at + rows, mask=rows < n_rows, other=0.0)
        scale = tl.load(scale_at + rows, mask=rows < n_rows, other=0.0)
        x = tl.load(stream_at + at, mask=inside, other=0.0)
        x = tl.where(inside, (x - mean[:, None]) * scale[:, None], 0.0)
        gradient = tl.load(of_normalised_at + at, mask=inside, other=0.0).to(tl.float32)
        gradient *= tl.load(gain_at + of_model, mask=inside, other=0.0)
        along = tl.sum(gradient * x, axis=1) / WIDTH
        mean_gradient = tl.sum(gradient, axis=1) / WIDTH
        found = (gradient - mean_gradient[:, None] - x * along[:, None]) * scale[:, None]
        if ADDED:
            found += tl.load(of_stream_at + at, mask=inside, other=0.0)
        tl.store(of_x_at + at, found, mask=inside)
        tl.store(of_y_at + at, found.to(of_y_at.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["rows_of_model", "n_rows"])
    def _gelu_forward(
        x_at,
        bias_at,
        y_at,
        rows_of_model,
        n_rows,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.arange(0, PADDED)
        inside = (rows < n_rows)[:, None] & (columns < WIDTH)[None, :]
        at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        of_model = (rows // rows_of_model)[:, None] * WIDTH + columns[None, :]
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias_at + of_model, mask=inside, other=0.0).to(tl.float32)
        # 1 + tanh(u) is 2 sigmoid(2 u).
        twice = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        y = x / (1.0 + tl.exp(-twice))
        tl.store(y_at + at, y.to(y_at.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["rows_of_model", "n_rows"])
    def _gelu_backward(
        of_y_at,
        x_at,
        bias_at,
        of_x_at,
        rows_of_model,
        n_rows,
        WIDTH: tl.constexpr,
        PADDED: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.arange(0, PADDED)
        inside = (rows < n_rows)[:, None] & (columns < WIDTH)[None, :]
        at = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        of_model = (rows // rows_of_model)[:, None] * WIDTH + columns[None, :]
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(bias_at + of_model, mask=inside, other=0.0).to(tl.float32)
        twice = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        share = 1.0 / (1.0 + tl.exp(-twice))
        slope = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
        gradient = tl.load(of_y_at + at, mask=inside, other=0.0).to(tl.float32)
        gradient *= share + x * share * (1.0 - share) * slope
        tl.store(of_x_at + at, gradient.to(of_x_at.dtype.element_ty), mask=inside)
