"""The quick person and face masks on photographs, by the networks that come with the pack.

The numbers were measured apart from this code, on scikit-image's astronaut: with OpenCV 4.14, and with LiteRT where it is said.
Photographs inside scikit-image's wheel: astronaut (NASA, public domain), camera (CC0, Lav Varshney), coffee (CC0, Rachel Michetti),
motorcycle (CC0, Middlebury stereo data of 2014).
"""
from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pack.host.mask_plan import MaskPlan, Part
from pack.segmentation import quick_faces
from pack.segmentation.polygons import fill
from pack.segmentation.quick import Quick, people_mask, person_mask, read_networks
from pack.segmentation.tflite import Picture, read_network

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assets" / "quick_masks"
BOX = (178.7, 82.3, 271.2, 174.8)
OVAL = (180, 72, 92, 104)  # x, y, width, height
NETWORKS = read_networks(FOLDER)
QUICK = Quick(NETWORKS)
WEIGHTS = {"face": 1.0, "person": 0.502, "background": 0.0}


def photograph(name: str) -> Picture:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None, "scikit-image is not installed; it is in requirements-dev.txt"
    assert spec.submodule_search_locations
    picture = cv2.imread(str(Path(spec.submodule_search_locations[0]) / "data" / name), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    return np.asarray(picture, np.uint8)


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    return photograph("astronaut.png")


def regions(picture: Picture) -> dict[str, torch.Tensor]:
    return dict(QUICK.segment(torch.from_numpy(picture)))


def faces(picture: Picture) -> list[quick_faces.Face]:
    return quick_faces.find_faces(NETWORKS.detector, NETWORKS.mesh, picture)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of what is at least half."""
    a, b = first >= 0.5, second >= 0.5
    return float((a & b).sum() / (a | b).sum())


def test_the_networks_are_the_ones_that_the_notice_names() -> None:
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    files = sorted(FOLDER.glob("*.tflite"))
    assert len(files) == 3
    for file in files:
        assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}\n" in notice.partition(file.name)[2]
    assert "Apache License\n" in (FOLDER / "LICENSE").read_text(encoding="utf-8")


def test_the_person_network_covers_what_it_covers_elsewhere(astronaut: Picture) -> None:
    assert (person_mask(NETWORKS.person, astronaut) > 0.5).mean() == pytest.approx(0.545, abs=5e-4)


def test_the_detector_finds_the_same_box(astronaut: Picture) -> None:
    first, *_ = quick_faces.find_boxes(NETWORKS.detector, astronaut)
    assert first.corners == pytest.approx(BOX, abs=0.1)
    assert first.score == pytest.approx(0.921, abs=2e-3)


def test_the_mesh_draws_the_same_oval(astronaut: Picture) -> None:
    first, *_ = quick_faces.find_boxes(NETWORKS.detector, astronaut)
    face = quick_faces.outline(NETWORKS.mesh, astronaut, first)
    assert face.presence == pytest.approx(1.000, abs=5e-4)
    drawn_HW = np.zeros(astronaut.shape[:2], np.uint8)
    cv2.fillPoly(drawn_HW, [np.round(face.oval).astype(np.int32)], 1)
    assert cv2.boundingRect(drawn_HW) == pytest.approx(OVAL, abs=1)
    assert int(drawn_HW.sum()) == pytest.approx(7870, rel=0.01)


def test_the_anchors_are_mediapipes() -> None:
    """As its SsdAnchorsCalculator lists them for strides 8, 16, 16, 16: two in each of 16 x 16 cells, six in each of 8 x 8."""
    anchors = quick_faces.anchors()
    assert anchors.shape == (896, 2)
    assert anchors[[0, 1, 2, 32, 511, 512, 517, 518, 895]] * 32 == pytest.approx(np.array(
        [[1, 1], [1, 1], [3, 1], [1, 3], [31, 31], [2, 2], [2, 2], [6, 2], [30, 30]]))


def test_the_second_look_draws_nearly_the_same_oval(astronaut: Picture) -> None:
    (face,) = faces(astronaut)
    x, y, width, height = OVAL
    polygon = face.oval
    assert (*polygon.min(0), *np.ptp(polygon, axis=0)) == pytest.approx((x, y, width, height), abs=4)


def test_weights_of_face_person_and_background(astronaut: Picture) -> None:
    """The counts of pixels were taken of the two networks' masks cut at one half, painted one over the other."""
    made = MaskPlan().then(Part(QUICK, WEIGHTS)).make(torch.from_numpy(astronaut))
    assert made.weight_HW is not None
    assert made.missing == ()
    levels = (made.weight_HW * 255).round()
    counts = [int(((levels >= low) & (levels < high)).sum()) for low, high in ((0, 64), (64, 192), (192, 256))]
    assert counts[:2] == pytest.approx([119282, 134992], rel=0.01)
    assert counts[2] == pytest.approx(7870, rel=0.07)
    assert levels[120, 225] == 255  # the nose
    assert levels[400, 200] == 128  # the suit
    assert levels[20, 340] == 0  # the wall


def test_the_regions_share_out_each_pixel_and_the_face_lies_in_the_person(astronaut: Picture) -> None:
    found = regions(astronaut)
    assert found.keys() == {"face", "person"}
    assert all(mask.shape == (512, 512) and mask.dtype == torch.float32 for mask in found.values())
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in found.values())
    assert (found["face"] + found["person"]).max() <= 1 + 1e-6
    whole = torch.from_numpy(people_mask(NETWORKS.person, astronaut, faces(astronaut)))
    assert (whole[found["face"] > 0.5] > 0.5).float().mean() > 0.98
    assert (found["person"] - whole * (1 - found["face"])).abs().max() < 1e-6


