"""How much work is a training step of each way to adapt a model?

Seconds differ between machines and builds. The floating-point operations of a step's matrix
products do not: they follow from the shapes. torch counts them while one step runs, forwards and
backwards, with the same code that trains: weights that are frozen get no gradient, but what is
above them still passes one on.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import new_prefix
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.prefix import PrefixBatch
from promptlib.prefix_tuning.tasks import read_and_answer, task_named
from promptlib.runs import Run
from promptlib.training import freeze


def step_work(run: Run) -> int:
    """Count the floating-point operations of the matrix products in one step of one learner.

    A multiplication and an addition are two operations. LayerNorms, activations, the softmax and
    the optimiser are not counted.
    """
    config = run.config
    model = GPT(GPTConfig(**config["model"]), torch.Generator().manual_seed(0))
    prefix = None
    match run.train.rpartition(":")[2]:
        case "fine_tune" | "pretrain":
            pass
        case "tune_lora":
            add_lora(model, config["rank"], config["modules"], torch.Generator().manual_seed(0))
        case "tune_prefixes":
            freeze(model)
            prefix = PrefixBatch([new_prefix(config, 0.1, torch.Generator().manual_seed(0))])
        case other:
            raise ValueError(f"only training runs have steps to count, got {other!r}")
    task, generator = task_named(config["task"]), torch.Generator().manual_seed(0)
    inputs, targets = task.sample(config["batch_size"], "train", generator)
    with FlopCounterMode(display=False) as counter:
        sequence_loss(model, read_and_answer(inputs, targets), targets, prefix).sum().backward()
    return int(counter.get_total_flops())


check_public(__name__)
