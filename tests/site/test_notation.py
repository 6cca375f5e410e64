"""The page of notation: what the chapters write often is on it, and what is on it is written."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from workflow import sources
from workflow.sources import Source

PROJECT = Path(__file__).resolve().parents[2]
OFTEN = 8
"""In more formulas than this a letter of a chapter needs a row."""
GREEK = (
    r"(?:var)?(?:epsilon|phi|rho)|[aA]lpha|[bB]eta|[gG]amma|[dD]elta|[zZ]eta|eta|[tT]heta|kappa|"
    r"[lL]ambda|mu|nu|[xX]i|[pP]i|[sS]igma|tau|[pP]hi|chi|[pP]si|[oO]mega|ell"
)
FONTS = r"\\(?:text|math\w+|operatorname|begin|end|label|ref|bigl|Bigl)\b\s*(?:\*?\{[^}]*\}|[A-Z])"
"""Words in a formula, and letters in a face of their own, which mean what they do everywhere."""
PART = {"prompt_attention": "Part I", "bridge": "Between the parts", "prefix_tuning": "Part II"}


def letters(formula: str) -> set[str]:
    """Latin and Greek letters of a formula, without the names of commands."""
    found = re.findall(r"\\[A-Za-z]+|[A-Za-z]", re.sub(FONTS, " ", formula))
    return {one for one in found if len(one) == 1 or re.fullmatch(GREEK, one[1:])}


def formulas(text: str) -> list[str]:
    """All formulas of a page, displayed and in lines; code is left out."""
    text = re.sub(r"^(`{3,})\{code-cell\}.*?^\1$|^```python$.*?^```$", "", text, flags=re.M | re.S)
    shown = re.findall(r"\$\$(.*?)\$\$|^```\{math\}(.*?)^```$", text, re.M | re.S)
    rest = re.sub(r"\$\$.*?\$\$|^```\{math\}.*?^```$", " ", text, flags=re.M | re.S)
    inline = re.findall(r"\$([^$\n]+(?:\n[^$\n]+)?)\$", rest)
    return ["".join(pair) for pair in shown] + inline


@cache
def tables() -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Of each table its part, the chapters that it names, and its rows as cells."""
    found, part, chapters = [], "", ()
    page = (PROJECT / "book" / "notation.md").read_text(encoding="utf-8")
    for block in re.split(r"\n{2,}", page):
        if block.startswith("## "):
            part, chapters = block.removeprefix("## ").splitlines()[0].partition(":")[0], ()
        elif block.startswith("| "):
            rows = [re.split(r"\s*(?<!\\)\|\s*", line)[1:-1] for line in block.splitlines()[2:]]
            found.append((part, chapters, rows))
        elif named := re.findall(r"\{doc\}`([^`]+)`", block):
            chapters = tuple(named)
    return found


def indices() -> list[tuple[str, str]]:
    """The sentences of the page that say what indices are for, each with its part."""
    page = (PROJECT / "book" / "notation.md").read_text(encoding="utf-8")
    found = []
    for part in page.split("\n## ")[1:]:
        sentences = re.findall(r"Indices [^.]*\.", part)
        found += [(part.splitlines()[0].partition(":")[0], sentence) for sentence in sentences]
    return found


def known(chapter: str) -> set[str]:
    """Letters that the page explains to readers of a chapter: those of its part, and of both."""
    part = PART[chapter.partition("/")[0]]
    parts = {"In both parts", *(PART.values() if part == "Between the parts" else [part])}
    said = [row[0] for one, _, rows in tables() if one in parts for row in rows]
    said += [sentence for one, sentence in indices() if one in parts]
    return letters(" ".join(formula for text in said for formula in formulas(text))) | {*"eij"}


def test_the_page_is_read():
    assert {part for part, _, _ in tables()} == {"In both parts", *PART.values()}
    named = {chapter for _, chapters, _ in tables() for chapter in chapters}
    assert named <= set(sources.names())
    assert letters(r"\alpha_i\, W_K^\top \mathcal{N}(0, \text{if } x)") == {
        *(r"\alpha", "i", "W", "K", "x")
    }
    assert [part for part, _ in indices()] == ["Part I", "Part II"]
    assert formulas("a $b$ and $$c$$\n```{code-cell} x\n$d$\n```\n") == ["c", "b"]


@pytest.mark.parametrize("chapter", sources.names())
def test_letters_that_a_chapter_writes_often_are_explained(chapter):
    counted: Counter[str] = Counter()
    for formula in formulas(Source(chapter).path.read_text(encoding="utf-8")):
        counted.update(letters(formula))
    often = {letter for letter, count in counted.items() if count > OFTEN}
    assert often - known(chapter) == set()


@pytest.mark.parametrize("chapter", sources.names())
def test_what_a_table_explains_of_a_chapter_the_chapter_writes(chapter):
    def bare(formula: str) -> str:
        return re.sub(r"\\[,;!]|[\s{}]", "", formula)

    written = formulas(Source(chapter).path.read_text(encoding="utf-8"))
    used = {letter for formula in written for letter in letters(formula)}
    text = bare(" ".join(written))
    for _, chapters, rows in tables():
        if chapters == (chapter,):
            for row in rows:
                for symbol in re.findall(r"\$([^$]+)\$", row[0]):
                    assert letters(symbol) <= used, f"{symbol} of {chapter}"
                    if re.fullmatch(r"\\?\w+_\{?\w+\}?", symbol):  # a letter with its index
                        assert bare(symbol).partition("_")[0] + "_" in text, symbol


@pytest.mark.parametrize("part", ["In both parts", *PART.values()])
def test_a_table_explains_no_symbol_twice(part):
    for _, chapters, rows in (table for table in tables() if table[0] == part):
        symbols = [one for row in rows for one in re.findall(r"\$([^$]+)\$", row[0])]
        twice = {symbol for symbol, count in Counter(symbols).items() if count > 1}
        assert twice <= {"A"}, chapters  # the page says when it is a matrix and when a number
