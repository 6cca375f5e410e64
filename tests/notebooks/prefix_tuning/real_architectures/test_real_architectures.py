"""Real architectures: the claims hold, and fail when a library or a check goes wrong.

Needs the optional extra `real`; CI installs it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from notebooks.prefix_tuning.real_architectures import claims as statements
from notebooks.prefix_tuning.real_architectures import extra
from notebooks.prefix_tuning.real_architectures import plan as steering

if not extra.installed():
    pytest.skip(
        f"needs EXTRAS=real; not installed: {', '.join(extra.missing())}", allow_module_level=True
    )

from notebooks.prefix_tuning.real_architectures import (
    architectures,
    checkpoints,
    recording,
    results,
)
from notebooks.prefix_tuning.real_architectures.encoder import (
    gaussian_prefix,
    load_encoder,
    memory_of,
)
from notebooks.prefix_tuning.real_architectures.recording import (
    PastKeyValues,
    record,
    without_prefix,
)
from notebooks.prefix_tuning.real_architectures.sentences import ANCHOR, SENTENCES
from promptlib.prefix_tuning.identities import split
from promptlib.prefix_tuning.trials import Trial, Trials

ROOT = Path(__file__).resolve().parents[4]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gpt2():
    return architectures.random_gpt2(seeded())


@pytest.fixture(scope="module")
def llama():
    return architectures.random_llama(seeded())


@pytest.fixture(scope="module")
def compared(gpt2, llama):
    return {
        "GPT-2": results.compare("GPT-2", gpt2, seeded(1)),
        "LLaMA": results.compare("LLaMA", llama, seeded(1)),
    }


@pytest.fixture(scope="module")
def every(compared):
    return [*compared["GPT-2"], *compared["LLaMA"]]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


@pytest.fixture(scope="module")
def on_sentences(encoder):
    prefixes = gaussian_prefix(encoder, 3, seeded(), 2.0), memory_of(encoder, ANCHOR)
    return [(encoder.calls(SENTENCES[:5], prefix), prefix.length) for prefix in prefixes]


# Wrong ways to remove a prefix from a layer, each a mistake that the checks must not survive.


def another_input(call, length):
    """The layer is called on an input that a prefix below has changed a little."""
    states = call.arguments["hidden_states"]
    arguments = {**call.arguments, "hidden_states": states + 1e-6 * states.flip(1)}
    return without_prefix(dataclasses.replace(call, arguments=arguments), length)


def mask_forgotten(call, length):
    """The layer without prefix sees the future (or the padding)."""
    arguments = {**call.arguments, "attention_mask": None}
    return without_prefix(dataclasses.replace(call, arguments=arguments), length)


def last_key_lost(call, length):
    """One content key is taken for a prefix vector."""
    plain = without_prefix(call, length)
    attention = plain.attention.clone()
    attention[..., -1] = 0
    attention = attention / attention.sum(-1, keepdim=True).clamp_min(1e-9)
    return dataclasses.replace(plain, attention=attention, outputs=attention @ plain.values)


WRONG = [another_input, mask_forgotten, last_key_lost]


def verdicts(rows, measured):
    return {name: claim.verdict for name, claim in statements.check(rows, measured).items()}


def verdict_on_models(name, comparisons, remove=without_prefix):
    return verdicts(statements.MODELS, results.model_errors(comparisons, remove))[name]


def verdict_on_shift(name, movements):
    """Judged as if all models had moved so far."""
    moved = dict.fromkeys(("GPT-2, peft", "LLaMA, peft"), movements)
    return verdicts(statements.SHIFT, moved)[name]


def test_claims_about_architectures_hold(compared, every):
    moved = {
        f"{name}, peft": [results.shift_movement(group[-1])] * 3 for name, group in compared.items()
    }
    found = {
        **statements.check(statements.MODELS, results.model_errors(every)),
        **statements.check(statements.SHIFT, moved),
    }
    assert {name: claim.verdict for name, claim in found.items()} == {
        **dict.fromkeys(found, "holds"),
        "peft-moves-absolute-positions": "supported",
    }
    assert {claim.details["needs"] for claim in found.values()} == {"real"}
    instances = found["real-relative-attention"].details["instances"]
    assert instances == 3 * 3 * (3 * 5 * 11 + 3 * 6 * 11)


@pytest.mark.claim("prefix-tuning/real-relative-attention", "prefix-tuning/real-output-bias")
@pytest.mark.parametrize("name", ["real-relative-attention", "real-output-bias"])
@pytest.mark.parametrize("wrong", WRONG)
def test_claims_about_layers_fail_for_a_wrong_removal(every, wrong, name):
    assert verdict_on_models(name, every, wrong) == "fails"


@pytest.fixture
def attention_by_length(monkeypatch):
    """The logits grow with the number of keys, so that a prefix sharpens attention to content."""
    right = recording.F.scaled_dot_product_attention

    def wrong(queries, keys, values, scale=None, **options):
        scale = queries.shape[-1] ** -0.5 if scale is None else scale
        return right(queries, keys, values, scale=scale * keys.shape[-2] ** 0.5, **options)

    monkeypatch.setattr(recording.F, "scaled_dot_product_attention", wrong)


@pytest.mark.claim("prefix-tuning/real-relative-attention", "prefix-tuning/real-output-bias")
@pytest.mark.claim("prefix-tuning/real-first-layer")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_claims_about_architectures_fail_for_another_attention(name, request, attention_by_length):
    found = results.compare(name, request.getfixturevalue(name), seeded())
    judged = verdicts(statements.MODELS, results.model_errors(found))
    for claim in ("real-relative-attention", "real-output-bias", "real-first-layer"):
        assert judged[claim] == "fails"


@pytest.mark.claim("prefix-tuning/encoder-relative-attention", "prefix-tuning/encoder-output-bias")
def test_claims_about_the_encoder_fail_for_another_attention(encoder, attention_by_length):
    prefix = gaussian_prefix(encoder, 3, seeded())
    runs = [(encoder.calls(SENTENCES[:3], prefix), prefix.length)]
    assert set(verdicts(statements.ENCODER, results.layer_errors(runs)).values()) == {"fails"}


@pytest.mark.claim("prefix-tuning/real-output-bias")
def test_real_output_bias_fails_for_values_of_another_head(every):
    def rolled(one):
        calls = [dataclasses.replace(c, values=c.values.roll(1, 1)) for c in one.prefixed]
        return dataclasses.replace(one, prefixed=calls)

    assert verdict_on_models("real-output-bias", [rolled(one) for one in every]) == "fails"


@pytest.mark.claim("prefix-tuning/real-first-layer")
def test_real_first_layer_fails_at_other_positions(compared):
    """GPT-2 under peft against the content at positions 0, 1, …: not the same content."""
    shifted = [dataclasses.replace(one, plain=one.unmoved) for one in compared["GPT-2"]]
    assert verdict_on_models("real-first-layer", shifted) == "fails"


@pytest.mark.claim("prefix-tuning/real-first-layer")
def test_real_first_layer_fails_for_deeper_layers(every):
    deeper = [
        dataclasses.replace(one, plain=one.plain[1:], prefixed=one.prefixed[1:]) for one in every
    ]
    assert verdict_on_models("real-first-layer", deeper) == "fails"


@pytest.mark.claim("prefix-tuning/peft-is-free-keys-and-values")
def test_peft_is_past_fails_when_the_cache_holds_something_else(llama, monkeypatch):
    read = architectures.past_of_peft

    def keys_for_values(tuned):
        past = read(tuned)
        return PastKeyValues(past.values, past.keys)

    monkeypatch.setattr(architectures, "past_of_peft", keys_for_values)
    found = results.compare("LLaMA", llama, seeded())
    assert verdict_on_models("peft-is-free-keys-and-values", found) == "fails"


@pytest.mark.claim("prefix-tuning/peft-is-free-keys-and-values")
def test_peft_is_past_fails_when_the_content_stands_elsewhere(gpt2, monkeypatch):
    monkeypatch.setattr(results, "_positions", lambda start: torch.arange(11)[None])
    found = results.compare("GPT-2", gpt2, seeded())
    assert verdict_on_models("peft-is-free-keys-and-values", found) == "fails"


@pytest.mark.claim("prefix-tuning/peft-moves-absolute-positions")
def test_peft_moves_content_fails_where_positions_are_kept_or_rotary(compared):
    kept = [results.shift_movement(compared["GPT-2"][0])] * 3
    rotary = [results.shift_movement(compared["LLaMA"][-1])] * 3
    for moved in (kept, rotary):
        assert verdict_on_shift("peft-moves-absolute-positions", moved) == "contradicted"


@pytest.mark.claim("prefix-tuning/rotary-content-stays")
def test_rotary_content_stays_fails_for_absolute_positions(compared):
    moved = [results.shift_movement(compared["GPT-2"][-1])]
    assert verdict_on_shift("rotary-content-stays", moved) == "fails"


def test_claims_about_the_encoder_hold(on_sentences):
    errors = results.layer_errors(on_sentences)
    assert set(verdicts(statements.ENCODER, errors).values()) == {"holds"}


@pytest.mark.claim("prefix-tuning/encoder-relative-attention", "prefix-tuning/encoder-output-bias")
@pytest.mark.parametrize("name", ["encoder-relative-attention", "encoder-output-bias"])
@pytest.mark.parametrize("wrong", WRONG)
def test_claims_about_the_encoder_fail_for_a_wrong_removal(on_sentences, wrong, name):
    errors = results.layer_errors(on_sentences, wrong)
    assert verdicts(statements.ENCODER, errors)[name] == "fails"


def steered(*seeds, alone=0.9):
    """Trials in which each seed brings four sentences to one place, and to their own, so far."""
    (run,) = steering.plan(1, 0, 3, [1], [1, 4])
    cells = [
        {"crowd": crowd, "aim": aim, "before": [0.1] * crowd, "after": [after] * crowd}
        for reached in seeds
        for crowd in (1, 4)
        for aim, after in zip(steering.AIMS, (alone, alone) if crowd == 1 else reached, strict=True)
    ]
    return Trials(tuple(Trial({}, run, place, cell) for place, cell in enumerate(cells)))


@pytest.mark.claim("prefix-tuning/one-place-is-easier", "prefix-tuning/one-sentence-moves")
def test_one_place_is_easier_is_decided_by_the_largest_crowd():
    def verdict(*seeds):
        return verdicts(statements.STEERING, steered(*seeds))["one-place-is-easier"]

    assert verdict(*[(0.9, 0.4)] * 3) == "supported"
    assert verdict(*[(0.6, 0.59)] * 3) == "contradicted"
    assert verdict(*[(0.4, 0.9)] * 3) == "contradicted"
    assert verdict((0.9, 0.5), (0.5, 0.9), (0.6, 0.5)) == "undecided"
    assert verdict((0.9, 0.4)) == "uninformative"  # one seed is no control
    moved = verdicts(statements.STEERING, steered(*[(0.9, 0.4)] * 3))
    assert moved["one-sentence-moves"] == "supported"
    # A prefix that moves nothing: neither aim is reached, and crowds are not to blame.
    still = verdicts(statements.STEERING, steered(*[(0.1, 0.1)] * 3, alone=0.1))
    assert still == {"one-sentence-moves": "contradicted", "one-place-is-easier": "uninformative"}


# Looking into models.


def test_what_is_recorded_is_what_transformers_itself_attends(gpt2, llama):
    for build in (architectures.random_gpt2, architectures.random_llama):
        ours, theirs = build(seeded()), build(seeded(), "eager")
        ids = results.tokens_of(ours, seeded())
        calls = record(ours, lambda ours=ours, ids=ids: ours(ids, use_cache=False))
        with torch.no_grad():
            shown = theirs(ids, use_cache=False, output_attentions=True).attentions
        for call, attention in zip(calls, shown, strict=True):
            torch.testing.assert_close(call.attention, attention.double(), rtol=0, atol=1e-6)


def test_a_call_without_its_prefix_is_the_plain_call(gpt2):
    """Where there was no prefix below, removing it gives exactly the model without."""
    one = results.compare("GPT-2", gpt2, seeded())[0]
    removed = without_prefix(one.prefixed[0], one.length)
    torch.testing.assert_close(removed.attention, one.plain[0].attention, rtol=0, atol=1e-14)


def test_inserted_and_cached_prefixes_are_the_same(llama):
    past = architectures.random_past(llama, 5, seeded())
    ids = results.tokens_of(llama, seeded())
    positions = torch.arange(11)[None]
    inserted = record(llama, lambda: llama(ids, position_ids=positions, use_cache=False), past)
    cache = architectures.cache_of(llama, past, 3)
    cached = record(llama, lambda: llama(ids, past_key_values=cache, position_ids=positions))
    for one, other in zip(inserted, cached, strict=True):
        torch.testing.assert_close(one.attention, other.attention, rtol=0, atol=1e-13)
        torch.testing.assert_close(one.outputs, other.outputs, rtol=0, atol=1e-13)


def test_grouped_heads_share_values_and_have_shares_of_their_own(llama):
    past = architectures.random_past(llama, 5, seeded())
    assert past.keys[0].shape == (2, 5, 10)
    call = results.compare("LLaMA", llama, seeded())[0].prefixed[0]
    assert torch.equal(call.values[:, 0], call.values[:, 2])
    assert not torch.equal(call.values[:, 2], call.values[:, 3])
    taken, _, _ = split(call.attention, 7)
    assert float((taken[:, 0] - taken[:, 1]).abs().max()) > 0.01


def test_a_model_that_cannot_be_looked_into_is_refused():
    model = architectures.random_gpt2(seeded(), "sdpa")
    ids = torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="load it with attn_implementation='promptlib_recorded'"):
        record(model, lambda: model(ids, use_cache=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: architectures.random_past(model, 0, seeded()), "length .* got 0"),
        (lambda model: architectures.random_past(model, 1, seeded(), 0.0), "scale .* got 0.0"),
        (lambda model: architectures.with_peft(model, 0, seeded()), "length .* got 0"),
        (lambda model: PastKeyValues([], []), "keys and values, got 0 and 0"),
    ],
)
def test_prefixes_out_of_range_are_refused(gpt2, make, message):
    with pytest.raises(ValueError, match=message):
        make(gpt2)


def test_the_global_random_stream_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    architectures.with_peft(architectures.random_llama(seeded()), 2, seeded())
    assert torch.equal(torch.rand(1), expected)


# The encoder.


def test_padding_does_not_change_an_embedding_and_prefixes_do(encoder):
    alone, together = encoder.embed(SENTENCES[:1]), encoder.embed(SENTENCES)[:1]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-10)
    assert float(alone.norm()) == pytest.approx(1)
    moved = encoder.embed(SENTENCES[:1], memory_of(encoder, ANCHOR))
    assert float((moved * encoder.embed([ANCHOR])).sum()) > float(
        (alone * encoder.embed([ANCHOR])).sum()
    )


def test_the_encoder_knows_what_is_alike(encoder):
    near, far, of = encoder.embed(
        ["The bicycle needs a new chain.", "Wheat is cheap this year.", SENTENCES[7]]
    )
    assert float(near @ of) > float(far @ of) + 0.1


def test_the_encoder_refuses_empty_sentences(encoder):
    with pytest.raises(ValueError, match="sentences with words in them"):
        encoder.read(["  "])
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        gaussian_prefix(encoder, 0, seeded())


def test_other_weights_than_those_of_the_book_are_refused(monkeypatch):
    monkeypatch.setattr(
        "notebooks.prefix_tuning.real_architectures.encoder.WEIGHTS_SHA256", "0" * 64
    )
    with pytest.raises(ValueError, match=r"SHA-256 53aa.*expected 000"):
        load_encoder()


def test_a_prefix_in_the_encoder_learns():
    from notebooks.prefix_tuning.real_architectures.training import steer

    (run,) = steering.plan(1, 0, 3, [1], [2])
    result = steer({**run.config, "aims": ["one place"]}, [], lambda items, *_, **__: items)
    (cell,) = result.metrics["cells"]
    assert cell["loss"][-1] < cell["loss"][0]
    assert len(cell["after"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 3, [1], [2]), r"steer_seeds must lie in \[1, .* got \[0\]"),
        ((1, 0, 1, [1], [2]), r"steer_steps must lie in \[2, .* got \[1\]"),
        ((1, 0, 3, [], [2]), r"steer_lengths .* got \[\]"),
        ((1, -1, 3, [1], [2]), r"first_seed must lie in \[0, .* got \[-1\]"),
        ((1, 0, 3, [1], [17]), r"crowds must lie in \[1, 16\], got \[17\]"),
    ],
)
def test_plans_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        steering.plan(*arguments)


# Checkpoints.


@pytest.fixture
def folder(llama, tmp_path):
    """A good checkpoint, to be damaged."""
    path = tmp_path / "checkpoint"
    llama.save_pretrained(path)
    return path


def test_a_checkpoint_gives_the_claims_of_its_weights(folder, llama):
    loaded = checkpoints.load_checkpoint(folder)
    for ours, theirs in zip(llama.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    found = results.compare("checkpoint", loaded, seeded())
    assert verdict_on_models("real-relative-attention", found) == "holds"


def test_shards_are_read_and_missed(folder, llama, tmp_path):
    sharded = tmp_path / "shards"
    llama.save_pretrained(sharded, max_shard_size="100KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    checkpoints.load_checkpoint(sharded)
    next(iter(sorted(sharded.glob("model-*.safetensors")))).unlink()
    with pytest.raises(ValueError, match="lacks the shards model-00001"):
        checkpoints.load_checkpoint(sharded)
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "config.json"}}))
    with pytest.raises(ValueError, match="has no 'metadata'"):
        checkpoints.load_checkpoint(sharded)
    index.write_text(json.dumps({"weight_map": {"w": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match=r"lacks the shards \.\./elsewhere"):
        checkpoints.load_checkpoint(sharded)


def test_the_file_that_is_loaded_is_the_one_that_is_looked_at(folder, llama):
    """A whole file beside shards comes first, so an index does not hide that it is cut short."""
    llama.save_pretrained(folder / "more", max_shard_size="100KB")
    for file in (folder / "more").iterdir():
        file.replace(folder / file.name)
    checkpoints.load_checkpoint(folder)
    truncate(folder, -1)
    with pytest.raises(ValueError, match=r"model\.safetensors has .* bytes where its header"):
        checkpoints.load_checkpoint(folder)


def truncate(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])


def as_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def drop_a_weight(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.self_attn.q_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configured(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return damage


def header(content):
    def damage(folder):
        text = json.dumps(content).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)

    return damage


def indexed(content):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: truncate(folder, 5), "cut short inside its header"),
        (lambda folder: truncate(folder, 200), "cut short inside its header"),
        (lambda folder: truncate(folder, -1), "bytes where its header promises"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json .* is no JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold an object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no safetensors"),
        (as_pickle, r"holds pickles \(pytorch_model.bin\), which can run code"),
        (drop_a_weight, r"lacks 1 of the weights .*layers\.1\.self_attn\.q_proj"),
        (configured(model_type="t5"), "of type 't5'; this chapter looks into gpt2 and llama"),
        (configured(model_type=["llama"]), r"of type \['llama'\]; this chapter"),
        (configured(vocab_size=59), r"\(2\), such as lm_head.*: \(53, 66\), expected \(59, 66\)"),
        (
            configured(num_hidden_layers="three"),
            "not load: .*'num_hidden_layers' expected int",
        ),
        (configured(hidden_act="nonsense"), "does not load: KeyError: 'nonsense'"),
        (
            lambda folder: (folder / "config.json").write_text(9**6 * "["),
            "config.json .* is no JSON",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
        (header([]), "is no safetensors file"),
        (header({"w": {"data_offsets": [0, "x"]}}), "is no safetensors file"),
        (
            header({"w": {"dtype": "F99", "shape": [], "data_offsets": [0, 0]}}),
            "not load: Safe",
        ),
        (indexed({}), "names no shards"),
        (indexed({"weight_map": {"w": 5}}), "lacks the shards 5"),
    ],
)
def test_a_damaged_checkpoint_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        checkpoints.load_checkpoint(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere' is not a folder here; give a folder with"):
        checkpoints.load_checkpoint(tmp_path / "nowhere")


# Offline, and without the extra.


def test_nothing_reaches_for_the_network(monkeypatch, folder):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_encoder()
    checkpoints.load_checkpoint(folder)
    architectures.with_peft(architectures.random_gpt2(seeded()), 2, seeded())
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert os.environ[name] == "1"


def test_importing_the_libraries_prints_nothing_and_warns_of_nothing():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {recording.__name__}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
