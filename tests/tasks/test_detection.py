from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tierwise._config import loads_toml
from tierwise._errors import InputError, SpecError
from tierwise.artifact import Detections
from tierwise.capture import cut_points, export, read_graph
from tierwise.measure import Silent
from tierwise.operators import Filter, Identity, Partition, build, parse_chain
from tierwise.runtime import Executor
from tierwise.tasks import (
    SPLITS,
    BoxScores,
    DetectionTask,
    FastestDet,
    Task,
    TaskSpec,
    Training,
    VehicleBoxes,
    YoloFolders,
    load_task,
    score,
)
from tierwise.tasks._box_augmentation import with_boxes_moved
from tierwise.tasks._detection_loss import _targets, boxes_loss, cells_loss, generalised_overlaps
from tierwise.tasks._fastestdet import FastestDetNet, load_coco_weights
from tierwise.tasks._source import Source

pytest.importorskip("pycocotools")

SMALL = Training(epochs=1, batch=8, learning_rate=2e-3, flip=True, shift_pixels=4, precision="float32")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> YoloFolders:
    """Folders of noisy pictures with one bright square each."""
    root = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    for split, count in zip(SPLITS, (24, 4, 8, 8), strict=True):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 60, (64, 96, 3), dtype=np.uint8)
            size = int(generator.integers(16, 32))
            x, y = int(generator.integers(0, 96 - size)), int(generator.integers(0, 64 - size))
            pixels[y : y + size, x : x + size] = (250, 200, 40)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=92)
            (root / split / "images" / f"{i}.jpg").write_bytes(file.getvalue())
            line = f"0 {(x + size / 2) / 96} {(y + size / 2) / 64} {size / 96} {size / 64}"
            (root / split / "labels" / f"{i}.txt").write_text(line)
    return YoloFolders(**{name: str(root / name) for name in SPLITS}, labels=("square",))


def detector(squares: YoloFolders, **changes: object) -> DetectionTask:
    spec = DetectionTask(data=squares, subject=FastestDet(width=16), training=SMALL, pixels=96)
    changed: DetectionTask = msgspec.structs.replace(spec, **changes)
    return changed


def test_squares_are_learnt_resumed_and_answered_alike_by_an_artifact(squares: YoloFolders, tmp_path: Path) -> None:
    training = msgspec.structs.replace(SMALL, epochs=30, batch=4, shift_pixels=0, learning_rate=4e-3)
    spec = detector(squares, training=training)
    task = load_task(spec, tmp_path, threads=1)
    assert task.model is not None
    net = task.model(Silent())
    inputs, labels = next(task.batches("test", 8))
    with torch.inference_mode():
        raw = net(torch.from_numpy(inputs["input"])).numpy()
    assert BoxScores(_answer(task, raw), labels).map50 > 0.5
    artifact = build(task, parse_chain("identity"), tmp_path)
    assert artifact.manifest.boxes == task.boxes
    made = Executor(artifact, threads=1).run(inputs)["detections"]
    np.testing.assert_allclose(made, _answer(task, raw), atol=2e-3)
    assert score("map", made, labels) == pytest.approx(task.score(raw, labels), abs=0.05)
    cut = build(task, (Partition(cut="backbone.stage2.2/Concat"),), tmp_path)
    assert len(cut.manifest.segments) == 2
    np.testing.assert_allclose(Executor(cut, threads=1).run(inputs)["detections"], made, atol=1e-4)
    with pytest.raises(InputError, match="must know boxes"):
        build(task, parse_chain("prune"), tmp_path)


def test_a_filter_learns_from_tiles_of_the_frames(squares: YoloFolders, tmp_path: Path) -> None:
    task = load_task(detector(squares), tmp_path, threads=1)
    spec = Filter(grid=6, most_macs_frac=0.5, least_recall=0.8, epochs=60)
    artifact = build(task, (spec,), tmp_path)
    exit = artifact.manifest.segments[0].exit
    assert exit is not None
    assert exit.filtering is not None
    assert exit.filtering.views == "tiles"
    assert exit.filtering.roc_auc is not None
    assert exit.filtering.roc_auc > 0.8
    assert exit.filtering.lost_frac is not None
    assert exit.filtering.lost_frac <= 0.2
    assert exit.filtering.empty_dropped_frac


