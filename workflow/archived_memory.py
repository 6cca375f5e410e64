"""What did the archive say when nothing was different? Judging it again takes longer than a page.

The answer is kept with a digest of all that it was made of: the archive and the settings, all code,
what decides each chapter's plan, the packages, and this build's claims. Prose is not among them.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

from promptlib.claims import Claim
from workflow.archived import Archived, read_archive
from workflow.profile_config import Profile
from workflow.site_update import digests, surroundings
from workflow.sources import ROOT


def read_archive_again(
    folder: Path | None, today: Mapping[str, Claim], profile: Profile | None, kept: Path
) -> Archived:
    """What :func:`workflow.archived.read_archive` says, from ``kept`` if it was asked before.

    Parameters
    ----------
    folder, today, profile
        As there.
    kept
        File of the last answer; written unless it is the same.
    """
    question = _digest(folder, today, profile)
    try:
        asked, answer = pickle.loads(kept.read_bytes())
        if asked == question:
            return Archived(*answer)
    except Exception:  # none, or half a file, or one of other code: pickle raises anything
        kept.unlink(missing_ok=True)
    archived = read_archive(folder, today, profile)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    partial.write_bytes(pickle.dumps((question, (archived.claims, archived.stale))))
    os.replace(partial, kept)
    return archived


def _digest(folder: Path | None, today: Mapping[str, Claim], profile: Profile | None) -> str:
    code = [path for part in ("notebooks", "config") for path in (ROOT / part).rglob("*")]
    question = {
        "surroundings": surroundings(),
        "archive": digests(folder) if folder is not None else None,
        "code": {
            path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(code)
            if path.suffix in (".py", ".yml")
        },
        "plans": [plan.key for plan in profile.notebooks] if profile is not None else None,
        "claims": {name: claim.to_json() for name, claim in today.items()},
    }
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
