"""The price of the head: known numbers, limits, the fixed point, refusals, speed."""

import math

import pytest
import torch

from notebooks.prompt_attention.price_of_the_head.concentrated_head import (
    best_scale,
    concentrated_averaging_error,
    concentrated_known_error,
    concentrated_law,
    concentrated_least_squares_error,
    context_gain,
    signal_to_noise,
)
from notebooks.prompt_attention.price_of_the_head.head_limits import (
    averaging_error,
    hard_attention_error,
    informed_error,
    known_head_error,
)
from notebooks.prompt_attention.price_of_the_head.results import random_laws
from promptlib.prompt_attention.core_model import as_parameters
from promptlib.prompt_attention.feature_law import (
    FeatureLaw,
    feature_law,
    feature_laws,
    standard_normals,
)
from promptlib.prompt_attention.head_price import head_error, head_error_map
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.ridge_head import (
    FixedPointError,
    constant_noise_ridge,
    effective_ridge,
    ridge_error,
    ridge_head,
)


def mixture(**changed):
    values = {"dim": 7, "tokens": 50, "sparsity": 0.2, "context_norm": 1.5, "signal_norm": 0.5}
    return ContextualMixture(**{**values, "noise_std": 1.0, **changed})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


LAW = random_laws(11, 37, generator())