def _answer(task: Task, raw: np.ndarray) -> np.ndarray:
    from tierwise.artifact import detect

    assert task.boxes is not None
    return detect(task.boxes, raw)


def test_a_stopped_training_reaches_the_same_weights(squares: YoloFolders, tmp_path: Path) -> None:
    from tierwise.tasks._training import trained

    spec = detector(squares, training=msgspec.structs.replace(SMALL, epochs=2))
    task = load_task(spec, tmp_path)
    assert task.training is not None

    def train(folder: str, stop_after: int | None = None) -> torch.nn.Module:
        return trained(
            lambda: FastestDetNet(FastestDet(width=16), classes=1), task, task.training, seed=0,
            folder=tmp_path / folder, progress=Silent(), threads=1, stop_after=stop_after,
        )  # fmt: skip

    straight = train("a")
    with pytest.raises(KeyboardInterrupt):
        train("b", stop_after=1)
    for name, tensor in train("b").state_dict().items():
        torch.testing.assert_close(tensor, straight.state_dict()[name], rtol=0, atol=0)


def test_a_leak_is_refused(squares: YoloFolders, tmp_path: Path) -> None:
    leaking = msgspec.structs.replace(squares, test=squares.validation)
    task = load_task(detector(leaking), tmp_path)
    with pytest.raises(InputError, match="no item may be in two splits"):
        _ = task.splits["train"]


def test_fingerprints_follow_what_decides(squares: YoloFolders, tmp_path: Path) -> None:
    spec = detector(squares)
    first = load_task(spec, tmp_path).fingerprint
    assert load_task(spec, tmp_path).fingerprint == first
    for change in ({"seed": 1}, {"pixels": 64}, {"fit": "stretch"}, {"subject": FastestDet(width=20)}):
        assert load_task(msgspec.structs.replace(spec, **change), tmp_path).fingerprint != first, change


def test_a_box_that_moves_to_the_next_picture_is_another_set(squares: YoloFolders, tmp_path: Path) -> None:
    shutil.copytree(Path(squares.train).parent, tmp_path / "moved")
    moved = YoloFolders(**{name: str(tmp_path / "moved" / name) for name in SPLITS}, labels=squares.labels)
    labels = [Path(moved.train) / "labels" / f"{i}.txt" for i in (0, 1)]
    line = labels[0].read_text()
    seen = []
    for texts in ((line, ""), ("", line)):
        for path, text in zip(labels, texts, strict=True):
            path.write_text(text)
        seen.append(load_task(detector(moved), tmp_path).fingerprint)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_boxes_is_named_before_anything_is_trained(
    squares: YoloFolders, tmp_path: Path, split: str
) -> None:
    shutil.copytree(Path(squares.train).parent, tmp_path / "bare")
    bare = YoloFolders(**{name: str(tmp_path / "bare" / name) for name in SPLITS}, labels=squares.labels)
    shutil.rmtree(Path(getattr(bare, split)) / "labels")
    with pytest.raises(InputError, match=f"{split}: train, validation and test must hold a box"):
        _ = load_task(detector(bare), tmp_path).splits["train"]


