"""Each kind of claim can fail, refuses input that checks nothing, and reaches the site whole."""

import json
import math

import numpy as np
import pytest

from promptlib import claims
from promptlib.claims import Claim

COMMON = {"source": "this book", "checks": "promptlib.attention.attend"}


def identity(errors, tolerance=1e-10):
    return claims.identity("wing/one", "It is so.", errors=errors, tolerance=tolerance, **COMMON)


def bound(values, limits, tolerance=0.0):
    return claims.bound(
        "wing/one", "s", values=values, limits=limits, search="none", tolerance=tolerance, **COMMON
    )


def estimate(formula, measured, standard_errors):
    return claims.estimate(
        "wing/one",
        "s",
        formula=formula,
        measured=measured,
        standard_errors=standard_errors,
        **COMMON,
    )


def outcome(values, **options):
    return claims.outcome("wing/one", "s", values=values, unit="%", **{**COMMON, **options})


def test_identity_is_decided_by_the_worst_error_of_either_sign():
    assert identity([0.0, 1e-12]).verdict == "holds"
    assert identity([0.0, -2e-10, 1e-12]).verdict == "fails"
    assert identity([0.0, -2e-10]).value == 2e-10


def test_identity_catches_a_wrong_implementation():
    x = np.linspace(-2, 2, 101)
    right, wrong = np.exp(x) / (1 + np.exp(x)), np.exp(x) / (1.0001 + np.exp(x))
    logistic = (1 + np.tanh(x / 2)) / 2
    assert identity(right - logistic).passes
    assert not identity(wrong - logistic).passes


def test_bound_is_decided_by_the_tightest_slack():
    assert bound([1, 2], [1, 3]).verdict == "holds"
    assert bound([1, 2], [1, 3]).value == 0
    assert bound([1, 3.1], 3).verdict == "fails"
    assert bound([1, 3 + 1e-12], 3, tolerance=1e-10).verdict == "holds"


def test_estimate_counts_standard_errors():
    assert estimate([1.0, 2.0], [1.1, 2.3], [0.1, 0.1]).value == pytest.approx(3)
    assert estimate([1.0, 2.0], [1.1, 2.3], [0.1, 0.1]).verdict == "holds"
    assert estimate([1.0], [1.5], [0.1]).verdict == "fails"


def test_estimate_catches_a_wrong_formula():
    sample = np.random.default_rng(0).exponential(size=10_000)
    error = sample.std(ddof=1) / 100
    assert estimate(1.0, sample.mean(), error).passes
    assert not estimate(1.1, sample.mean(), error).passes


@pytest.mark.parametrize(
    ("values", "options", "verdict"),
    [
        ([90, 91, 92], {"published": 91.4}, "reproduced"),
        ([100, 100, 100], {"published": 91.4}, "stronger"),
        ([80, 80, 80], {"published": 91.4}, "weaker"),
        ([80, 80, 80], {"published": 91.4, "tolerance": 12}, "reproduced"),
        ([0, 0, 0.1], {"published": 0.3, "favours": "lower"}, "stronger"),
        ([3, 3, 3], {"published": 0.3, "favours": "lower"}, "weaker"),
        ([60, 70, 80], {"published": 0.3, "refuted_if": (">", 50)}, "not reproduced"),
        ([60, 70, 80], {"refuted_if": ("<", 50)}, "reproduced"),
        ([10], {"published": 10.0}, "reproduced"),
    ],
)
def test_outcome_verdicts(values, options, verdict):
    assert outcome(values, **options).verdict == verdict


