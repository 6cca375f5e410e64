r"""How does one position read from the others? The one attention function of the book.

Every model of the book attends through :func:`attend`, so a theorem that is checked on this
function is checked on all of them.

For queries :math:`q_i`, content keys :math:`k_j`, content values :math:`v_j` and, if there is a
prefix, its keys :math:`\bar k_m` and values :math:`\bar v_m`,

.. math::

    z_{ij} = \sigma\, q_i^\top k_j, \qquad
    A'_{ij} = \frac{e^{z_{ij}}}{\sum_m e^{\bar z_{im}} + \sum_l e^{z_{il}}}, \qquad
    t'_i = \sum_m A'_{im} \bar v_m + \sum_j A'_{ij} v_j,

with :math:`\sigma = 1/\sqrt{d_k}`. Under a causal mask the content sum runs over the positions up
to :math:`i`, and the prefix stays visible from everywhere.

Shapes in comments: ``m`` queries, ``n`` content keys, ``p`` prefix positions, ``d`` the width of
keys and queries, ``e`` the width of values. Leading dimensions (batch, heads) broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = ["attend", "causal_mask"]


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    prefix_keys: Tensor | None = None,
    prefix_values: Tensor | None = None,
    causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Scaled dot-product attention over content, and over a prefix if there is one.

    Parameters
    ----------
    queries : Tensor, shape (..., m, d)
    keys : Tensor, shape (..., n, d)
    values : Tensor, shape (..., n, e)
    prefix_keys : Tensor, shape (..., p, d), optional
        Keys that every query sees, whatever the mask. They come with `prefix_values`.
    prefix_values : Tensor, shape (..., p, e), optional
    causal : bool
        Query ``i`` sees no content after itself. With fewer queries than keys the queries are
        the last positions, as in decoding one token at a time.
    scale : float, optional
        The factor before the dot products; ``1 / sqrt(d)`` by default.

    Returns
    -------
    outputs : Tensor, shape (..., m, e)
    attention : Tensor, shape (..., m, p + n)
        Non-negative rows that sum to one; the prefix comes first.

    Raises
    ------
    ValueError
        If the shapes do not fit together, if only one half of a prefix is given, if there is
        nothing to attend to, or if a causal mask is asked for with more queries than keys.

    Notes
    -----
    Leading dimensions broadcast, so one prefix of shape (p, d) or (heads, p, d) serves a batch.

    Examples
    --------
    A query that is orthogonal to both keys reads the mean of the values.

    >>> import torch
    >>> outputs, attention = attend(
    ...     torch.tensor([[0.0, 1.0]]),
    ...     torch.tensor([[1.0, 0.0], [2.0, 0.0]]),
    ...     torch.tensor([[10.0], [20.0]]),
    ... )
    >>> attention.tolist(), outputs.tolist()
    ([[0.5, 0.5]], [[15.0]])
    """
    _check_content(queries, keys, values, causal)
    prefix_length = 0
    if prefix_keys is not None and prefix_values is not None:
        _check_prefix(keys, values, prefix_keys, prefix_values)
        prefix_length = prefix_keys.shape[-2]
        keys = _prepend(prefix_keys, keys)  # (..., p + n, d)
        values = _prepend(prefix_values, values)  # (..., p + n, e)
    elif prefix_keys is not None or prefix_values is not None:
        missing = "prefix_keys" if prefix_keys is None else "prefix_values"
        raise ValueError(f"a prefix needs keys and values; {missing} is missing")
    if keys.shape[-2] == 0:
        raise ValueError(f"nothing to attend to: keys {_shape(keys)} and no prefix")

    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(queries * factor, keys.mT)  # (..., m, p + n)
    n_queries, n_keys = queries.shape[-2], keys.shape[-2]
    if causal and n_queries > 1:  # the last position sees everything
        mask = causal_mask(n_queries, n_keys - prefix_length, prefix_length, scores.device)
        # In place: the product that made the scores does not need them for its gradient.
        scores.masked_fill_(mask, float("-inf"))
    attention = torch.softmax(scores, dim=-1)
    return torch.matmul(attention, values), attention


