"""Every public function refuses what it does not mean, and says which argument that is.

The first part finds the public functions itself and takes wrong arguments from their annotations,
so that it holds for functions that do not exist yet. The second goes through what annotations
cannot say: shapes, ranges, dtypes.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import promptlib
import promptlib.prompt_attention as wing
from notebooks.prompt_attention.softmax_separates.threshold_map import CHALLENGES
from promptlib.attention import attend, causal_mask
from promptlib.prefix_tuning import tasks
from promptlib.prefix_tuning.evaluation import greedy_decode, sequence_accuracy, sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import SORT_ASCENDING
from promptlib.prompt_attention.feature_law import feature_law
from promptlib.prompt_attention.mixture import ContextualMixture as Mixture
from promptlib.training import Recipe, weights_of

ELSEWHERE = (
    "claims",
    "runs",
    "digests",
    "registry",
    "lazy",
    "checks",
    "kinds",
    "progress",
    "plotting",
)
"""Parts of the package with refusals, and tests of them, of their own."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(promptlib.__path__, "promptlib.")
    return [module.name for module in found if not set(module.name.split(".")) & set(ELSEWHERE)]


def is_result(part: type) -> bool:
    return issubclass(part, tuple | BaseException)


def is_protocol(annotation: Any) -> bool:
    return isinstance(annotation, type) and bool(vars(annotation).get("_is_protocol"))


def public(module: str) -> list[tuple[str, Any, bool]]:
    """Functions, constructors and methods: name, what to call, whether `self` comes first."""
    names = vars(importlib.import_module(module))
    exported = names.get("__all__", [name for name in names if not name.startswith("_")])
    found: list[tuple[str, Any, bool]] = []
    for name in exported:
        part = names.get(name)
        if getattr(part, "__module__", None) != module:
            continue
        if inspect.isfunction(part):
            found.append((name, part, False))
        elif isinstance(part, type) and not is_result(part) and not is_protocol(part):
            found.append((name, part, False))
            found += [
                (f"{name}.{method}", function, True)
                for method, function in vars(part).items()
                if inspect.isfunction(function) and not method.startswith("_")
            ]
    return found


def meaning(function: Any, annotation: Any) -> Any:
    """The object that an annotation stands for, or Any if only a type checker knows it."""
    if isinstance(annotation, str):
        plain = function.__init__ if isinstance(function, type) else function
        try:
            return eval(annotation, inspect.unwrap(plain).__globals__)
        except NameError:
            return Any
    return annotation


class Nothing:
    """No function of the book wants one."""


SOME: dict[type, Any] = {
    torch.Tensor: torch.zeros(2, 2),
    torch.dtype: torch.float32,
    torch.device: torch.device("cpu"),
    torch.Generator: torch.Generator(),
    np.ndarray: np.zeros(2),
    Path: Path("somewhere"),
}


def options(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def good(annotation: Any) -> Any:
    """Some value of the right kind; bodies never see it."""
    annotation = options(annotation)[0]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float, str, bool):
        return annotation(1)
    if origin is typing.Literal:
        return inner[0]
    if origin is tuple and inner[-1] is not ...:
        return tuple(good(part) for part in inner)
    if origin is collections.abc.Callable:
        return lambda *_: None
    if is_protocol(annotation):
        return type("Double", (), dict.fromkeys([*annotation.__annotations__, "__call__"]))()
    kind = origin or annotation
    if not isinstance(kind, type):
        return Nothing()
    if issubclass(kind, collections.abc.Mapping):
        return {}
    if issubclass(kind, collections.abc.Iterable) and inspect.isabstract(kind):
        return []
    if kind in SOME:
        return SOME[kind]
    return tuple.__new__(kind) if issubclass(kind, tuple) else object.__new__(kind)


def bad(annotation: Any) -> list[Any]:
    """Values that no parameter with this annotation means."""
    parts = options(annotation)
    values: list[Any] = [Nothing()]
    if not {None, type(None)} & set(parts):
        values.append(None)
    if int in parts:
        values += [-1] if float not in parts else []
    if {int, float} & set(parts):
        values += [math.nan, np.float64("nan"), "1" if str not in parts else Nothing()]
        values += [] if bool in parts else [True, np.True_]
        values += [] if float in parts else [1.5, 2.0, np.float32(2.0)]
        values += [] if {float, torch.Tensor} & set(parts) else [torch.tensor(2.0)]
    for part in parts:
        origin = typing.get_origin(part)
        if part is bool:
            values += [2, "yes", np.zeros(2, dtype=bool)]
        elif part is torch.Tensor:
            values += ["text"]
            values += [[1.0], np.ones(2)] if len(parts) == 1 else []
        elif origin is typing.Literal:
            values += ["nonsense", 0.5]
        elif origin in (collections.abc.Sequence, collections.abc.Iterable, list, tuple):
            values += ["text"] if str not in parts else []
            values += [3] if not {int, float} & set(parts) else []
            inner = typing.get_args(part)[0]
            if origin is not collections.abc.Iterable and inner is not Any:
                values += [[Nothing()]]
    return values


