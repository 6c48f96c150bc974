from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time

import numpy as np
import onnx
import pytest

from tierwise._errors import ChainError, InputError, StoreError
from tierwise.artifact import open_artifact
from tierwise.capture import run
from tierwise.operators import Partition, build, parse_chain, partition_cuts
from tierwise.tasks import Task


def segments(artifact):
    return [onnx.load(artifact.path(segment.file)) for segment in artifact.manifest.segments]


def answers(task, artifact):
    return run(segments(artifact), task.tensors(task.splits["test"].items))["logits"]


@pytest.fixture(scope="module")
def whole(torch_task, cache):
    return build(torch_task, parse_chain("identity"), cache)


def test_identity_is_the_model(torch_task, whole):
    import torch

    tensors = torch_task.tensors(torch_task.splits["test"].items)
    expected = torch_task.model(None)(torch.from_numpy(tensors["x"])).detach().numpy()
    np.testing.assert_allclose(answers(torch_task, whole), expected, atol=1e-5)
    manifest = whole.manifest
    assert manifest.provenance.chain == "identity"
    assert manifest.coverage is None
    assert [segment.file for segment in manifest.segments] == ["model.onnx"]
    assert manifest.outputs[0].shape == (-1, 10)
    assert manifest.segments[0].macs == 8 * 3 * 9 * 144 + 6 * 8 * 8 * 9 * 144 + 80


@pytest.mark.parametrize("boundary", ["fp32", "uint8"])
@pytest.mark.parametrize("chain", ["partition", "sptq+partition"])
def test_partition_of_float_and_of_integer_models(torch_task, cache, whole, middle, chain, boundary):
    artifact = build(torch_task, parse_chain(chain, {"partition": {"boundary": boundary}}), cache, choose_cuts=middle)
    manifest = artifact.manifest
    head, tail = manifest.segments
    quantised = chain.startswith("sptq")
    error = manifest.provenance.composition_error
    assert head.outputs == tail.inputs
    assert head.outputs[0].dtype == {"fp32": "FP32", "uint8": "UINT8"}[boundary]
    assert head.macs + tail.macs == whole.manifest.segments[0].macs
    if quantised:
        # Cut where the model holds bytes anyway: nothing more is lost, and every operator stays in int8.
        assert error == 0
        assert manifest.coverage.float_ops == 0
    else:
        assert error <= (1e-4 if boundary == "fp32" else 0.05)
    np.testing.assert_allclose(answers(torch_task, artifact), answers(torch_task, whole), atol=0.1)


def test_cuts_of_a_quantised_model_spare_its_pairs(torch_task, cache, middle):
    model = segments(build(torch_task, parse_chain("sptq"), cache))[0]
    as_bytes, as_floats = partition_cuts(model, "uint8"), partition_cuts(model, "fp32")
    assert {cut.tensor.dtype for cut in as_bytes} == {"UINT8"}
    assert not any("Dequantize" in cut.label for cut in as_floats)
    crossing = {cut.tensor.name: cut.bytes for cut in as_floats}
    assert all(crossing[cut.tensor.name] == 4 * cut.bytes for cut in as_bytes)


def test_a_cut_has_one_name_in_float_and_integer_models(torch_task, cache):
    plain = build(torch_task, parse_chain("partition", {"partition": {"cut": "blocks.1"}}), cache)
    name = plain.manifest.provenance.specs[0]["cut"]
    options = {"partition": {"cut": name, "boundary": "uint8"}}
    quantised = build(torch_task, parse_chain("sptq+partition", options), cache)
    assert quantised.manifest.provenance.specs[1]["cut"] == f"{name}_QuantizeLinear_Output"
    assert [segment.macs for segment in plain.manifest.segments] == [
        segment.macs for segment in quantised.manifest.segments
    ]


def test_auto_without_a_cost_model_is_refused(torch_task, cache):
    with pytest.raises(InputError, match=r'cut = "auto" needs a cost model to choose. Name a cut, for example \''):
        build(torch_task, (Partition(),), cache)


