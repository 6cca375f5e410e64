"""A table of rows is judged as its claims would be one by one."""

from __future__ import annotations

import pytest

from promptlib import claims


def learn():
    """What the claims speak of."""


def outcome(name, **changes):
    given = {"values": lambda m: m, "above": 1.0, "unit": "points", "source": "this book"}
    return claims.Outcome(name, f"It is so: {name}.", **{**given, "checks": learn, **changes})


ROWS = (
    outcome("needs", above=2.0, requires=("learned",)),
    outcome("learned", values=lambda m: [2 * value for value in m]),
    claims.Identity(
        "exact",
        lambda m: f"All {len(m)} agree.",
        errors=lambda m: [1e-12] * len(m),
        tolerance=1e-9,
        source="this book",
        checks=learn,
    ),
    claims.Bound(
        "bounded", "Small.", values=lambda m: m, limits=9.0, search="none", source="a", checks=learn
    ),
    claims.Estimate(
        "mean",
        "As computed.",
        formula=lambda m: 3.0,
        measured=lambda m: m,
        standard_errors=lambda m: 0.1,
        source="a",
        checks=learn,
    ),
)


def test_each_row_becomes_the_claim_that_its_function_makes():
    found = claims.check("wing/chapter", ROWS, [3.0, 3.1, 3.2])
    assert list(found) == ["needs", "learned", "exact", "bounded", "mean"]
    alone = claims.outcome(
        "wing/chapter-needs",
        "It is so: needs.",
        values=[3.0, 3.1, 3.2],
        limit=2.0,
        side="above",
        unit="points",
        source="this book",
        checks=f"{__name__}.learn",
        requires=[found["learned"]],
    )
    assert found["needs"] == alone
    assert found["exact"].sentence == "All 3 agree."
    assert {name: claim.verdict for name, claim in found.items()} == {
        "needs": "supported",
        "learned": "supported",
        "exact": "holds",
        "bounded": "holds",
        "mean": "holds",
    }


def test_a_control_without_support_makes_what_needs_it_uninformative():
    found = claims.check("wing/chapter", ROWS[:2], [0.1, 0.2, 0.3])
    assert found["learned"].verdict == "contradicted"
    assert found["needs"].verdict == "uninformative"


def test_controls_may_come_from_another_table():
    control = claims.check("wing/other", ROWS[1:2], [3.0, 3.1, 3.2])
    found = claims.check("wing/chapter", ROWS[:1], [3.0, 3.1, 3.2], known=control)
    assert list(found) == ["needs"]
    assert found["needs"].details["requires"] == {"wing/other-learned": "supported"}


def test_a_wing_alone_is_a_prefix_too():
    (claim,) = claims.check("wing/", ROWS[1:2], [1.0, 2.0]).values()
    assert claim.id == "wing/learned"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:1], "requires 'learned', which is no row"),
        ((ROWS[1], ROWS[1]), "two rows of wing/chapter are called 'learned'"),
    ],
)
def test_tables_that_cannot_be_judged_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        claims.check("wing/chapter", rows, [1.0, 2.0])


@pytest.mark.parametrize("limits", [{"above": None}, {"above": 1.0, "below": 2.0}])
def test_a_limit_has_one_side(limits):
    with pytest.raises(ValueError, match="row 'x': give the limit either as above= or as below="):
        outcome("x", **limits)