@pytest.mark.parametrize("module", modules())
def test_arguments_of_another_kind_are_refused_by_name(module: str) -> None:
    for title, function, is_method in public(module):
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[is_method:]
        meanings = {one.name: meaning(function, one.annotation) for one in parameters}
        for parameter in parameters:
            if meanings[parameter.name] is Any or parameter.kind is parameter.VAR_KEYWORD:
                continue
            if isinstance(meanings[parameter.name], typing.TypeVar):
                continue
            for value in bad(meanings[parameter.name]):
                passed = {
                    one.name: value if one is parameter else good(meanings[one.name])
                    for one in parameters
                    if one.kind is not one.VAR_KEYWORD
                }
                for one in parameters:
                    if one.kind is one.VAR_POSITIONAL:
                        passed[one.name] = (passed[one.name],)
                if is_method:  # refused before `self` is looked at
                    passed = {next(iter(signature.parameters)): None, **passed}
                call = inspect.BoundArguments(signature, OrderedDict(passed))
                with pytest.raises((TypeError, ValueError)) as refusal:
                    function(*call.args, **call.kwargs)
                message = str(refusal.value)
                assert re.search(rf": {parameter.name}\b.* must ", message), (title, message)


# What annotations cannot say.

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=8, vocab_size=11, block_size=19)
SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")
TOKENS = torch.arange(16).reshape(2, 8) % 11
HEADS = torch.ones(2, 3, 5)


def model() -> GPT:
    return GPT(CONFIG, torch.Generator().manual_seed(0))


def prefix(n_layer: int = 2, **options: Any) -> Prefix:
    return Prefix(n_layer, 3, 8, **options)


