"""A decoder in LLaMA's style: what it computes, and a step that learns next tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tierwise._errors import InputError, SpecError
from tierwise.artifact import Optimiser
from tierwise.tasks import Llama, build_decoder
from tierwise.training import IGNORED, Scheme, TrainingSession, next_tokens, read_bytes
from tierwise.training.compiler import (
    capture_step,
    compile_training,
    divide,
    read_model,
    resolve,
    run_eager,
    run_graph,
    simplify,
)

RATES = {"sgd": 0.1, "momentum": 0.01, "adam": 1e-3, "lion": 1e-4}
SMALL = Llama(layers=2, hidden=32, heads=4, kv_heads=2, inner=48, vocabulary=50, length=12)


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
def test_the_decoder_is_the_one_of_transformers(kv_heads: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    spec = Llama(layers=2, hidden=32, heads=4, kv_heads=kv_heads, inner=48, vocabulary=50, length=12, tied=False)
    torch.manual_seed(2)
    mine = build_decoder(spec)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads or 4, rms_norm_eps=1e-5, max_position_embeddings=12, attn_implementation="eager",
        tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    names = {
        "embedding": "model.embed_tokens", "head": "lm_head", "norm.": "model.norm.", "blocks": "model.layers",
        "attention_norm": "input_layernorm", "attention.": "self_attn.", "query": "q_proj", "key": "k_proj",
        "value": "v_proj", "out": "o_proj", "feed_norm": "post_attention_layernorm", "feed.": "mlp.",
        "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
    }  # fmt: skip

    def renamed(name: str) -> str:
        parts = name.split(".")
        if parts[0] == "blocks":
            block = {"attention_norm": "input_layernorm", "feed_norm": "post_attention_layernorm"}
            inner = {"attention": "self_attn", "feed": "mlp"}
            tail = [block.get(parts[2]) or inner[parts[2]], *([names[parts[3]]] if parts[2] in inner else []), "weight"]
            return ".".join(["model.layers", parts[1], *tail])
        return {"norm.weight": "model.norm.weight"}.get(name) or f"{names[parts[0]]}.weight"

    theirs.load_state_dict({renamed(name): tensor for name, tensor in mine.state_dict().items()})
    tokens = torch.randint(0, 50, (3, 12))
    with torch.no_grad():
        torch.testing.assert_close(mine(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)


def test_what_comes_later_changes_nothing() -> None:
    torch.manual_seed(0)
    model, tokens = build_decoder(SMALL), torch.randint(0, 50, (1, 12))
    other = tokens.clone()
    other[0, 7:] = (other[0, 7:] + 1) % 50
    with torch.no_grad():
        before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


def test_heads_that_do_not_fit_are_told() -> None:
    with pytest.raises(SpecError, match="even multiple of the heads"):
        build_decoder(Llama(hidden=30, heads=4))
    with pytest.raises(SpecError, match="multiple of kv_heads"):
        build_decoder(Llama(hidden=64, heads=4, kv_heads=3))


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam", "lion"])
def test_all_of_a_decoder_as_eager_pytorch(kit: Any, optimiser: str) -> None:
    made = [(tuple(torch.from_numpy(a) for a in x.values()), torch.from_numpy(y)) for x, y in kit.batches("decoder", 2)]
    model = read_model(kit.seeded("decoder"), {"tokens": made[0][0][0]})
    # The embedding is the output layer too: one tensor, or it would drift apart from itself.
    assert "head.weight" not in model.tensors
    how = Optimiser(kind=optimiser, rate=RATES[optimiser])
    trained = resolve(Scheme(whole="all"), model)
    joint = capture_step(model, trained, how, *made[0])
    simplify(joint.graph)
    mine, eager = run_graph(joint, model, trained, how, made, 20), run_eager(model, trained, how, made, 20)
    np.testing.assert_allclose(mine.losses, eager.losses, rtol=1e-5)
    assert eager.losses[-1] < eager.losses[0]
    assert divide(joint)[0] is None


def test_the_artifact_learns_next_tokens(kit: Any, tmp_path: Path) -> None:
    made = compile_training(
        kit.seeded("decoder"), kit.lesson("decoder"), Scheme(whole=4), Optimiser(kind="momentum"), tmp_path / "a"
    )
    session = TrainingSession(made)
    assert session.verified.steps == 20
    assert session.verified.weight_error < 1e-5
    assert session.spec.label_shape == (12,)
    inputs, labels = kit.batches("decoder", 2)[0]
    assert session.predict(inputs).shape == (2, 12, 50)
    with pytest.raises(InputError, match="at least one label must count"):
        session.step(inputs, np.full_like(labels, IGNORED))
    with pytest.raises(InputError, match=r"labels must have the shape \[2, 12\]"):
        session.step(inputs, labels[:, 0])
    with pytest.raises(InputError, match=r"labels must be in \[0, 50\) or -100"):
        session.step(inputs, np.where(labels == IGNORED, -1, labels))
    first = session.step(inputs, labels, rate=0.05)
    for _ in range(10):
        last = session.step(inputs, labels, rate=0.05)
    assert last < first


def test_rows_cover_a_text_once(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"to be or not")
    rows, labels = next_tokens(read_bytes(path), 5)
    counted = labels != IGNORED
    assert bytes(rows[counted].tolist()) == b"to be or no"
    assert bytes(labels[counted].tolist()) == b"o be or not"
    assert rows.shape == (3, 5)
    with pytest.raises(InputError, match="must exist"):
        read_bytes(tmp_path / "none.txt")
    with pytest.raises(InputError, match="two tokens"):
        next_tokens(np.array([1]), 5)
