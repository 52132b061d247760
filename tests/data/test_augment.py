"""Which frames and which crops: golden choices, torchvision's distribution, and the two ways to cut."""

import math

import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from mm_balance.data import augment
from mm_balance.data.augment import VisualTransform, choose_frames, crop_resize, sample_boxes


def seeded(number=0):
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize(
    ("count", "wanted", "how", "expected"),
    [
        (3, 3, "random", [0, 1, 2]), (10, 3, "random", [1, 5, 8]), (10, 1, "random", [5]), (2, 3, "random", [0, 1, 1]),
        (1, 2, "random", [0, 0]), (10, 3, "segment_start", [0, 3, 6]), (3, 1, "segment_start", [0]),
        (2, 4, "segment_start", [0, 0, 1, 1]), (10, 3, "first", [0, 1, 2]), (2, 3, "first", [0, 1, 1]),
    ],
)  # fmt: skip
def test_frames_in_evaluation(count, wanted, how, expected):
    assert choose_frames(torch.tensor([count]), wanted, how, None).tolist() == [expected]


@pytest.mark.parametrize("how", ["segment_start", "first"])
def test_only_random_is_random(how):
    counts = torch.tensor([7, 3, 1])
    assert torch.equal(choose_frames(counts, 3, how, seeded()), choose_frames(counts, 3, how, None))


def test_one_frame_is_drawn_evenly_from_each_segment():
    chosen = choose_frames(torch.full((6000,), 9), 3, "random", seeded())
    for segment in range(3):
        counts = torch.bincount(chosen[:, segment], minlength=9)[3 * segment : 3 * segment + 3]
        assert counts.sum() == 6000
        assert (counts.double() / 2000 - 1).abs().max() < 0.1
    assert torch.equal(chosen, choose_frames(torch.full((6000,), 9), 3, "random", seeded()))
    one = choose_frames(torch.tensor([1, 2, 50]).repeat(500), 4, "random", seeded())
    assert (one >= 0).all()
    assert (one < torch.tensor([1, 2, 50]).repeat(500)[:, None]).all()
    assert (one.diff(dim=1) >= 0).all(), "in order of time"


@pytest.mark.parametrize(("width", "height"), [(480, 360), (300, 300), (640, 360), (240, 900)])
def test_boxes_are_distributed_as_torchvisions(width, height):
    count = 4000
    boxes = sample_boxes(torch.full((count,), width / height), seeded())
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    ).double()
    top, left, tall, wide = theirs.unbind(1)
    expected = {
        "area": wide * tall / (width * height), "aspect": (wide / tall).log(),
        "left": left / width, "top": top / height, "right": (left + wide) / width,
    }  # fmt: skip
    ours = boxes.double()
    sides = ours[:, 2:] - ours[:, :2]
    found = {
        "area": sides.prod(1), "aspect": (sides[:, 0] * width / (sides[:, 1] * height)).log(),
        "left": ours[:, 0], "top": ours[:, 1], "right": ours[:, 2],
    }  # fmt: skip
    for name, values in expected.items():
        shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
        torch.testing.assert_close(
            found[name].quantile(shares), values.quantile(shares), atol=0.03, rtol=0.03, msg=name
        )


def gradient(count=4, edge=64):
    """Smooth pictures, each channel rising another way."""
    rows, columns = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    channels = torch.stack([3 * columns, 3 * rows, columns + rows])
    return torch.stack([(channels + 10 * number).clamp(max=255) for number in range(count)]).to(torch.uint8)


def test_both_ways_to_cut_agree_on_smooth_pictures():
    images = gradient(40)
    boxes = sample_boxes(torch.full((40,), 4 / 3), seeded(3))
    flips = torch.arange(40) % 2 == 0
    cut, sampled = augment._cut(images, boxes, flips, 56), augment._sampled(images, boxes, flips, 56)
    difference = (cut.int() - sampled.int()).abs().float()
    assert difference.mean() < 2.0, "half a pixel of these gradients is 1.5"
    assert difference.max() <= 12


