"""The page of advice: its claims, the sizes that it gives for them, and what it says of `peft`."""

from __future__ import annotations

import ast
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import yaml

from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.real_architectures import extra
from workflow.sources import Source

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "book" / "which_method.md").read_text("utf-8")
CLAIM = re.compile(r"\{claim\}`([^`]+)`")
SIZE = re.compile(r"\d+×\d+(?: \(\d+×\d+\))?")
EVIDENCE = [part for part in re.split(r"\n\s*\n", PAGE) if part.strip().startswith("*Evidence*")]
WITHOUT_SIZE = {"bridge/two_theories_one_layer", "prefix_tuning/real_architectures"}
"""Chapters whose models are given in words: random weights, or a pretrained encoder."""

needs_peft = pytest.mark.skipif(
    not extra.installed(), reason=f"the optional extra '{extra.NAME}' is not installed"
)


@cache
def recorded() -> dict[str, tuple[str, str]]:
    """Id of each claim -> its chapter and its kind, from the record of verdicts."""
    found, chapter = {}, ""
    for line in (PROJECT / "config" / "verdicts.yml").read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"# (\w+/\w+)", line):
            chapter = heading[1]
        elif line and not line.startswith("#"):
            ((name, entry),) = yaml.safe_load(line).items()
            found[name] = (chapter, entry["kind"])
    return found


@cache
def size(chapter: str) -> str:
    """Layers × width of a chapter's models in the quick build, and in brackets in the paper's."""
    source = Source(chapter).path.read_text("utf-8")
    cell = re.search(r":tags: \[parameters\]\n(.*?)\n```", source, re.DOTALL)
    quick = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(cell[1]).body
        if isinstance(node, ast.Assign)
    }
    profile = yaml.safe_load((PROJECT / "config" / "paper.yml").read_text("utf-8"))
    paper = quick | profile["notebooks"][chapter].get("parameters", {})
    one, other = (_layers_and_width(parameters) for parameters in (quick, paper))
    return one if one == other else f"{one} ({other})"


def _layers_and_width(parameters: dict[str, Any]) -> str:
    """As the page writes it; a chapter without these parameters has the model of `new_task`."""
    layers = parameters.get("n_layer", parameters.get("layers", 1))
    width = parameters.get("width", parameters.get("dim", new_task.MODEL["n_embd"]))
    return f"{max(parameters.get('depths', [layers]))}×{width}"


def sizes(chapter: str) -> set[str]:
    """The sizes that may stand behind a claim of a chapter."""
    if chapter in WITHOUT_SIZE:
        return set()
    if chapter == "prefix_tuning/expressivity_or_optimisation":  # of the chapters that it sums up
        return {size("prefix_tuning/new_task"), size("prefix_tuning/combining")}
    return {size(chapter)}


def test_every_claim_of_the_advice_is_recorded():
    named = CLAIM.findall(PAGE)
    assert len(named) > 30
    assert [claim for claim in named if claim not in recorded()] == []


def test_every_piece_of_advice_has_evidence():
    parts = re.split(r"\n## ", PAGE)
    steps = {part.splitlines()[0]: part for part in parts}
    for heading in ("Seven questions", "When it does not learn"):
        for item in re.split(r"\n(?=\d\. )", steps[heading])[1:]:
            refers_back = "As in question" in item
            assert refers_back or len(re.findall(r"\*Evidence\*", item)) == 1, item
    assert len(re.findall(r"\n\d\. ", steps["Seven questions"])) <= 7


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_sizes_are_those_of_the_claims(evidence):
    chapters = [recorded()[claim] for claim in CLAIM.findall(evidence)]
    said = set(SIZE.findall(" ".join(evidence.split())))
    assert said <= set().union(*(sizes(chapter) for chapter, _ in chapters))
    for chapter, kind in chapters:
        if kind == "outcome" and sizes(chapter):
            assert said & sizes(chapter), chapter


