"""How is a claim shown: as a box on the page, and as one line of text?"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptlib.claims.words import LEVEL

if TYPE_CHECKING:
    from promptlib.claims.claim import Claim


def box(claim: Claim, archived: Claim | None = None, recorded: str | None = None) -> str:
    """The claim as an HTML box.

    Parameters
    ----------
    claim
        What this build measured.
    archived
        The same claim as judged from the archived full-size run, shown beside.
    recorded
        The verdict that the book records, where it is not this build's.

    Returns
    -------
    str
        An ``<aside>`` whose ``id`` is `Claim.anchor`. Formulas stay between ``\\(`` and ``\\)``,
        for MathJax.
    """
    figures = [("this build", claim.summary())]
    if recorded is not None:
        figures.append(("recorded", f"{recorded}; {claim.verdict} in this build"))
    if archived is not None:
        figures.append(("published size, archived", beside(archived)))
    before = published(claim)
    if before is not None:
        figures.insert(0, ("published", before))
    if claim.details.get("requires") and claim.verdict != "uninformative":  # the summary says why
        controls = ", ".join(f"{name}: {word}" for name, word in claim.details["requires"].items())
        figures.append(("control", controls))
    if claim.details.get("note"):
        figures.append(("about the limit", claim.details["note"]))
    rows = "".join(f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in figures)
    return (
        f'<aside class="claim claim-{slug(claim.verdict)}" id="{claim.anchor}"'
        f' aria-label="Claim: {html.escape(claim.id)}">'
        f'<p class="claim-head"><span class="claim-verdict">{claim.verdict}</span> '
        f"{replication_html(claim.replication)}"
        f'<span class="claim-kind">{claim.kind}</span> '
        f'<span class="claim-source">{html.escape(claim.source)}</span></p>'
        f'<p class="claim-sentence">{sentence_html(claim.sentence)}</p>'
        f'<dl class="claim-figures">{rows}</dl></aside>'
    )


def replication_html(replication: str | None) -> str:
    """What an outcome is beside a published figure; empty where nothing was published."""
    if replication is None:
        return ""
    return f'<span class="claim-replication">published figure: {replication}</span> '


def beside(archived: Claim) -> str:
    """An archived claim in one line: verdicts, and what was measured."""
    words = archived.verdict
    if archived.replication is not None:
        words += f"; published figure: {archived.replication}"
    return f"{words}; {archived.summary()}"


def slug(verdict: str) -> str:
    """A verdict as part of a class name."""
    return verdict.replace(" ", "-")


def published(claim: Claim) -> str | None:
    """The published figure, what counts as the same, and how ours compares; None if there is none.

    What differs in size or setting is named in place of a comparison.
    """
    given = claim.details.get("published")
    if given is None:
        return None
    text = f"{_quantity(claim, given['value'])}; the same within ± {given['margin']:g}"
    if given["reason"]:
        text += f" ({given['reason']})"
    if given["differs"]:
        return f"{text}; here {', '.join(given['differs'])}"
    if given["interval"] is None:
        return f"{text}; one seed has no interval"
    place = {"reproduced": "inside", "undecided": "partly inside"}.get(
        claim.replication or "", "outside"
    )
    return f"{text}; our 90 % interval {_range(given['interval'])} lies {place}"


def sentence_html(sentence: str) -> str:
    """Escape a sentence for HTML, with ``$…$`` as MathJax's inline delimiters."""
    parts = sentence.split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"a formula is opened with $ and not closed in {sentence!r}")
    return "".join(
        f'<span class="math notranslate nohighlight">\\({html.escape(part)}\\)</span>'
        if place % 2
        else html.escape(part)
        for place, part in enumerate(parts)
    )


def summary(claim: Claim) -> str:
    """What was measured, in one line of plain text."""
    if claim.verdict == "not checked":
        return f"not checked in this build: needs EXTRAS={claim.details['needs']}"
    return _SUMMARIES[claim.kind](claim)


def _quantity(claim: Claim, number: float) -> str:
    unit = claim.details["unit"]
    return f"{_number(number)} {unit}" if unit != "dimensionless" else _number(number)


def _number(number: float) -> str:
    if abs(number) >= 1e4:
        return f"{number:,.0f}" if abs(number) < 1e7 else f"{number:.3g}"
    return f"{number:.2f}" if abs(number) >= 1 or number == 0 else f"{number:.2g}"


def _range(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{_number(low)} to {_number(high)}"


def _instances(claim: Claim) -> str:
    count = claim.details["instances"]
    return f"{count:,} instance" + ("s" if count != 1 else "")


def _identity_summary(claim: Claim) -> str:
    tolerance = claim.details["tolerance"]
    return f"worst error {claim.value:.1e} (allowed {tolerance:.0e}) over {_instances(claim)}"


def _bound_summary(claim: Claim) -> str:
    given = claim.details
    ratios = ""
    if "median_ratio" in given:
        ratios = (
            f"; part of the limit in use: median {given['median_ratio']:.2g}, "
            f"largest {given['largest_ratio']:.3g}"
        )
    return (
        f"tightest slack {claim.value:.3g} over {_instances(claim)}{ratios}; "
        f"search: {given['search']}"
    )


def _estimate_summary(claim: Claim) -> str:
    given = claim.details
    bias = ""
    if "allowance" in given:
        bias = f" beyond {given['allowance']:.2g} for {given['allowance_reason']}"
    return (
        f"largest deviation {claim.value:.2f} standard errors{bias} "
        f"(allowed {given['max_deviation']:.1f}) over {_instances(claim)}"
    )


def _outcome_summary(claim: Claim) -> str:
    """What was asked, the mean, its interval; last the p-value that decides."""
    given: Any = claim.details
    assert claim.value is not None
    unit = f" {given['unit']}" if given["unit"] != "dimensionless" else ""
    parts = [f"asked: {given['side']} {given['limit']:g}{unit}"]
    if given["interval"] is None:
        parts.append(f"one seed: {_number(claim.value)}, and one seed decides nothing")
    else:
        mean = "geometric mean" if given["scale"] == "log" else "mean"
        parts.append(
            f"{mean} {_number(claim.value)} over {given['seeds']} seeds, "
            f"95 % interval {_range(given['interval'])}, {_standing(given)}"
        )
    lost = [f"{name} ({word})" for name, word in given["requires"].items() if word != "supported"]
    if lost:
        parts.append(f"says nothing without its control {', '.join(lost)}")
    elif given["p"] is not None:
        parts.append(_probability(given))
    return "; ".join(parts)


def _standing(given: Any) -> str:
    """Where the interval lies, and whether that is enough."""
    (low, high), limit = given["interval"], f"{given['limit']:g}"
    if low <= given["limit"] <= high:
        return f"which contains {limit}"
    where = f"all {'above' if low > given['limit'] else 'below'} {limit}"
    decides = given["p"] if given.get("p_holm") is None else given["p_holm"]
    if decides >= 1 - LEVEL:
        return f"{where}, but too near for one of {given['tests']} outcomes"
    return where


def _probability(given: Any) -> str:
    if given.get("p_holm") is None:
        return f"p {_p(given['p'])}, before Holm's correction"
    if given["tests"] == 1:
        return f"p {_p(given['p'])}"
    return f"p {_p(given['p_holm'])} by Holm over {given['tests']} outcomes"


def _p(p: float) -> str:
    if p < 1e-4:
        return "< 0.0001"
    return "= 1" if p > 0.995 else f"= {p:.2g}"


_SUMMARIES = {
    "identity": _identity_summary,
    "bound": _bound_summary,
    "estimate": _estimate_summary,
    "outcome": _outcome_summary,
}
