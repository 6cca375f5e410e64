"""How does a statement of the book become something that the build can refute?

Four kinds, after what it takes to be wrong:

identity
    equality to rounding, on many random instances in float64; the worst error counts;
bound
    an inequality on many instances, adversarial search included; the tightest slack counts;
estimate
    a formula against a Monte Carlo mean, in standard errors of the mean;
outcome
    a trained result over seeds: whether its sentence is true, and whether it is what was published.

The first three are mathematical: they *hold* or they *fail*. An outcome is *supported*,
*contradicted* or *undecided* by its interval; one seed is a *single run*, and without its controls
it is *uninformative*. See `promptlib.claims.outcomes`.

A claim that needs an optional extra of the project is shown when the extra is not installed, too,
with the verdict *not checked* (`not_checked`); where it is installed the build insists on it.

Each function is pure: it takes what was measured, decides, and returns a `Claim`. A chapter keeps
its claims as one table of rows (`promptlib.claims.rows`), which `check` judges. In a notebook a
claim is the last expression of its cell; what Jupyter then displays carries the claim three times:
as a box to look at, as text, and as JSON under `MIME_TYPE`, which the build collects.
"""

from promptlib.claims.box import box, sentence_html
from promptlib.claims.claim import Claim
from promptlib.claims.mathematics import bound, estimate, identity, needing, not_checked
from promptlib.claims.outcomes import Published, decide, judge_again, outcome
from promptlib.claims.rows import Bound, Estimate, Identity, Outcome, Row, check, check_each
from promptlib.claims.statistics import holm, interval, p_value, t_half_width
from promptlib.claims.words import HERE, KINDS, MIME_TYPE, REPLICATIONS, VERDICTS

__all__ = [
    "HERE",
    "KINDS",
    "MIME_TYPE",
    "REPLICATIONS",
    "VERDICTS",
    "Bound",
    "Claim",
    "Estimate",
    "Identity",
    "Outcome",
    "Published",
    "Row",
    "bound",
    "box",
    "check",
    "check_each",
    "decide",
    "estimate",
    "holm",
    "identity",
    "interval",
    "judge_again",
    "needing",
    "not_checked",
    "outcome",
    "p_value",
    "sentence_html",
    "t_half_width",
]
