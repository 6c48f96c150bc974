"""Models in three parts: what is carried over several borders, exits at each of them, and real nodes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import pytest

from tierwise.artifact import to_payload
from tierwise.capture import run
from tierwise.operators import build, parse_chain
from tierwise.runtime import Pipeline, Placed, Share, deploy

TIERS = ("mobile", "edge", "cloud")


def answers(artifact, feeds):
    """Of all segments in a row, each with its own outputs."""
    known = dict(feeds)
    for segment in artifact.manifest.segments:
        fed = {spec.name: known[spec.name] for spec in segment.inputs}
        known.update(run([onnx.load(artifact.path(segment.file))], fed))
    return known


@pytest.fixture
def nodes():
    """The sockets of a node for each tier."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-"))
        addresses = [f"unix:{folder}/{tier}" for tier in TIERS]
        for tier, address in zip(TIERS, addresses, strict=True):
            command = [sys.executable, "-m", "tierwise", "node", "--listen", address, "--tier", tier, "--threads", "1"]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            assert " ready on " in process.stdout.readline()
        yield addresses


@pytest.mark.parametrize("parts", [3, 4])
def test_a_mask_crosses_every_border_up_to_its_last_reader(text_task, cache, middle, parts):
    whole = build(text_task, parse_chain("identity"), cache)
    cut = build(text_task, parse_chain("partition", {"partition": {"parts": parts}}), cache, choose_cuts=middle)
    readers = [i for i, s in enumerate(cut.manifest.segments) if "attention_mask" in {spec.name for spec in s.inputs}]
    # In four parts the second does not read it, and must hand it on all the same.
    assert readers == {3: [0, 1], 4: [0, 2]}[parts]
    feeds = text_task.tensors(text_task.splits["test"].items)
    masks = feeds["attention_mask"].sum(axis=1)
    assert len(set(masks)) > 1
    np.testing.assert_allclose(answers(cut, feeds)["logits"], answers(whole, feeds)["logits"], atol=1e-5)


@pytest.mark.parametrize("parts", [3])
@pytest.mark.parametrize("chain", ["partition", "sptq+partition"])
def test_three_parts_answer_on_three_nodes_as_the_whole_model(text_task, cache, middle, nodes, chain, parts):
    chosen = parse_chain(chain, {"partition": {"parts": parts}})
    whole = build(text_task, chosen[:-1] or parse_chain("identity"), cache)
    cut = build(text_task, chosen, cache, choose_cuts=middle)
    placed = [
        Placed(control=node, share=Share(segments=(i, i + 1), forward=nodes[i + 1] if i + 1 < parts else None))
        for i, node in enumerate(nodes)
    ]
    deploy(cut, "text", placed)
    feeds = text_task.tensors(text_task.splits["test"].head(4).items)
    with Pipeline(nodes[0], "text", cut.manifest.input) as pipeline:
        reply = pipeline.infer(feeds)
    assert reply.path == TIERS
    assert [(s.tier, s.stage) for s in reply.stages if s.stage in ("head", "middle", "tail")] == list(
        zip(TIERS, ("head", "middle", "tail"), strict=True)
    )
    np.testing.assert_allclose(reply.outputs["logits"], answers(whole, feeds)["logits"], atol=1e-5)


@pytest.mark.parametrize("chain", ["filter+partition", "bottleneck+filter"])
def test_nothing_crosses_the_link_for_what_a_filter_drops(digits, cache, nodes, chain):
    options = {
        "filter": {"interesting": ["0", "1", "2"], "background": "7"},
        "bottleneck": {"preset": "ghnd", "cut": "blocks.0", "channels": 4, "codec": "affine", "epochs_frac": 0.05},
    }
    artifact = build(digits, parse_chain(chain, options), cache)
    placed = [
        Placed(control=nodes[0], share=Share(segments=(0, 1), forward=nodes[1])),
        Placed(control=nodes[1], share=Share(segments=(1, 2))),
    ]
    deploy(artifact, "filtered", placed)
    validation = digits.splits["validation"]
    known = answers(artifact, digits.tensors(validation.items))
    exit = artifact.manifest.segments[0].exit
    dropped = known[exit.confidence].reshape(-1) >= exit.threshold
    with Pipeline(nodes[0], "filtered", artifact.manifest.input) as pipeline:
        for kind, path in ((True, TIERS[:1]), (False, TIERS[:2])):
            chosen = validation.take(np.flatnonzero(dropped == kind)[:3])
            reply = pipeline.infer(to_payload(artifact.manifest.input, chosen.items))
            assert reply.path == path
            assert reply.exit_frac == float(kind)
            if kind:
                assert (reply.outputs["logits"].argmax(1) == 7).all()


@pytest.mark.parametrize("boundary", ["fp32", "uint8"])
def test_two_exits_in_three_parts_let_leave_what_was_counted(digits, cache, boundary):
    options = {
        # Heads that know little, so that items come to both exits and go past both.
        "early-exit": {"cuts": ["blocks.0", "blocks.1"], "max_drop_frac": 0.0, "epochs": 5, "grid": 1, "width": 4},
        "partition": {"parts": 3, "boundary": boundary},
    }
    artifact = build(digits, parse_chain("early-exit+partition", options), cache)
    known = answers(artifact, digits.tensors(digits.splits["validation"].items))
    inside = np.ones(len(digits.splits["validation"]), bool)
    slack = (0.0, 0.0 if boundary == "fp32" else 0.02)  # the second exit sees what was rounded at the first border
    for segment, differs in zip(artifact.manifest.segments, slack, strict=False):
        leaves = inside & (known[segment.exit.confidence].reshape(-1) >= segment.exit.threshold)
        assert abs(leaves.mean() - segment.exit.left_frac) <= differs + 1e-9
        assert 0 < leaves.mean() < 1
        inside &= ~leaves
    assert artifact.manifest.segments[2].exit is None