def test_t_interval_of_three_values():
    # the 0.975 quantile of t with 2 degrees of freedom, times the standard error of (1, 2, 3)
    assert claims.t_half_width([1, 2, 3]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert claims.t_half_width([1]) is None


def test_what_checks_nothing_is_refused():
    with pytest.raises(ValueError, match="wing/one: errors is empty"):
        identity([])
    with pytest.raises(ValueError, match="errors contains nan"):
        identity([0.0, math.nan])
    with pytest.raises(ValueError, match="limits contains inf"):
        bound([1.0], [math.inf])
    with pytest.raises(ValueError, match="tolerance must be > 0, got 0"):
        identity([1.0], tolerance=0)
    with pytest.raises(ValueError, match="standard errors must be > 0"):
        estimate([1.0], [1.0], [0.0])
    with pytest.raises(ValueError, match="cannot fail"):
        outcome([1.0])
    with pytest.raises(ValueError, match="favours must be 'higher' or 'lower', got 'up'"):
        outcome([1.0], published=1.0, favours="up")
    with pytest.raises(ValueError, match="refuted_if must start with"):
        outcome([1.0], refuted_if=("=", 1))
    with pytest.raises(ValueError, match="'<wing>/<kebab-case>'"):
        claims.identity("No Wing", "s", errors=[0], tolerance=1, **COMMON)
    with pytest.raises(ValueError, match="not closed"):
        claims.identity("wing/one", "$x", errors=[0], tolerance=1, **COMMON)


def test_the_displayed_claim_carries_box_text_and_data():
    claim = identity([1e-12])
    bundle = claim._repr_mimebundle_()
    data = json.loads(json.dumps(bundle[claims.MIME_TYPE]))
    assert Claim.from_json({**data, "further": 1}) == claim
    assert 'id="claim-wing-one"' in bundle["text/html"]
    assert "[holds] It is so." in bundle["text/plain"]


def test_box_shows_published_ours_and_archived_and_escapes():
    ours = outcome([90, 92], published=91.4, source="A & B <2024>")
    page = claims.box(ours, archived=outcome([95, 96, 97], published=91.4))
    assert "91.40 %" in page
    assert "95.99" not in page
    assert "96.00" in page
    assert "A &amp; B &lt;2024&gt;" in page
    assert page.index("published") < page.index("this build") < page.index("archived")


def test_formulas_become_mathjax_spans():
    assert claims.sentence_html("a $x<y$ b") == (
        'a <span class="math notranslate nohighlight">\\(x&lt;y\\)</span> b'
    )


def test_a_claim_that_was_not_checked_says_so_everywhere():
    claim = claims.not_checked("wing/one", "It is so.", kind="outcome", needs="real", **COMMON)
    assert claim.verdict == "not checked"
    assert claim.value is None
    assert claim.summary() == "not checked in this build: needs EXTRAS=real"
    assert "claim-not-checked" in claims.box(claim)
    assert "needs EXTRAS=real" in claims.box(claim)
    assert Claim.from_json(json.loads(json.dumps(claim.to_json(), allow_nan=False))) == claim
    with pytest.raises(ValueError, match=r"kind must be one of .* got .theorem."):
        claims.not_checked("wing/one", "s", kind="theorem", needs="real", **COMMON)
    with pytest.raises(ValueError, match="say which extra it needs"):
        claims.not_checked("wing/one", "s", kind="bound", needs="", **COMMON)


def test_needing_marks_a_claim_and_leaves_its_verdict():
    claim = claims.needing(identity([1.0]), "real")
    assert claim.verdict == "fails"
    assert claim.details["needs"] == "real"
    assert claim.details["instances"] == 1


@pytest.mark.parametrize(
    ("values", "undecided"),
    [([11.0, 12.0, 13.0], False), ([2.0, 12.0, 40.0], True), ([12.0], False)],
)
def test_an_interval_across_the_refuting_value_is_said(
    values: list[float], undecided: bool
) -> None:
    claim = claims.outcome(
        "a/b",
        "S.",
        values=values,
        unit="%",
        source="this book",
        checks="m.f",
        refuted_if=("<", 1.0),
    )
    assert claim.verdict == "reproduced"
    told = "includes 1, where the verdict turns: more seeds would tell" in claim.summary()
    assert told == undecided