def test_training_names_the_picture_that_breaks_off(squares: YoloFolders, tmp_path: Path) -> None:
    shutil.copytree(Path(squares.train).parent, tmp_path / "squares")
    broken = tmp_path / "squares" / "train" / "images" / "7.jpg"
    broken.write_bytes(broken.read_bytes()[:-500])
    folders = {name: str(tmp_path / "squares" / name) for name in SPLITS}
    task = load_task(detector(msgspec.structs.replace(squares, **folders)), tmp_path, threads=1)
    assert task.model is not None
    with pytest.raises(InputError, match=rf"^{broken}: the bytes must be a picture, .*truncated"):
        task.model(Silent())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"boxes": Detections(tensor="cells", layout="grid", classes=(0,))}, "boxes must be given with onnx only"),
        ({"onnx": "d.onnx"}, "subject and training must be left out"),
        ({"onnx": "d.onnx", "training": None}, "subject and training must be left out"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(
    squares: YoloFolders, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        load_task(detector(squares, **changes), tmp_path)


def brought(path: Path, squares: YoloFolders, items: int | str, kind: int = TensorProto.FLOAT) -> DetectionTask:
    """A detector as a file: a convolution whose map of 12 x 12 is read as cells."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(0, 0.1, (6, 3, 8, 8)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "w"], ["map"], strides=[8, 8]),
        helper.make_node("Sigmoid", ["map"], ["cells"]),
    ]
    given = helper.make_tensor_value_info("images", kind, [items, 3, 96, 96])
    made = helper.make_tensor_value_info("cells", TensorProto.FLOAT, [items, 6, 12, 12])
    graph = helper.make_graph(nodes, "detector", [given], [made], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    boxes = Detections(tensor="cells", layout="grid", classes=(0,))
    return DetectionTask(data=squares, onnx=str(path), boxes=boxes)


@pytest.mark.parametrize("items", ["n", 1])
def test_a_detector_of_one_picture_at_a_time_is_split_too(squares: YoloFolders, tmp_path: Path, items: Any) -> None:
    task = load_task(brought(tmp_path / "d.onnx", squares, items), tmp_path)
    whole, cut = (build(task, chain, tmp_path) for chain in ((Identity(),), (Partition(cut="map"),)))
    assert len(cut.manifest.segments) == 2
    given = task.tensors(task.splits["test"].items[:1])
    found = [Executor(artifact, threads=1).run(given)["detections"] for artifact in (whole, cut)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_detector_of_other_numbers_than_fp32_is_refused(squares: YoloFolders, tmp_path: Path) -> None:
    spec = brought(tmp_path / "d.onnx", squares, "n", TensorProto.UINT8)
    with pytest.raises(SpecError, match="pictures must be FP32, but got UINT8"):
        load_task(spec, tmp_path)


def test_it_is_asked_for_in_toml() -> None:
    class Asked(msgspec.Struct):
        task: TaskSpec

    text = '[task]\nkind = "detection"\ndata = {kind = "vehicles", name = "traffic-vehicles"}\n'
    text += 'subject = {family = "fastestdet", start = "coco"}\n'
    wanted = DetectionTask(data=VehicleBoxes(name="traffic-vehicles"), subject=FastestDet(start="coco"))
    assert loads_toml(text, Asked, where="here").task == wanted


def test_boxes_move_with_their_picture() -> None:
    labels = torch.zeros(6, 2, 6)
    labels[:, :, 4] = -1
    pictures = torch.zeros(6, 1, 64, 64)
    for i in range(6):
        pictures[i, 0, 12:32, 20 + i : 44 + i] = 1
        labels[i, 0] = torch.tensor([(20 + i) / 64, 12 / 64, (44 + i) / 64, 32 / 64, 0, 0])
    spec = msgspec.structs.replace(SMALL, shift_pixels=6)
    moved, boxes = with_boxes_moved({"x": pictures}, labels, spec, np.random.default_rng(1))
    assert not torch.allclose(boxes, labels)
    for picture, box in zip(moved["x"][:, 0], boxes[:, 0], strict=True):
        if box[5] == 0:
            rows, columns = (picture > 0.5).nonzero().unbind(1)
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box[:4] * 64, torch.stack(seen).float(), atol=1.2)
    assert (boxes[:, 1, 4] == -1).all()


def test_cells_belong_to_the_boxes_they_reach() -> None:
    labels = torch.full((1, 3, 6), -1.0)
    labels[0, 0] = torch.tensor([0.12, 0.12, 0.92, 0.92, 0, 0])  # centre (2.08, 2.08) of 4 cells
    labels[0, 1] = torch.tensor([0.42, 0.42, 0.62, 0.62, 1, 0])  # the same centre, smaller
    labels[0, 2] = torch.tensor([0.0, 0.0, 0.2, 0.2, 0, 1])  # a crowd
    wanted, asked, cells = _targets(labels, 4, 4)
    assert sorted(zip(*(axis.tolist() for axis in cells[1:]), strict=True)) == [(2, 2), (2, 3), (3, 2), (3, 3)]
    assert (wanted[:, 4] == 1).all()
    assert asked[0, 0, 0] == 0
    assert asked.sum() == 15


def test_generalised_overlap_falls_with_the_distance() -> None:
    one = torch.tensor([[0.0, 0.0, 0.2, 0.2]]).expand(3, 4)
    others = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.3, 0.0, 0.5, 0.2], [0.8, 0.8, 1.0, 1.0]])
    overlap, generalised = generalised_overlaps(one, others)
    assert overlap.tolist() == pytest.approx([1, 0, 0])
    assert generalised.tolist() == pytest.approx([1, -0.2, 2 * 0.04 - 1], abs=1e-5)


def test_the_loss_of_pictures_without_boxes_is_finite_and_teaches() -> None:
    net = FastestDetNet(FastestDet(width=16), classes=2)
    labels = torch.full((2, 1, 6), -1.0)
    loss = cells_loss(net(torch.rand(2, 3, 64, 64)), labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert net.detect_head.obj_layers.conv5x5[3].weight.grad.abs().sum() > 0  # type: ignore[index, union-attr]


def test_the_loss_knows_which_class_of_the_model_is_which_of_the_task() -> None:
    labels = torch.tensor([[[0.2, 0.2, 0.6, 0.6, 0.0, 0.0], [0.6, 0.6, 0.9, 0.9, 1.0, 0.0], [0, 0, 0, 0, -1.0, 0]]])
    cells = torch.rand(1, 5 + 4, 4, 4).clamp(0.05, 0.95).requires_grad_()
    boxes = Detections(tensor="cells", layout="grid", classes=(1, -1, 0, -1))
    # The same answer in the task's own order, with the model's further classes behind.
    loss = boxes_loss(boxes, 2)(cells, labels)
    own = cells_loss(cells.detach()[:, [0, 1, 2, 3, 4, 7, 5, 6, 8]], labels)
    assert loss.item() == pytest.approx(own.item())
    loss.backward()
    taught = cells.grad.abs().sum((0, 2, 3))[5:] > 0  # type: ignore[union-attr]
    assert taught.tolist() == [True, False, True, False]
    assert boxes_loss(msgspec.structs.replace(boxes, classes=(0, 1)), 2) is cells_loss


@pytest.mark.parametrize(("layout", "classes"), [("rows", (0, 1)), ("grid", (0, 0, 1)), ("grid", (-1, 1))])
def test_a_loss_of_boxes_that_nobody_knows_is_refused(layout: str, classes: tuple[int, ...]) -> None:
    boxes = Detections(tensor="cells", layout=layout, classes=classes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one class for each of the task's 2"):
        boxes_loss(boxes, 2)


def test_cuts_of_the_backbone() -> None:
    net = FastestDetNet(FastestDet(width=16), classes=1).eval()
    graph = read_graph(export(net, {"input": torch.rand(2, 3, 96, 96)}, ("cells",)))
    cuts = cut_points(graph)
    shapes = [cut.tensor.shape[1:] for cut in cuts]
    assert (32, 12, 12) in shapes  # the end of the first stage
    assert any(shape[1:] == (6, 6) for shape in shapes)  # behind the join


def test_the_published_weights_answer_like_the_published_file(data_root: Path, tmp_path: Path) -> None:
    import onnxruntime as ort

    path = data_root / "weights_fastestdet" / "example" / "onnx-runtime" / "FastestDet.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in TIERWISE_DATA")
    net = FastestDetNet(FastestDet(), classes=80)
    load_coco_weights(net, Source(tmp_path, Silent()))
    pictures = torch.rand(1, 3, 352, 352, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        own = net.eval()(pictures).numpy()
    session = ort.InferenceSession(str(path))
    theirs = session.run(None, {session.get_inputs()[0].name: pictures.numpy()})[0]
    np.testing.assert_allclose(own, theirs, atol=2e-4)
    with pytest.raises(InputError, match="width of 24"):
        load_coco_weights(FastestDetNet(FastestDet(width=32), classes=80), Source(tmp_path, Silent()))


@pytest.mark.parametrize("name", ["traffic-vehicles", "emergency-vehicles"])
def test_no_scene_or_double_is_on_two_sides(data_root: Path, tmp_path: Path, name: str) -> None:
    from tierwise.tasks._vehicles import _DUPLICATE, read_vehicles

    if not (data_root / name.replace("-", "_")).is_dir():
        pytest.skip(f"{name} is not in TIERWISE_DATA")
    source = Source(tmp_path, Silent())
    splits = read_vehicles(name, source, keep_suspects=True)  # type: ignore[arg-type]
    side = {one.name: split for split, pictures in splits.items() for one in pictures}
    assert all(len(splits[split]) >= 10 for split in SPLITS)
    if name == "traffic-vehicles":
        videos: dict[str, set[str]] = {}
        for stem, split in side.items():
            videos.setdefault(stem.split("_mp4")[0], set()).add(split.replace("calibration", "train"))
        assert len(videos) == 18
        assert all(len(sides) == 1 for sides in videos.values())
        for places in (("1", "6"), ("8", "test", "test2"), ("3", "13"), ("12", "14")):
            assert len({next(iter(videos[video])) for video in places}) == 1
        return
    listed = (data_root / "emergency_vehicles" / "suspect_labels.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in listed if _DUPLICATE in line]
    assert len(pairs) == 77
    for path, remark in pairs:
        assert side[Path(path).stem] == side[Path(remark.strip().removeprefix(_DUPLICATE)).stem]
    fewer = read_vehicles(name, source)  # type: ignore[arg-type]
    suspects = {Path(line.split("\t")[0]).stem for line in listed if _DUPLICATE not in line}
    kept = {one.name for pictures in fewer.values() for one in pictures}
    assert kept == set(side) - suspects
    # The ambulances are those whose names say so: the file of class names has them the wrong way round.
    first = [one.boxes for one in fewer["train"] if one.name.startswith("ambulance") and len(one.boxes)]
    largest = [boxes[np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1).argmax()] for boxes in first]
    assert np.mean([box[4] == 0 for box in largest]) > 0.95


def test_a_brought_detector_says_what_it_needs(data_root: Path, tmp_path: Path) -> None:
    path = data_root / "weights_fastestdet" / "example" / "onnx-runtime" / "FastestDet.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in TIERWISE_DATA")
    spec = DetectionTask(data=VehicleBoxes(name="emergency-vehicles"), onnx=str(path), one_class=True)
    with pytest.raises(SpecError, match="how its output becomes boxes"):
        load_task(spec, tmp_path)
    classes = tuple(0 if i in (2, 3, 5, 7) else -1 for i in range(80))
    boxes = Detections(tensor="758", layout="grid", classes=classes)
    task = load_task(msgspec.structs.replace(spec, boxes=boxes), tmp_path)
    artifact = build(task, parse_chain("identity"), tmp_path)
    executor = Executor(artifact, threads=1)
    chosen = task.splits["validation"].head(12)
    answers = np.concatenate([executor.run(task.tensors([item]))["detections"] for item in chosen.items])
    # A detector of COCO's cars and lorries finds most of these large vehicles.
    assert score("map50", answers, chosen.labels) > 0.6
    with pytest.raises(SpecError, match="those of the task"):
        load_task(msgspec.structs.replace(spec, boxes=msgspec.structs.replace(boxes, classes=(1,) * 80)), tmp_path)
