"""Can this folder be read as a model, without trusting it?

A checkpoint is a local folder with ``config.json`` and weights in the safetensors format, whole or
in shards with an index. What is missing, cut short, or would run code when it is unpickled is
refused by name before anything is loaded. Nothing is fetched, no code from the folder is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from notebooks.prefix_tuning.real_architectures.library import GPT2LMHeadModel, LlamaForCausalLM
from notebooks.prefix_tuning.real_architectures.recording import NAME

ARCHITECTURES = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}
"""By ``model_type`` of ``config.json``."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MALFORMED = (ValueError, TypeError, RecursionError)
"""What comes of JSON that is none, or not of the kind expected."""

WANTED = "a folder with config.json and model.safetensors (or its shards and their index)"


def check_folder(folder: Path | str) -> dict[str, Any]:
    """Look at a checkpoint folder and return its configuration.

    A ValueError says what is wrong: a file or shard is missing, cut short or unreadable, the
    architecture is another one, or there is an adapter or a pickle.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(f"checkpoint {str(folder)!r} is not a folder here; give {WANTED}")
    config = _read_json(path / "config.json", folder)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(
            f"checkpoint {str(folder)!r} is of type {kind!r}; this chapter looks into "
            f"{' and '.join(ARCHITECTURES)}"
        )
    if (path / "adapter_config.json").exists():  # it would bring in a model from somewhere else
        raise ValueError(
            f"checkpoint {str(folder)!r} holds an adapter (adapter_config.json); merge it into its "
            f"model, and give {WANTED}"
        )
    for file in _weight_files(path, folder):
        check_safetensors(file)
    return config


def check_safetensors(file: Path) -> None:
    """Refuse a safetensors file that is not as long as its header says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > size - 8:
            raise ValueError(
                f"{file.name} is cut short inside its header ({size} bytes); copy it again"
            )
        try:
            header = json.loads(stream.read(length))
            ends = [
                int(entry["data_offsets"][1])
                for name, entry in header.items()
                if name != "__metadata__"
            ]
        except (*MALFORMED, AttributeError, KeyError, IndexError) as error:
            raise ValueError(f"{file.name} is no safetensors file: {error}") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(
            f"{file.name} has {size} bytes where its header promises {expected}; copy it again"
        )


def load_checkpoint(folder: Path | str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Load a folder that `check_folder` accepts, without gradients; weights must fit it."""
    config = check_folder(folder)
    kind = ARCHITECTURES[config["model_type"]]
    try:
        model, report = kind.from_pretrained(
            Path(folder).expanduser(),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation=NAME,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except Exception as error:  # a configuration can go wrong in any part of the library
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(
            f"checkpoint {str(folder)!r} does not load: {type(error).__name__}: {reason}"
        ) from None
    other = sorted(report["mismatched_keys"])
    if other:
        name, found, wanted = other[0]
        raise ValueError(
            f"checkpoint {str(folder)!r} holds weights of other shapes than its config.json asks "
            f"for ({len(other)}), such as {name}: {tuple(found)}, expected {tuple(wanted)}"
        )
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise ValueError(
            f"checkpoint {str(folder)!r} lacks {len(lacking)} of the weights that its config.json "
            f"asks for, such as {lacking[0]}"
        )
    loaded: nn.Module = model.eval().requires_grad_(False)
    return loaded


def _weight_files(path: Path, folder: Path | str) -> list[Path]:
    whole = path / "model.safetensors"
    if whole.is_file():  # which is loaded even where there are shards
        return [whole]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        content = _read_json(index, folder)
        shards = content.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"checkpoint {str(folder)!r}: {index.name} names no shards")
        names = sorted({str(name) for name in shards.values()})
        # A name with a folder in it could point outside the checkpoint.
        absent = [name for name in names if not (path / name).is_file() or Path(name).name != name]
        if absent:
            raise ValueError(f"checkpoint {str(folder)!r} lacks the shards {', '.join(absent)}")
        if not isinstance(content.get("metadata"), dict):
            raise ValueError(f"checkpoint {str(folder)!r}: {index.name} has no 'metadata'")
        return [path / name for name in names]
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"checkpoint {str(folder)!r} holds pickles ({', '.join(pickles)}), which can run code "
            "when they are loaded; convert them to model.safetensors where you trust them"
        )
    raise ValueError(f"checkpoint {str(folder)!r} holds no safetensors; give {WANTED}")


def _read_json(path: Path, folder: Path | str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"checkpoint {str(folder)!r} has no {path.name}; give {WANTED}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except MALFORMED as error:
        raise ValueError(f"{path.name} of checkpoint {str(folder)!r} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} of checkpoint {str(folder)!r} must hold an object")
    return content
