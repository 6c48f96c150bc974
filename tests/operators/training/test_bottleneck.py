from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tierwise._errors import ChainError, InputError, SpecError
from tierwise.capture import read_graph, run
from tierwise.codecs import PriorCodec, decode, encode, read_codec
from tierwise.measure import Silent
from tierwise.operators import (
    Bottleneck,
    Context,
    Lesson,
    Work,
    apply,
    build,
    chain_text,
    check_chain,
    parse_chain,
    resolve,
)
from tierwise.operators._bottleneck import _School
from tierwise.operators._density import Density
from tierwise.operators._gdn import GDN1
from tierwise.operators._narrow import Shape, narrow_pair
from tierwise.operators._recipes import Preset
from tierwise.operators._rounding import Rounding
from tierwise.operators._surgery import Anatomy
from tierwise.tasks import Unlabelled
from tierwise.testing import check_operator

from .conftest import Stops

FEATURES = Lesson(features="all", epochs=2, learning_rate=4e-3, batch=64)
ANSWERS = Lesson(
    trains=("decoder", "tail"),
    cross_entropy=0.5,
    soft=0.5,
    codec="round",
    epochs=2,
    optimiser="sgd",
    learning_rate=0.02,
)
SHORT = Bottleneck(preset="bottlefit", channels=4, width=16, lessons=(FEATURES, ANSWERS))


@pytest.fixture(scope="session")
def whole(digits) -> Work:
    from tierwise.capture import export

    model = export(digits.model(Silent()), digits.example(), digits.outputs)
    return Work(task=digits, model=model, module=digits.model)


def _work(spec, work, folder, progress=None) -> Work:
    return apply(spec, work, Context(folder=folder, progress=progress or Silent()))


@pytest.fixture(scope="session")
def narrowed(whole, tmp_path_factory) -> Work:
    return _work(SHORT, whole, tmp_path_factory.mktemp("narrowed"))


@pytest.fixture(scope="session")
def with_prior(whole, tmp_path_factory) -> Work:
    lessons = (
        Lesson(features="cut", rate=0.05, codec="noise", epochs=6, learning_rate=4e-3, batch=64),
        Lesson(trains=("decoder", "tail"), soft=1.0, codec="round", epochs=1),
    )
    spec = Bottleneck(preset="entropic-student", channels=4, prefixes=(2,), lessons=lessons)
    return _work(spec, whole, tmp_path_factory.mktemp("prior"))


SPECS = {
    "affine": Bottleneck(preset="ghnd", channels=2, width=8, bits=4, lessons=(Lesson(features="all", epochs=1),)),
    "prior": Bottleneck(
        preset="entropic-student", channels=2, prefixes=(1,), rate=0.1, epochs_frac=0.1, cut="blocks.0"
    ),
    "raw": Bottleneck(preset="autoencoder", codec="raw", epochs_frac=0.05),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_bottlenecks_keep_the_contract_of_operators(torch_task, spec):
    check_operator(spec, torch_task, tolerance=20)


def test_features_then_answers_are_learnt(whole, narrowed):
    first, second = (note for note in narrowed.notes if "lesson" in note)
    values = [float(note.partition("accuracy ")[2].split()[0]) for note in (first, second)]
    assert values[0] > 0.3, "a tenth is chance"
    assert values[1] > values[0]
    (rate,) = narrowed.crossing.rates
    assert rate.value == pytest.approx(values[1], abs=0.02), "the exported parts answer as the torch model did"
    assert narrowed.training_s > 0


def test_a_lesson_changes_only_what_it_trains(whole, tmp_path):
    spec = resolve(SHORT, whole, Context(folder=tmp_path))
    school = _School(spec, whole, Context(folder=tmp_path))
    module = school._narrowed
    states = []
    for number, lesson in enumerate(spec.lessons):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        school.teach(number, lesson)
        after = module.state_dict()
        states.append({name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])})
    # Ranges are fixed between the lessons.
    assert states == [{"encoder", "decoder"}, {"rounding", "decoder", "tail"}]


