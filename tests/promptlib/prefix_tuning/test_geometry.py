"""The drawings: projections that keep segments straight, and outputs on their segments."""

from __future__ import annotations

import pytest
import torch

from promptlib.attention import attend
from promptlib.prefix_tuning.cases import random_case
from promptlib.prefix_tuning.geometry import distance_to_segment, principal_plane


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_plane_shows_plane_points_fully_and_repeats():
    flat = draw(11, 2) @ draw(2, 7, seed=1)
    plane = principal_plane(flat)
    assert plane.share == pytest.approx(1.0)
    torch.testing.assert_close(plane.axes.mT @ plane.axes, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(plane(flat) @ plane.axes.mT + plane.origin, flat)
    torch.testing.assert_close(principal_plane(flat.flip(0)).axes, plane.axes)
    assert principal_plane(draw(11, 7)).share < 0.9


def test_the_plane_needs_points():
    with pytest.raises(ValueError, match=r"\(2, 7\)"):
        principal_plane(draw(2, 7))


def test_outputs_move_on_their_segments_also_in_the_plane():
    case = random_case(
        torch.Generator().manual_seed(0), n_head=2, prefix_kind="independent key and value"
    )
    start, _ = attend(case.queries, case.keys, case.values)
    keys, values = case.prefix_keys, case.prefix_values
    path = torch.stack(
        [
            attend(case.queries, case.keys, case.values, scale * keys, values)[0]
            for scale in range(-4, 5)
        ]
    )
    end = case.prefix_values.expand_as(start)
    assert float(distance_to_segment(path, start, end).max()) < 1e-12
    plane = principal_plane(torch.cat((start.flatten(0, 1), case.prefix_values.flatten(0, 1))))
    assert float(distance_to_segment(plane(path), plane(start), plane(end)).max()) < 1e-12


def test_distance_to_segment():
    start, end = torch.tensor([0.0, 0.0]), torch.tensor([4.0, 0.0])
    points = torch.tensor([[2.0, 0.0], [2.0, 3.0], [-3.0, 4.0], [7.0, 4.0]])
    assert distance_to_segment(points, start, end).tolist() == [0.0, 3.0, 5.0, 5.0]
    assert distance_to_segment(points, start, start).tolist() == pytest.approx(
        points.norm(dim=-1).tolist()
    )