def causal_mask(
    n_queries: int,
    n_keys: int,
    prefix_length: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Which positions a query must not see.

    Parameters
    ----------
    n_queries, n_keys, prefix_length : int
        The queries are the last `n_queries` of `n_keys` content positions.
    device : torch.device, optional

    Returns
    -------
    Tensor of bool, shape (n_queries, prefix_length + n_keys)
        True where attention is forbidden; never in the first `prefix_length` columns.

    Raises
    ------
    ValueError
        If there are more queries than keys: the first ones would see nothing.
    """
    if not 1 <= n_queries <= n_keys:
        raise ValueError(f"n_queries must be from 1 to n_keys={n_keys}, got {n_queries}")
    # Made anew each time: a kept tensor would carry the mode it was made in (tracing, inference,
    # fake or meta tensors) into later calls, and making it takes microseconds.
    everything = torch.ones(n_queries, prefix_length + n_keys, dtype=torch.bool, device=device)
    return everything.triu_(diagonal=prefix_length + n_keys - n_queries + 1)


def _prepend(prefix: Tensor, content: Tensor) -> Tensor:
    """The prefix before the content, both broadcast to common leading dimensions."""
    if prefix.shape[:-2] != content.shape[:-2]:
        leading = torch.broadcast_shapes(prefix.shape[:-2], content.shape[:-2])
        prefix = prefix.expand(*leading, *prefix.shape[-2:])
        content = content.expand(*leading, *content.shape[-2:])
    return torch.cat((prefix, content), dim=-2)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check_content(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> None:
    received = f"queries {_shape(queries)}, keys {_shape(keys)}, values {_shape(values)}"
    if min(queries.dim(), keys.dim(), values.dim()) < 2:
        raise ValueError(f"attention needs (..., positions, width) tensors; received {received}")
    _check_kinds(queries=queries, keys=keys, values=values)
    if queries.shape[-1] == 0 or queries.shape[-2] == 0:
        raise ValueError(f"queries must be at least 1, of width at least 1; received {received}")
    if queries.shape[-1] != keys.shape[-1]:
        raise ValueError(f"queries and keys must have one width; received {received}")
    if keys.shape[-2] != values.shape[-2]:
        raise ValueError(f"every key needs one value; received {received}")
    if causal and queries.shape[-2] > keys.shape[-2]:
        raise ValueError(
            f"a causal mask takes the queries as the last positions of the content, "
            f"so there cannot be more queries than keys; received {received}"
        )
    if not queries.shape[:-2] == keys.shape[:-2] == values.shape[:-2]:
        try:
            torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2], values.shape[:-2])
        except RuntimeError:
            raise ValueError(f"leading dimensions do not broadcast; received {received}") from None


def _check_kinds(**tensors: Tensor) -> None:
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating, got {tensor.dtype}; use .float()")
        # Under autocast matrix products convert what they read.
        if tensor.dtype != first.dtype and torch.is_autocast_enabled(tensor.device.type):
            continue
        if tensor.dtype != first.dtype or tensor.device != first.device:
            found = ", ".join(f"{key} {one.dtype} on {one.device}" for key, one in tensors.items())
            raise ValueError(f"{name} must have the dtype and device of the others; got {found}")


def _check_prefix(keys: Tensor, values: Tensor, prefix_keys: Tensor, prefix_values: Tensor) -> None:
    received = (
        f"prefix_keys {_shape(prefix_keys)}, prefix_values {_shape(prefix_values)} "
        f"for keys {_shape(keys)}, values {_shape(values)}"
    )
    if min(prefix_keys.dim(), prefix_values.dim()) < 2:
        raise ValueError(f"a prefix needs (..., positions, width) tensors; received {received}")
    _check_kinds(keys=keys, prefix_keys=prefix_keys, prefix_values=prefix_values)
    if prefix_keys.shape[-2] != prefix_values.shape[-2]:
        raise ValueError(f"every prefix key needs one prefix value; received {received}")
    for name, prefix, content in (
        ("keys", prefix_keys, keys),
        ("values", prefix_values, values),
    ):
        if prefix.shape[-1] != content.shape[-1]:
            raise ValueError(
                f"the prefix {name} have width {prefix.shape[-1]} and the content {name} "
                f"{content.shape[-1]}; received {received}"
            )
        if prefix.shape[:-2] != content.shape[:-2]:
            try:
                torch.broadcast_shapes(prefix.shape[:-2], content.shape[:-2])
            except RuntimeError:
                raise ValueError(
                    f"the prefix {name} do not broadcast to the content; received {received}"
                ) from None


check_public(__name__)
