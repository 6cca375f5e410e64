"""Which training run is this, and has it been done before?

A run is named by what decides its result: the training function, every number in its config, the
runs whose weights it starts from, the definitions that the function reaches (docstrings and
comments aside; see `promptlib.digests.reach`), and the version of torch. The store keeps one folder
for each run:

    <name>/metrics.json         what was measured; the same bytes each time
    <name>/weights.safetensors  tensors, no pickle
    <name>/provenance.json      config, versions, machine, seconds, and checksums of the other two

A run is written beside its place and moved there when complete, under a lock that dies with the
process holding it. So a run is either there and whole, or not there; a folder that fails its
checksums is reported, put aside, and trained again.

This module loads torch only to train or to read weights: the workflow plans with it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptlib.digests import PACKAGE, reached
from promptlib.progress import progress_bar
from promptlib.registry import covering

if TYPE_CHECKING:
    from torch import Tensor

FILES = ("metrics.json", "weights.safetensors")


class CorruptRunWarning(UserWarning):
    """A stored run did not match its checksums; it was put aside and is trained again."""


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes
    ----------
    metrics
        JSON-able measurements by name.
    tensors
        Weights by name; may be empty.
    """

    metrics: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


Train = Callable[[Mapping[str, Any], Sequence[Result], Callable[..., Iterator[Any]]], Result]
"""``train(config, needs, progress)``: ``needs`` are the results of :attr:`Run.needs` in order,
``progress`` is :func:`promptlib.progress.progress_bar`."""


