"""Every claim of the last build can fail, in both directions that matter."""

import numpy as np
import pytest

from promptlib import claims
from promptlib.claims import Claim


def outcomes(built_claims):
    found = [Claim.from_json(record) for record in built_claims if record["kind"] == "outcome"]
    return [claim for claim in found if claim.verdict != "not checked"]


def without_controls(claim, values):
    """Judge values by the claim's sentence alone."""
    details = {**claim.details, "requires": {}}
    return claims.judge_again(Claim.from_json({**claim.to_json(), "details": details}), values)


def near(claim, centre):
    """Values of five seeds around a centre, spread as little as the claim's unit allows."""
    steps = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]) * 1e-3 * max(abs(centre), 1e-3)
    if claim.details["scale"] == "log":
        return centre * np.exp(steps / max(abs(centre), 1e-3))
    values = centre + steps
    if claim.details["trials"] is not None:  # accuracies, in percent
        values = np.clip(values, 0, 100)
        values += centre - values.mean()
        values = np.clip(values, 0, 100)
    return values


def beyond(claim, away):
    """Values on one side of the limit, far enough for any interval: ``away`` is +1 or -1."""
    limit = claim.details["limit"]
    if claim.details["scale"] == "log":
        return near(claim, limit * np.exp(away))
    if claim.details["trials"] is not None:
        return near(claim, 100.0 if away > 0 else 0.0)
    return near(claim, limit + away * max(abs(limit), 20 * claim.details["resolution"], 1.0))


def test_each_outcome_is_contradicted_beyond_its_limit_and_undecided_at_it(built_claims):
    found = outcomes(built_claims)
    assert found
    for claim in found:
        side = 1 if claim.details["side"] == "above" else -1
        assert without_controls(claim, beyond(claim, -side)).verdict == "contradicted", claim.id
        assert without_controls(claim, beyond(claim, side)).verdict == "supported", claim.id
        at = near(claim, claim.details["limit"])
        assert without_controls(claim, at).verdict == "undecided", claim.id
        assert without_controls(claim, at[:1]).verdict == "single run", claim.id


def test_no_limit_of_an_accuracy_lies_where_nothing_can_cross_it(built_claims):
    for claim in outcomes(built_claims):
        if claim.details["trials"] is not None:
            assert 0 < claim.details["limit"] < 100, claim.id


def test_each_published_figure_can_come_out_every_way(built_claims):
    for claim in outcomes(built_claims):
        published = claim.details.get("published")
        if published is None:
            assert claim.replication is None
            continue
        details = {**claim.details, "published": {**published, "differs": []}}
        same = Claim.from_json({**claim.to_json(), "details": details})
        margin, value = published["margin"], published["value"]
        words = {"higher": ("stronger", "weaker"), "lower": ("weaker", "stronger")}
        above, below = words[published["favours"]]
        for centre, word in ((value + 3 * margin, above), (value - 3 * margin, below)):
            if claim.details["trials"] is None or 0 <= centre <= 100:
                assert without_controls(same, near(same, centre)).replication == word, claim.id
        if published["differs"]:
            assert claim.replication == "other size", claim.id


def test_controls_are_claims_of_the_same_chapter(built_claims):
    chapters = {record["id"]: record["notebook"] for record in built_claims}
    for record in built_claims:
        for control in record["details"].get("requires", {}):
            assert chapters[control] == record["notebook"], record["id"]


@pytest.mark.parametrize("verdict", ["contradicted", "undecided", "single run", "uninformative"])
def test_a_control_that_is_not_supported_takes_the_word(built_claims, verdict):
    for claim in outcomes(built_claims):
        if claim.details["requires"]:
            details = {
                **claim.details,
                "requires": dict.fromkeys(claim.details["requires"], verdict),
            }
            lost = Claim.from_json({**claim.to_json(), "details": details})
            side = 1 if claim.details["side"] == "above" else -1
            assert claims.judge_again(lost, beyond(lost, side)).verdict == "uninformative", claim.id


def test_the_words_are_those_of_the_kind(built_claims):
    of_outcomes = {"supported", "contradicted", "undecided", "single run", "uninformative"}
    for record in built_claims:
        allowed = of_outcomes if record["kind"] == "outcome" else {"holds", "fails"}
        assert record["verdict"] in {*allowed, "not checked"}, record["id"]
        if record["replication"] is not None:
            assert record["replication"] in claims.REPLICATIONS
            assert record["details"]["published"], record["id"]
