"""The density figure says what the mixture says, whatever the mixture."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from scipy.stats import norm

from mm_balance.figures import mixture_density, save_png
from mm_balance.figures.density import BIN, grid, held_out_log_likelihood, histogram
from mm_balance.functional.mixture import fit_mixture

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
KINDS = {"two": 2, "two_absolute": 2, "three": 3}


def sample_gaps(center_std=0.1) -> np.ndarray:
    generator = np.random.default_rng(0)
    parts = [generator.normal(0.0, center_std, 600), generator.normal(0.6, 0.1, 150), generator.normal(-0.5, 0.1, 80)]
    return np.clip(np.concatenate(parts), -1, 1)


def legend_text(figure) -> str:
    legend = figure.legends[0]
    return "\n".join([legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())])


def assert_finite(figure) -> None:
    for axes in figure.axes:
        for line in axes.get_lines():
            assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all()
        assert np.isfinite(axes.get_ylim()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_figure_shows_every_component_the_sum_and_the_posterior(kind):
    gaps = sample_gaps()
    mixture = fit_mixture(gaps, kind=kind)
    figure = mixture_density(gaps, mixture, title="after epoch 6")
    density, posterior = figure.axes
    curves = [line for line in density.get_lines() if not line.get_label().startswith("_")]
    assert len(curves) == KINDS[kind] + 1
    assert len(posterior.get_lines()) == 1
    points, total = curves[-1].get_data()
    np.testing.assert_allclose(total, mixture.density(points))
    np.testing.assert_allclose(posterior.get_lines()[0].get_ydata(), mixture.posterior_imbalanced(points))
    assert density.get_title(loc="left") == "after epoch 6"
    assert_finite(figure)


@pytest.mark.parametrize("kind", KINDS)
def test_legend_has_the_numbers(kind):
    gaps = sample_gaps()
    mixture = fit_mixture(gaps, kind=kind)
    text = legend_text(mixture_density(gaps, mixture, title="", leading="sound", other="sight"))
    for component in mixture.components:
        assert f"weight {component.weight:.3f}, mean {component.mean:+.3f}, std {component.std:.3f}" in text
    assert f"density at zero {mixture.density_at_zero:.3g}" in text
    assert "830 samples" in text
    assert "balanced" in text
    assert ("Separated" in text) == bool(mixture.separated)
    if kind == "three":
        assert "sound ahead: weight" in text
        assert "sight ahead: weight" in text


def test_axis_says_what_the_sign_means():
    gaps = sample_gaps()
    figure = mixture_density(gaps, fit_mixture(gaps), title="", leading="sound", other="sight")
    label = figure.axes[0].get_xlabel()
    assert label.startswith("← sight ahead")
    assert label.endswith("sound ahead →")
    assert figure.axes[0].get_xlim() == (-1.0, 1.0)


def test_mixture_of_absolute_gaps_is_drawn_on_both_sides_and_named():
    gaps = sample_gaps()
    figure = mixture_density(gaps, fit_mixture(gaps, kind="two_absolute"), title="")
    assert "fitted to abs(gap)" in legend_text(figure)
    points, total = next(line for line in figure.axes[0].get_lines() if line.get_label().startswith("sum")).get_data()
    assert (points[0], points[-1]) == (-1.0, 1.0)
    np.testing.assert_allclose(total, total[::-1], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "gaps",
    [
        np.zeros(50),
        np.full(50, 0.7),
        np.array([0.1, -0.1]),
        np.full(40, np.nan),
        np.array([]),
        np.ones(30),
        -np.ones(30),
    ],
    ids=["zeros", "constant", "few", "not finite", "none", "all one", "all minus one"],
)
def test_degenerate_fits_are_drawn_and_named(gaps, kind):
    mixture = fit_mixture(gaps, kind=kind)
    assert mixture.degenerate
    figure = mixture_density(gaps, mixture, title="")
    assert legend_text(figure).startswith("Degenerate")
    assert_finite(figure)
    assert save_png(figure).startswith(PNG_SIGNATURE)


def test_non_finite_gaps_are_counted():
    gaps = np.concatenate([sample_gaps(), [np.nan, np.inf]])
    text = legend_text(mixture_density(gaps, fit_mixture(sample_gaps()), title=""))
    assert "left out: 2" in text
    assert "830 samples" in text


def test_sharp_peak_turns_the_scale_logarithmic_and_stays_smooth():
    generator = np.random.default_rng(0)
    gaps = np.concatenate([generator.normal(0.0, 0.003, 900), generator.normal(0.2, 0.2, 100)])
    mixture = fit_mixture(gaps)
    assert mixture.density_at_zero > 40
    figure = mixture_density(gaps, mixture, title="")
    assert figure.axes[0].get_yscale() == "log"
    points = grid(mixture)
    # The grid misses nothing of the peak: the density integrates to one but for what lies beyond the range.
    total = mixture.density(points)
    area = (0.5 * (total[1:] + total[:-1]) * np.diff(points)).sum()
    assert area == pytest.approx(1.0, abs=0.02)
    assert save_png(figure).startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("center_std", [0.002, 0.03, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_histogram_is_a_density_over_the_whole_range(kind, center_std):
    gaps = sample_gaps(center_std)
    mixture = fit_mixture(gaps, kind=kind)
    heights, edges = histogram(gaps, mixture)
    assert (edges[0], edges[-1]) == (-1.0, 1.0)
    assert (np.diff(edges) > 0).all()
    assert np.diff(edges).max() < 2 * BIN
    assert (heights * np.diff(edges)).sum() == pytest.approx(1.0)


def test_how_well_the_mixture_fits_is_a_number_beside_that_of_one_gaussian():
    gaps = sample_gaps()
    mixture = fit_mixture(gaps)
    text = legend_text(mixture_density(gaps, mixture, title="", caption="digits, seed 0"))
    one = norm.logpdf(gaps, gaps.mean(), gaps.std()).mean()
    assert f"Log-likelihood per sample {mixture.log_likelihood:+.2f}, of one Gaussian {one:+.2f}" in text


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_of_the_fitted_gaps_is_that_of_the_fit(kind):
    gaps = sample_gaps()
    mixture = fit_mixture(gaps, kind=kind)
    assert held_out_log_likelihood(mixture, np.append(gaps, np.nan)) == pytest.approx(mixture.log_likelihood, abs=1e-6)
    assert np.isnan(held_out_log_likelihood(mixture, np.array([np.nan])))


def test_png_is_returned_and_written(tmp_path):
    gaps = sample_gaps()
    path = tmp_path / "density.png"
    data = save_png(mixture_density(gaps, fit_mixture(gaps), title="t"), path)
    assert data.startswith(PNG_SIGNATURE)
    assert path.read_bytes() == data


@pytest.mark.parametrize("kind", KINDS)
def test_validation_has_a_panel_of_its_own_scale_and_numbers(kind):
    generator = np.random.default_rng(0)
    training = np.concatenate([generator.normal(0.0, 0.003, 900), generator.normal(0.2, 0.2, 100)])
    held_out = np.concatenate([sample_gaps()[:97], [np.nan, np.nan]])
    mixture = fit_mixture(held_out[:97], kind=kind)
    figure = mixture_density(
        training, fit_mixture(training, kind=kind), title="after epoch 6", validation=(held_out, mixture)
    )
    upper, lower, _ = figure.axes
    assert upper.get_title(loc="left") == "after epoch 6: training samples"
    assert lower.get_title(loc="left").startswith("Validation samples")
    assert upper.get_xlim() == lower.get_xlim()
    assert upper.get_yscale() == "log"
    assert lower.get_yscale() == "linear"
    total = next(line for line in lower.get_lines() if line.get_label().startswith("sum: density"))
    np.testing.assert_allclose(total.get_ydata(), mixture.density(total.get_xdata()))
    compared = next(line for line in lower.get_lines() if "training" in line.get_label())
    assert compared.get_ydata().max() > 40 > lower.get_ylim()[1]
    first, second = figure.legends
    assert "gaps of 1,000 samples" in "".join(text.get_text() for text in first.get_texts())
    assert "gaps of 97 samples" in "".join(text.get_text() for text in second.get_texts())
    assert "left out: 2" in second.get_title().get_text()
    assert_finite(figure)


@pytest.mark.parametrize("kind", KINDS)
def test_components_can_be_told_apart_without_color(kind):
    gaps = sample_gaps()
    axes = mixture_density(gaps, fit_mixture(gaps, kind=kind), title="").axes[0]
    curves = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert len({str(line._unscaled_dash_pattern) for line in curves}) == len(curves)


def test_nothing_of_the_figure_is_cut_off():
    """The longest labels there are: three components, and names of branches."""
    gaps = sample_gaps()
    mixture = fit_mixture(gaps, kind="three")
    figure = mixture_density(
        gaps, mixture, title="t", validation=(gaps, mixture), leading="audio branch", other="the best other"
    )
    save_png(figure)
    renderer = figure.canvas.get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [legend.get_window_extent(renderer) for legend in figure.legends]
    boxes += [axes.get_tightbbox(renderer) for axes in figure.axes]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert boxes[2].x1 < boxes[0].x0, "legend beside the panel"


def test_drawing_leaves_the_global_style_alone():
    before = dict(matplotlib.rcParams)
    gaps = sample_gaps()
    mixture_density(gaps, fit_mixture(gaps), title="")
    assert dict(matplotlib.rcParams) == before