class TestPublicFormula:
    @pytest.mark.parametrize(
        ("ridge", "expected"), [(math.inf, 0.101), (0.0, 0.182), (0.01, 0.119), (0.1, 0.102)]
    )
    def test_first_setting(self, ridge, expected):
        assert head_error(mixture(dim=100), 0.5, 2.0, ridge) == pytest.approx(expected, abs=6e-4)

    @pytest.mark.parametrize(("ridge", "expected"), [(0.0, 0.239), (0.1, 0.195)])
    def test_second_setting(self, ridge, expected):
        second = ContextualMixture(60, 200, 0.1, 2.0, 0.3, 1.0)
        assert head_error(second, 1.0, 3.0, ridge) == pytest.approx(expected, abs=6e-4)
        concentrated = feature_law(second, 1.0).concentrated()
        assert float(ridge_error(concentrated, 3.0, 0.0)) == pytest.approx(0.300, abs=2e-3)

    def test_a_generator_draws_the_same_law(self):
        fixed = head_error(mixture(), 0.5, 2.0, 0.1)
        drawn = [head_error(mixture(), 0.5, 2.0, 0.1, generator(seed)) for seed in (1, 2)]
        assert drawn[0] != drawn[1]
        assert drawn == pytest.approx([fixed, fixed], abs=2e-3)
        assert head_error(mixture(), 0.5, 2.0, 0.1) == fixed

    def test_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        head_error(mixture(tokens=40), 0.3, 2.0, 0.1)
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("scale", [0.0, 0.5, -0.3, 3.0])
    @pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0, math.inf])
    @pytest.mark.parametrize("ratio", [0.05, 1.0, 7.0, math.inf])
    def test_is_a_probability_of_at_most_one_half(self, scale, ridge, ratio):
        assert 0 < head_error(mixture(), scale, ratio, ridge) <= 0.5

    def test_at_one_sample_per_dimension_least_squares_is_a_coin(self):
        assert head_error(mixture(), 0.5, 1.0, 0.0) == 0.5

    def test_the_dimension_does_not_matter_in_the_limit(self):
        assert head_error(mixture(dim=5), 0.5, 2, 0.1) == head_error(mixture(dim=500), 0.5, 2, 0.1)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"noise_std": 0.0}, "noise_std > 0, got 0.0"),
            ({"cosine": 0.3}, "got cosine=0.3"),
            ({"deviations": ((0.0, 0.0), (1.0, 1.0))}, "core model"),
        ],
    )
    def test_refuses_other_mixtures(self, changed, message):
        with pytest.raises(ValueError, match=message):
            head_error(mixture(**changed), 0.5, 2.0, 0.1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((math.nan, 2.0, 0.1), "scale must be a number, got nan"),
            ((math.inf, 2.0, 0.1), "scale must be a finite number, got inf"),
            ((0.5, 0.0, 0.1), "samples_per_dim must be a number > 0.*got 0.0"),
            ((0.5, -1.0, 0.1), "samples_per_dim must be.*got -1.0"),
            ((0.5, math.nan, 0.1), "samples_per_dim must be.*got nan"),
            ((0.5, 2.0, -0.1), "ridge must be a number >= 0.*got -0.1"),
            ((0.5, 2.0, math.nan), "ridge must be.*got nan"),
        ],
    )
    def test_refuses_numbers_outside_their_range(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            head_error(mixture(), *arguments)


class TestLaw:
    def test_without_a_prompt_every_bag_is_read_alike(self):
        law = feature_law(mixture(), 0.0)
        torch.testing.assert_close(law.signal, torch.full_like(law.signal, 0.2 * 0.5))
        torch.testing.assert_close(law.noise, torch.full_like(law.noise, math.sqrt(0.8 / 50)))

    def test_many_cells_equal_one_by_one(self):
        normals = standard_normals(13, 19, generator())
        share = torch.tensor([[0.05], [0.1], [0.55]], dtype=torch.float64)
        scale = torch.tensor([-0.4, 0.0, 0.7, 2.1], dtype=torch.float64)
        context = torch.tensor([[0.0], [1.3], [2.0]], dtype=torch.float64)
        options = {"signal_norm": 0.7, "noise_std": 0.9}
        many = feature_laws(
            normals, 20, sparsity=share, context_norm=context, scale=scale, **options
        )
        assert many.signal.shape == (3, 4, 13)
        for i in range(3):
            for j in range(4):
                numbers = {"context_norm": context[i, 0], "scale": scale[j], **options}
                one = feature_laws(normals, 20, sparsity=share[i, 0], **numbers)
                torch.testing.assert_close(many.signal[i, j], one.signal, rtol=1e-12, atol=0)
                torch.testing.assert_close(many.noise[i, j], one.noise, rtol=1e-12, atol=0)

    def test_against_plain_sums(self):
        normals = standard_normals(5, 8, generator())
        law = feature_laws(
            normals, 10, sparsity=0.2, context_norm=1.5, signal_norm=0.6, noise_std=0.8, scale=0.9
        )
        weights = (0.9 * 1.5 * 0.8 * normals).exp()
        relevant = 2 * math.exp(0.9 * 1.5**2)
        total = relevant + weights.sum(1)
        torch.testing.assert_close(law.signal, 0.6 * relevant / total)
        torch.testing.assert_close(law.noise, 0.8 * weights.square().sum(1).sqrt() / total)

    def test_very_long_prompts_stay_finite(self):
        law = feature_law(mixture(), 1e4)
        assert law.signal.isfinite().all()
        assert (law.noise > 0).all()
        torn = (law.signal > 1e-9) & (law.signal < 0.5 - 1e-9)  # only at nearly equal logits
        assert torn.double().mean() < 1e-3

    def test_blocks_do_not_matter(self, monkeypatch):
        from promptlib.prompt_attention import feature_law as module

        normals = standard_normals(16, 45, generator())
        options = {"sparsity": 0.1, "context_norm": torch.linspace(0, 2, 9), "signal_norm": 1.0}
        whole = feature_laws(normals, 50, noise_std=1.0, scale=0.5, **options)
        monkeypatch.setattr(module, "MEMORY_MIB", 1e-6)
        torch.testing.assert_close(
            feature_laws(normals, 50, noise_std=1.0, scale=0.5, **options), whole, rtol=0, atol=0
        )

    def test_refuses_too_few_normals_and_odd_sparsities(self):
        options = {"context_norm": 1.0, "signal_norm": 1.0, "noise_std": 1.0, "scale": 1.0}
        with pytest.raises(ValueError, match=r"K >= 9.*got \(4, 3\)"):
            feature_laws(torch.zeros(4, 3), 10, sparsity=0.1, **options)
        with pytest.raises(
            ValueError, match=r"got 0.15 \* 10; the nearest choice is sparsity=2/10"
        ):
            feature_laws(torch.zeros(4, 9), 10, sparsity=0.15, **options)
        with pytest.raises(ValueError, match="tokens must be an integer of at least 2, got 1"):
            feature_laws(torch.zeros(4, 9), 1, sparsity=0.5, **options)
        with pytest.raises(ValueError, match="draws must be an integer of at least 1, got 0"):
            standard_normals(0, 3)

    def test_sobol_normals_are_normal(self):
        normals = standard_normals(2**12, 3)
        assert normals.mean(0).abs().max() < 1e-3
        torch.testing.assert_close(normals.std(0), torch.ones(3).double(), rtol=5e-3, atol=0)
        assert normals.isfinite().all()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("sparsity", 1.0), ("context_norm", -1.0), ("signal_norm", 0.0), ("noise_std", math.inf)],
    )
    def test_ranges_of_parameters(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be"):
            as_parameters(**{name: torch.tensor([0.5, value])})
        with pytest.raises(ValueError, match="empty tensor"):
            as_parameters(**{name: torch.empty(0)})


class TestFixedPoint:
    ratios = torch.tensor([[0.2], [0.9], [1.0], [1.1], [30.0]], dtype=torch.float64)

    @pytest.mark.parametrize("ridge", [0.0, 1e-9, 1e-3, 1.0, 1e6])
    def test_solves_its_equation(self, ridge):
        gamma, lam = 1 / self.ratios, torch.tensor(ridge, dtype=torch.float64)
        theta = effective_ridge(LAW.noise, gamma, lam)
        assert theta.shape == (5, 11)
        squared = LAW.noise.square()
        left = theta * (gamma - (squared / (theta[..., None] + squared)).mean(-1))
        torch.testing.assert_close(left, torch.full_like(left, ridge), rtol=1e-9, atol=1e-11)

    def test_is_the_largest_root(self):
        gamma = torch.tensor(0.5, dtype=torch.float64)
        theta = effective_ridge(LAW.noise, gamma, torch.tensor(0.0, dtype=torch.float64))
        squared = LAW.noise.square()
        assert (theta > 0).all()
        beyond = (1.01 * theta)[:, None]
        assert ((squared / (beyond + squared)).mean(-1) < gamma).all()

    def test_the_form_with_xi(self):
        """The equations as usually written, with ξ and D."""
        alpha, lam = 1.7, 0.08
        head = ridge_head(LAW, alpha, lam)
        gamma, x, squared = 1 / alpha, LAW.signal, LAW.noise.square()
        xi = 1 / (gamma * head.effective_ridge)[:, None]
        D = 1 + gamma * squared * xi
        torch.testing.assert_close(1 / xi[:, 0], lam + (squared / D).mean(1))
        a = (x / D).mean(1) / (1 / xi[:, 0] + (x.square() / D).mean(1))
        torch.testing.assert_close(head.along, a)
        k = gamma * xi.square()
        above = k * (squared * ((1 - x * a[:, None]) ** 2 + squared * a[:, None] ** 2) / D**2)
        below = 1 - (k * squared.square() / D**2).mean(1)
        torch.testing.assert_close(head.across.square(), above.mean(1) / below)

    def test_constant_noise_in_closed_form(self):
        tau = torch.tensor([[0.3], [2.0]], dtype=torch.float64)
        for ridge in (0.0, 0.05, 40.0):
            lam = torch.tensor(ridge, dtype=torch.float64)
            gamma = torch.tensor([0.4, 2.5], dtype=torch.float64)
            torch.testing.assert_close(
                effective_ridge(tau, gamma, lam),
                constant_noise_ridge(tau[:, 0].square(), gamma, lam),
                rtol=1e-11,
                atol=0,
            )

    def test_fails_loudly_when_it_does_not_converge(self):
        with pytest.raises(FixedPointError, match=r"after 1 steps in \d+ of 11 cells.*ridge=0.1"):
            effective_ridge(
                LAW.noise, torch.tensor(0.5).double(), torch.tensor(0.1).double(), max_steps=1
            )

    def test_converges_next_to_one_sample_per_dimension_and_at_extremes(self):
        draw = generator(3)
        exponents = -15 * torch.rand(40, 1, generator=draw, dtype=torch.float64)
        ratios = torch.cat(
            (1 + 10**exponents, 1 - 10**exponents, 10 ** (exponents + 2), 1e11 * 10**exponents)
        )
        ridges = 10 ** (22 * torch.rand(160, 1, generator=draw, dtype=torch.float64) - 14)
        ridges[::4] = 0
        errors = ridge_error(LAW, ratios, ridges)
        assert ((errors > 0) & (errors <= 0.5)).all()
        effective_ridge(LAW.noise, 1 / ratios, ridges, max_steps=25)

    def test_infinite_parameters_have_their_own_formulas(self):
        with pytest.raises(ValueError, match="ridge must be finite here"):
            ridge_head(LAW, 1.0, math.inf)
        with pytest.raises(ValueError, match="samples_per_dim must be finite here"):
            ridge_head(LAW, math.inf, 1.0)

    def test_limits_in_one_tensor(self):
        ridges = torch.tensor([[0.0], [0.1], [math.inf]], dtype=torch.float64)
        errors = ridge_error(LAW, math.inf, ridges)
        torch.testing.assert_close(errors, known_head_error(LAW).expand(3, -1))
        mixed = ridge_error(LAW, 2.0, ridges)
        torch.testing.assert_close(mixed[2], averaging_error(LAW, 2.0))
        torch.testing.assert_close(mixed[1], ridge_error(LAW, 2.0, 0.1))

    def test_more_data_never_hurts_averaging(self):
        errors = averaging_error(LAW, torch.logspace(-2, 3, 50)[:, None])
        assert (errors.diff(dim=0) < 0).all()


class TestLimitsAndClosedForms:
    def test_finite_bags_tend_to_the_closed_forms(self):
        numbers = {"sparsity": 0.1, "context_norm": 1.0, "noise_std": 1.0, "scale": 0.5}
        gaps = []
        for tokens in (20, 200, 2000):
            norm = 0.5 * math.sqrt(0.9 / tokens) / 0.1
            exact = head_error_map(
                tokens, signal_norm=norm, samples_per_dim=2.0, ridge=0.0, draws=4096, **numbers
            )
            ratio = signal_to_noise(tokens, signal_norm=norm, **numbers)
            gaps.append(abs(float(exact - concentrated_least_squares_error(ratio, 2.0))))
        assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] / 2
        assert gaps[2] < 1e-3

    def test_mean_pooling_is_exact_at_every_number_of_tokens(self):
        for tokens in (5, 50):
            exact = head_error(mixture(tokens=tokens), 0.0, 2.0, math.inf)
            numbers = {"sparsity": 0.2, "context_norm": 0.0, "signal_norm": 0.5, "noise_std": 1.0}
            ratio = signal_to_noise(tokens, scale=0.0, **numbers)
            closed = concentrated_averaging_error(ratio, 2.0)
            assert exact == pytest.approx(float(closed), abs=1e-12)

    def test_scales_and_gain(self):
        assert float(best_scale(0.5)) == 2.0
        assert float(context_gain(2.0, 1.0)) == pytest.approx(math.exp(2))
        numbers = {"sparsity": 0.1, "context_norm": 1.4, "signal_norm": 1.0, "noise_std": 0.8}
        none, best, sharp = (
            float(signal_to_noise(100, scale=scale, **numbers))
            for scale in (0.0, best_scale(0.8), 1 / 0.64)
        )
        assert best**2 / none**2 == pytest.approx(float(context_gain(1.4, 0.8)))
        assert sharp == pytest.approx(none)
        masses = concentrated_law(100, scale=torch.linspace(1, 2, 1001), **numbers).signal[:, 0]
        assert 1 + int(masses.argmax()) / 1000 == pytest.approx(1 / 0.64, abs=1e-3)

    def test_no_signal_is_a_coin(self):
        for formula in (concentrated_averaging_error, concentrated_least_squares_error):
            assert float(formula(0.0, 2.0)) == 0.5
            assert float(formula(0.0, math.inf)) == 0.5
        assert float(concentrated_known_error(0.0)) == 0.5

    def test_endless_data_is_the_known_head(self):
        for formula in (concentrated_averaging_error, concentrated_least_squares_error):
            assert float(formula(1.3, math.inf)) == pytest.approx(
                float(concentrated_known_error(1.3)), abs=1e-15
            )

    def test_hard_attention_by_hand(self):
        half = hard_attention_error(2, sparsity=0.5, context_norm=0.0, noise_std=1.0)
        assert float(half) == pytest.approx(0.25)
        many = hard_attention_error(1000, sparsity=0.001, context_norm=20.0, noise_std=1.0)
        assert 0 <= float(many) < 1e-80

    def test_informed_head_of_two_kinds_of_bags(self):
        law = FeatureLaw(torch.ones(2).double(), torch.tensor([1.0, 3.0]).double())
        cosine = math.sqrt((5 / 9) / (5 / 9 + 1))
        phi = torch.special.ndtr(torch.tensor([-cosine, -cosine / 3]).double()).mean()
        assert float(informed_error(law, 1.0)) == pytest.approx(float(phi))

    @pytest.mark.parametrize("tokens", [1, 0, -3])
    def test_refuses_bags_without_both_kinds(self, tokens):
        numbers = {"sparsity": 0.5, "context_norm": 1.0, "noise_std": 1.0}
        with pytest.raises(ValueError, match="tokens must be"):
            hard_attention_error(tokens, **numbers)
        with pytest.raises(ValueError, match="tokens must be"):
            signal_to_noise(tokens, signal_norm=1.0, scale=0.5, **numbers)

    def test_refuses_a_negative_ratio(self):
        with pytest.raises(ValueError, match=r"signal_to_noise must be.*got -1.0"):
            concentrated_averaging_error(-1.0, 2.0)


