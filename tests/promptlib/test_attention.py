"""The one attention function: against torch's own, its masks, its gradients, its refusals.

Sizes are distinct primes, so that a swapped axis cannot pass.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from promptlib.attention import attend, causal_mask

BATCH, HEADS, QUERIES, KEYS, PREFIX, WIDTH, VALUE_WIDTH = 2, 3, 5, 7, 11, 13, 17


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=dtype)


def content(n_queries: int = QUERIES, dtype: torch.dtype = torch.float64, scale: float = 1.0):
    return (
        draw(BATCH, HEADS, n_queries, WIDTH, seed=1, dtype=dtype, scale=scale),
        draw(BATCH, HEADS, KEYS, WIDTH, seed=2, dtype=dtype, scale=scale),
        draw(BATCH, HEADS, KEYS, VALUE_WIDTH, seed=3, dtype=dtype),
    )


def a_prefix(*leading: int, dtype: torch.dtype = torch.float64):
    return (
        draw(*leading, PREFIX, WIDTH, seed=4, dtype=dtype),
        draw(*leading, PREFIX, VALUE_WIDTH, seed=5, dtype=dtype),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torch(causal, dtype, tolerance):
    queries, keys, values = content(KEYS if causal else QUERIES, dtype)
    outputs, attention = attend(queries, keys, values, causal=causal)
    reference = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    assert outputs.dtype == attention.dtype == dtype
    assert outputs.shape == reference.shape
    assert attention.shape == (BATCH, HEADS, queries.shape[-2], KEYS)
    torch.testing.assert_close(outputs, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("leading", [(), (HEADS,), (BATCH, 1), (BATCH, HEADS)])
@pytest.mark.parametrize("n_queries", [1, QUERIES, KEYS])
@pytest.mark.parametrize("causal", [False, True])
def test_prefix_agrees_with_torch_on_the_joined_sequence(
    causal, n_queries, leading, dtype, tolerance
):
    queries, keys, values = content(n_queries, dtype)
    prefix_keys, prefix_values = a_prefix(*leading, dtype=dtype)
    outputs, attention = attend(queries, keys, values, prefix_keys, prefix_values, causal=causal)

    def join(prefix, body):
        return torch.cat((prefix.expand(BATCH, HEADS, *prefix.shape[-2:]), body), dim=-2)

    allowed = torch.ones(n_queries, PREFIX + KEYS, dtype=torch.bool)
    if causal:  # query i is content position i + KEYS - n_queries
        for i in range(n_queries):
            allowed[i, PREFIX + i + KEYS - n_queries + 1 :] = False
    reference = F.scaled_dot_product_attention(
        queries, join(prefix_keys, keys), join(prefix_values, values), attn_mask=allowed
    )
    torch.testing.assert_close(outputs, reference, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(attention.sum(-1), torch.ones(BATCH, HEADS, n_queries, dtype=dtype))
    assert (attention[..., ~allowed] == 0).all()
    assert (attention[..., :PREFIX] > 0).all()


def test_decoding_one_token_gives_the_last_row():
    queries, keys, values = content(KEYS)
    prefix = a_prefix(HEADS)
    outputs, attention = attend(queries, keys, values, *prefix, causal=True)
    last, last_attention = attend(queries[..., -1:, :], keys, values, *prefix, causal=True)
    torch.testing.assert_close(last, outputs[..., -1:, :])
    torch.testing.assert_close(last_attention, attention[..., -1:, :])


def test_an_empty_prefix_changes_nothing():
    queries, keys, values = content()
    empty = keys.new_zeros(HEADS, 0, WIDTH), values.new_zeros(HEADS, 0, VALUE_WIDTH)
    for ours, plain in zip(
        attend(queries, keys, values, *empty), attend(queries, keys, values), strict=True
    ):
        assert torch.equal(ours, plain)


def test_a_prefix_alone_can_be_attended_to():
    queries, keys, values = content()
    outputs, attention = attend(queries, keys[..., :0, :], values[..., :0, :], *a_prefix(HEADS))
    assert attention.shape == (BATCH, HEADS, QUERIES, PREFIX)
    assert torch.isfinite(outputs).all()


def test_scale_replaces_the_default():
    queries, keys, values = content()
    ours = attend(queries, keys, values, scale=0.7)[0]
    reference = F.scaled_dot_product_attention(queries, keys, values, scale=0.7)
    torch.testing.assert_close(ours, reference)
    uniform = attend(queries, keys, values, scale=0.0)[1]
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / KEYS))


@pytest.mark.parametrize("scale", [1e-200, 1e3, 1e100])
def test_stays_finite_at_extreme_scales(scale):
    queries, keys, values = content(KEYS, scale=scale)
    outputs, attention = attend(queries, keys, values, *a_prefix(), causal=True)
    assert torch.isfinite(outputs).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))


@pytest.mark.parametrize("causal", [False, True])
def test_gradients(causal):
    tensors = (
        draw(2, 3, 5, seed=1),
        draw(2, 3, 5, seed=2),
        draw(2, 3, 7, seed=3),
        draw(2, 5, seed=4),
        draw(2, 7, seed=5),
    )
    leaves = tuple(tensor.requires_grad_() for tensor in tensors)

    def both(*arguments):
        return attend(*arguments, causal=causal)

    assert torch.autograd.gradcheck(both, leaves)


def exported():
    class Attending(torch.nn.Module):
        def forward(self, queries, keys, values):
            return attend(queries, keys, values, causal=True)[0]

    torch.export.export(Attending(), content(KEYS))


def under(context):
    def attended():
        with context():
            attend(*content(KEYS), causal=True)

    return attended


def on_the_meta_device():
    tensors = [part.to("meta") for part in content(KEYS)]
    with torch.device("meta"):
        causal_mask(KEYS, KEYS)
        attend(*tensors, causal=True)


def with_fake_tensors():
    with FakeTensorMode():
        attend(*(torch.empty(KEYS, WIDTH) for _ in range(3)), causal=True)


def with_another_default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        causal_mask(KEYS, KEYS)
        attend(*(part.half() for part in content(KEYS)), causal=True)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "earlier",
    [
        exported,
        under(torch.inference_mode),
        under(torch.no_grad),
        on_the_meta_device,
        with_fake_tensors,
        with_another_default_dtype,
    ],
)
def test_earlier_calls_of_the_same_size_leave_nothing_behind(earlier):
    earlier()
    queries, keys, values = content(KEYS)
    queries.requires_grad_()
    outputs, attention = attend(queries, keys, values, causal=True)
    outputs.sum().backward()
    assert queries.grad is not None
    assert type(attention) is torch.Tensor
    assert not attention.triu(1).any()  # nobody reads from later positions
    torch.testing.assert_close(
        outputs.detach(), F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"keys": (BATCH, HEADS, KEYS, WIDTH + 1)}, f"{(BATCH, HEADS, KEYS, WIDTH + 1)}"),
        ({"values": (BATCH, HEADS, KEYS + 1, VALUE_WIDTH)}, "every key needs one value"),
        ({"keys": (BATCH, HEADS + 1, KEYS, WIDTH)}, "do not broadcast"),
        ({"queries": (WIDTH,)}, f"{(WIDTH,)}"),
        ({"prefix_keys": (PREFIX, WIDTH - 1)}, f"width {WIDTH - 1}"),
        ({"prefix_values": (PREFIX, VALUE_WIDTH + 1)}, f"width {VALUE_WIDTH + 1}"),
        ({"prefix_values": (PREFIX + 1, VALUE_WIDTH)}, f"{(PREFIX + 1, VALUE_WIDTH)}"),
        ({"prefix_keys": (HEADS + 1, PREFIX, WIDTH)}, f"{(HEADS + 1, PREFIX, WIDTH)}"),
        ({"prefix_keys": (WIDTH,)}, f"{(WIDTH,)}"),
        ({"prefix_values": None}, "prefix_values is missing"),
        ({"prefix_keys": None}, "prefix_keys is missing"),
    ],
)
def test_refuses_what_does_not_fit_and_names_it(change, named):
    queries, keys, values = content()
    prefix_keys, prefix_values = a_prefix()
    arguments = {
        "queries": queries,
        "keys": keys,
        "values": values,
        "prefix_keys": prefix_keys,
        "prefix_values": prefix_values,
    }
    for name, shape in change.items():
        arguments[name] = None if shape is None else torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError) as refusal:
        attend(**arguments)
    assert named in str(refusal.value)


def test_refuses_more_queries_than_keys_under_a_causal_mask():
    queries, keys, values = content(KEYS + 1)
    with pytest.raises(ValueError, match=rf"\({BATCH}, {HEADS}, {KEYS + 1}, {WIDTH}\)"):
        attend(queries, keys, values, causal=True)


def test_refuses_to_attend_to_nothing():
    queries, keys, values = content()
    with pytest.raises(ValueError, match="nothing to attend to"):
        attend(queries, keys[..., :0, :], values[..., :0, :])