def test_a_face_may_weigh_less_than_its_person(astronaut: Picture) -> None:
    made = MaskPlan().then(Part(QUICK, {"face": 0.0, "person": 1.0, "background": 0.25})).make(torch.from_numpy(astronaut))
    assert made.weight_HW is not None
    assert made.weight_HW[120, 225] < 0.01
    assert made.weight_HW[400, 200] > 0.99
    assert made.weight_HW[20, 340] == pytest.approx(0.25, abs=0.01)


def test_two_people_have_two_faces(astronaut: Picture) -> None:
    pair = np.concatenate([astronaut, astronaut[:, ::-1]], 1)
    first, second = sorted(faces(pair), key=lambda face: face.box.corners[0])
    assert np.ptp(first.oval, axis=0) == pytest.approx(np.array(OVAL[2:]), abs=4)
    assert first.oval.min(0) == pytest.approx(np.array(OVAL[:2]), abs=5)
    assert (1024 - second.oval[:, 0].max(), second.oval[:, 1].min()) == pytest.approx(OVAL[:2], abs=5)


class Everywhere:
    """Stands for the person network: sees nobody in the whole picture, and people everywhere when it looks again."""

    calls = 0

    def setInput(self, picture: np.ndarray) -> None:
        assert picture.shape == (1, 3, 256, 256)
        self.calls += 1

    def getUnconnectedOutLayersNames(self) -> list[str]:
        return ["activation"]

    def forward(self, names: list[str]) -> list[np.ndarray]:
        return [np.full((1, 1, 256, 256), float(self.calls > 1), np.float32)]


def test_the_second_look_at_a_person_fades_out_where_the_picture_goes_on() -> None:
    """Round a face of 40 x 50 at (1000, 30) there is a view of 300 x 300, with the face's middle three tenths down, cut by the top."""
    points = np.full((468, 2), (1000, 30), np.float32)
    points[quick_faces.OVAL[0]], points[quick_faces.OVAL[18]] = (1000, 5), (1000, 55)
    points[quick_faces.OVAL[9]], points[quick_faces.OVAL[27]] = (1020, 30), (980, 30)
    face = quick_faces.Face(quick_faces.FaceBox((980, 5, 1020, 55), 1.0, points[:6]), 1.0, points)
    mask = people_mask(Everywhere(), np.zeros((400, 1500, 3), np.uint8), [face])
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (0, 240, 850, 1150)
    assert mask[0, 1000] == mask[200, 1000] == 1
    steps = np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()
    assert steps == pytest.approx((1 / 36, 1 / 36), rel=0.01)  # over 12 % of the side


@pytest.mark.parametrize("count", [2, 3])
def test_people_beside_each_other_are_all_found(astronaut: Picture, count: int) -> None:
    """What the network finds in the whole of such a picture has 0.55 of the pair and nothing of the three in common."""
    alone = person_mask(NETWORKS.person, astronaut)
    row, expected = (np.concatenate([one, one[:, ::-1], one][:count], 1) for one in (astronaut, alone))
    found = regions(row)
    assert overlap((found["face"] + found["person"]).numpy(), expected) > 0.93
    assert overlap(person_mask(NETWORKS.person, row), expected) < 0.6