def test_the_exported_parts_and_the_codec_are_the_torch_model(whole, tmp_path):
    spec = resolve(SHORT, whole, Context(folder=tmp_path))
    school = _School(spec, whole, Context(folder=tmp_path, keep=tmp_path / "kept"))
    for number, lesson in enumerate(spec.lessons):
        school.teach(number, lesson)
    module = school.finished()
    work = _work(spec, whole, tmp_path, None)
    feeds = whole.task.tensors(whole.task.splits["validation"].items)
    with torch.inference_mode():
        expected = module(torch.from_numpy(feeds["input"])).numpy()
    head, tail = work.segments
    codec = read_codec(work.crossing.kind, work.crossing.tables)
    arrived = decode(codec, encode(codec, run([head], feeds)["latent"]))
    answers = run([tail], {"latent": np.ascontiguousarray(arrived)})["logits"]
    # A value half-way between two codes may fall to either side.
    near = np.isclose(answers, expected, atol=1e-3 * np.abs(expected).max()).all(1)
    assert near.mean() > 0.95
    assert (answers.argmax(1) == expected.argmax(1)).mean() > 0.99


def test_real_bytes_are_those_the_prior_says(with_prior):
    crossing, task = with_prior.crossing, with_prior.task
    codec = read_codec(crossing.kind, crossing.tables)
    assert isinstance(codec, PriorCodec)
    latent = run(with_prior.segments[:1], task.tensors(task.splits["test"].items))["latent"]
    for one in (latent[:1], latent[:8], latent):
        payload, _ = codec.pack(one)
        estimate = codec.tables.bits(one) / 8
        assert abs(len(payload) - estimate) <= 0.02 * estimate + 4
    assert crossing.estimated_bits / 8 < crossing.rates[-1].item_bytes < crossing.estimated_bits / 8 + 20


def test_tables_say_what_the_density_learnt(whole, with_prior, tmp_path):
    density = Density(2)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    medians = density.quantile(0.0)
    tables = density.tables(medians)
    values = medians[None, :, None, None] + torch.arange(-6.0, 7.0)
    bits = -torch.log2(density.likelihood(values)).sum().item()
    assert PriorCodec(tables).tables.bits(values.detach().numpy()) == pytest.approx(bits, rel=0.01)
    assert density.logits(medians[:, None, None]).abs().max() < 1e-3


def test_a_prefix_costs_less_and_still_answers(with_prior):
    few, all_of_them = with_prior.crossing.rates
    assert (few.channels, all_of_them.channels) == (2, 4)
    assert few.item_bytes < all_of_them.item_bytes - 4
    assert few.value > 0.15


def test_it_goes_on_after_a_kill(whole, tmp_path, narrowed):
    keep = tmp_path / "keep"
    stops = Stops(after=45, title="bottleneck")
    with pytest.raises(KeyboardInterrupt):
        apply(SHORT, whole, Context(folder=tmp_path, progress=stops, keep=keep))
    again = Stops()
    done = apply(SHORT, whole, Context(folder=tmp_path, progress=again, keep=keep))
    assert sum(again.steps.values()) > 0
    assert done.crossing.tables == narrowed.crossing.tables
    assert [part.SerializeToString() for part in done.segments] == [
        part.SerializeToString() for part in narrowed.segments
    ]


def test_a_chain_around_a_bottleneck(digits, built, tmp_path):
    lessons = {"lessons": [{"features": "all", "epochs": 3, "learning_rate": 4e-3}]}
    artifact = build(digits, parse_chain("bottleneck", {"bottleneck": lessons}), built)
    quantised = build(digits, parse_chain("bottleneck+sptq", {"bottleneck": lessons}), built)
    manifest, integer = artifact.manifest, quantised.manifest
    before, after = (one.segments[0].boundary.rates[-1].value for one in (manifest, integer))
    assert abs(before - after) < 0.05
    assert integer.segments[0].boundary.encoder_bits < manifest.segments[0].boundary.encoder_bits
    assert integer.coverage.int8_ops > 0
    assert manifest.segments[0].boundary.tables in {entry.name for entry in manifest.files}
    for part in (onnx.load(quantised.path(segment.file)) for segment in integer.segments):
        ends = [*part.graph.input, *part.graph.output]
        (latent,) = [value for value in ends if value.name == "latent"]
        assert latent.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_it_narrows_what_was_distilled_before(digits, built):
    options = {
        "distill": {"training": {"epochs": 1, "batch": 64}},
        "bottleneck": {"lessons": [{"features": "cut", "epochs": 1}]},
    }
    artifact = build(digits, parse_chain("distill+bottleneck", options), built)
    assert artifact.manifest.provenance.chain == "distill+bottleneck"
    assert artifact.manifest.segments[0].boundary.codec == "affine"


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("bottleneck+partition", "bottleneck"),
        ("bottleneck+qat", "bottleneck"),
        ("early-exit+bottleneck", "bottleneck"),
        ("sptq+bottleneck", "bottleneck+sptq"),
        ("bottleneck+distill", "distill+bottleneck"),
    ],
)
def test_illegal_chains_name_a_legal_one(text, nearest):
    with pytest.raises(ChainError, match=f"'{nearest}'".replace("+", r"\+")):
        parse_chain(text)