def test_verdicts_are_not_typed_by_hand():
    words = r"\b(supported|contradicted|uninformative|reproduced|single run)\b"
    assert re.findall(words, PAGE) == []


@needs_peft
def test_the_options_and_defaults_are_those_of_peft():
    import peft

    lists = re.split(r"^### .*: `(\w+Config)`$", PAGE, flags=re.MULTILINE)[1:]
    settings = dict(zip(lists[::2], lists[1::2], strict=True))
    assert list(settings) == ["PrefixTuningConfig", "PromptTuningConfig", "LoraConfig"]
    for config, said in settings.items():
        made = getattr(peft, config)()
        options = re.findall(r"^`(\w+)=([^`]+)`\n: ", said, re.MULTILINE)
        assert options
        for option, default in options:
            assert getattr(made, option) == ast.literal_eval(default), option
    known = set(dir(peft.LoraModel)) | {"peft", "adapter_names"}  # the last has a test below
    known |= {"diagnose", "transformers"}
    for config in set(re.findall(r"`(\w+Config)`", PAGE)):
        known |= set(vars(getattr(peft, config)()))
    assert set(re.findall(r"(?<!\})`([a-z_]+)(?:=[^`]*)?`", PAGE)) - known == set()


@needs_peft
def test_the_prefix_of_the_page_starts_small():
    from notebooks.prefix_tuning.real_architectures.architectures import random_llama

    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    names = {"torch": torch, "model": random_llama(torch.Generator().manual_seed(0), "sdpa")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reads deprecated attributes of transformers
        exec(code, names)
    trained = [name for name, value in names["tuned"].named_parameters() if value.requires_grad]
    assert trained == ["prompt_encoder.default.embedding.weight"]
    assert names["prefix"].std().item() == pytest.approx(0.1, rel=0.1)


@needs_peft
def test_a_prefix_of_zeros_is_not_no_prefix():
    from peft import PrefixTuningConfig, get_peft_model

    from notebooks.prefix_tuning.real_architectures.architectures import random_llama

    # Rotary positions: the push by the cache moves nothing, so what differs is the share.
    model = random_llama(torch.Generator().manual_seed(0), "sdpa")
    tokens = torch.arange(8)[None]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        plain = model(tokens, position_ids=torch.arange(2, 10)[None]).logits
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=2, init_weights="zero"
        )
        zero = get_peft_model(model, config).eval()
        with_zeros = zero(tokens).logits
    assert (with_zeros - plain).abs().max() > 1e-2


@needs_peft
def test_lora_takes_an_adapter_for_each_sequence_and_a_prefix_does_not():
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model

    from notebooks.prefix_tuning.real_architectures.architectures import random_llama

    tokens = torch.arange(8)[None].repeat(2, 1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = random_llama(torch.Generator().manual_seed(0), "sdpa")
        plain = model(tokens).logits
        lora = get_peft_model(model, LoraConfig(init_lora_weights=False)).eval()
        mixed = lora(tokens, adapter_names=["default", "__base__"]).logits
        assert (mixed[0] - plain[0]).abs().max() > 1e-3
        torch.testing.assert_close(mixed[1], plain[1])
        lora.unload()
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        again = random_llama(torch.Generator().manual_seed(0), "sdpa")
        prefix = get_peft_model(again, config).eval()
        named = prefix(tokens, adapter_names=["default", "__base__"]).logits
        torch.testing.assert_close(named, prefix(tokens).logits)  # the names are not heard
        assert ((named - plain).abs().amax(dim=(1, 2)) > 1e-3).all()


@needs_peft
def test_the_diagnosis_of_the_page_runs():
    from notebooks.prefix_tuning.real_architectures.architectures import random_llama

    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {
        "torch": torch,
        "model": random_llama(torch.Generator().manual_seed(0), "sdpa"),
        "tokens": torch.arange(8)[None],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reads deprecated attributes of transformers
        exec(first, names)
    exec(second, names)
    assert names["diagnosis"].kind == "free prefix"
    assert "share taken" in names["description"]
    plt.close(names["figure"])