def inputs(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    *[("last", lambda k=k: model()(TOKENS, last=k)) for k in (0, -1, -3, 20, True, 1.5, math.nan)],
    ("tokens", lambda: model()(TOKENS[0])),
    ("tokens", lambda: model()(TOKENS[None])),
    ("tokens", lambda: model()(TOKENS[:0])),
    ("tokens", lambda: model()(TOKENS[:, :0])),
    ("tokens", lambda: model()(inputs(1, 20))),
    ("tokens", lambda: model()(TOKENS.bool())),
    ("tokens", lambda: model()(TOKENS.to(torch.uint8))),
    ("tokens", lambda: model()(TOKENS.float())),
    ("tokens", lambda: model()(torch.zeros(2, 8, 9))),
    ("tokens", lambda: model()(torch.zeros(2, 8, 8).double())),
    *[("tokens", lambda n=n: model()(inputs(n, 8) - 1)) for n in (1, 12)],
    *[("tokens", lambda n=n: model()(inputs(n, 8) + 11)) for n in (1, 12)],
    ("prefix", lambda: model()(TOKENS, prefix(3))),
    ("prefix", lambda: model()(TOKENS, Prefix(2, 3, 4))),
    ("prefix", lambda: model().to(torch.bfloat16)(TOKENS, prefix())),
    ("prefix", lambda: model()(TOKENS, PrefixBatch([prefix().double()]))),
    ("prefix", lambda: model().to("meta")(TOKENS.to("meta"), prefix())),
    ("tokens", lambda: model().to("meta")(TOKENS)),
    ("n_head", lambda: GPTConfig(1, 3, 8, 11, 19)),
    *[(name, lambda name=name: GPTConfig(**{**vars(CONFIG), name: 0})) for name in SIZES],
    ("length", lambda: Prefix(1, 0, 8)),
    *[("init_std", lambda std=std: prefix(init_std=std)) for std in (0.0, -1.0, math.inf)],
    *[("index", lambda index=index: prefix().layer(index)) for index in (-1, 2)],
    ("prefix", lambda: PrefixBatch([])),
    ("prefixes", lambda: PrefixBatch([prefix(), prefix().double()])),
    ("queries", lambda: attend(HEADS.long(), HEADS.long(), HEADS.long())),
    ("queries", lambda: attend(HEADS[:, :0], HEADS, HEADS)),
    ("queries", lambda: attend(HEADS[0, 0], HEADS, HEADS)),
    ("queries", lambda: attend(HEADS[..., :0], HEADS[..., :0], HEADS)),
    ("keys", lambda: attend(HEADS, HEADS.double(), HEADS)),
    ("values", lambda: attend(HEADS, HEADS, HEADS.bfloat16())),
    ("prefix_keys", lambda: attend(HEADS, HEADS, HEADS, HEADS.half(), HEADS.half())),
    ("n_queries", lambda: causal_mask(3, 2)),
    ("n_queries", lambda: causal_mask(0, 2)),
    ("rank", lambda: add_lora(model(), 0, ["mlp.expand"])),
    ("rank", lambda: add_lora(model(), 9, ["mlp.expand"])),
    ("modules", lambda: add_lora(model(), 1, "mlp.expand")),
    ("init_std", lambda: add_lora(model(), 1, ["mlp.expand"], init_std=math.inf)),
    ("steps", lambda: Recipe(0, 0)),
    ("warmup", lambda: Recipe(5, 5)),
    ("weight_decay", lambda: Recipe(5, 1, weight_decay=-0.1)),
    ("betas", lambda: Recipe(5, 1, betas=(0.9, 1.0))),
    ("betas", lambda: Recipe(5, 1, betas=(0.9,))),
    ("clip_norm", lambda: Recipe(5, 1, clip_norm=0.0)),
    *[("step", lambda step=step: Recipe(5, 1).schedule(step)) for step in (-1, 5)],
    ("learning_rate", lambda: weights_of(model(), math.inf)),
    ("learning_rate", lambda: weights_of(model(), -1.0)),
    ("n=0", lambda: SORT_ASCENDING.sample(0, "train")),
    ("split", lambda: SORT_ASCENDING.sample(1, "dev")),
    ("inputs", lambda: SORT_ASCENDING.solve(inputs(10))),
    ("inputs", lambda: SORT_ASCENDING.solve(inputs(2, 10, dtype=torch.float32))),
    ("digits", lambda: tasks.in_split(inputs(2, 9), "train")),
    ("steps", lambda: tasks.batches(SORT_ASCENDING, 0, 3, torch.Generator())),
    ("batch_size", lambda: tasks.batches(SORT_ASCENDING, 3, 0, torch.Generator())),
    ("inputs", lambda: tasks.read_and_answer(inputs(10), inputs(10))),
    ("targets", lambda: tasks.read_and_answer(inputs(2, 10), inputs(3, 10))),
    ("symbols", lambda: tasks.Task("nothing", lambda x: x, 0)),
    ("tasks", lambda: tasks.Mixture("nothing", ())),
    ("tokens", lambda: sequence_loss(model(), inputs(19), inputs(1, 10))),
    ("targets", lambda: sequence_loss(model(), inputs(2, 19), inputs(3, 10))),
    ("targets", lambda: sequence_loss(model(), inputs(2, 19), inputs(2, 20))),
    ("targets", lambda: sequence_loss(model(), inputs(2, 19), inputs(2, 10).float())),
    ("inputs", lambda: greedy_decode(model(), inputs(10))),
    ("inputs", lambda: greedy_decode(model(), inputs(2, 11))),
    ("n=0", lambda: sequence_accuracy(model(), SORT_ASCENDING, 0)),
]


@pytest.mark.parametrize(("name", "call"), REFUSED)
def test_shapes_ranges_and_dtypes_are_refused_by_name(name: str, call: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}"):
        call()


@pytest.mark.parametrize(
    "kind",
    [int, np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, torch.tensor],
)
def test_whole_numbers_of_every_type_are_the_same_number(kind: Callable[[int], Any]) -> None:
    config = GPTConfig(**{**vars(CONFIG), "n_embd": kind(8)})
    assert config == CONFIG
    assert type(config.n_embd) is int
    torch.testing.assert_close(model()(TOKENS, last=kind(3)), model()(TOKENS)[:, -3:])
    assert SORT_ASCENDING.sample(kind(3), "train")[0].shape == (3, 10)


def test_numbers_of_numpy_become_those_of_python() -> None:
    recipe = Recipe(np.int64(5), np.int64(1), weight_decay=np.float32(0.5))
    assert [type(part) for part in (recipe.steps, recipe.weight_decay)] == [int, float]


def test_methods_say_of_which_class_they_are() -> None:
    with pytest.raises(TypeError, match=r"^GPT\.forward: tokens must be a Tensor, got 3 \(int\)$"):
        model()(3)
    with pytest.raises(TypeError, match=r"^Prefix: length must be a whole number, got 1\.5"):
        Prefix(1, 1.5, 8)


# The mathematical functions of Part I, each with good arguments, of which one is spoilt.

MIXTURE = Mixture(6, 8, 0.25, noise_std=0.5)
NUMBERS = {
    "tokens": 8,
    "sparsity": 0.25,
    "context_norm": 1.0,
    "signal_norm": 1.0,
    "noise_std": 0.5,
    "scale": 0.5,
    "samples_per_dim": 2.0,
    "ridge": 0.1,
    "deviation": 0.5,
    "alignment": 1.0,
    "eta": 1.0,
    "gamma": 1.0,
    "gap": 0.5,
    "spread": 0.5,
    "gap_in_spreads": 0.5,
    "ratio": 1.0,
    "n": 4,
    "resolution": 2,
    "restarts": 1,
    "steps": 1,
    "batch": 2,
    "memory_limit": 2**20,
    "learning_rate": 0.1,
    "draws": 16,
}
"""Values that every function takes for a parameter of this name."""

