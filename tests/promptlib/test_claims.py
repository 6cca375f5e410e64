"""Each kind of claim can fail, refuses input that checks nothing, and reaches the site whole."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from promptlib import claims
from promptlib.claims import Claim, Published

COMMON = {"source": "this book", "checks": "promptlib.attention.attend"}


def identity(errors, tolerance=1e-10):
    return claims.identity("wing/one", "It is so.", errors=errors, tolerance=tolerance, **COMMON)


def bound(values, limits, tolerance=0.0):
    return claims.bound(
        "wing/one", "s", values=values, limits=limits, search="none", tolerance=tolerance, **COMMON
    )


def estimate(formula, measured, standard_errors, **options):
    return claims.estimate(
        "wing/one",
        "s",
        formula=formula,
        measured=measured,
        standard_errors=standard_errors,
        **COMMON,
        **options,
    )


def outcome(values, limit=50.0, side="above", id="wing/one", **options):
    usual = {"unit": "% of sequences", **COMMON}
    return claims.outcome(id, "s", values=values, limit=limit, side=side, **(usual | options))


# Mathematical claims


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


@pytest.mark.parametrize(
    ("values", "limits", "ratios"),
    [
        ([1.0, 2.0, 0.5], [2.0, 2.0, 5.0], (0.5, 1.0)),
        ([-4.0, -2.0, -8.0], [-2.0, -2.0, -2.0], (0.5, 1.0)),  # x >= 2, with both signs flipped
        ([-1.0, 2.0], [2.0, 2.0], None),
        ([0.0], [0.0], None),
    ],
)
def test_a_bound_tells_how_much_of_its_limit_is_used(values, limits, ratios):
    claim = bound(values, limits)
    found = claim.details.get("median_ratio"), claim.details.get("largest_ratio")
    assert found == (ratios or (None, None))
    assert ("part of the limit in use" in claim.summary()) == (ratios is not None)


def test_estimate_counts_standard_errors():
    assert estimate([1.0, 2.0], [1.1, 2.3], [0.1, 0.1]).value == pytest.approx(3)
    assert estimate([1.0, 2.0], [1.1, 2.3], [0.1, 0.1]).verdict == "holds"
    assert estimate([1.0], [1.5], [0.1]).verdict == "fails"


def test_an_allowance_is_taken_off_before_standard_errors_are_counted():
    options = {"allowance": 0.3, "allowance_reason": "terms of order 1/n"}
    assert estimate([1.0], [1.5], [0.1], **options).value == pytest.approx(2)
    assert estimate([1.0], [1.5], [0.1], **options).verdict == "holds"
    assert estimate([1.0], [1.8], [0.1], **options).verdict == "fails"
    assert estimate([1.0], [1.2], [0.1], **options).value == 0
    assert "beyond 0.3 for terms of order 1/n" in estimate([1.0], [1.5], [0.1], **options).summary()


def test_estimate_catches_a_wrong_formula():
    sample = np.random.default_rng(0).exponential(size=10_000)
    error = sample.std(ddof=1) / 100
    assert estimate(1.0, sample.mean(), error).passes
    assert not estimate(1.1, sample.mean(), error).passes


# Is the sentence true?


@pytest.mark.parametrize(
    ("values", "limit", "side", "verdict"),
    [
        ([90, 91, 92], 50, "above", "supported"),
        ([90, 91, 92], 50, "below", "contradicted"),
        ([8, 9, 10], 50, "below", "supported"),
        ([8, 9, 10], 50, "above", "contradicted"),
        ([39.7, 80.6, 69.8], 10.8, "above", "undecided"),
        ([49, 50, 51], 50, "above", "undecided"),
        ([50, 50, 50], 50, "above", "undecided"),
        ([51, 51, 51], 50, "above", "supported"),
        ([99], 50, "above", "single run"),
        ([1], 50, "above", "single run"),
    ],
)
def test_an_outcome_is_judged_by_the_side_of_its_interval(values, limit, side, verdict):
    claim = outcome(values, limit, side)
    assert claim.verdict == verdict
    assert claim.replication is None  # nothing was published
    assert claim.passes
    assert claim.value == pytest.approx(np.mean(values))


def test_noise_supports_nothing():
    """The wider the interval around the same mean, the less is decided."""
    verdicts = [
        outcome([70 - spread, 70, 70 + spread]).verdict for spread in (1.0, 5.0, 20.0, 60.0)
    ]
    assert verdicts == ["supported", "supported", "undecided", "undecided"]


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_the_interval_is_students(level):
    values = [12.0, 17.5, 13.25, 15.0]
    reference = stats.t.interval(level, 3, loc=np.mean(values), scale=stats.sem(values))
    assert claims.interval(values, level) == pytest.approx(reference, rel=1e-10)
    assert claims.interval([12.0]) is None


def test_the_log_scale_takes_the_interval_of_the_logarithms():
    values = [0.5, 2.0, 4.0, 1.5]
    logs = np.log(values)
    reference = np.exp(stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs)))
    assert claims.interval(values, scale="log") == pytest.approx(tuple(reference), rel=1e-10)
    claim = outcome(values, 1.0, scale="log", unit="dimensionless")
    assert claim.value == pytest.approx(stats.gmean(values))
    # a ratio and its inverse are one statement
    inverse = outcome([1 / value for value in values], 1.0, "below", scale="log", unit="x")
    assert inverse.verdict == claim.verdict
    assert inverse.details["p"] == pytest.approx(claim.details["p"])


@pytest.mark.parametrize(
    ("values", "trials"), [([100.0] * 5, 1000), ([0.0] * 3, 200), ([50.0, 50.0], 10)]
)
def test_accuracies_are_no_surer_than_their_test_sequences(values, trials):
    right, count = round(sum(values) / 100 * trials), trials * len(values)
    exact = stats.binomtest(right, count).proportion_ci(0.95, method="exact")
    found = claims.interval(values, trials=trials)
    assert found == pytest.approx((100 * exact.low, 100 * exact.high), rel=1e-10)


def test_seeds_that_differ_are_not_narrowed_by_test_sequences():
    values = [60.0, 80.0, 75.0]
    assert claims.interval(values, trials=100_000) == claims.interval(values)
    low, high = claims.interval([1.0, 99.0, 95.0], trials=1000)
    assert (low, high) == (0.0, 100.0)


def test_the_resolution_is_the_least_reach():
    assert claims.interval([3.0, 3.0, 3.0], resolution=0.5) == (2.5, 3.5)
    assert outcome([0.1] * 5, 0.0, resolution=0.2).verdict == "undecided"
    assert outcome([0.3] * 5, 0.0, resolution=0.2).verdict == "supported"


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": "log"}, {"trials": 40}, {"trials": 1000}, {"resolution": 3.0}],
    ids=str,
)
@pytest.mark.parametrize(
    "values", [[60.0, 62.5, 70.0], [55.0, 55.0, 55.0], [52.5, 47.5, 60.0, 65.0]], ids=str
)
def test_p_is_the_level_at_which_the_interval_reaches_the_limit(values, options):
    p = claims.p_value(values, 50.0, **options)
    for level in (0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999):
        low, high = claims.interval(values, level, **options)
        if abs(level - (1 - p)) > 1e-9:
            assert (low <= 50.0 <= high) == (level > 1 - p), level


def test_p_is_that_of_scipy():
    values = [60.0, 62.5, 70.0]
    assert claims.p_value(values, 50.0) == pytest.approx(stats.ttest_1samp(values, 50.0).pvalue)
    assert claims.p_value([1.0], 50.0) is None


# Is it what was published?


@pytest.mark.parametrize(
    ("values", "published", "word"),
    [
        ([90.0, 91.0, 92.0], Published(91.4, "higher"), "reproduced"),
        ([100.0] * 3, Published(91.4, "higher"), "stronger"),
        ([80.0] * 3, Published(91.4, "higher"), "weaker"),
        ([80.0] * 3, Published(91.4, "higher", margin=12, reason="two tasks in one"), "reproduced"),
        ([0.0] * 3, Published(9.0, "lower"), "stronger"),
        ([30.0] * 3, Published(9.0, "lower"), "weaker"),
        ([39.7, 80.6, 69.8], Published(94.1, "higher"), "undecided"),
        ([85.0, 86.5, 88.0], Published(91.4, "higher"), "undecided"),
        ([91.4], Published(91.4, "higher"), "undecided"),
        ([91.4] * 3, Published(91.4, "higher", differs=("width 96, not 256",)), "other size"),
    ],
)
def test_a_published_figure_takes_two_one_sided_tests(values, published, word):
    assert outcome(values, published=published).replication == word


def test_the_90_percent_interval_is_that_of_two_one_sided_tests():
    values, margin = np.array([88.0, 90.5, 92.0, 87.0]), 5.0
    for figure in np.linspace(80, 100, 41):
        above = stats.ttest_1samp(values, figure - margin, alternative="greater").pvalue
        below = stats.ttest_1samp(values, figure + margin, alternative="less").pvalue
        word = outcome(values, published=Published(float(figure), "higher")).replication
        assert (word == "reproduced") == (max(above, below) <= 0.05), figure


def test_the_two_questions_are_apart():
    claim = outcome([60.0, 61.0, 62.0], published=Published(91.0, "higher"))
    assert (claim.verdict, claim.replication) == ("supported", "weaker")
    claim = outcome([51.0, 52.0, 53.5], 52.0, published=Published(52.0, "higher"))
    assert (claim.verdict, claim.replication) == ("undecided", "reproduced")


# The outcomes of a chapter together


def test_holm_by_hand():
    # in order: .01 * 4, .02 * 3, .03 * 2 (raised to the one before it), .2 * 1
    assert claims.holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert claims.holm([0.5, 0.6]) == [1.0, 1.0]
    assert claims.holm([]) == []


def test_deciding_together_takes_back_what_several_tests_would_find_by_chance():
    near = outcome([58.0, 54.0, 56.5], id="wing/near")  # p = .03
    assert near.verdict == "supported"
    assert claims.decide([near])[0].verdict == "supported"
    others = [outcome([90.0, 10.0, 40.0], id=f"wing/other-{place}") for place in range(3)]
    fact = identity([0.0])
    decided = claims.decide([fact, near, *others])
    assert decided[0] is fact
    assert [claim.id for claim in decided] == [claim.id for claim in [fact, near, *others]]
    assert decided[1].verdict == "undecided"
    assert decided[1].details["p_holm"] == pytest.approx(4 * near.details["p"])
    assert decided[1].details["tests"] == 4
    assert "all above 50, but too near for one of 4 outcomes" in decided[1].summary()
    assert claims.decide(decided) == decided


def test_a_control_that_is_not_supported_makes_an_outcome_uninformative():
    for values in ([10.0, 11.0, 12.0], [39.7, 80.6, 69.8], [99.0]):
        control = outcome(values, id="wing/control")
        claim = outcome([90.0, 91.0, 92.0], requires=[control])
        assert claim.verdict == "uninformative"
        assert f"without its control wing/control ({control.verdict})" in claim.summary()
    control = outcome([90.0, 91.0, 92.0], id="wing/control")
    claim = outcome([90.0, 91.0, 92.0], requires=[control])
    assert claim.verdict == "supported"
    assert "<dt>control</dt><dd>wing/control: supported</dd>" in claims.box(claim)


def test_a_control_that_correction_withdraws_takes_its_whole_chain_along():
    first = outcome([58.0, 54.0, 56.5], id="wing/first")
    second = outcome([90.0, 90.1, 90.2], id="wing/second", requires=[first])
    third = outcome([90.0, 90.1, 90.2], id="wing/third", requires=[second])
    assert [claim.verdict for claim in (first, second, third)] == ["supported"] * 3
    noise = [outcome([90.0, 10.0, 40.0], id=f"wing/noise-{place}") for place in range(3)]
    for order in ([first, second, third, *noise], [third, *noise, second, first]):
        verdicts = {claim.id: claim.verdict for claim in claims.decide(order)}
        assert verdicts["wing/first"] == "undecided"
        assert verdicts["wing/second"] == verdicts["wing/third"] == "uninformative"


def test_a_control_of_another_chapter_keeps_its_verdict():
    control = outcome([10.0, 11.0, 12.0], id="wing/control")
    claim = outcome([90.0, 91.0, 92.0], requires=[control])
    assert claims.decide([claim])[0].verdict == "uninformative"


def test_claims_that_were_not_checked_are_left_as_they_are():
    claim = claims.not_checked("wing/one", "s", kind="outcome", needs="real", **COMMON)
    assert claims.decide([claim]) == [claim]


def test_other_values_are_judged_by_the_same_sentence():
    control = outcome([90.0, 91.0, 92.0], id="wing/control")
    published = Published(91.0, "higher", margin=3.0, reason="easy task", differs=())
    claim = outcome(
        [90.0, 91.0, 92.0], 80, published=published, requires=[control], trials=100, note="n"
    )
    assert claims.judge_again(claim, [90.0, 91.0, 92.0]) == claim
    again = claims.judge_again(claim, [70.0, 70.5, 71.0], trials=1000)
    assert (again.verdict, again.replication) == ("contradicted", "weaker")
    assert again.details["trials"] == 1000
    assert again.details["requires"] == {"wing/control": "supported"}
    assert claims.judge_again(claim, [99.0]).verdict == "single run"
    lost = outcome([90.0, 91.0, 92.0], requires=[outcome([1.0, 2.0, 3.0], id="wing/control")])
    assert claims.judge_again(lost, [99.0, 98.0, 97.0]).verdict == "uninformative"
    stored = Claim.from_json(json.loads(json.dumps(claim.to_json())))
    assert claims.judge_again(stored, [90.0, 91.0, 92.0]) == claim
    with pytest.raises(ValueError, match="wing/one is no outcome that was checked"):
        claims.judge_again(identity([0.0]), [1.0])
    unchecked = claims.not_checked("wing/one", "s", kind="outcome", needs="real", **COMMON)
    with pytest.raises(ValueError, match="no outcome that was checked"):
        claims.judge_again(unchecked, [1.0])


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: identity([]), "wing/one: errors is empty"),
        (lambda: identity([0.0, math.nan]), "errors contains nan"),
        (lambda: identity([1.0], tolerance=0), "tolerance must be > 0, got 0"),
        (lambda: bound([1.0], [math.inf]), "limits contains inf"),
        (lambda: bound([1.0], [2.0], tolerance=-1), "tolerance must be >= 0, got -1"),
        (lambda: estimate([1.0], [1.0], [0.0]), "standard errors must be > 0, got 0.0"),
        (lambda: estimate([1.0], [1.0], [1.0], max_deviation=0), "must be > 0, got 0"),
        (lambda: estimate([1.0], [1.0], [1.0], allowance=-2.0), "must be >= 0, got -2.0"),
        (lambda: estimate([1.0], [1.0], [1.0], allowance=1.0), "an allowance needs a reason"),
        (lambda: outcome([]), "wing/one: values is empty"),
        (lambda: outcome([1.0, math.inf]), "values contains inf"),
        (lambda: outcome([1.0], math.nan), "limit contains nan"),
        (lambda: outcome([1.0], side="up"), "side must be 'above' or 'below', got 'up'"),
        (lambda: outcome([1.0], scale="root"), "scale must be 'linear' or 'log', got 'root'"),
        (lambda: outcome([-1.0], 1.0, scale="log"), "must be > 0, got -1"),
        (lambda: outcome([1.0], 0.0, scale="log"), "must be > 0, got 0"),
        (lambda: outcome([1.0], trials=0), "at least 1 sequence; got 0"),
        (lambda: outcome([101.0], trials=10), "values from 101 to 101"),
        (lambda: outcome([1.0], resolution=-0.5), "resolution must be >= 0, got -0.5"),
        (lambda: outcome([1.0], requires=[identity([0.0])]), "must be an outcome, wing/one is not"),
        (lambda: Published(1.0, "up"), "favours must be 'higher' or 'lower', got 'up'"),
        (lambda: Published(1.0, "higher", margin=0.0), "margin must be > 0, got 0.0"),
        (lambda: Published(1.0, "higher", margin=7.0), "a margin of 7 needs a reason"),
        (lambda: claims.interval([1.0, 2.0], 1.0), r"level must lie in \(0, 1\), got 1.0"),
        (
            lambda: claims.identity("No Wing", "s", errors=[0], tolerance=1, **COMMON),
            "'No Wing' must read '<wing>/<kebab-case>'",
        ),
        (
            lambda: claims.identity("wing/one", "$x", errors=[0], tolerance=1, **COMMON),
            "not closed",
        ),
        (
            lambda: claims.identity("wing/one", " ", errors=[0], tolerance=1, **COMMON),
            "sentence is empty",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_checks_nothing_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# How it is shown


def test_the_displayed_claim_carries_box_text_and_data():
    claim = identity([1e-12])
    bundle = claim._repr_mimebundle_()
    data = json.loads(json.dumps(bundle[claims.MIME_TYPE]))
    assert Claim.from_json({**data, "further": 1}) == claim
    assert 'id="claim-wing-one"' in bundle["text/html"]
    assert "[holds] It is so." in bundle["text/plain"]
    beside = outcome([80.0] * 3, published=Published(91.4, "higher"))._repr_mimebundle_()
    assert "[weaker] beside the published figure" in beside["text/plain"]


def test_an_outcome_says_what_was_asked_then_what_was_measured_and_p_last():
    claim = claims.decide([outcome([60.0, 62.0, 61.0]), outcome([1.0, 2.0, 3.0], id="wing/two")])[0]
    assert claim.summary() == (
        "asked: above 50 % of sequences; mean 61.00 over 3 seeds, 95 % interval 58.52 to 63.48, "
        "all above 50; p = 0.0027 by Holm over 2 outcomes"
    )
    alone = claims.decide([outcome([40.0, 62.0, 61.0])])[0]
    assert alone.summary().endswith("95 % interval 23.47 to 85.19, which contains 50; p = 0.61")
    assert outcome([60.0, 62.0, 61.0]).summary().endswith("p = 0.0027, before Holm's correction")
    assert outcome([70.0]).summary() == (
        "asked: above 50 % of sequences; one seed: 70.00, and one seed decides nothing"
    )
    ratio = outcome([2.0, 4.0], 1.0, scale="log", unit="dimensionless").summary()
    assert ratio.startswith("asked: above 1; geometric mean 2.83 over 2 seeds")


def test_box_shows_published_ours_recorded_and_archived_and_escapes():
    published = Published(91.4, "higher")
    ours = outcome([90, 92], published=published, source="A & B <2024>", note="Set after looking.")
    archived = outcome([98, 97.9, 98.1], published=published)
    page = claims.box(ours, archived, "undecided")
    assert "91.40 % of sequences; the same within ± 5; our 90 % interval" in page
    assert "supported; published figure: stronger; asked: above 50" in page
    assert "<dt>recorded</dt><dd>undecided; supported in this build</dd>" in page
    assert "<dt>about the limit</dt><dd>Set after looking.</dd>" in page
    assert "A &amp; B &lt;2024&gt;" in page
    labels = ["published", "this build", "recorded", "published size, archived", "about the limit"]
    places = [page.index(f"<dt>{label}</dt>") for label in labels]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("values", "differs", "words"),
    [
        ([90.0, 91.0, 92.0], (), "lies inside"),
        ([80.0] * 3, (), "lies outside"),
        ([85.0, 86.5, 88.0], (), "lies partly inside"),
        ([91.4], (), "one seed has no interval"),
        ([91.4] * 3, ("width 96, not 256", "one layer"), "± 5; here width 96, not 256, one layer"),
    ],
)
def test_box_says_how_an_outcome_compares_with_the_published_figure(values, differs, words):
    claim = outcome(values, published=Published(91.4, "higher", differs=differs))
    page = claims.box(claim)
    assert f"{words}</dd>" in page
    assert f'<span class="claim-replication">published figure: {claim.replication}</span>' in page


def test_a_margin_that_is_unusual_is_shown_with_its_reason():
    claim = outcome([1.0, 2.0], published=Published(1.0, "higher", margin=2.0, reason="few tokens"))
    assert "the same within ± 2 (few tokens)" in claims.box(claim)


def test_where_nothing_was_published_no_word_of_reproduction_is_said():
    page = claims.box(outcome([90.0, 91.0, 92.0]))
    assert "publish" not in page
    assert not any(word in page for word in ("reproduced", "stronger", "weaker", "other size"))


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


def test_each_row_is_judged_by_its_own_measurement():
    rows = (
        claims.Identity("one", "…", tolerance=1e-9, source="this book", checks=len),
        claims.Estimate("two", "…", source="this book", checks=len),
        claims.Bound("three", "…", limits=1.0, search="-", source="this book", checks=len),
    )
    met = SimpleNamespace(formula=[1.0], measured=[1.1], standard_errors=[0.2])
    found = claims.check_each("wing/", rows, {"two": met, "one": [0.0, 1e-10]})
    assert {name: claim.verdict for name, claim in found.items()} == {
        "two": "holds",
        "one": "holds",
    }
    assert claims.check_each("wing/", rows, {"three": [2.0]})["three"].verdict == "fails"
    with pytest.raises(ValueError, match="no row of wing/ is called 'four'"):
        claims.check_each("wing/", rows, {"four": 0})


def test_a_row_judged_alone_may_require_one_judged_before():
    rows = tuple(
        claims.Outcome(
            name, "…", values=lambda m: m, above=50.0, unit="%", requires=needs,
            source="this book", checks=len,
        )
        for name, needs in (("learned", ()), ("better", ("learned",)))
    )  # fmt: skip
    measured = {"learned": [10.0, 11.0, 12.0], "better": [90.0, 91.0, 92.0]}
    found = claims.check_each("wing/", rows, measured)
    assert found["better"].verdict == "uninformative"
