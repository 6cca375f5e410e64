"""What does an executed notebook need before it can be a page of the book?

The outputs of an execution, woven into the current prose, carry what belongs to that one execution
(messages on stderr, progress bars) and lack what a page needs (the parameters as a table, the
archived figure beside ours, where to download the notebook). :func:`prepare` turns the one into the
other and refuses a notebook that would make a bad page.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptlib import claims
from promptlib.claims import Claim
from workflow.sources import BuildError

IMAGE_TYPES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")
WIDGET = "application/vnd.jupyter.widget-view+json"
MIN_ALT = 20
"""Shortest alternative text that can say what is seen."""


@dataclass(frozen=True)
class Parameter:
    """One line of the cell tagged ``parameters``, and what this build made of it.

    Attributes
    ----------
    name
        Name of the variable.
    default
        Its literal in the notebook's source, as Python code.
    used
        The literal that this build used.
    meaning
        The comment behind it: unit and range.
    """

    name: str
    default: str
    used: str
    meaning: str


@dataclass(frozen=True)
class Prepared:
    """A notebook ready to be staged.

    Attributes
    ----------
    notebook
        The notebook as plain JSON data (nbformat 4).
    title
        Text of its first heading.
    parameters
        The parameters that this build used.
    claims
        Ids of the claims that it shows, in order.
    noise
        What was removed from the page, cell by cell: messages on stderr, and widgets.
    headline
        Those of its claims that archived runs answer at the published size, beside a figure.
    turned
        Those of its outcomes to which the archived runs give another verdict than this build's.
    """

    notebook: dict[str, Any]
    title: str
    parameters: tuple[Parameter, ...]
    claims: tuple[str, ...]
    noise: tuple[str, ...]
    headline: tuple[Claim, ...] = ()
    turned: tuple[Claim, ...] = ()


def prepare(
    notebook: Mapping[str, Any],
    name: str,
    profile: str,
    archived: Mapping[str, claims.Claim] | None = None,
    decided: Mapping[str, claims.Claim] | None = None,
    recorded: Mapping[str, str] | None = None,
) -> Prepared:
    """Make an executed notebook ready for the site.

    Parameters
    ----------
    notebook
        Notebook with outputs, in the shape of nbformat 4; left as it is.
    name
        Path of the notebook without suffix, such as ``"prefix_tuning/new_task"``.
    profile
        Profile that it was executed under.
    archived
        The claims as judged from the archived full-size run, by id.
    decided
        The claims as the chapter's outcomes were judged together, by id; these are shown in place
        of those that the cells judged alone.
    recorded
        The verdicts that the book records, by id, where they are not this build's.

    Raises
    ------
    BuildError
        If a cell failed, a figure has no alternative text, a cell shows two figures, the notebook
        does not open with a heading, or it has no cell tagged ``parameters``.
    """
    content = json.loads(json.dumps(notebook))
    cells = content["cells"]
    title = _title(cells, name)
    parameters = _parameters(cells, name)
    noise: list[str] = []
    shown: list[str] = []
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] != "code":
            continue
        where = f"{name}, cell {number}"
        _refuse_errors(cell, where)
        noise += _drop_noise(cell, where)
        _describe_figures(cell, where)
        shown += _redraw_claims(cell, archived or {}, decided or {}, recorded or {})
    before = [archived[claim] for claim in shown if claim in archived] if archived else []
    headline = tuple(filter(_is_headline, before))
    turned = tuple(
        claim
        for claim in before
        if claim.kind == "outcome" and decided and claim.verdict != decided[claim.id].verdict
    )
    content["cells"] = _page_cells(cells, name, profile, parameters, bool(headline or turned))
    for number, cell in enumerate(content["cells"]):
        cell["id"] = f"cell-{number}"
    return Prepared(content, title, parameters, tuple(shown), tuple(noise), headline, turned)


def read_parameters(source: str) -> dict[str, tuple[str, str]]:
    """The assignments of a parameters cell: name -> (literal as code, comment).

    Parameters
    ----------
    source
        Python code made of ``name = literal  # comment`` lines; the comment may also stand on the
        lines above.

    Raises
    ------
    ValueError
        If the cell holds anything else than assignments of literals to single names.
    """
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    found: dict[str, tuple[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            raise ValueError(f"line {node.lineno} is no assignment: {lines[node.lineno - 1]!r}")
        if not isinstance(target, ast.Name):
            raise ValueError(f"line {node.lineno} does not assign to one name")
        try:
            ast.literal_eval(value)
        except ValueError:
            raise ValueError(f"line {node.lineno}: {target.id} is no plain literal") from None
        span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        beside = [comments[line] for line in span if line in comments]
        found[target.id] = (ast.unparse(value), " ".join(beside or _above(node.lineno, lines)))
    return found


def _above(line: int, lines: list[str]) -> list[str]:
    block: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        block.insert(0, text.strip().lstrip("#").strip())
    return block


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _is_injected(cell: Mapping[str, Any]) -> bool:
    return "injected-parameters" in _tags(cell)


def _source(cell: Mapping[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(value)


def _title(cells: list[dict[str, Any]], name: str) -> str:
    if cells and cells[0]["cell_type"] == "markdown":
        heading = re.match(r"(?:\([^)\n]*\)=\n+)?# +(.+)", _source(cells[0]).lstrip())
        if heading:
            return re.sub(r"[*`]", "", heading[1]).strip()
    raise BuildError(f"{name}: the first cell must open with a heading '# …'")


def _parameters(cells: list[dict[str, Any]], name: str) -> tuple[Parameter, ...]:
    tagged = [cell for cell in cells if "parameters" in _tags(cell)]
    if len(tagged) != 1:
        raise BuildError(
            f"{name}: needs exactly one code cell tagged 'parameters', found {len(tagged)}"
        )
    try:
        defaults = read_parameters(_source(tagged[0]))
        injected = "\n".join(_source(cell) for cell in cells if _is_injected(cell))
        used = {key: literal for key, (literal, _) in read_parameters(injected).items()}
    except (SyntaxError, ValueError) as error:
        raise BuildError(f"{name}: parameters cell: {error}") from None
    unknown = sorted(set(used) - set(defaults))
    if unknown:
        raise BuildError(
            f"{name}: executed with parameters that its parameters cell does not name: "
            + ", ".join(unknown)
        )
    return tuple(
        Parameter(key, default, used.get(key, default), meaning)
        for key, (default, meaning) in defaults.items()
    )


def _refuse_errors(cell: Mapping[str, Any], where: str) -> None:
    for output in cell.get("outputs", []):
        if output["output_type"] == "error":
            raise BuildError(
                f"{where} failed with {output.get('ename')}: {output.get('evalue')}; "
                "run the notebook again before building the site"
            )


def _drop_noise(cell: dict[str, Any], where: str) -> list[str]:
    """Remove what cannot be part of a page: messages on stderr, and widgets without a kernel."""
    kept, noise = [], []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream" and output.get("name") == "stderr":
            noise.append(f"{where}, on stderr: {_text(output['text']).strip()}")
        elif WIDGET in output.get("data", {}):
            noise.append(
                f"{where}, a widget: {_text(output['data'].get('text/plain', '')).strip()}"
            )
        else:
            kept.append(output)
    cell["outputs"] = kept
    return noise


def _describe_figures(cell: dict[str, Any], where: str) -> None:
    """Give the cell the alternative text of its figure, where myst-nb looks for it."""
    figures = [
        output
        for output in cell.get("outputs", [])
        if any(kind in output.get("data", {}) for kind in IMAGE_TYPES)
    ]
    if not figures or "remove-output" in _tags(cell) or "remove-cell" in _tags(cell):
        return
    if len(figures) > 1:
        raise BuildError(f"{where} shows {len(figures)} figures; show one figure in a cell")
    if "figure" in cell["metadata"].get("mystnb", {}) and len(cell["outputs"]) > 1:
        raise BuildError(
            f"{where} is a numbered figure and shows something else too; show that in another cell"
        )
    image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
    alt = " ".join(str(figures[0].get("metadata", {}).get("alt") or image.get("alt", "")).split())
    if len(alt) < MIN_ALT:
        raise BuildError(
            f"{where} shows a figure without alternative text (got {alt!r}); "
            "use promptlib.plotting.show(figure, alt='what is seen, with its numbers')"
        )
    image["alt"] = alt


def _redraw_claims(
    cell: dict[str, Any],
    archived: Mapping[str, claims.Claim],
    decided: Mapping[str, claims.Claim],
    recorded: Mapping[str, str],
) -> list[str]:
    """Draw the boxes anew, with what one cell alone could not know; returns the claims' ids."""
    shown = []
    for output in cell.get("outputs", []):
        record = output.get("data", {}).pop(claims.MIME_TYPE, None)
        if record is None:
            continue
        claim = claims.Claim.from_json(record)
        claim = decided.get(claim.id, claim)
        box = claims.box(claim, archived.get(claim.id), recorded.get(claim.id))
        output["data"]["text/html"] = box
        shown.append(claim.id)
    return shown