SHARED = {"signal_norm": 0.5, "noise_std": 1.0}


class TestMap:
    def test_cells_agree_with_the_single_formula(self):
        context = torch.tensor([[0.3], [1.0], [1.5]], dtype=torch.float64)
        share = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
        cells = head_error_map(
            50, sparsity=share, context_norm=context, scale=0.5, samples_per_dim=2.0, ridge=0.05,
            draws=2**13, **SHARED,
        )  # fmt: skip
        for i, Q in enumerate(context[:, 0].tolist()):
            for j, zeta in enumerate(share.tolist()):
                one = head_error(mixture(sparsity=zeta, context_norm=Q), 0.5, 2.0, 0.05)
                assert float(cells[i, j]) == pytest.approx(one, abs=1e-3)

    def test_default_draws_are_as_good_as_stated(self):
        numbers = {"sparsity": 0.1, "context_norm": 2.0, "signal_norm": 0.3, "noise_std": 1.0}
        rough = head_error_map(200, scale=1.0, samples_per_dim=3.0, ridge=0.1, **numbers)
        fine = head_error(ContextualMixture(9, 200, 0.1, 2.0, 0.3, 1.0), 1.0, 3.0, 0.1)
        assert float(rough) == pytest.approx(fine, abs=0.012)

    def test_every_parameter_may_be_a_tensor(self):
        values = torch.linspace(0.2, 0.9, 4, dtype=torch.float64)
        cells = head_error_map(
            10,
            sparsity=torch.tensor([0.2, 0.4])[:, None, None],
            context_norm=values[:, None],
            signal_norm=0.5,
            noise_std=values,
            scale=values,
            samples_per_dim=values,
            ridge=torch.tensor([0.0, 0.1, 1.0, math.inf]),
            draws=64,
        )
        assert cells.shape == (2, 4, 4)
        assert ((cells > 0) & (cells <= 0.5)).all()

    def test_blocks_do_not_matter(self, monkeypatch):
        from promptlib.prompt_attention import head_price

        numbers = {"sparsity": 0.2, "context_norm": torch.linspace(0, 2, 13), "scale": 0.5}
        numbers |= {"samples_per_dim": 2.0, "ridge": 0.1, "draws": 32, **SHARED}
        whole = head_error_map(10, **numbers)
        monkeypatch.setattr(head_price, "CELL_BLOCK", 64)
        torch.testing.assert_close(head_error_map(10, **numbers), whole, rtol=1e-12, atol=0)

    def test_a_phase_diagram_of_40000_cells_is_one_call(self):
        numbers = {
            "sparsity": torch.arange(1, 201, dtype=torch.float64) / 400,
            "context_norm": torch.linspace(0, 4, 200, dtype=torch.float64)[:, None],
        }
        cells = head_error_map(400, scale=0.5, samples_per_dim=2.0, ridge=0.05, **numbers, **SHARED)
        assert cells.shape == (200, 200)
        assert ((cells >= 0) & (cells <= 0.5)).all()
        assert (cells.diff(dim=0) < 1e-9).all()  # more context never hurts this ridge here
