"""Exact accuracies in the plane, and the search that attacks the ceilings."""

import pytest
import torch

from notebooks.prompt_attention.softmax_separates.search import (
    search_accuracy,
    search_mixtures,
)
from notebooks.prompt_attention.softmax_separates.threshold_map import (
    CHALLENGES,
    constructed_accuracy,
    map_cells,
    map_model,
)
from promptlib.prompt_attention import (
    PLANE_MODELS,
    ContextualMixture,
    Population,
    aligned,
    linear_attention,
    mean_pooling,
    mirrored,
    prompt_attention,
    self_attention,
)

FULL = {
    "prompt-attention": prompt_attention,
    "self-attention": self_attention,
    "linear-attention": linear_attention,
    "mean-pooling": mean_pooling,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_population_lists_every_case_once():
    mixture = ContextualMixture(
        7, 5, 0.2, cosine=0.5, deviations=((0.0, 0.0), (2.0, 3.0)), probabilities=(0.1, 0.9)
    )
    population = Population.of(mixture)
    assert population.labels.tolist() == [1, 1, -1, -1]
    assert population.probabilities.tolist() == pytest.approx([0.05, 0.45, 0.05, 0.45])
    q, w = mixture.context[:2], mixture.signal[:2]
    assert torch.allclose(population.relevant, torch.stack([q + w, q + w, q - w, q - w]))
    assert torch.allclose(population.irrelevant[3], -2 * q + 3 * w)


def test_stacking_keeps_the_order_and_refuses_what_does_not_fit():
    mixtures = [ContextualMixture(2, 10, m / 10, deviations=aligned(m)) for m in (3, 7)]
    population = Population.stack(mixtures)
    assert population.sparsity.tolist() == [0.3, 0.7]
    assert torch.equal(population.irrelevant[1], Population.of(mixtures[1]).irrelevant)
    with pytest.raises(ValueError, match=r"equally many deviations, got \[1, 2\]"):
        Population.stack([mixtures[0], ContextualMixture(2, 10, 0.3)])
    with pytest.raises(ValueError, match=r"got noise_std=0\.1"):
        Population.of(ContextualMixture(2, 10, 0.3, noise_std=0.1))


@pytest.mark.parametrize("name", PLANE_MODELS)
def test_what_search_finds_is_the_accuracy_of_the_model_on_sampled_bags(name):
    """The winner is lifted from the plane into 11 dimensions and tried on whole bags."""
    mixture = ContextualMixture(
        11, 10, 0.3, cosine=-0.5, deviations=((0.0, 0.0), (6.0, 6.0), (6.0, -6.0))
    )
    result = search_accuracy(
        PLANE_MODELS[name],
        Population.stack([mixture]),
        restarts=64,
        steps=30,
        generator=generator(),
    )
    weights = []
    for shape, weight in zip(
        PLANE_MODELS[name].sizes.values(), result.weights.values(), strict=True
    ):
        lifted = torch.zeros((11,) * len(shape), dtype=torch.float64)
        lifted[tuple(slice(2) for _ in shape)] = weight[0]
        weights.append(lifted)
    labels = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    relevant = torch.stack([torch.randperm(10, generator=generator(seed)) < 3 for seed in range(6)])
    tokens = mixture.compose(labels, relevant, mixture.deviation_table.repeat(2, 1))
    right = FULL[name](tokens, *weights) * labels > 0
    assert right.double().mean().item() == pytest.approx(result.accuracy.item(), abs=1e-9)


def test_a_tie_counts_as_wrong():
    mixture = ContextualMixture(2, 4, 0.25, deviations=((1.0, 1 / 3),))
    population = Population.of(mixture)
    reading = PLANE_MODELS["mean-pooling"].read(population, w=mixture.signal)
    assert reading.accuracy(population).item() == 0.0


def test_search_improves_on_its_random_starts():
    cells = Population.stack([ContextualMixture(2, 20, 0.1, deviations=aligned(9.0))])
    model = PLANE_MODELS["self-attention"]
    reached = [
        search_accuracy(
            model, cells, restarts=8, steps=steps, generator=generator(seed)
        ).accuracy.item()
        for steps in (0, 60)
        for seed in range(5)
    ]
    assert sum(reached[5:]) > sum(reached[:5])


def test_search_is_a_function_of_the_generator_and_never_worse_than_chance():
    cells = Population.stack([ContextualMixture(2, 10, 0.5, deviations=mirrored(2.0))])
    results = [
        search_accuracy(
            PLANE_MODELS["linear-attention"], cells, restarts=5, steps=3, generator=generator(7)
        )
        for _ in range(2)
    ]
    assert torch.equal(results[0].weights["w"], results[1].weights["w"])
    assert results[0].trials == 20
    assert results[0].accuracy.item() >= 0.5


def test_a_glance_spares_solved_cells_and_loses_nothing():
    easy, hard = (ContextualMixture(2, 20, 0.1, deviations=aligned(size)) for size in (0.01, 9.0))

    model = PLANE_MODELS["self-attention"]

    def searched(*cells):
        options = {"restarts": 8, "steps": 60, "generator": generator()}
        return search_mixtures(model, cells, glance=60, **options)

    alone = searched(easy)
    assert (alone.accuracy.item(), alone.trials) == (1.0, 8 * 61)  # one stage was enough
    both = searched(easy, hard)
    assert both.trials == 8 * (61 + 61)
    assert both.accuracy[0] == 1.0
    reading = model.read(Population.stack([easy, hard]), **both.weights)
    assert torch.equal(reading.accuracy(Population.stack([easy, hard])), both.accuracy)


def test_bad_requests_are_named():
    population = Population.of(ContextualMixture(2, 10, 0.5))
    model = PLANE_MODELS["mean-pooling"]
    with pytest.raises(ValueError, match="one dimension of cells"):
        search_accuracy(model, population, restarts=1, steps=1, generator=generator())
    cells = Population.stack([ContextualMixture(2, 10, 0.5)])
    with pytest.raises(ValueError, match=r"restarts must be >= 1.*got 0 and 1"):
        search_accuracy(model, cells, restarts=0, steps=1, generator=generator())
    with pytest.raises(ValueError, match="resolution must be at least 2, got 1"):
        map_cells(CHALLENGES["mean-pooling"], 1)


def test_the_map_lays_its_cells_out_by_deviation_and_sparsity():
    sparsities, deviations, mixtures = map_cells(CHALLENGES["linear-attention"], 3)
    assert sparsities.tolist() == [0.08, 0.5, 0.92]
    assert mixtures[1].sparsity == 0.5
    size = deviations[2].item()
    assert mixtures[7].deviations == ((0.0, 0.0), (size, -size))
    found = map_model(CHALLENGES["mean-pooling"], 3, restarts=8, steps=5, seed=0)
    assert found.found.shape == found.limits.shape == (3, 3)
    # Few deviations, many relevant tokens: easy. The other way round: impossible.
    assert found.limits[0, 2] == found.found[0, 2] == 1.0
    assert found.limits[2, 0] == found.found[2, 0] == 0.5


def test_the_constructed_prompt_is_tried_on_bags_of_every_cell():
    accuracy = constructed_accuracy(3, n=8, seed=0)
    assert accuracy.shape == (3, 3)
    assert accuracy.min() == 1.0