def test_illegal_chains_are_refused_before_any_work(torch_task, tmp_path):
    def never(progress):
        raise AssertionError("no work before the chain is checked")

    with pytest.raises(ChainError):
        build(dataclasses.replace(torch_task, model=never), parse_chain("sptq")[::-1] * 2, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_without_source_is_quantised_and_cut(onnx_task, cache, middle):
    artifact = build(onnx_task, parse_chain("sptq+partition"), cache, choose_cuts=middle)
    assert artifact.manifest.provenance.task == "brought"
    assert artifact.manifest.coverage.float_ops == 0


def test_shared_prefixes_are_built_once_and_results_found_again(torch_task, tmp_path, middle):
    asked = []

    def model(progress):
        asked.append(1)
        return torch_task.model(progress)

    task: Task = dataclasses.replace(torch_task, model=model)
    first = build(task, parse_chain("sptq"), tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "stages").rglob("*")}
    assert len(list((tmp_path / "stages").iterdir())) == 2  # the export, and sptq
    build(task, parse_chain("sptq+partition"), tmp_path, choose_cuts=middle)
    again = build(task, parse_chain("sptq"), tmp_path)
    assert len(asked) == 1
    assert again.digest == first.digest
    assert len(list((tmp_path / "stages").iterdir())) == 3
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not list((tmp_path / "tmp").iterdir())


def test_what_decides_the_content_decides_the_address(torch_task, tmp_path, middle):
    def where(task, chain, options=None, choose=middle):
        return build(task, parse_chain(chain, options), tmp_path, choose_cuts=choose).directory

    places = [
        where(torch_task, "sptq"),
        where(torch_task, "sptq", {"sptq": {"items": 5}}),
        where(torch_task, "sptq", {"sptq": {"isa": "arm64"}}),
        where(dataclasses.replace(torch_task, fingerprint="3" * 64), "sptq"),
        where(torch_task, "partition"),
        where(torch_task, "partition", choose=lambda cuts, count: cuts[:1]),
        where(torch_task, "partition", {"partition": {"boundary": "uint8"}}),
    ]
    assert len(set(places)) == len(places)


def _forever(task, cache):
    def stuck(cuts, count):
        # The export is stored, the partition is under way in its temporary folder.
        (cache / "reached").touch()
        time.sleep(60)

    build(task, parse_chain("partition"), cache, choose_cuts=stuck)


def test_a_killed_build_leaves_nothing_half_written(torch_task, tmp_path, middle):
    child = multiprocessing.get_context("fork").Process(target=_forever, args=(torch_task, tmp_path))
    child.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert not (tmp_path / "artifacts").exists()
    artifact = build(torch_task, parse_chain("partition"), tmp_path, choose_cuts=middle)
    assert open_artifact(artifact.directory).digest == artifact.digest
    assert not list((tmp_path / "tmp").iterdir())


def test_a_damaged_intermediate_result_is_named(torch_task, tmp_path):
    build(torch_task, parse_chain("identity"), tmp_path)
    for record in (tmp_path / "stages").glob("*/work.json"):
        record.write_bytes(b"{")
    with pytest.raises(StoreError, match=r"an intermediate result must be readable.*Delete that folder"):
        build(torch_task, parse_chain("sptq"), tmp_path)


@pytest.mark.parametrize("boundary", ["fp32", "uint8"])
@pytest.mark.parametrize("chain", ["partition", "sptq+partition"])
def test_three_parts_are_the_model_in_a_row(torch_task, cache, whole, middle, chain, boundary):
    options = {"partition": {"boundary": boundary, "parts": 3}}
    artifact = build(torch_task, parse_chain(chain, options), cache, choose_cuts=middle)
    manifest = artifact.manifest
    assert len(manifest.segments) == 3
    assert all(segment.macs > 0 for segment in manifest.segments)
    assert sum(segment.macs for segment in manifest.segments) == whole.manifest.segments[0].macs
    assert [segment.outputs[0].dtype for segment in manifest.segments[:2]] == [
        {"fp32": "FP32", "uint8": "UINT8"}[boundary]
    ] * 2
    error = manifest.provenance.composition_error
    assert error == 0 if chain.startswith("sptq") else error <= (1e-5 if boundary == "fp32" else 0.05)
    np.testing.assert_allclose(answers(torch_task, artifact), answers(torch_task, whole), atol=0.1)
    named = {"partition": options["partition"] | {"cut": manifest.provenance.specs[-1]["cut"][::-1]}}
    assert build(torch_task, parse_chain(chain, named), cache).directory == artifact.directory


def test_parts_and_cuts_must_fit_each_other(torch_task, cache):
    for options, must in (
        ({"parts": 3, "cut": "blocks.1"}, "3 parts must have 2 different cuts"),
        ({"parts": 2, "cut": ["blocks.0", "blocks.1"]}, "2 parts must have 1 different cut,"),
        ({"parts": 3, "cut": ["blocks.1", "blocks.1"]}, "3 parts must have 2 different cuts"),
    ):
        with pytest.raises(InputError, match=must):
            build(torch_task, parse_chain("partition", {"partition": options}), cache)