@dataclass(frozen=True)
class Run:
    """A training run, as data.

    Attributes
    ----------
    train
        ``"package.module:function"`` of a :data:`Train` function, in ``promptlib`` or in the
        ``notebooks`` of the project.
    config
        Every number the function is given, seed and steps included, and the names that it looks up
        in a :class:`promptlib.registry.Registry`; JSON-able.
    needs
        Runs whose results the function starts from.
    """

    train: str
    config: Mapping[str, Any]
    needs: tuple[Run, ...] = ()

    def __post_init__(self) -> None:
        if self.train.count(":") != 1:
            raise ValueError(f"train must read 'package.module:function', got {self.train!r}")
        try:
            _json_bytes(self.config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the config of {self.train} is not JSON-able: {error}") from error

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """SHA-256 over all that decides the result, 64 hexadecimal digits."""
        identity = {
            "train": self.train,
            "config": self.config,
            "needs": [run.key for run in self.needs],
            "code": reached(self.train, self.config).digest,
            "torch": _torch_version(),
        }
        return hashlib.sha256(_json_bytes(identity)).hexdigest()

    @property
    def name(self) -> str:
        """Folder name in the store: function, seed if there is one, and the key's beginning."""
        seed = f"-seed{self.config['seed']}" if "seed" in self.config else ""
        return f"{self.train.partition(':')[2]}{seed}-{self.key[:16]}"


class RunStore:
    """The folder of all runs.

    Parameters
    ----------
    root
        Created when the first run is written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @classmethod
    def default(cls) -> RunStore:
        """The project's store: ``$PROMPTLIB_RUNS``, else ``runs`` beside the ``promptlib`` folder.

        An installed copy without the project around it uses ``runs`` in the current folder.
        """
        configured = os.environ.get("PROMPTLIB_RUNS")
        if configured:
            return cls(configured)
        project = PACKAGE.parent
        return cls((project if (project / "pyproject.toml").exists() else Path.cwd()) / "runs")

    def folder(self, run: Run) -> Path:
        """Where the run lies, whether or not it is there."""
        return self.root / run.name

    def get(self, run: Run) -> Result:
        """The run's result: read from the store, or trained now (after what it needs).

        Of several processes that ask for the same run one trains; the others wait and read.
        """
        found = self._read(run)
        if found is not None:
            return found
        needs = [self.get(needed) for needed in run.needs]
        with self._lock(run):
            found = self._read(run)
            return found if found is not None else self._train(run, needs)

    def checksum(self, run: Run) -> str | None:
        """Digest of the stored result if it is there and whole, else None.

        A damaged folder is reported (:class:`CorruptRunWarning`) and put aside.
        """
        folder = self.folder(run)
        if not folder.exists():
            return None
        try:
            provenance = json.loads((folder / "provenance.json").read_bytes())
            expected = provenance["checksums"]
            found = {name: _file_digest(folder / name) for name in FILES}
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._put_aside(run, f"{type(error).__name__}: {error}")
            return None
        if found != expected:
            damaged = ", ".join(name for name in FILES if found[name] != expected.get(name))
            self._put_aside(run, f"checksum of {damaged} differs")
            return None
        return hashlib.sha256(_json_bytes(found)).hexdigest()

    def provenance(self, run: Run) -> dict[str, Any]:
        """Config, versions, machine, seconds and checksums of a stored run."""
        return json.loads((self.folder(run) / "provenance.json").read_bytes())

    def _read(self, run: Run) -> Result | None:
        if self.checksum(run) is None:
            return None
        from safetensors.torch import load_file

        folder = self.folder(run)
        metrics = json.loads((folder / "metrics.json").read_bytes())
        return Result(metrics, load_file(folder / "weights.safetensors"))

    def _train(self, run: Run, needs: Sequence[Result]) -> Result:
        import torch
        from safetensors.torch import save_file

        for leftover in self.root.glob(f".{run.name}.partial*"):
            shutil.rmtree(leftover)  # of a process that was killed: the lock is ours
        module, _, function = run.train.partition(":")
        train: Train = getattr(importlib.import_module(module), function)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums round in the same order on every machine's core count
        started, used = time.perf_counter(), time.process_time()
        try:
            with covering(reached(run.train, run.config).entries):
                result = train(run.config, needs, progress_bar)
        finally:
            torch.set_num_threads(threads)
        seconds, used = time.perf_counter() - started, time.process_time() - used

        partial = self.root / f".{run.name}.partial-{os.getpid()}"
        partial.mkdir(parents=True)
        (partial / "metrics.json").write_bytes(_json_bytes(result.metrics, indent=1))
        tensors = {name: tensor.contiguous() for name, tensor in result.tensors.items()}
        save_file(tensors, partial / "weights.safetensors")
        provenance = {
            "train": run.train,
            "config": run.config,
            "needs": [needed.name for needed in run.needs],
            "key": run.key,
            "seconds": round(seconds, 3),
            "processor_seconds": round(used, 3),
            "machine": machine(),
            "checksums": {name: _file_digest(partial / name) for name in FILES},
        }
        (partial / "provenance.json").write_bytes(_json_bytes(provenance, indent=1))
        os.replace(partial, self.folder(run))
        return Result(json.loads(_json_bytes(result.metrics)), tensors)

    def _lock(self, run: Run) -> Any:
        from filelock import FileLock

        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{run.name}.lock")

    def _put_aside(self, run: Run, reason: str) -> None:
        folder = self.folder(run)
        aside = self.root / "damaged" / f"{run.name}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(folder, aside)
        except FileNotFoundError:
            return  # another process has just done so
        warnings.warn(
            f"stored run {run.name} is damaged ({reason}); moved to {aside}, training it again",
            CorruptRunWarning,
            stacklevel=3,
        )


def machine() -> dict[str, str]:
    """What the numbers were computed with: processor, system, and the versions that matter."""
    packages = ("torch", "numpy", "scipy", "promptlib")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package != PACKAGE.name:
            raise
        return importlib.import_module(package).__version__  # it is used without being installed


@cache
def _torch_version() -> str:
    return importlib.metadata.version("torch").partition("+")[0]


def _json_bytes(data: Any, indent: int | None = None) -> bytes:
    text = json.dumps(data, sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode() + (b"\n" if indent else b"")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