def test_presets_resolve_to_what_the_papers_say(whole, tmp_path):
    for preset in get_args(Preset):
        spec = resolve(Bottleneck(preset=preset), whole, Context(folder=tmp_path))
        assert resolve(spec, whole, Context(folder=tmp_path)) == spec
        check_chain((spec,), whole.task)
    student = resolve(Bottleneck(preset="entropic-student"), whole, Context(folder=tmp_path))
    assert chain_text((student,)) == "bottleneck"
    assert (student.family, student.channels, student.codec) == ("gdn", 24, "prior")
    assert [lesson.epochs for lesson in student.lessons] == [10, 10]
    assert len(student.lessons[0].features) > 1
    priced = resolve(Bottleneck(preset="entropic-bottlefit", rate=0.08), whole, Context(folder=tmp_path))
    assert [lesson.rate for lesson in priced.lessons] == [0.08, pytest.approx(1.5e-4)], "each on its own scale"
    assert (priced.depth, student.depth) == (2, 0)
    hnd = resolve(Bottleneck(preset="hnd"), whole, Context(folder=tmp_path))
    assert hnd.lessons[0].features == (hnd.cut,)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        (Bottleneck(channels=3, prefixes=(5,)), SpecError, "prefixes must have at most all 3 channels"),
        (Bottleneck(channels=3, prefixes=(2,), codec="raw"), SpecError, "prefixes must have a codec that knows"),
        (Bottleneck(codec="raw", lessons=(Lesson(features="cut", rate=1.0),)), SpecError, "only a prior knows"),
        (Bottleneck(lessons=(Lesson(),)), SpecError, "a lesson must train something"),
        (
            Bottleneck(lessons=(Lesson(features="all", features_weight=0.0),)),
            SpecError,
            "a lesson must train something",
        ),
        (Bottleneck(lessons=(Lesson(features="cut", trains=("tail",)),)), SpecError, "not the tail behind it"),
        (Bottleneck(preset="hnd", rate=0.5), SpecError, "a weight of a bit needs a lesson with a rate"),
        (Bottleneck(preset="hnd", codec="prior"), SpecError, "a prior is learnt by lessons that train the encoder"),
        (
            Bottleneck(lessons=(Lesson(cross_entropy=1.0),), unlabelled=Unlabelled(folder=".")),
            SpecError,
            "need a lesson without cross_entropy",
        ),
        (Bottleneck(cut="nowhere"), InputError, "a cut must be named"),
    ],
)
def test_what_cannot_be_is_said(whole, tmp_path, spec, error, words):
    with pytest.raises(error, match=words):
        resolve(spec, whole, Context(folder=tmp_path))


def test_sides_that_cannot_be_reached_are_said(whole, tmp_path):
    with pytest.raises(InputError, match="halved some times"):
        _work(Bottleneck(stride=3), whole, tmp_path)


def test_a_model_without_pictures_inside_is_refused(text_task, tmp_path):
    from tierwise.capture import export

    model = export(text_task.model(Silent()), text_task.example(), text_task.outputs)
    work = Work(task=text_task, model=model, module=text_task.model)
    with pytest.raises(InputError, match="one input"):
        resolve(Bottleneck(), work, Context(folder=tmp_path))


