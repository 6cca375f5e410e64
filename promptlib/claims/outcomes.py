r"""Is what training gave the sentence says, and is it what was published?

Two questions, and noise answers neither of them.

**Is the sentence true?** It names a quantity, a limit and a side. With the 95 % interval of the
mean over seeds the sentence is *supported* when the whole interval lies on its side, *contradicted*
when it lies on the other, and *undecided* when it contains the limit. One seed is a *single run*.
If a control that the sentence needs is not itself supported, it is *uninformative*.

The interval is Student's,

.. math:: \bar x \pm t_{n-1}\, s / \sqrt n,

on the logarithms for ratios and rates. Accuracies are shares of finitely many test sequences: their
interval is never narrower than the exact binomial one (Clopper and Pearson, 1934) of all test
sequences together.

**Is it what was published?** Asked only at the published size and setting, else *other size*. Two
one-sided tests (Schuirmann, 1987) against a margin that is written down: *reproduced* when the 90 %
interval lies inside published ± margin, *stronger* or *weaker* when it lies outside, and
*undecided* otherwise.

The outcomes of a chapter are tested together, so `decide` corrects for their number (Holm, 1979): a
verdict stands only where the corrected p-value is below 0.05.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from numpy.typing import ArrayLike

from promptlib.claims.claim import Checked, Claim, finite, make
from promptlib.claims.statistics import Scale, centre_of, holm, interval, p_value
from promptlib.claims.words import LEVEL

Side = Literal["above", "below"]

REPLICATION_LEVEL = 0.90
"""Coverage for two one-sided tests at 5 % each."""
USUAL_MARGIN = 5.0
"""Points of accuracy that make no difference to a published one."""


@dataclass(frozen=True)
class Published:
    """A published figure, and what it takes to be called the same.

    Attributes
    ----------
    value
        In the unit of the outcome.
    favours
        Which direction makes the published effect larger, hence *stronger*.
    margin
        Difference that does not matter, > 0.
    reason
        Why the margin is not `USUAL_MARGIN`; empty if it is.
    differs
        How this run's size and setting differ from the published ones, such as
        ``"width 96, not 256"``; empty if they are the same.

    Raises
    ------
    ValueError
        If the margin is not positive, or is an unusual one without a reason.
    """

    value: float
    favours: Literal["higher", "lower"]
    margin: float = USUAL_MARGIN
    reason: str = ""
    differs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.favours not in ("higher", "lower"):
            raise ValueError(f"favours must be 'higher' or 'lower', got {self.favours!r}")
        if not self.margin > 0:
            raise ValueError(f"margin must be > 0, got {self.margin}")
        if self.margin != USUAL_MARGIN and not self.reason.strip():
            raise ValueError(
                f"a margin of {self.margin:g} needs a reason; the usual one is {USUAL_MARGIN:g}"
            )


def outcome(
    id: str,
    sentence: str,
    *,
    values: ArrayLike,
    limit: float,
    side: Side,
    unit: str,
    source: str,
    checks: Checked,
    scale: Scale = "linear",
    trials: int | None = None,
    resolution: float = 0.0,
    published: Published | None = None,
    requires: Sequence[Claim] = (),
    note: str = "",
) -> Claim:
    """A trained result, one value for each seed.

    Parameters
    ----------
    values
        One value for each seed; at least one.
    limit, side
        The sentence is true where the mean lies on this side of the limit.
    unit
        Unit of the values, such as ``"% of sequences"``.
    scale
        ``"log"`` for ratios and rates, which must be > 0: the interval is that of the logarithms.
    trials
        Test sequences behind each value, where values are accuracies in percent.
    resolution
        Smallest step of the values, >= 0: the interval reaches at least so far to either side. For
        differences of accuracies, 100 divided by the number of test sequences.
    published
        The published figure, if there is one.
    requires
        Outcomes without whose support this one says nothing: that the task can be learned at all.
    note
        What a reader should know of the limit: why it is there, or that it was set after looking.

    Raises
    ------
    ValueError
        If there is no value, one is not finite or not possible, or an option is not one of those
        named.
    """
    sample = finite(id, "values", values).ravel()
    finite(id, "limit", limit)
    if side not in ("above", "below"):
        raise ValueError(f"claim {id}: side must be 'above' or 'below', got {side!r}")
    if scale not in ("linear", "log"):
        raise ValueError(f"claim {id}: scale must be 'linear' or 'log', got {scale!r}")
    if scale == "log" and min(sample.min(), limit) <= 0:
        raise ValueError(
            f"claim {id}: on a log scale values and limit must be > 0, "
            f"got {min(sample.min(), limit):g}"
        )
    if trials is not None and (trials < 1 or sample.min() < 0 or sample.max() > 100):
        raise ValueError(
            f"claim {id}: with trials, values are percent of at least 1 sequence; got {trials} "
            f"trials and values from {sample.min():g} to {sample.max():g}"
        )
    if not resolution >= 0:
        raise ValueError(f"claim {id}: resolution must be >= 0, got {resolution}")
    for control in requires:
        if control.kind != "outcome":
            raise ValueError(f"claim {id}: a control must be an outcome, {control.id} is not")
    options: dict[str, Any] = {"scale": scale, "trials": trials, "resolution": float(resolution)}
    p = p_value(sample, limit, **options)
    centre = centre_of(sample, scale)
    details: dict[str, Any] = {
        "seeds": int(sample.size),
        "values": [float(value) for value in sample],
        "interval": _listed(interval(sample, LEVEL, **options)),
        "unit": unit,
        "limit": float(limit),
        "side": side,
        **options,
        "p": p,
        "requires": {control.id: control.verdict for control in requires},
        "note": note,
    }
    replication = None
    if published is not None:
        narrow = interval(sample, REPLICATION_LEVEL, **options)
        details["published"] = {**asdict(published), "interval": _listed(narrow)}
        replication = _replication(published, narrow)
    verdict = _verdict(centre, limit, side, p, details["requires"].values())
    return make(id, sentence, "outcome", source, checks, verdict, centre, replication, **details)


def decide(claims: Sequence[Claim]) -> list[Claim]:
    """Judge the outcomes of one chapter together; other claims are returned as they are.

    Corrects the p-values for the number of outcomes (`holm`), and withdraws what lost its control.

    Parameters
    ----------
    claims
        All claims of the chapter, in any order.
    """
    tested = [claim for claim in claims if claim.details.get("p") is not None]
    corrected = dict(
        zip(
            [claim.id for claim in tested],
            holm([claim.details["p"] for claim in tested]),
            strict=True,
        )
    )
    verdicts: dict[str, str] = {}
    decided: dict[str, Claim] = {}
    by_id = {claim.id: claim for claim in claims}

    def settle(claim: Claim) -> str:
        if claim.id in verdicts:
            return verdicts[claim.id]
        verdicts[claim.id] = claim.verdict
        if claim.kind != "outcome" or claim.verdict == "not checked":
            return claim.verdict
        given = claim.details
        controls = {
            name: settle(by_id[name]) if name in by_id else verdict
            for name, verdict in given["requires"].items()
        }
        p = corrected.get(claim.id)
        assert claim.value is not None
        verdict = _verdict(claim.value, given["limit"], given["side"], p, controls.values())
        verdicts[claim.id] = verdict
        details = {**given, "requires": controls, "p_holm": p, "tests": len(tested)}
        decided[claim.id] = replace(claim, verdict=verdict, details=details)
        return verdict

    for claim in claims:
        settle(claim)
    return [decided.get(claim.id, claim) for claim in claims]


def judge_again(claim: Claim, values: ArrayLike, trials: int | None = None) -> Claim:
    """Judge other values by an outcome's own sentence, limit and side.

    Parameters
    ----------
    claim
        An outcome that was checked; its controls keep their verdicts.
    values
        One for each seed.
    trials
        Test sequences behind each value, if they are not those of the claim.

    Raises
    ------
    ValueError
        If the claim is no outcome or was not checked.
    """
    if claim.kind != "outcome" or "limit" not in claim.details:
        raise ValueError(f"claim {claim.id} is no outcome that was checked")
    given = claim.details
    published = given.get("published")
    if published is not None:
        own = {name: value for name, value in published.items() if name != "interval"}
        published = Published(**{**own, "differs": tuple(own["differs"])})
    judged = outcome(
        claim.id,
        claim.sentence,
        values=values,
        limit=given["limit"],
        side=given["side"],
        unit=given["unit"],
        source=claim.source,
        checks=claim.checks,
        scale=given["scale"],
        trials=trials or given["trials"],
        resolution=given["resolution"],
        published=published,
        note=given["note"],
    )
    if not given["requires"]:
        return judged
    assert judged.value is not None
    verdict = _verdict(
        judged.value,
        given["limit"],
        given["side"],
        judged.details["p"],
        given["requires"].values(),
    )
    details = {**judged.details, "requires": dict(given["requires"])}
    return replace(judged, verdict=verdict, details=details)


def _verdict(centre: float, limit: float, side: Side, p: float | None, controls: Any) -> str:
    if any(verdict != "supported" for verdict in controls):
        return "uninformative"
    if p is None:
        return "single run"
    if p >= 1 - LEVEL:
        return "undecided"
    return "supported" if (centre > limit) == (side == "above") else "contradicted"


def _replication(published: Published, narrow: tuple[float, float] | None) -> str:
    if published.differs:
        return "other size"
    if narrow is None:
        return "undecided"
    low, high = published.value - published.margin, published.value + published.margin
    if low <= narrow[0] and narrow[1] <= high:
        return "reproduced"
    if narrow[1] < low or narrow[0] > high:
        return "stronger" if (narrow[0] > high) == (published.favours == "higher") else "weaker"
    return "undecided"


def _listed(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else [float(end) for end in ends]
