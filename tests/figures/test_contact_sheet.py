"""The contact sheet: everything is drawn, nothing is cut off or lies on something else."""

import numpy as np
import pytest

from mm_balance.figures import SheetSample, contact_sheet, save_png


def sample(name="clip", frames=3, channels=3):
    rng = np.random.default_rng(0)
    return SheetSample(
        name=name,
        label="playing the violin, fiddle",
        pictures={"visual": rng.integers(0, 256, (frames, channels, 32, 32), dtype=np.uint8)},
        spectrograms={"audio": rng.standard_normal((64, 100))},
    )


@pytest.mark.parametrize("count", [1, 2, 7, 12])
@pytest.mark.parametrize(("frames", "channels"), [(1, 1), (1, 3), (3, 3), (10, 3)])
def test_all_is_drawn_within_the_figure_and_apart(count, frames, channels):
    figure = contact_sheet(
        [sample(f"clip {number} é 映画", frames, channels) for number in range(count)],
        title="some set",
        note="What to know. " * 9,
    )
    assert save_png(figure)[:4] == b"\x89PNG"
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == count * (min(frames, 3) + 1)
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for first in range(len(boxes)):
        for second in range(first):
            assert not boxes[first].overlaps(boxes[second])
    renderer = figure.canvas.get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.texts]
    assert all(text.x0 >= 0 and text.x1 <= figure.bbox.x1 and text.y1 <= figure.bbox.y1 for text in texts)
    (note,) = [
        text for text, drawn in zip(texts, figure.texts, strict=True) if drawn.get_text().startswith("What to know.")
    ]
    assert note.y0 >= 0
    assert all(note.y1 <= box.y0 * figure.bbox.y1 for box in boxes)


def test_long_names_are_cut():
    figure = contact_sheet([sample("x" * 200)], title="t")
    assert any(text.get_text().endswith("…") for text in figure.texts)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        contact_sheet([], title="t")
