"""The evolution figure: one panel per refit, all refits in the lines beside them."""

from __future__ import annotations

import numpy as np
import pytest

from mm_balance.figures import mixture_evolution, save_png
from mm_balance.functional.mixture import fit_mixture


def refits(count: int, kind: str = "two"):
    generator = np.random.default_rng(1)
    found = []
    for number in range(count):
        spread = 0.2 / (1 + number)
        gaps = np.concatenate(
            [generator.normal(0, spread, 200), generator.normal(0.6, 0.1, 80), [-0.5, -0.52, -0.48] * 10]
        )
        found.append((6 + 3 * number, gaps, fit_mixture(gaps, kind=kind)))
    return found


def panel_texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("kind", ["two", "two_absolute", "three"])
def test_every_refit_has_a_panel_and_a_point(kind):
    series = refits(3, kind)
    figure = mixture_evolution(series)
    assert len(figure.axes) == 3 + 3
    weight, mean, density = (axes.get_lines()[0] for axes in figure.axes[-3:])
    assert list(weight.get_xdata()) == [6, 9, 12]
    np.testing.assert_allclose(weight.get_ydata(), [mixture.imbalanced.weight for _, _, mixture in series])
    np.testing.assert_allclose(mean.get_ydata(), [mixture.imbalanced.mean for _, _, mixture in series])
    np.testing.assert_allclose(density.get_ydata(), [mixture.density_at_zero for _, _, mixture in series])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (labels[0], labels[-1]) == ("gaps", "sum")
    assert len(labels) == len(set(labels))
    for epoch, _, mixture in series:
        assert f"epoch {epoch}" in panel_texts(figure)
        assert f"density at zero {mixture.density_at_zero:.3g}" in panel_texts(figure)


def test_of_many_refits_six_get_panels_first_and_last_among_them():
    figure = mixture_evolution(refits(9))
    shown = [text for text in panel_texts(figure) if text.startswith("epoch")]
    assert len(shown) == 6
    assert (shown[0], shown[-1]) == ("epoch 6", "epoch 30")
    assert len(figure.axes[-1].get_lines()[0].get_xdata()) == 9


def test_degenerate_refits_and_a_single_one_are_drawn():
    constant = np.zeros(30)
    series = [
        *refits(1),
        (9, constant, fit_mixture(constant)),
        (12, np.array([np.nan]), fit_mixture(np.array([np.nan]))),
    ]
    assert save_png(mixture_evolution(series)).startswith(b"\x89PNG")
    assert save_png(mixture_evolution(series[:1])).startswith(b"\x89PNG")


def test_validation_has_a_column_of_panels_and_lines_of_its_own():
    series = refits(3)
    validation = [None, *((gaps[::2], fit_mixture(gaps[::2])) for _, gaps, _ in series[1:])]
    figure = mixture_evolution(series, validation=validation)
    assert len(figure.axes) == 3 + 3 + 3
    assert "not measured" in panel_texts(figure)
    for _, mixture in validation[1:]:
        assert f"density at zero {mixture.density_at_zero:.3g}" in panel_texts(figure)
    for axes, statistic in zip(
        figure.axes[-3:],
        (
            lambda mixture: mixture.imbalanced.weight,
            lambda mixture: mixture.imbalanced.mean,
            lambda mixture: mixture.density_at_zero,
        ),
        strict=True,
    ):
        training, held_out = axes.get_lines()[:2]
        assert list(training.get_xdata()) == [6, 9, 12]
        assert list(held_out.get_xdata()) == [9, 12]
        np.testing.assert_allclose(held_out.get_ydata(), [statistic(mixture) for _, mixture in validation[1:]])
        assert training.get_linestyle() != held_out.get_linestyle()
    assert save_png(figure).startswith(b"\x89PNG")


def test_texts_lie_above_the_panels_and_name_fit_and_density():
    epoch, gaps, mixture = refits(1)[0]
    axes = mixture_evolution([(epoch, gaps, mixture)]).axes[0]
    assert [text.get_text() for text in axes.texts] == [
        f"epoch {epoch}",
        f"density at zero {mixture.density_at_zero:.3g}",
        f"log-likelihood {mixture.log_likelihood:+.2f}",
    ]
    assert all(text.get_position()[1] > 1 for text in axes.texts), "no text over curves"


@pytest.mark.parametrize(("spreads", "scale"), [((0.2, 0.1), "linear"), ((0.2, 0.005), "log")])
def test_all_panels_share_one_scale_which_the_figure_names(spreads, scale):
    generator = np.random.default_rng(1)
    series = []
    for number, spread in enumerate(spreads):
        gaps = np.concatenate([generator.normal(0, spread, 300), generator.normal(0.5, 0.2, 100)])
        series.append((number, gaps, fit_mixture(gaps)))
    figure = mixture_evolution(series, caption="digits, seed 0")
    panels = figure.axes[:2]
    assert {axes.get_yscale() for axes in panels} == {scale}
    assert len({axes.get_ylim() for axes in panels}) == 1
    texts = [text.get_text() for text in figure.texts]
    assert f"density (same {'linear' if scale == 'linear' else 'logarithmic'} scale)" in texts
    assert "digits, seed 0" in texts
    assert save_png(figure).startswith(b"\x89PNG")


def test_without_validation_there_is_no_column_for_it():
    assert len(mixture_evolution(refits(2), validation=[None, None]).axes) == 2 + 3
    with pytest.raises(ValueError, match="2 refits, but 1 of the validation samples"):
        mixture_evolution(refits(2), validation=[refits(1)[0][1:]])


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one refit"):
        mixture_evolution([])