WEIGHTS = {
    "W_Q": torch.eye(6).double(),
    "W_K": torch.eye(6).double(),
    "W_V": torch.eye(6).double(),
    "A": torch.eye(6).double(),
    "prompts": torch.ones(2, 6).double(),
    **{name: torch.ones(6).double() for name in ("w", "q", "u", "query")},
}
CHAPTERS = {
    "contextual_mixture.reach": ("prompt_for_query", "query_readout"),
    "first_gradient.alignment": ("head_alignment", "prompt_alignment"),
    "price_of_the_head.concentrated_head": ("best_scale", "context_gain", "signal_to_noise"),
    "price_of_the_head.head_limits": (
        "hard_attention_error",
        "informed_error",
    ),
    "prompt_or_finetune.attention_layer": ("containing_layer", "layer_scores"),
    "softmax_separates.constructions": (
        "best_gain_argument",
        "linear_attention_weights",
        "mean_pooling_head",
        "prompt_weights",
        "self_attention_weights",
    ),
    "softmax_separates.search": ("search_accuracy", "search_mixtures"),
    "softmax_separates.threshold_map": ("map_model",),
}
"""Mathematics of Part I that one chapter uses, by its module."""

FUNCTIONS: dict[str, Any] = {
    name: getattr(wing, name) for name in wing.__all__ if inspect.isfunction(getattr(wing, name))
} | {
    name: getattr(importlib.import_module(f"notebooks.prompt_attention.{module}"), name)
    for module, names in CHAPTERS.items()
    for name in names
}

SPECIAL: dict[tuple[str, str], Any] = {
    ("layer_scores", "weights"): FUNCTIONS["containing_layer"](WEIGHTS["w"], WEIGHTS["q"]),
    ("self_attention_weights", "c"): 1.0,
    ("aligned_gain", "c"): WEIGHTS["q"],
    ("sign_function", "x"): WEIGHTS["q"],
    ("informed_error", "law"): feature_law(MIXTURE, 0.5),
    ("map_model", "challenge"): CHALLENGES["mean-pooling"],
    ("search_accuracy", "population"): wing.Population.stack([Mixture(6, 8, 0.25)]),
    ("prompt_scale_bound", "mixture"): Mixture(6, 8, 0.25),
}
ANY_SHAPE = {("aligned_gain", "c"), ("sign_function", "x")}


def arguments_of(name: str) -> dict[str, Any]:
    """Good arguments of a public function, by name."""
    found: dict[str, Any] = {"mixture": MIXTURE, "mixtures": [Mixture(6, 8, 0.25)], "seed": 0}
    found |= {"model": wing.PLANE_MODELS["mean-pooling"], "generator": torch.Generator()}
    found |= {"bags": torch.ones(3, 8, 6).double()}
    passed = {}
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        of_bags = parameter.name == "tokens" and parameter.annotation == "Tensor"
        everything = {**found, **NUMBERS, **WEIGHTS}
        if (name, parameter.name) in SPECIAL:
            passed[parameter.name] = SPECIAL[name, parameter.name]
        elif of_bags:
            passed["tokens"] = found["bags"]
        elif parameter.name in everything:
            passed[parameter.name] = everything[parameter.name]
        else:
            has_default = parameter.default is not parameter.empty
            assert has_default, f"say what a good {parameter.name} of {name} is"
    return passed


def spoilt(annotation: str, value: Any, any_shape: bool) -> list[Any]:
    """Values of the right kind that mean nothing."""
    if isinstance(value, torch.Tensor):
        shapes = [] if any_shape else [value[..., :0], torch.ones(()).double()]
        return [value + 0j, *shapes]
    if isinstance(value, float | int) and "Tensor" in annotation:
        kinds = [torch.tensor([0.5 + 0j]), torch.tensor([True]), torch.zeros(0)]
        return [*kinds, torch.tensor([0.5, math.nan])]
    return []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mathematical_functions_name_the_argument_that_means_nothing(name: str) -> None:
    function, passed = FUNCTIONS[name], arguments_of(name)
    function(**passed)
    for parameter, value in passed.items():
        annotation = str(inspect.signature(function).parameters[parameter].annotation)
        for wrong in spoilt(annotation, value, (name, parameter) in ANY_SHAPE):
            with pytest.raises((TypeError, ValueError), match=rf"\b{parameter}\b"):
                function(**{**passed, parameter: wrong})
