"""What do the generated tables of the reproducibility page say? Each is made of ``build.json``."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from promptlib.claims import VERDICTS

Relative = Callable[[str], str]
"""From a path from the site's root to an address relative to the page."""


def duration(seconds: float) -> str:
    """A duration in words: ``8.3 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def table(
    caption: str,
    head: Iterable[str],
    rows: Iterable[Iterable[str]],
    show_caption: bool = False,
) -> str:
    """An HTML table; the first cell of a row is its heading. Cells are HTML already.

    The caption names the table for screen readers; it is shown where no heading above says it.
    """
    hidden = "" if show_caption else ' class="visually-hidden"'
    caption = html.escape(caption)
    header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for first, *rest in rows:
        body += f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest)
        body += "</tr>\n"
    return (
        f'<div class="build-table" role="region" aria-label="{caption}" tabindex="0">'
        f'<table class="table"><caption{hidden}>{caption}</caption>'
        f"<thead><tr>{header}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>"
    )


def measured(text: str) -> str:
    """Mark what differs between two builds of the same commit."""
    return f'<span class="measured">{html.escape(text)}</span>'


def _versions(relative: Relative, build: dict[str, Any]) -> str:
    rows = [[html.escape(name), html.escape(text)] for name, text in build["versions"].items()]
    return table("Versions", ["Package", "Version"], rows)


def _machine(relative: Relative, build: dict[str, Any]) -> str:
    rows = [[name.capitalize(), measured(text)] for name, text in build["machine"].items()]
    return table("Machine", ["Part", "This build"], rows)


def _notebooks(relative: Relative, build: dict[str, Any]) -> str:
    rows = [
        [
            f'<a href="{relative(item["name"] + ".html")}">{html.escape(item["title"])}</a>',
            measured(duration(item["seconds"])),
            measured(f"{item['peak_memory_mib']:,.0f} MiB"),
        ]
        for item in build["notebooks"]
    ]
    return table("Notebooks", ["Notebook", "Time", "Peak memory"], rows)


def _parameters(relative: Relative, build: dict[str, Any]) -> str:
    tables = []
    for item in build["notebooks"]:
        rows = [
            [
                f"<code>{html.escape(parameter['name'])}</code>",
                f"<code>{html.escape(parameter['used'])}</code>",
                html.escape(parameter["meaning"]),
            ]
            for parameter in item["parameters"]
        ]
        head = ["Parameter", "This build", "Meaning"]
        tables.append(table(item["title"], head, rows, show_caption=True))
    return "\n".join(tables)


def _runs(relative: Relative, build: dict[str, Any]) -> str:
    """The runs of each training function together, and all of them one by one in a fold."""
    if not build["runs"]:
        return '<p class="build-empty">This build trained no model.</p>'
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in build["runs"]:
        groups.setdefault(run["train"], []).append(run)
    summary, single = [], []
    for train, runs in groups.items():
        took = [float(run["seconds"]) for run in runs]
        seeds = sorted({run["config"]["seed"] for run in runs if "seed" in run["config"]})
        summary.append(
            [
                f"<code>{html.escape(train.partition(':')[2])}</code>",
                str(len(runs)),
                ", ".join(map(str, seeds)) or "none",
                measured(duration(sum(took))),
                measured(duration(max(took))),
            ]
        )
        single += [
            [f"<code>{html.escape(run['name'])}</code>", measured(duration(float(run["seconds"])))]
            for run in runs
        ]
    head = ["Training function", "Runs", "Seeds", "All together", "Longest"]
    every = table("Every training run", ["Run", "Training time"], single)
    return (
        table("Training runs", head, summary)
        + '<details class="build-details"><summary>Every run, as it is called in the store'
        + f"</summary>{every}</details>"
    )


def _one_seed(relative: Relative, build: dict[str, Any]) -> str:
    """One seed of every experiment at the published size, as it was archived."""
    archived = build["one_seed"]
    if archived is None:
        return '<p class="build-empty">No run at the published sizes has been archived.</p>'
    rows = [
        [
            html.escape(f"{row['experiment']}, {row['what']}"),
            html.escape(row["task"].replace("_", " ")),
            "" if row["published"] is None else f"{row['published']:.2f}",
            f"{row['percent']:.2f}",
            f"{row['steps']:,}",
            duration(row["seconds"]) if row["seconds"] else "",
        ]
        for row in archived["rows"]
    ]
    total = duration(sum(row["seconds"] for row in archived["rows"]))
    rows.append(["All together, on one core", "", "", "", "", total])
    head = ["Experiment", "Task", "Published, %", "Here, %", "Steps", "Training time"]
    return table("One seed at the published sizes", head, rows)


def _published_cost(relative: Relative, build: dict[str, Any]) -> str:
    """What the archived full-size runs of each chapter took on their card, and would on a core."""
    found = build["published_cost"]
    if found is None:
        return '<p class="build-empty">No chapter has been archived that a GPU trained.</p>'
    titles = {item["name"]: item["title"] for item in build["notebooks"]}
    order = [*titles, None]  # all chapters together come last
    rows = []
    for cost in sorted(
        (one for one in found if one["name"] in order), key=lambda one: order.index(one["name"])
    ):
        name, hours = cost["name"], cost["core_hours"]
        first = "All together, each run once"
        if name is not None:
            first = f'<a href="{relative(name + ".html")}">{html.escape(titles[name])}</a>'
        rows.append(
            [
                first,
                f"{cost['runs']:,}",
                f"{duration(cost['card_seconds'])}, {html.escape(cost['card'])}",
                f"{cost['alone']}: {duration(cost['alone_seconds'])}" if cost["alone"] else "",
                "" if hours is None else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}",
            ]
        )
    head = [
        "Chapter",
        "Runs on the card",
        "Together there",
        "Runs beside it, on its processor",
        "All of them on one core, hours (estimated)",
    ]
    return table("What the published sizes cost", head, rows)


def _robust(relative: Relative, build: dict[str, Any]) -> str:
    """How the claims came out in repetitions: those that differed one by one, the rest counted."""
    found = build["robust"]
    if found is None or not found["cases"]:
        return (
            '<p class="build-empty">The repetitions have not been run; '
            "<code>make robust</code> runs them.</p>"
        )
    cases = found["cases"]
    one_by_one = [
        [
            f"<code>{html.escape(case['name'])}</code>",
            str(case["first_seed"]),
            html.escape(case["path"]),
            html.escape(case["processor"]),
            f'<span class="nowrap">{html.escape(case["date"])}</span>',
        ]
        for case in cases
    ]
    head = ["Repetition", "First seed", "Instructions", "Processor", "Date"]
    machines = table("Repetitions and their machines", head, one_by_one, show_caption=True)
    mixed = {name: counts for name, counts in found["claims"].items() if len(counts) > 1}
    same = Counter(next(iter(counts)) for counts in found["claims"].values() if len(counts) == 1)
    words = ", ".join(f"{same[verdict]} {verdict}" for verdict in VERDICTS if same[verdict])
    gate = "The gate was open in every repetition."
    if found["gate"]:
        items = "".join(f"<li>{html.escape(problem)}</li>" for problem in found["gate"])
        gate = f"The gate was closed by:</p><ul>{items}</ul><p>"
    text = (
        f"<p>Of {len(found['claims'])} claims, {sum(same.values())} came out the same way in all "
        f"{len(cases)} repetitions{f' ({words})' if words else ''}. {gate}</p>"
    )
    if not mixed:
        return machines + text
    rows = []
    for name, counts in sorted(mixed.items(), key=lambda item: max(item[1].values())):
        shown = f"<code>{html.escape(name)}</code>"
        if name in build["anchors"]:
            address = f"{relative('ledger.html')}#ledger-{build['anchors'][name]}"
            shown = f'<a href="{address}">{shown}</a>'
        often = (f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
        rows.append([shown, ", ".join(often)])
    caption = "Claims that did not come out the same way every time, the least settled first"
    counted = table(caption, ["Claim", "How often which verdict"], rows, show_caption=True)
    return machines + text + counted.replace("build-table", "build-table build-counts", 1)


TABLES: dict[str, Callable[[Relative, dict[str, Any]], str]] = {
    "versions": _versions,
    "machine": _machine,
    "notebooks": _notebooks,
    "parameters": _parameters,
    "runs": _runs,
    "one-seed": _one_seed,
    "published-cost": _published_cost,
    "robust": _robust,
}
