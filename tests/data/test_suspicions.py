"""Data that can be read, and would give wrong results in silence: the same content in two splits, labels that look alike."""

import shutil

import pytest

from mm_balance.config import resolve
from mm_balance.data.suspicions import hidden_character, labels_alike
from mm_balance.errors import UserError
from mm_balance.workflow.setup import read_data
from tests.helpers.manifests import Folder, load


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path).fill()


def read(folder, tmp_path, **options):
    return load(folder.write(), data_dir=tmp_path / "stores", **options)


def copy(folder, source, target, *columns):
    """Give a row the content of another one's files, under its own names."""
    for column in columns:
        shutil.copyfile(folder.path / folder.rows[source][column], folder.path / folder.rows[target][column])


def test_clean_data_have_no_warnings(folder, tmp_path):
    data = read(folder, tmp_path)
    assert data.warnings == []
    assert data.duplicates == 0


def test_a_sample_whose_content_is_in_two_splits_is_named(folder, tmp_path):
    rows = folder.rows
    test = next(number for number, row in enumerate(rows) if row["split"] == "test")
    copy(folder, 0, test, "audio", "visual")
    data = read(folder, tmp_path)
    (warning,) = data.warnings
    assert warning.startswith(f"1 sample(s) of test have the same files as samples of train (s{test} = s0)")
    assert data.duplicates == 1


def test_a_modality_in_common_is_named(folder, tmp_path):
    rows = folder.rows
    val, test = (next(number for number, row in enumerate(rows) if row["split"] == split) for split in ("val", "test"))
    copy(folder, val, test, "audio")
    copy(folder, 1, val, "visual")
    data = read(folder, tmp_path)
    assert [warning.partition(":")[0] for warning in data.warnings] == [
        f"1 sample(s) of test have the same audio as samples of val (s{test} = s{val})",
        f"1 sample(s) of val have the same visual as samples of train (s{val} = s1)",
    ]
    assert data.duplicates == 2


def test_one_file_for_everything_is_told_in_a_few_words(tmp_path):
    folder = Folder(tmp_path)
    for split in ("train", "val", "test"):
        for _ in range(10):
            for label in ("cat", "dog"):
                folder.add(split, label, audio="0.wav", visual="0.png")
    data = read(folder, tmp_path)
    text = "\n".join(data.warnings)
    assert "20 sample(s) of test have the same files as samples of train" in text
    assert "have the same files as one with another label" in text
    assert len(text) < 1500
    assert data.duplicates == 40


@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("\uff43at", "cat"), ("big cat", "big\u00a0cat"), ("می\u200cخواهم", "میخواهم"), ("a b", "a  b")],
)  # fmt: skip
def test_labels_that_look_the_same_are_an_error_that_shows_the_difference(tmp_path, one, other):
    folder = Folder(tmp_path).fill(classes=(one, other, "dog"))
    with pytest.raises(
        UserError, match=r"look the same but are not .*\\u|look the same but are not .*a  b|\\xa0|\\xe9"
    ):
        read(folder, tmp_path)


def test_labels_that_differ_by_case_are_a_warning(tmp_path):
    folder = Folder(tmp_path).fill(classes=("a", "A"))
    (warning,) = read(folder, tmp_path).warnings
    assert warning == "the labels 'A' (line 5) and 'a' (line 2) differ by case only and are two classes"


def test_labels_of_all_kinds_are_not_alike():
    assert not list(labels_alike(["cat", "cats", "é", "e", "1", "2", "猫", "犬", "b c", "bc"]))


@pytest.mark.parametrize("hidden", ["\u200b", "\ufeff", "\x00", "\x07", "\n", "\r", "\t", "\u2028", "\u202e"])
@pytest.mark.parametrize("column", ["label", "sample", "group"])
def test_a_cell_with_a_character_that_nobody_sees_is_named(tmp_path, column, hidden):
    folder = Folder(tmp_path).fill()
    for row in folder.rows:
        row["group"] = ""
    folder.header.append("group")
    folder.rows[0][column] = f"x{hidden}y"
    with pytest.raises(UserError, match=rf"U\+{ord(hidden):04X}|line contains NUL|is not CSV"):
        read(folder, tmp_path)


def test_joiners_of_languages_that_need_them_are_none():
    assert hidden_character("می\u200cخواهم") == ""
    assert hidden_character("👩\u200d🎤") == ""


def test_a_fraction_that_is_no_sample_is_refused_and_not_taken_for_one_of_each_class():
    with pytest.raises(UserError, match=r"train_fraction=0\.0000000000001 of 3,500 training samples is none"):
        read_data(resolve({"train_fraction": 1e-13}))


@pytest.mark.parametrize("place", ["/etc/passwd", "/etc/passwd/x", "x" * 300, "a\0b"])
def test_a_folder_of_stores_that_is_none_is_refused_even_where_nothing_is_stored(place):
    with pytest.raises(UserError, match="data_dir="):
        read_data(resolve({"data_dir": place}))