def test_a_box_is_what_it_says():
    images = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    images[:, :, 10:20, 20:40] = 200
    boxes = torch.tensor([[0.5, 0.25, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0]])
    found = crop_resize(images, boxes, torch.tensor([False, False]), 8)
    assert (found[0] == 200).all()
    assert (found[1] == 0).all()


def test_flips_mirror_left_and_right():
    images = gradient(2)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    plain = crop_resize(images, boxes, torch.tensor([False, False]), 64)
    turned = crop_resize(images, boxes, torch.tensor([True, False]), 64)
    assert torch.equal(plain, images)
    assert torch.equal(turned[0], images[0].flip(2))
    assert torch.equal(turned[1], images[1])


@pytest.mark.parametrize("kind", ["none", "crop_flip", "resized_crop_flip"])
@pytest.mark.parametrize("frames", [1, 3])
def test_shapes_repeat_and_evaluation_is_not_random(kind, frames):
    transform = VisualTransform(frames, "random", kind, 56)
    images = gradient(5 * frames).unflatten(0, (5, frames))
    aspect = torch.full((5,), 4 / 3)
    trained = transform(images, aspect, seeded(1))
    assert trained.dtype == torch.uint8
    assert trained.shape == ((5, 3, 56, 56) if frames == 1 else (5, frames, 3, 56, 56))
    assert torch.equal(trained, transform(images, aspect, seeded(1)))
    evaluated = transform(images, aspect, None)
    assert evaluated.shape == trained.shape
    assert torch.equal(trained, evaluated) == (kind == "none")
    assert not (kind != "none" and torch.equal(trained, transform(images, aspect, seeded(2))))


def test_a_random_crop_keeps_pixels_as_they_are():
    transform = VisualTransform(1, "random", "crop_flip", 56)
    images = gradient(1).unsqueeze(0)
    found = transform(images.repeat(60, 1, 1, 1, 1), torch.ones(60), seeded())
    corners = {(int(picture[0].min()) // 3, int(picture[1].min()) // 3) for picture in found}
    assert len(corners) > 30, "8 x 8 places"
    assert all(0 <= left <= 8 and 0 <= top <= 8 for left, top in corners)
    assert all(math.isclose(int(picture[0].max()) - int(picture[0].min()), 55 * 3) for picture in found)


def test_a_picture_of_the_right_size_is_left_alone():
    images = gradient(3).unsqueeze(1)
    assert torch.equal(VisualTransform(1, "first", "none", 64)(images, torch.ones(3), None), images[:, 0])


@pytest.mark.parametrize("kind", ["resized_crop_flip", "crop_flip", "none"])
def test_stacked_frames_are_channels_in_order_and_cut_alike(kind):
    """Each clip shows one picture in all frames, so whatever is drawn once per clip leaves its frames equal."""
    picture = torch.randint(0, 256, (6, 1, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    transform = VisualTransform(4, "first", kind, 28, stacked=True)
    done = transform(picture.expand(-1, 4, -1, -1, -1), torch.ones(6), seeded(1))
    assert done.shape == (6, 12, 28, 28)
    frames = done.unflatten(1, (4, 3))
    assert all(torch.equal(frames[:, 0], frames[:, number]) for number in range(4))
    if kind != "none":
        crops = VisualTransform(4, "first", kind, 28)(picture.expand(-1, 4, -1, -1, -1), torch.ones(6), seeded(1))
        assert not torch.equal(crops[:, 0], crops[:, 1]), "without stacking, each frame is cut on its own"
    numbered = (torch.arange(4).view(1, 4, 1, 1, 1) * 3 + torch.arange(3).view(1, 1, 3, 1, 1)).to(torch.uint8)
    ordered = transform(numbered.expand(2, -1, -1, 32, 32), torch.ones(2), None)
    assert ordered[:, :, 0, 0].tolist() == [list(range(12))] * 2
