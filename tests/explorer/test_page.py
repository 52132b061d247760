"""The page itself: everything inside, everything escaped, and the table of samples as Parquet."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mm_balance.config import options
from mm_balance.explorer.media import Media, spectrogram_png
from mm_balance.explorer.page import KINDS, PageText, explorer_html
from mm_balance.explorer.parquet import write_samples
from mm_balance.explorer.samples import ALL

EVIL = "</script><script>document.title='broken'</script><b>"
PICTURE = spectrogram_png(np.random.default_rng(0).random((4, 4)))


def table(samples=("s0", "s1", "s2"), **more):
    count = len(samples)
    columns = {
        "split": ["train"] * count, "sample": list(samples), "class": ["cat", EVIL, "cat"][:count], "predicted": ["cat"] * count,
        "predicted_audio": ["cat"] * count, "predicted_visual": ["dog"] * count, "right": ["audio", "all", "none"][:count],
        "p_fused": [0.5, 0.123456, np.nan][:count], "p_audio": [0.9] * count, "p_visual": [0.1] * count, "loss": [0.1] * count,
        "gap": [0.8] * count, "loss_audio": [0.1] * count, "loss_visual": [2.0] * count, "suspicion": [3.0, 2.0, 1.0][:count],
        "suspect": ["visual"] * count, "doubted": ["visual", "visual", ""][:count], "why": ["because", EVIL, ""][:count],
        "movement": [0.0] * count, "gap_by_refit": ["0.100 0.800"] * count,
    }  # fmt: skip
    return pd.DataFrame(columns | more)


def text(**more):
    return PageText("Samples of x", {"run": EVIL}, [f"{EVIL} is ahead"], ["audio", "visual"], [6, 9], **more)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_needs_no_other_file_and_no_network():
    page = explorer_html(
        table(), {("train", "s0"): Media({"audio": PICTURE}, {"audio": b"OggS"}, {"audio": "a.wav"})}, text()
    )
    assert not re.search(r'(src|href)\s*=\s*"(?!data:)', page)
    assert 'await import("data:text/javascript;base64,' in page
    media = data_of(page)["media"]
    assert media[0]["pictures"]["audio"].startswith("data:image/png;base64,")
    assert media[0]["sounds"]["audio"].startswith("data:audio/ogg;base64,")
    assert media[0]["files"] == {"audio": "a.wav"}
    assert media[1:] == [None, None]


def test_texts_of_the_data_are_data():
    page = explorer_html(table(), {}, text(flow="<svg></svg>"))
    assert EVIL not in page
    assert page.count("<script") == 2
    rows = data_of(page)
    assert EVIL in rows["rows"][1]
    assert "<svg></svg>" in page


def test_numbers_are_short_and_missing_ones_are_null():
    rows = data_of(explorer_html(table(), {}, text()))
    place = rows["columns"].index("p_fused")
    assert [row[place] for row in rows["rows"]] == [0.5, 0.1235, None]


def test_one_filters_by_columns_that_have_a_choice():
    many = table(tuple(f"s{number}" for number in range(3)), group=["x", "y", "x"])
    assert data_of(explorer_html(many, {}, text()))["filters"] == ["class", "right", "doubted", "group"]


@pytest.mark.parametrize(
    ("corrupted", "doubted", "first", "all_doubted"),
    [
        (["visual", "", ""], ["visual", "visual", ""], "3 * 1 is truly corrupted, all 1 in the right modality", "2 * 1 is"),
        (["visual", "audio", ""], ["visual", "visual", ""], "3 * 2 are truly corrupted, 1 of 2 in the right modality", "2 * 2 are"),
        (["visual", "", "audio"], ["visual", "", ""], "3 * 2 are truly corrupted, 1 of 2 in the right modality", "1 * 1 is truly"),
        (["visual", "", ""], [ALL, "", ""], "3 * 1 is truly corrupted, 0 of 1 in the right modality", "1 * 1 is"),
        (["label", "label", ""], [ALL, "audio", ""], f"3 * 2 are truly corrupted, 1 of 2 doubted as `{ALL}`", "2 * 2 are"),
        (["", "", "audio"], ["audio", "", ""], "3 * 1 is truly corrupted, 0 of 1 in the right modality", "1 * 0 are truly corrupted."),
    ],
)  # fmt: skip
def test_planted_corruption_says_how_right_the_doubts_are(corrupted, doubted, first, all_doubted):
    page = explorer_html(table(corrupted=corrupted, doubted=doubted), {}, text())
    first, all_doubted = (said.replace("*", "{} training samples,") for said in (first, all_doubted))
    assert f"Of the {first.replace('{}', 'most suspect')}" in page
    assert f"Of all {all_doubted.replace('{}', 'doubted')}" in page
    assert "in no other split: there, an empty cell is no verdict" in page


def test_only_training_samples_count_as_corrupted_and_found():
    page = explorer_html(table(split=["train", "test", "test"], corrupted=["visual", "", ""]), {}, text())
    assert "Of the 1 most suspect training samples, 1 is truly corrupted, all 1 in the right modality." in page
    assert "planted in 1 of 1 training samples (100%)" in page


def test_without_planted_corruption_nothing_is_said():
    page = explorer_html(table(corrupted=["", "", ""]), {}, text())
    assert "truly corrupted" not in page
    assert "planted in 0" not in page


def test_the_page_opens_with_training_samples_unless_two_runs_are_compared():
    mixed = table(split=["train", "test", "train"])
    chosen = '<option value="=train" selected>'
    assert chosen in explorer_html(mixed, {}, text())
    assert chosen not in explorer_html(mixed.assign(gap_change=0.1), {}, text(against="y"))
    assert '" selected>' not in explorer_html(table(split=["val", "test", "test"]), {}, text())


def test_what_is_doubted_stands_beside_what_is_true_and_why():
    kinds = ["other", "", "unheard of"]
    data = data_of(explorer_html(table(corrupted=["audio", "", "audio"], corruption_kind=kinds), {}, text()))
    place = data["columns"].index("doubted")
    assert data["columns"][place : place + 4] == ["doubted", "corrupted", "corruption_kind", "why"]
    assert "why" not in data["hidden"]
    found = [row[place + 2] for row in data["rows"]]
    assert found == ["another sample's, of another class", "", "unheard of"]


def test_every_planted_kind_is_said_in_words():
    assert set(KINDS) | {"mixed"} == set(options()["corruption_kind"].choices)


def several_classes():
    return table(**{"class": ["cat, <b>dog", "cat", "bird"], "true_classes": [["cat", "<b>dog"], ["cat"], ["bird"]]})


def test_with_several_classes_one_chooses_and_counts_each():
    page = explorer_html(several_classes(), {}, text())
    data = data_of(page)
    assert data["several"] == [["cat", "<b>dog"], ["cat"], ["bird"]]
    assert "true_classes" not in data["columns"]
    choices = re.search(r'<select data-filter="class">(.*?)</select>', page, re.S)[1]
    assert re.findall(r'value="=(.*?)"', choices) == ["&lt;b&gt;dog", "bird", "cat"]
    counts = re.findall(r"<tr><th>(.*?)</th>((?:<td>\d+</td>)+)</tr>", page)
    assert [(name, re.findall(r"\d+", cells)) for name, cells in counts] == [
        ("&lt;b&gt;dog", ["0", "1", "0"]), ("bird", ["0", "0", "1"]), ("cat", ["1", "1", "0"]), ("all classes", ["1", "1", "1"]),
    ]  # fmt: skip
    assert data_of(explorer_html(table(), {}, text()))["several"] is None


def test_lists_of_classes_are_lists_for_other_tools(tmp_path):
    write_samples(several_classes(), {}, tmp_path / "samples.parquet", ("audio", "visual"))
    assert pq.read_table(tmp_path / "samples.parquet")["true_classes"].to_pylist() == [
        ["cat", "<b>dog"],
        ["cat"],
        ["bird"],
    ]
    datasets = pytest.importorskip("datasets")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "samples.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["true_classes"] == ["cat", "<b>dog"]


def test_the_table_has_media_in_the_form_that_other_tools_read(tmp_path):
    media = {("train", "s1"): Media({"audio": b"png", "visual": b"webp"}, {"audio": b"ogg"}, {"audio": "a.wav"})}
    write_samples(table(), media, tmp_path / "samples.parquet", ("audio", "visual"))
    read = pq.read_table(tmp_path / "samples.parquet")
    assert read["audio_sound"].to_pylist() == [None, {"bytes": b"ogg", "path": "a.wav"}, None]
    assert read["visual_picture"].to_pylist()[1] == {"bytes": b"webp", "path": None}
    assert "visual_sound" not in read.column_names
    features = json.loads(read.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["audio_sound"] == {"_type": "Audio"}
    assert features["visual_picture"] == {"_type": "Image"}
    assert features["gap"] == {"dtype": "float64", "_type": "Value"}
    assert list(features) == read.column_names
