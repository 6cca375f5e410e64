"""What does a diagnosis say? Five numbers for each layer and head, and what they mean.

Shapes: ``L`` layers, ``H`` heads, ``p`` vectors in each layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Literal

import numpy as np

from promptlib.checks import check_public

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Diagnosis", "Kind"]

Kind = Literal["prefix", "free prefix", "soft prompt", "LoRA"]

NEARLY_ALL = 0.95
"""A head that gives a prefix this share hardly reads the content any more."""
HARDLY_ANY = 0.05
AT_THE_LIMIT = 0.9
"""Part of the largest share from which on the LayerNorm is called the limit."""
ONE_DIRECTION = 1.5
PAGE = 76
"""Letters of a line that a page of the book shows without scrolling."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What :func:`diagnose` found; arrays are (L, H), means over sequences and rows.

    Attributes
    ----------
    kind : {"prefix", "free prefix", "soft prompt", "LoRA"}
        A prefix passes the LayerNorm of its layers, a free one passes none.
    length : int
        Vectors ``p`` in each layer; 0 for a LoRA.
    moved : ndarray
        Total variation, in [0, 1], between relative attention over the content without and with
        what is diagnosed; NaN if the content of a head gets nothing in this precision.
    rounding : float
        Up to here `moved` is rounding.
    shares : ndarray or None
        Part of the attention taken, in [0, 1]. None for a LoRA, as are the next two.
    vectors_used : ndarray or None
        Effective number of vectors in use, from 1 to ``p``.
    bias_rank : ndarray or None
        Effective rank of the biases added; 0 if all are zero.
    reach : ndarray or None
        Share taken, relative to the most that any prefix of this length could take behind the
        LayerNorm, in [0, 1]; in a layer without one that is all. None unless `kind` is "prefix".
    """

    kind: Kind
    length: int
    moved: np.ndarray
    rounding: float
    shares: np.ndarray | None = None
    vectors_used: np.ndarray | None = None
    bias_rank: np.ndarray | None = None
    reach: np.ndarray | None = None

    def __str__(self) -> str:
        return "\n".join(fill(said, PAGE, subsequent_indent="  ") for said in self.sentences())

    def sentences(self) -> list[str]:
        """Say each of the five numbers, and what it means; also why there is none."""
        return [
            self._on_shares(),
            self._on_movement(),
            self._on_vectors(),
            self._on_bias(),
            self._on_reach(),
        ]

    def figure(self) -> tuple[Figure, str]:
        """Draw every array that there is, by layer and head; with its alternative text."""
        from promptlib.prefix_tuning.drawing import head_maps

        return head_maps(self)

    def _on_shares(self) -> str:
        if self.shares is None:
            return "Share: does not apply; a LoRA adds nothing that could be attended to."
        said = (
            f"Share: the {self.kind} takes {_percent(self.shares.mean())} of the attention on "
            f"average, from {_percent(self.shares.min())} ({_place(-self.shares)}) to "
            f"{_percent(self.shares.max())} ({_place(self.shares)})."
        )
        if self.shares.max() < HARDLY_ANY:
            return f"{said} No head reads it much: raise the learning rate, or start it larger."
        lost = int((self.shares > NEARLY_ALL).sum())
        if lost:
            return (
                f"{said} {lost} of {self.shares.size} heads give it more than "
                f"{_percent(NEARLY_ALL)} and hardly read the content: if it does not learn, "
                "start it smaller."
            )
        return f"{said} Every head still reads the content."

    def _on_movement(self) -> str:
        first, most = float(np.nanmax(self.moved[0])), float(np.nanmax(self.moved))
        still = first <= self.rounding
        said = "Relative attention over the content: "
        if self.kind == "LoRA":
            if most <= self.rounding:
                return (
                    f"{said}unchanged in every head. The LoRA re-aims nothing; if it must, put "
                    "it on queries and keys."
                )
            begin = "unchanged in layer 1, " if still else f"{_percent(first)} moves in layer 1, "
            end = "" if still else " It re-aims layer 1, which no prefix can."
            return f"{said}{begin}at most {_percent(most)} in any ({_place(self.moved)}).{end}"
        if not still:
            return (
                f"{said}{_percent(first)} moves in layer 1, which no {self.kind} can do: compare "
                "positions, mask and weights."
            )
        cannot = "To fetch from where no head looks, take a LoRA on queries and keys."
        if most <= self.rounding:
            return f"{said}unchanged in every head, as in the first layer it must be. {cannot}"
        return (
            f"{said}unchanged in layer 1, as it must be; above at most {_percent(most)} moves "
            f"({_place(self.moved)}), because those layers read something else. {cannot}"
        )

    def _on_vectors(self) -> str:
        if self.vectors_used is None:
            return "Vectors in use: does not apply; a LoRA has none."
        said = (
            f"Vectors in use: {self.vectors_used.mean():.1f} of {self.length}, mean over heads; at "
            f"most {self.vectors_used.max():.1f} ({_place(self.vectors_used)})."
        )
        if self.vectors_used.max() < self.length / 2:
            return f"{said} Fewer than half are: length is hardly what is missing."
        return said

    def _on_bias(self) -> str:
        if self.bias_rank is None:
            return "Bias: does not apply; a LoRA changes weights, and adds no vectors to heads."
        most = float(self.bias_rank.max())
        meaning = (
            "Each head pushes all positions along one line, some farther than others."
            if most < ONE_DIRECTION
            else "Where there are several, different positions are pushed different ways."
        )
        return (
            f"Bias: {self.bias_rank.mean():.1f} directions in effect, mean over heads; at most "
            f"{most:.1f} ({_place(self.bias_rank)}). {meaning}"
        )

    def _on_reach(self) -> str:
        if self.kind == "LoRA":
            return "Reach: does not apply; a LoRA takes no share."
        if self.kind == "soft prompt":
            return (
                "Reach: not computed; the keys of a soft prompt are made by the layers below, and "
                "how they are normalised differs between architectures."
            )
        if self.reach is None:
            return "Reach: no limit; no LayerNorm bounds the keys of a free prefix."
        most = float(self.reach.max())
        said = (
            f"Reach: {_percent(self.reach.mean())} of the share that the LayerNorm allows, "
            f"mean over heads; at most {_percent(most)} ({_place(self.reach)})."
        )
        if most > AT_THE_LIMIT:
            return f"{said} There it is the limit: take more vectors, or free keys."
        return f"{said} It is not the limit."


def _percent(share: float) -> str:
    percent = 100 * float(share)
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else f"{percent:.1g} %"


def _place(values: np.ndarray) -> str:
    """Where the largest is, counted from one."""
    layer, head = np.unravel_index(np.nanargmax(values), values.shape)
    return f"layer {layer + 1}, head {head + 1}"


check_public(__name__)