def test_a_small_face_is_found_in_a_part_of_the_picture(astronaut: Picture) -> None:
    """A face of 83 pixels in 1200, too small for the detector when it sees the whole picture at once."""
    wide = np.full((800, 1200, 3), 90, np.uint8)
    wide[300:708, 700:1108] = cv2.resize(astronaut, (408, 408), interpolation=cv2.INTER_AREA)
    (face,) = faces(wide)
    assert (face.oval.min(0) - (700, 300)) * 512 / 408 == pytest.approx(np.array(OVAL[:2]), abs=6)


@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "coins.png", "hubble_deep_field.jpg"])
def test_there_is_no_face_in_things_and_cats(name: str) -> None:
    """In the motorcycle's garage a pile of boxes passes for a face to whoever looks once, with a presence of 0.997."""
    assert "face" not in regions(photograph(name))


def test_a_rocket_is_nobody() -> None:
    made = MaskPlan().then(Part(QUICK, WEIGHTS)).make(torch.from_numpy(photograph("rocket.jpg")))
    assert made.weight_HW is None
    assert made.missing == ("face", "person")


@pytest.mark.parametrize("angle", [-30, 30])
def test_a_turned_face_is_found_and_its_oval_turns_with_it(astronaut: Picture, angle: float) -> None:
    turn = cv2.getRotationMatrix2D((225.5, 127.5), angle, 1)
    turned = np.asarray(cv2.warpAffine(astronaut, turn, (512, 512), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    straight_HW = fill([face.oval for face in faces(astronaut)], (512, 512))
    (face,) = faces(turned)
    assert overlap(fill([face.oval], (512, 512)), cv2.warpAffine(straight_HW, turn, (512, 512))) > 0.85


@pytest.mark.parametrize("size", [96, 1024, 3000])
def test_the_masks_do_not_depend_on_the_size_of_the_picture(astronaut: Picture, size: int) -> None:
    kind = cv2.INTER_AREA if size < 512 else cv2.INTER_CUBIC
    found, expected = regions(np.asarray(cv2.resize(astronaut, (size, size), interpolation=kind), np.uint8)), regions(astronaut)
    for name, mask in expected.items():
        assert found[name].shape == (size, size)
        assert overlap(cv2.resize(found[name].numpy(), (512, 512), interpolation=cv2.INTER_LINEAR), mask.numpy()) > 0.9


def test_fine_noise_in_a_huge_picture_does_no_harm(astronaut: Picture) -> None:
    """Bilinear sampling of every twentieth pixel would let it through."""
    large = np.repeat(np.repeat(astronaut, 4, 0), 4, 1).astype(np.int16)
    noise = np.random.default_rng(0).integers(-90, 91, large.shape, dtype=np.int16)
    found, expected = regions((large + noise).clip(0, 255).astype(np.uint8)), regions(astronaut)
    for name, mask in expected.items():
        assert overlap(cv2.resize(found[name].numpy(), (512, 512), interpolation=cv2.INTER_AREA), mask.numpy()) > 0.9


def test_a_grey_photograph() -> None:
    found = regions(photograph("camera.png"))
    x, y, width, height = cv2.boundingRect((found["face"].numpy() > 0.5).astype(np.uint8))
    assert 180 < x < x + width < 270  # between sideburn and camera
    assert 110 < y < y + height < 205
    assert found["person"][400, 100] > 0.9  # the coat
    assert found["person"][60, 400] < 0.1  # the sky


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 2), (40, 2000)])
@pytest.mark.parametrize("value", [0, 255])
def test_odd_pictures_are_ordinary_pictures(shape: tuple[int, int], value: int) -> None:
    for mask in regions(np.full((*shape, 3), value, np.uint8)).values():
        assert mask.shape == shape
        assert torch.isfinite(mask).all()


def test_a_missing_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"selfie_segmentation\.tflite is missing; reinstall the pack"):
        read_networks(tmp_path)


def test_an_old_opencv_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2.dnn, "readNetFromTFLite")
    with pytest.raises(ValueError, match=r"OpenCV .* cannot read face_landmark\.tflite; update it with: pip install -U opencv-python"):
        read_network(FOLDER / "face_landmark.tflite")


def test_equal_segmenters_describe_themselves_alike() -> None:
    assert MaskPlan((Part(QUICK, WEIGHTS),)).to_json() == MaskPlan((Part(Quick(read_networks(FOLDER)), WEIGHTS),)).to_json()