def _page_cells(
    cells: list[dict[str, Any]],
    name: str,
    profile: str,
    parameters: tuple[Parameter, ...],
    headline: bool,
) -> list[dict[str, Any]]:
    page: list[dict[str, Any]] = []
    for position, cell in enumerate(cells):
        tags = _tags(cell)
        if _is_injected(cell):
            continue
        if position == 0:
            cell["source"] = _with_header(_source(cell), name, headline)
        if "parameters" in tags and parameters:
            if not {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags):
                cell["metadata"]["tags"] = [*tags, "hide-input"]
            page += [cell, _markdown(_parameter_table(parameters, profile))]
        else:
            page.append(cell)
    page.append(_markdown(f"```{{chapter-code}} {name}\n```"))
    return page


def _is_headline(claim: Claim) -> bool:
    """Whether an archived claim has a published figure, and the published size to compare at."""
    published = claim.details.get("published")
    return published is not None and not published["differs"]


def _with_header(source: str, name: str, headline: bool) -> str:
    heading = re.match(r"\s*(?:\([^)\n]*\)=\n+)?# +.+\n?", source)
    assert heading is not None  # _title has seen it
    header = f"```{{notebook-header}} {name}\n```"
    if headline:
        header += f"\n\n```{{published-size}} {name}\n```"
    return f"{heading[0].rstrip()}\n\n{header}\n\n{source[heading.end() :]}"


def _markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _parameter_table(parameters: tuple[Parameter, ...], profile: str) -> str:
    changed = any(parameter.used != parameter.default for parameter in parameters)
    head = ["Parameter", "This build", "In the notebook", "Meaning"]
    rows = [
        [
            f"`{parameter.name}`",
            f"`{parameter.used}`",
            f"`{parameter.default}`",
            re.sub(r"([\\`*_{}\[\]<>$|~])", r"\\\1", parameter.meaning),
        ]
        for parameter in parameters
    ]
    keep = [0, 1, 2, 3] if changed else [0, 1, 3]
    lines = [[head[column] for column in keep], ["---"] * len(keep)]
    lines += [[row[column].replace("\n", " ") for column in keep] for row in rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f":::{{parameter-table}} {profile}\n{table}\n:::"
