"""Which notebooks, with which parameters and training runs, make up this profile?

A profile is a file ``config/<name>.yml``:

    runs_per_process: <number>               # optional: short runs may share a process; else 1
    notebooks:
      <wing>/<notebook>:
        parameters: {<name>: <value>}        # in place of the defaults in the notebook
        runs: <module>:<function>            # optional: plan of the training runs it shows
        needs: <extra>                       # optional: extra without which it shows no results
        archived: <module>:<function>        # optional: its claims from archived metrics alone

``<name>@<seed>`` and ``<name>@<seed>-<label>`` are variants of a profile: all notebooks with their
first seeds moved to this number (`FIRST_SEEDS`). ``make robust`` runs them; the label keeps apart
what differs in something that no parameter says, such as the processor path.

The plan is called with those of the notebook's parameters that it takes by name and returns the
:class:`promptlib.runs.Run` objects, so that a notebook and the workflow always mean the same runs.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import yaml

from promptlib.runs import Run
from workflow import extras
from workflow.sources import ROOT, BuildError, Source, names, suggestion

CONFIG = ROOT / "config"
NOT_PROFILES = {"verdicts"}
FIRST_SEEDS = ("seed", "first_seed")
"""Parameters that a variant of a profile sets, in mappings of parameters, too."""
_kept: dict[str, Profile] = {}
_VARIANT = re.compile(r"(?P<name>[^@]+)@(?P<seed>\d+)(-[a-z0-9]+)?")


@dataclass(frozen=True)
class NotebookPlan:
    """A notebook of a profile: its source, every parameter, the plan of its runs, its extra."""

    source: Source
    parameters: Mapping[str, Any]
    plan: str | None = None
    needs: str | None = None
    archived: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What decides the notebook's outputs, apart from the modules it reaches."""
        key = self.source.code_key(self.parameters)
        return {**key, "extras": extras.state(self.needs)} if self.needs else key

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The notebook's training runs, each after the runs it needs."""
        if self.plan is None:
            return ()
        ordered: dict[str, Run] = {}
        for run in self.planned:
            _add(run, ordered)
        return tuple(ordered.values())

    @cached_property
    def planned(self) -> Any:
        """What the notebook's plan returns for its parameters; iterating yields its runs."""
        plan = named(self.plan, f"{self.source.name}: no plan")
        accepted = inspect.signature(plan).parameters
        arguments = {name: value for name, value in self.parameters.items() if name in accepted}
        try:
            return plan(**arguments)
        except (TypeError, ValueError) as error:
            raise BuildError(f"{self.source.name}: {error}") from error


@dataclass(frozen=True)
class Profile:
    """A named set of notebooks with their parameters, and how many runs may share a process."""

    name: str
    notebooks: tuple[NotebookPlan, ...]
    runs_per_process: int = 1

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All runs by name, each after the runs it needs."""
        return {run.name: run for plan in self.notebooks for run in plan.runs}

    @cached_property
    def first_wanted(self) -> dict[str, tuple[str, str]]:
        """By the name of a run the first notebook that wants it, and its training function."""
        found: dict[str, tuple[str, str]] = {}
        for plan in self.notebooks:
            for run in plan.runs:
                found.setdefault(run.name, (plan.source.name, run.train.partition(":")[2]))
        return found

    @property
    def base(self) -> str:
        """Name of the profile that this is a variant of; its own if it is none."""
        return base_name(self.name)

    def notebook(self, name: str) -> NotebookPlan:
        """The plan of one notebook; BuildError if the profile has none of that name."""
        for plan in self.notebooks:
            if plan.source.name == name:
                return plan
        known = [plan.source.name for plan in self.notebooks]
        raise BuildError(
            f"there is no notebook {name!r}{suggestion(name, known)}; there are: {', '.join(known)}"
        )


def named(path: str | None, missing: str) -> Any:
    """The object that ``"package.module:name"`` names; BuildError, which says what is missing."""
    module_name, _, name = str(path).partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BuildError(f"{missing} {path!r}: {error}") from error


def base_name(profile: str) -> str:
    """Name of the profile that one is a variant of: ``"quick"`` for ``"quick@100"``."""
    return profile.partition("@")[0]


def profile_names() -> list[str]:
    """Names of the profiles in ``config``."""
    return sorted(path.stem for path in CONFIG.glob("*.yml") if path.stem not in NOT_PROFILES)


def keep_profile(name: str) -> Profile:
    """Load a profile and its runs once for this process and its forks.

    Raises
    ------
    BuildError
        As `load_profile` does.
    """
    profile = load_profile(name)
    assert profile.runs is not None  # computed now
    _kept[name] = profile
    return profile


def load_profile(name: str) -> Profile:
    """Read and check a profile.

    Raises
    ------
    BuildError
        For an unknown profile, notebook, key or parameter, or a value of the wrong type or range.
    """
    if name in _kept:
        return _kept[name]
    variant = _VARIANT.fullmatch(name)
    if variant is not None:
        return _moved(load_profile(variant["name"]), name, int(variant["seed"]))
    if name not in profile_names():
        raise BuildError(
            f"there is no profile {name!r}{suggestion(name, profile_names())}; "
            f"there are: {', '.join(profile_names())} (files in config/)"
        )
    where = f"config/{name}.yml"
    try:
        content = yaml.safe_load((CONFIG / f"{name}.yml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BuildError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("notebooks"), dict):
        raise BuildError(f"{where}: expected a mapping with the key 'notebooks'")
    _refuse_unknown(where, content, ("notebooks", "runs_per_process"))
    limit = content.get("runs_per_process", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise BuildError(
            f"{where}: runs_per_process must be a whole number >= 1, got {limit!r}; "
            "leave it out for one training run a process"
        )
    missing = sorted(set(names()) - set(content["notebooks"]))
    if missing:
        raise BuildError(f"{where} does not say how to run {', '.join(missing)}")
    plans = []
    for notebook, entry in content["notebooks"].items():
        entry = entry or {}
        _refuse_unknown(f"{where}, {notebook}", entry, ("parameters", "runs", "needs", "archived"))
        needs = entry.get("needs")
        if needs is not None and needs not in extras.extras():
            raise BuildError(
                f"{where}, {notebook}: there is no extra {needs!r} in pyproject.toml"
                f"{suggestion(str(needs), extras.extras())}"
            )
        source = Source(notebook)
        parameters = source.check_parameters(entry.get("parameters") or {}, where)
        plans.append(
            NotebookPlan(source, parameters, entry.get("runs"), needs, entry.get("archived"))
        )
    return Profile(name, tuple(plans), limit)


def _moved(profile: Profile, name: str, first_seed: int) -> Profile:
    """The same profile with other first seeds, under another name."""
    plans = tuple(
        replace(plan, parameters=_with_seed(plan.parameters, first_seed))
        for plan in profile.notebooks
    )
    return replace(profile, name=name, notebooks=plans)


def _with_seed(parameters: Mapping[str, Any], first_seed: int) -> dict[str, Any]:
    return {
        name: first_seed
        if name in FIRST_SEEDS
        else _with_seed(value, first_seed)
        if isinstance(value, Mapping)
        else value
        for name, value in parameters.items()
    }


def _add(run: Run, ordered: dict[str, Run]) -> None:
    for needed in run.needs:
        _add(needed, ordered)
    ordered[run.name] = run


def _refuse_unknown(where: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in entry:
        if key not in known:
            raise BuildError(
                f"{where}: unknown key {key!r}{suggestion(key, known)}; known: {', '.join(known)}"
            )