@pytest.mark.parametrize("family", ["conv", "gdn", "autoencoder"])
@pytest.mark.parametrize(
    ("side", "latent", "wanted"), [(28, 7, 14), (28, 4, 7), (30, 8, 15), (64, 8, 8), (16, 8, 4), (12, 12, 12)]
)
def test_families_reach_any_sides(family, side, latent, wanted):
    source = (5, side, side)
    encoder, decoder = narrow_pair(family, Shape(source, (2, latent, latent), (6, wanted, wanted)), 8)
    sent = encoder.eval()(torch.randn(2, *source))
    assert sent.shape == (2, 2, latent, latent)
    assert decoder.eval()(sent).shape == (2, 6, wanted, wanted)


def test_a_deeper_encoder_has_more_layers_of_the_same_sides():
    shape = Shape((3, 16, 16), (2, 4, 4), (6, 8, 8))
    plain, deep = (narrow_pair("conv", shape, 8, depth)[0] for depth in (0, 2))
    count = [sum(isinstance(layer, nn.Conv2d) for layer in one) for one in (plain, deep)]
    assert count == [2, 4]
    assert deep.eval()(torch.randn(1, 3, 16, 16)).shape == (1, 2, 4, 4)


def test_gdn_is_the_published_one():
    torch.manual_seed(0)
    norm, back = GDN1(3), GDN1(3, inverse=True)
    x = torch.randn(2, 3, 4, 4)
    expected = x / (1 + 0.1 * x.abs())
    torch.testing.assert_close(norm(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(back(x), x * (1 + 0.1 * x.abs()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["affine", "prior"])
def test_rounding_is_what_the_codec_does(kind):
    torch.manual_seed(0)
    latents = 5 * torch.randn(6, 3, 4, 4) + torch.tensor([0.0, 3.0, -2.0])[:, None, None]
    rounding = Rounding(kind, 3, 5)
    rounding.settle(latents)
    codec = rounding.codec()
    for sent in (None, 2):
        for mode in (True, False):
            rounding.train(mode)
            arrived, _ = rounding(latents, "round", sent)
            expected = decode(codec, encode(codec, latents.numpy(), sent))
            np.testing.assert_allclose(arrived.detach().numpy(), expected, atol=1e-5)
    latents.requires_grad_(True)
    rounding(latents, "round")[0].sum().backward()
    torch.testing.assert_close(latents.grad, torch.ones_like(latents))


def test_parts_of_a_module_are_the_module(whole):
    module = whole.task.model(Silent()).eval()
    anatomy = Anatomy(module, whole.task.example())
    names = [name for name in read_graph(whole.model).tensors if anatomy.knows(name)]
    cut = next(name for name in names if name == "relu_2")
    for count in (1, 5):
        x = torch.randn(count, 1, 8, 8)
        head, tail = anatomy.head(cut), anatomy.tail(cut)
        torch.testing.assert_close(tail(head(x)), module(x))
        answer, seen = anatomy.tail(None, (cut,))(x)
        torch.testing.assert_close(answer, module(x))
        torch.testing.assert_close(seen, head(x))


def test_a_part_knows_the_batch_without_the_input():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(128, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.conv(x)).view(x.size(0), -1))

    net = Flat().eval()
    anatomy = Anatomy(net, {"x": torch.randn(2, 1, 8, 8)})
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(anatomy.tail("relu")(anatomy.head("relu")(x)), net(x))


def test_an_artifact_has_one_address_for_one_result(digits, built):
    spec = Bottleneck(preset="hnd", epochs_frac=0.05)
    first, second = (build(digits, (spec,), built) for _ in range(2))
    assert isinstance(first.directory, Path)
    assert first.directory == second.directory


def test_a_lesson_can_have_a_budget_of_labels(whole, tmp_path):
    stops = Stops()
    lessons = (
        Lesson(features="cut", epochs=1, batch=32),
        Lesson(trains=("decoder",), cross_entropy=1.0, codec="round", epochs=1, batch=32, train_frac=0.25),
    )
    apply(Bottleneck(lessons=lessons), whole, Context(folder=tmp_path, progress=stops))
    all_of_them, budget = (count for title, count in stops.steps.items() if "lesson" in title)
    assert budget == pytest.approx(all_of_them / 4, abs=1)
