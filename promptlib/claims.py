"""How does a statement of the book become something that the build can refute?

Four kinds, after what it takes to be wrong:

identity
    equality to rounding, on many random instances in float64; the worst error counts;
bound
    an inequality on many instances, adversarial search included; the tightest slack counts;
estimate
    a formula against a Monte Carlo mean, in standard errors of the mean;
outcome
    a trained result over seeds against a published one, with a 95 % t-interval.

A claim that needs an optional extra of the project is still shown when the extra is not installed,
with the verdict ``not checked`` (:func:`not_checked`); where it is installed the build insists on
the check.

Each function below is pure: it takes what was measured, decides, and returns a :class:`Claim`.
In a notebook a claim is the last expression of its cell; what Jupyter then displays carries the
claim three times: as a box to look at, as text, and as JSON under :data:`MIME_TYPE`, which the
build collects.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

MIME_TYPE = "application/vnd.promptlib.claim+json"
KINDS = ("identity", "bound", "estimate", "outcome")
VERDICTS = ("holds", "fails", "reproduced", "stronger", "weaker", "not reproduced", "not checked")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Claim:
    """A sentence about the world, and what this build found when it checked it.

    Attributes
    ----------
    id
        ``"<wing>/<kebab-case>"``, unique in the book.
    sentence
        The statement in words (Markdown with ``$…$`` for formulas).
    kind
        One of :data:`KINDS`.
    source
        Where the statement comes from: a paper and its contribution, or ``"this book"``.
    checks
        Dotted name of the library function whose correctness the statement speaks of.
    verdict
        One of :data:`VERDICTS`.
    value
        The deciding number: worst error, tightest slack, largest deviation in standard errors,
        or mean over seeds. None if the claim was not checked.
    details
        What else was measured, by name; JSON-able.
    """

    id: str
    sentence: str
    kind: str
    source: str
    checks: str
    verdict: str
    value: float | None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        """The id of the box on the page, to link to."""
        return "claim-" + self.id.replace("/", "-")

    @property
    def passes(self) -> bool:
        """False when the statement, as a mathematical one, was refuted."""
        return self.verdict != "fails"

    def to_json(self) -> dict[str, Any]:
        """The claim as plain JSON-able data; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Rebuild a claim from :meth:`to_json`; further keys are ignored."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def summary(self) -> str:
        """What was measured, in one line of plain text."""
        if self.verdict == "not checked":
            return f"not checked in this build: needs EXTRAS={self.details['needs']}"
        return _SUMMARIES[self.kind](self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = f"[{self.verdict}] {self.sentence}\n{self.summary()}"
        return {MIME_TYPE: self.to_json(), "text/html": box(self), "text/plain": text}


def identity(
    id: str,
    sentence: str,
    *,
    errors: ArrayLike,
    tolerance: float,
    source: str,
    checks: str,
) -> Claim:
    """An equality that holds up to rounding.

    Parameters
    ----------
    errors
        Absolute (or relative, said in the sentence) errors, one for each instance; any shape.
    tolerance
        The largest error that still counts as rounding, > 0.

    Raises
    ------
    ValueError
        If there is no error to judge, one is not finite, or the tolerance is not positive.
    """
    values = np.abs(_finite(id, "errors", errors))
    if not tolerance > 0:
        raise ValueError(f"claim {id}: tolerance must be > 0, got {tolerance}")
    worst = float(values.max())
    return _claim(
        id,
        sentence,
        "identity",
        source,
        checks,
        "holds" if worst <= tolerance else "fails",
        worst,
        tolerance=float(tolerance),
        instances=int(values.size),
    )


def bound(
    id: str,
    sentence: str,
    *,
    values: ArrayLike,
    limits: ArrayLike,
    source: str,
    checks: str,
    search: str,
    tolerance: float = 0.0,
) -> Claim:
    """An inequality ``values <= limits``, elementwise (flip both signs for ``>=``).

    Parameters
    ----------
    values, limits
        Arrays that broadcast against each other.
    search
        How hard the build tried to break it, such as ``"2000 restarts of hill climbing"``.
    tolerance
        Rounding that is forgiven, >= 0.

    Raises
    ------
    ValueError
        If there is nothing to judge, a number is not finite, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"claim {id}: tolerance must be >= 0, got {tolerance}")
    slack = _finite(id, "limits", limits) - _finite(id, "values", values)
    tightest = float(slack.min())
    return _claim(
        id,
        sentence,
        "bound",
        source,
        checks,
        "holds" if tightest >= -tolerance else "fails",
        tightest,
        tolerance=float(tolerance),
        instances=int(slack.size),
        search=search,
    )


def estimate(
    id: str,
    sentence: str,
    *,
    formula: ArrayLike,
    measured: ArrayLike,
    standard_errors: ArrayLike,
    source: str,
    checks: str,
    max_deviation: float = 4.0,
) -> Claim:
    """A formula that agrees with Monte Carlo means.

    Parameters
    ----------
    formula, measured
        Predicted and measured values; arrays that broadcast.
    standard_errors
        Standard errors of the measured means, > 0.
    max_deviation
        The largest allowed deviation in standard errors.

    Raises
    ------
    ValueError
        If there is nothing to judge, a number is not finite, or a standard error is not positive.
    """
    predicted = _finite(id, "formula", formula)
    means = _finite(id, "measured", measured)
    errors = _finite(id, "standard_errors", standard_errors)
    if not (errors > 0).all():
        raise ValueError(f"claim {id}: standard errors must be > 0, got {errors.min()}")
    if not max_deviation > 0:
        raise ValueError(f"claim {id}: max_deviation must be > 0, got {max_deviation}")
    deviations = np.abs(predicted - means) / errors
    worst = float(deviations.max())
    return _claim(
        id,
        sentence,
        "estimate",
        source,
        checks,
        "holds" if worst <= max_deviation else "fails",
        worst,
        max_deviation=float(max_deviation),
        instances=int(deviations.size),
    )


def outcome(
    id: str,
    sentence: str,
    *,
    values: ArrayLike,
    source: str,
    checks: str,
    unit: str,
    published: float | None = None,
    tolerance: float = 0.0,
    favours: Literal["higher", "lower"] = "higher",
    refuted_if: tuple[Literal["<", ">"], float] | None = None,
) -> Claim:
    """A trained result, one value for each seed, against a published one.

    The verdict is ``not reproduced`` when the mean lies beyond ``refuted_if``, so that the sentence
    is false here. Otherwise it is ``reproduced`` when the published value lies within
    ``mean ± max(tolerance, half-width of the 95 % t-interval)`` or none was published, and else
    ``stronger`` or ``weaker``: our effect is larger or smaller than the published one.

    Parameters
    ----------
    values
        One value for each seed; at least one.
    unit
        Unit of the values, such as ``"% of sequences"``.
    published
        The published value in the same unit, if there is one.
    tolerance
        Difference from the published value that does not matter, >= 0, in the same unit.
    favours
        Which direction makes the sentence more true.
    refuted_if
        ``("<", x)`` or ``(">", x)``: the mean for which the sentence no longer holds.

    Raises
    ------
    ValueError
        If there is no value, one is not finite, or an option is not one of those named.
    """
    sample = _finite(id, "values", values).ravel()
    if published is not None:
        _finite(id, "published", published)
    if not tolerance >= 0:
        raise ValueError(f"claim {id}: tolerance must be >= 0, got {tolerance}")
    if favours not in ("higher", "lower"):
        raise ValueError(f"claim {id}: favours must be 'higher' or 'lower', got {favours!r}")
    if refuted_if is not None and refuted_if[0] not in ("<", ">"):
        raise ValueError(f"claim {id}: refuted_if must start with '<' or '>', got {refuted_if!r}")
    if published is None and refuted_if is None:
        raise ValueError(f"claim {id}: without published and refuted_if the claim cannot fail")
    mean = float(sample.mean())
    half_width = t_half_width(sample)
    if refuted_if is not None and _beyond(mean, *refuted_if):
        verdict = "not reproduced"
    elif published is None or abs(mean - published) <= max(tolerance, half_width or 0.0):
        verdict = "reproduced"
    else:
        verdict = "stronger" if (mean > published) == (favours == "higher") else "weaker"
    return _claim(
        id,
        sentence,
        "outcome",
        source,
        checks,
        verdict,
        mean,
        seeds=int(sample.size),
        values=[float(value) for value in sample],
        half_width=half_width,
        unit=unit,
        published=None if published is None else float(published),
        tolerance=float(tolerance),
        favours=favours,
        refuted_if=None if refuted_if is None else [refuted_if[0], float(refuted_if[1])],
    )


def not_checked(
    id: str, sentence: str, *, kind: str, source: str, checks: str, needs: str
) -> Claim:
    """A claim that this build cannot check, because an optional extra is not installed.

    Parameters
    ----------
    kind
        What it is where it is checked, one of :data:`KINDS`.
    needs
        Name of the extra.

    Raises
    ------
    ValueError
        If the kind is unknown or no extra is named.
    """
    if kind not in KINDS:
        raise ValueError(f"claim {id}: kind must be one of {KINDS}, got {kind!r}")
    if not needs:
        raise ValueError(f"claim {id}: say which extra it needs")
    return _claim(id, sentence, kind, source, checks, "not checked", None, needs=needs)


def needing(claim: Claim, extra: str) -> Claim:
    """The same claim, marked as one that only a build with this optional extra can check."""
    return replace(claim, details={**claim.details, "needs": extra})


def t_half_width(sample: ArrayLike, level: float = 0.95) -> float | None:
    """Half-width of the Student t-interval of the mean; None for a single value.

    Parameters
    ----------
    sample
        Independent values, shape (n,).
    level
        Coverage, in (0, 1).
    """
    from scipy.stats import t  # here: it takes a third of a second, and most claims need none

    values = np.asarray(sample, dtype=np.float64).ravel()
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if values.size < 2:
        return None
    quantile = float(t.ppf(0.5 + level / 2, values.size - 1))
    return quantile * float(values.std(ddof=1)) / math.sqrt(values.size)


def box(claim: Claim, archived: Claim | None = None) -> str:
    """The claim as an HTML box.

    Parameters
    ----------
    claim
        What this build measured.
    archived
        The same claim as the archived full-size run measured it, shown beside.

    Returns
    -------
    str
        An ``<aside>`` whose ``id`` is :attr:`Claim.anchor`. Formulas stay between ``\\(`` and
        ``\\)``, for MathJax.
    """
    verdict_class = claim.verdict.replace(" ", "-")
    figures = [("this build", claim.summary())]
    if archived is not None:
        figures.append(("archived full-size run", f"{archived.summary()}; {archived.verdict}"))
    if claim.details.get("published") is not None:
        figures.insert(0, ("published", _quantity(claim, claim.details["published"])))
    rows = "".join(f"<dt>{label}</dt><dd>{html.escape(text)}</dd>" for label, text in figures)
    return (
        f'<aside class="claim claim-{verdict_class}" id="{claim.anchor}"'
        f' aria-label="Claim: {html.escape(claim.id)}">'
        f'<p class="claim-head"><span class="claim-verdict">{claim.verdict}</span> '
        f'<span class="claim-kind">{claim.kind}</span> '
        f'<span class="claim-source">{html.escape(claim.source)}</span></p>'
        f'<p class="claim-sentence">{sentence_html(claim.sentence)}</p>'
        f'<dl class="claim-figures">{rows}</dl></aside>'
    )


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


def _claim(
    id: str,
    sentence: str,
    kind: str,
    source: str,
    checks: str,
    verdict: str,
    value: float | None,
    **details: Any,
) -> Claim:
    if not _ID.fullmatch(id):
        raise ValueError(f"claim id {id!r} must read '<wing>/<kebab-case>'")
    for name, text in (("sentence", sentence), ("source", source), ("checks", checks)):
        if not text.strip():
            raise ValueError(f"claim {id}: {name} is empty")
    sentence_html(sentence)
    return Claim(id, sentence, kind, source, checks, verdict, value, details)


def _finite(id: str, name: str, numbers: ArrayLike) -> np.ndarray:
    values = np.asarray(numbers, dtype=np.float64)
    if values.size == 0:
        raise ValueError(f"claim {id}: {name} is empty, so nothing was checked")
    if not np.isfinite(values).all():
        bad = values.ravel()[~np.isfinite(values.ravel())][0]
        raise ValueError(f"claim {id}: {name} contains {bad}")
    return values


def _beyond(mean: float, side: str, limit: float) -> bool:
    return mean < limit if side == "<" else mean > limit


def _quantity(claim: Claim, number: float) -> str:
    unit = claim.details["unit"]
    return f"{number:.2f} {unit}" if unit != "dimensionless" else f"{number:.3g}"


def _instances(claim: Claim) -> str:
    count = claim.details["instances"]
    return f"{count:,} instance" + ("s" if count != 1 else "")


def _identity_summary(claim: Claim) -> str:
    tolerance = claim.details["tolerance"]
    return f"worst error {claim.value:.1e} (allowed {tolerance:.0e}) over {_instances(claim)}"


def _bound_summary(claim: Claim) -> str:
    return (
        f"tightest slack {claim.value:.3g} over {_instances(claim)}; "
        f"search: {claim.details['search']}"
    )


def _estimate_summary(claim: Claim) -> str:
    return (
        f"largest deviation {claim.value:.2f} standard errors "
        f"(allowed {claim.details['max_deviation']:.1f}) over {_instances(claim)}"
    )


def _outcome_summary(claim: Claim) -> str:
    half_width, seeds = claim.details["half_width"], claim.details["seeds"]
    spread = "" if half_width is None else f" ± {half_width:.2f}"
    plural = "s" if seeds != 1 else ""
    measured = f"{claim.value:.2f}{spread} {claim.details['unit']} over {seeds} seed{plural}"
    return measured + _undecided(claim)


def _undecided(claim: Claim) -> str:
    """A warning where the interval reaches across the value at which the verdict would change.

    The verdict follows the mean; with few seeds another draw of seeds could turn it.
    """
    limit, half_width = claim.details["refuted_if"], claim.details["half_width"]
    if limit is None or half_width is None or abs(claim.value - limit[1]) > half_width:
        return ""
    return f"; the interval includes {limit[1]:g}, where the verdict turns: more seeds would tell"


_SUMMARIES = {
    "identity": _identity_summary,
    "bound": _bound_summary,
    "estimate": _estimate_summary,
    "outcome": _outcome_summary,
}
