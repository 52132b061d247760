"""GRID: the layouts of its copies, words cut out at the right place and time, the splits, and what is wrong with a download."""

import csv
import hashlib
from collections import Counter

import av
import numpy as np
import pytest

from mm_balance.config import resolve
from mm_balance.data import DecodeSettings, prepare_raw
from mm_balance.data.grid_words import Cut, cut_words, find_mouth, read_gray
from mm_balance.data.prepare import load_prepared
from mm_balance.data.readers import read_raw
from mm_balance.data.readers.grid import (
    SLOTS,
    BadSentence,
    find_sentences,
    sentence_splits,
    spoken_word,
    talker_splits,
)
from mm_balance.data.sound import read_sound_file
from mm_balance.errors import Interrupted, UserError
from tests.helpers.media import GRID, tone, write_video
from tests.helpers.raw import BBAF2N, grid_alignment, grid_names, make_grid
from tools import cut_grid

PREPARED = GRID.parent / "grid_letters"
"""Letters of s1 that were cut out by other code, where they are at hand."""
MOUTHS = {
    "bbaf2n": (156, 217), "brbk7n": (171, 224), "id2_vcd_swwp2s": (171, 214), "lbax4n": (195, 201), "lbbc2a": (188, 231),
    "lrwp9a": (188, 218), "lwbsza": (165, 216), "pwij3p": (180, 208), "sbia1a": (180, 211), "sbwe5n": (181, 206),
    "swiz3n": (169, 208),
}  # fmt: skip
"""Centers of the mouths in the real clips (360 x 288 pixels), found by eye."""
SENTENCES = "721c9e731d7778ad"
"""SHA-256, shortened, of the test sentences of a talker who says every letter 40 times."""
TALKERS = ["s1", "s13", "s2", "s24", "s27", "s34", "s9"]
FIRST, END = 32, 44
"""Frames of the letter of bbaf2n with 0.12 s on both sides: 1.30 s is in frame 32, 1.76 s is where frame 44 starts."""


def cut(source, target, *arguments, **options):
    return cut_words(source, target, *arguments, workers=1, progress=False, **options)


def pictures(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def numbered(number):
    """A frame whose gray level tells its number."""
    return np.full((72, 96), 10 + 3 * number, np.uint8)


def numbers(first, end):
    """Gray levels of these frames; the next frame's differs by more than what encoding changes."""
    return pytest.approx([10 + 3 * number for number in range(first, end)], abs=2.4)


def rows(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The names and the alignments


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        ("command", ("bin", 23750, 29500)), ("color", ("blue", 29500, 34000)), ("preposition", ("at", 34000, 35500)),
        ("letter", ("f", 35500, 41000)), ("digit", ("two", 41000, 47250)), ("adverb", ("now", 47250, 53000)),
    ],
)  # fmt: skip
def test_every_word_of_a_real_alignment(slot, expected):
    assert spoken_word(BBAF2N, "bbaf2n", slot) == expected


def test_the_vocabulary_has_51_words_and_no_w():
    assert [len(words) for words in SLOTS.values()] == [4, 4, 4, 25, 10, 4]
    assert "w" not in SLOTS["letter"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("35500 41000 f\n", "35500 41000 sp\n", r"has 5 words \(bin blue at two now\) beside silence, not 6"),
        ("35500 41000 f\n", "35500 41000 s\n", r"the letter is 's' in the alignment, but 'f' by the name"),
        ("35500 41000 f\n", "35500 f\n", r"line 5: not of the form `start end word`: '35500 f'"),
        ("35500 41000 f\n", "35500 1.64 f\n", r"line 5: not of the form"),
        ("35500 41000 f\n", "41000 35500 f\n", r"the letter starts at 41000 and ends at 35500"),
    ],
)
def test_bad_alignments(old, new, reason):
    with pytest.raises(BadSentence, match=reason):
        spoken_word(BBAF2N.replace(old, new), "bbaf2n", "letter")


def test_silence_between_words_and_capitals_do_not_matter():
    text = BBAF2N.replace("35500 41000 f\n", "35500 36000 sp\n36000 41000 F\n")
    assert spoken_word(text, "bbaf2n", "letter") == ("f", 36000, 41000)


# The layouts


@pytest.mark.parametrize(
    ("video", "alignment"),
    [
        ("{talker}/{name}.mpg", "alignments/{talker}/{name}.align"),
        ("{talker}/{name}.mpg", "{talker}/align/{name}.align"),
        ("{talker}/video/{name}.mpg", "align/{talker}/{name}.align"),
        ("video/{talker}.mpg_6000/{name}.MPG", "{talker}/{name}.align"),
        ("video/{talker}_{name}.mpg", "align/{talker}_{name}.align"),
    ],
)
def test_layouts(tmp_path, video, alignment):
    source = make_grid(tmp_path / "GRID", ["bbaf2n", "lwwz9s"], talkers=("s1", "s12"), video=video, alignment=alignment)
    corpus = find_sentences(source)
    assert [sentence.id for sentence in corpus.sentences] == ["s1_bbaf2n", "s1_lwwz9s", "s12_bbaf2n", "s12_lwwz9s"]
    assert not corpus.missing
    for sentence in corpus.sentences:
        for path in (sentence.video, sentence.alignment):
            assert sentence.name in path.name
            parts = path.relative_to(source).as_posix().replace(".", "/").replace("_", "/").split("/")
            assert sentence.talker in parts


def test_an_alignment_without_a_talker_fits_any(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n"], talkers=("s1", "s2"), alignment="align/{name}.align")
    assert [sentence.id for sentence in find_sentences(source).sentences] == ["s1_bbaf2n", "s2_bbaf2n"]


def test_the_folder_of_one_talker(tmp_path):
    layout = {"video": "{name}.mpg", "alignment": "align/{name}.align"}
    corpus = find_sentences(make_grid(tmp_path / "s7", ["bbaf2n"], **layout))
    assert [sentence.id for sentence in corpus.sentences] == ["s7_bbaf2n"], "the source itself names the talker"
    corpus = find_sentences(make_grid(tmp_path / "other" / "clips", ["bbaf2n"], **layout))
    assert [sentence.id for sentence in corpus.sentences] == ["bbaf2n"]


def test_what_is_missing_is_named(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n", "lwwz9s", "sgix3p"])
    (source / "alignments" / "s1" / "lwwz9s.align").unlink()
    (source / "s1" / "sgix3p.mpg").unlink()
    other = source / "alignments" / "s21"
    other.mkdir()
    (other / "bbaf2n.align").write_text(BBAF2N)
    corpus = find_sentences(source)
    assert [sentence.id for sentence in corpus.sentences] == ["s1_bbaf2n"]
    assert sorted(corpus.missing) == [
        "sentence 's1_lwwz9s': no alignment lwwz9s.align", "sentence 's1_sgix3p': no video sgix3p.mpg",
    ]  # fmt: skip
    assert any(note.startswith("no videos of s21") for note in corpus.notes)


def test_a_download_without_alignments_says_what_was_found(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n"], alignment="alignments/s2/{name}.align")
    with pytest.raises(
        UserError, match=r"1 video\(s\) like s1/bbaf2n\.mpg, and 1 alignment\(s\) like alignments/s2/bbaf2n"
    ):
        find_sentences(source)
    (source / "s1" / "bbaf2n.mpg").rename(source / "s1" / "holiday.mpg")
    with pytest.raises(UserError, match=r"no video named like bbaf2n\.mpg in any folder; it contains alignments, s1"):
        find_sentences(source)


# Cutting


def test_the_word_is_cut_at_its_time(tmp_path):
    """A higher tone sounds exactly while the letter is spoken."""
    source = make_grid(tmp_path / "GRID", ["bbaf2n"])
    wave = tone(3.0, 44_100, 300.0)
    begin, end = (round(units / 25_000 * 44_100) for units in (35_500, 41_000))
    wave[begin:end] = tone(3.0, 44_100, 2000.0)[begin:end]
    (source / "s1" / "bbaf2n.mpg").unlink()
    write_video(source / "s1" / "bbaf2n.mpg", seconds=3.0, draw=numbered, wave=wave)
    assert cut(source, tmp_path / "words") == []
    assert rows(tmp_path / "words") == [
        {
            "sample": "s1_bbaf2n_letter", "split": "train", "label": "f", "audio": "letter/s1_bbaf2n.mkv",
            "visual": "letter/s1_bbaf2n.mkv", "group": "s1_bbaf2n",
        }
    ]  # fmt: skip
    path = tmp_path / "words" / "letter" / "s1_bbaf2n.mkv"
    found = pictures(path)
    assert found.shape == (END - FIRST, 96, 96)
    assert found.mean((1, 2)) == numbers(FIRST, END)
    sound, facts = read_sound_file(path)
    assert (facts.rate, facts.channels, len(sound)) == (16_000, 1, (END - FIRST) * 640)
    spectrum = np.abs(np.fft.rfft(sound.reshape(-1, 160)))
    high = spectrum[:, 20] > spectrum[:, 3]  # 2,000 and 300 Hz; pieces of 10 ms
    inside = np.flatnonzero(high) / 100 + FIRST / 25
    assert (inside.min(), inside.max() + 0.01) == (pytest.approx(1.42, abs=0.04), pytest.approx(1.64, abs=0.04))


def test_margins_end_with_the_clip(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n"])
    text = BBAF2N.replace("0 23750 sil\n23750 29500 bin", "0 29500 bin").replace(
        "47250 53000 now\n53000 74500 sil", "47250 75000 now"
    )
    (source / "alignments" / "s1" / "bbaf2n.align").write_text(text)
    (source / "s1" / "bbaf2n.mpg").unlink()
    write_video(source / "s1" / "bbaf2n.mpg", seconds=3.0, draw=numbered)
    for slot, first, end in (("command", 0, 33), ("adverb", 44, 75)):
        assert cut(source, tmp_path / slot, Cut(slot=slot)) == []
        found = pictures(tmp_path / slot / slot / "s1_bbaf2n.mkv")
        assert found.mean((1, 2)) == numbers(first, end)


def blinking(x, y):
    """Frames of 120 x 96 pixels in which only a mouth at ``(x, y)`` changes."""

    def draw(number):
        frame = np.full((96, 120), 120, np.uint8)
        frame[y - 3 : y + 3, x - 6 : x + 6] = 40 if number % 2 else 200
        return frame

    return draw


def test_the_mouth_is_where_it_moves():
    for x, y in ((50, 68), (60, 75), (72, 64)):
        draw = blinking(x, y)
        found = find_mouth(np.stack([draw(number) for number in range(10)]))
        assert (found[0] * 120, found[1] * 96) == (pytest.approx(x, abs=1.5), pytest.approx(y, abs=1.5))
    assert find_mouth(np.zeros((5, 96, 120), np.uint8)) == (0.49, 0.74), "nothing moves"


def test_the_crop_is_around_the_talkers_mouth_or_the_given_one(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n", "lwwz9s"], talkers=("s1", "s2"))
    for talker, x, y in (("s1", 50, 68), ("s2", 70, 72)):
        for name in ("bbaf2n", "lwwz9s"):
            (source / talker / f"{name}.mpg").unlink()
            write_video(source / talker / f"{name}.mpg", seconds=3.0, size=(120, 96), draw=blinking(x, y))
    cut(source, tmp_path / "found")
    cut(source, tmp_path / "given", Cut(mouth=(70 / 120, 72 / 96)))
    for folder, talker, centered in (
        ("found", "s1", True),
        ("found", "s2", True),
        ("given", "s1", False),
        ("given", "s2", True),
    ):
        found = pictures(tmp_path / folder / "letter" / f"{talker}_lwwz9s.mkv").astype(float)
        y, x = np.argwhere(np.abs(np.diff(found, axis=0)).mean(0) > 50).mean(0)
        assert (abs(x - 48) < 6 and abs(y - 48) < 6) == centered, (folder, talker, x, y)


def test_one_crop_for_all_clips_of_a_talker(tmp_path):
    names = ["bbaf2n", "lwwz9s", "sgix3p"]
    source = make_grid(tmp_path / "GRID", names)
    for name, x in zip(names, (50, 50, 62), strict=True):
        (source / "s1" / f"{name}.mpg").unlink()
        write_video(source / "s1" / f"{name}.mpg", seconds=3.0, size=(120, 96), draw=blinking(x, 70))
    cut(source, tmp_path / "words")
    places = {}
    for name in names:
        found = pictures(tmp_path / "words" / "letter" / f"s1_{name}.mkv").astype(float)
        places[name] = np.argwhere(np.abs(np.diff(found, axis=0)).mean(0) > 50)[:, 1].mean()
    assert places["bbaf2n"] == pytest.approx(places["lwwz9s"], abs=1)
    assert places["bbaf2n"] == pytest.approx(48, abs=6)
    assert places["sgix3p"] > 70, "this clip was looked at alone"


def test_cutting_again_keeps_what_is_there_and_gives_the_same_bytes(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n", "lwwz9s", "sgix3p"])
    cut(source, tmp_path / "words")
    files = sorted((tmp_path / "words" / "letter").iterdir())
    assert [path.name for path in files] == ["s1_bbaf2n.mkv", "s1_lwwz9s.mkv", "s1_sgix3p.mkv"]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    manifest = (tmp_path / "words" / "manifest.csv").read_bytes()
    files[1].unlink()
    cut(source, tmp_path / "words")
    for path in (files[0], files[2]):
        assert path.stat().st_mtime_ns == before[path][0], "cut again"
    assert files[1].read_bytes() == before[files[1]][1]
    assert (tmp_path / "words" / "manifest.csv").read_bytes() == manifest
    with pytest.raises(UserError, match=r"contains words that were cut with slot=letter, margin=0\.12.*another folder"):
        cut(source, tmp_path / "words", Cut(margin=0.2))


def test_an_interrupted_call_goes_on(tmp_path):
    names = grid_names(1)[:12]
    source = make_grid(tmp_path / "GRID", names)
    calls = []
    with pytest.raises(Interrupted):
        # Polled after the mouth of the talker, and after every eight sentences.
        cut(source, tmp_path / "words", stop=lambda: calls.append(1) or len(calls) == 2)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "words" / "letter").iterdir()}
    assert len(kept) == 8
    assert not (tmp_path / "words" / "manifest.csv").exists(), "a part would be taken for the whole"
    cut(source, tmp_path / "words")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "words" / "letter").iterdir()}
    assert len(after) == len(rows(tmp_path / "words")) == 12
    assert kept.items() <= after.items()


@pytest.fixture
def damaged(tmp_path):
    """One good sentence, and one of everything that can be wrong."""
    source = make_grid(tmp_path / "GRID", ["bbaf2n", "lwwz9s", "sgix3p", "pbik7n", "sriv1a", "lrab8s", "pwbe5p"])

    def replaced(name):
        path = source / "s1" / f"{name}.mpg"
        path.unlink()
        return path

    (source / "alignments" / "s1" / "lwwz9s.align").unlink()
    replaced("sgix3p").write_bytes(b"no video at all" * 100)
    write_video(replaced("pbik7n"), seconds=1.2)
    write_video(replaced("sriv1a"), seconds=3.0, sound=False)
    path = source / "alignments" / "s1" / "lrab8s.align"
    path.write_text(path.read_text().replace(" b\n", " sp\n"))
    write_video(replaced("pwbe5p"), seconds=3.0, rate=30)
    return source


REASONS = {
    "lwwz9s": "no alignment lwwz9s.align",
    "sgix3p": "sgix3p.mpg: cannot be opened as video",
    "pbik7n": "pbik7n.mpg: the video ends before 'k' does, at 1.64 s by the alignment",
    "sriv1a": "sriv1a.mpg: no sound track (it has 1 video, 0 audio)",
    "lrab8s": "the alignment has 5 words (lay red at eight soon) beside silence, not 6",
    "pwbe5p": "pwbe5p.mpg: 30 frames per second, but the videos of GRID have 25",
}


def test_bad_sentences_are_named_and_the_others_done(tmp_path, damaged):
    failures = cut(damaged, tmp_path / "words")
    assert [row["group"] for row in rows(tmp_path / "words")] == ["s1_bbaf2n"]
    assert len(failures) == len(REASONS)
    for line, (name, reason) in zip(failures, sorted(REASONS.items()), strict=True):
        assert line.startswith(f"sentence 's1_{name}': {reason}")
    assert not [path for path in (tmp_path / "words" / "letter").iterdir() if path.name != "s1_bbaf2n.mkv"]
    assert read_raw("grid", tmp_path / "words", protocol="published").missing == failures


def test_the_script(tmp_path, damaged, capsys):
    target = tmp_path / "words"
    assert (
        cut_grid.main([str(damaged), str(target), "--slot", "digit", "--workers", "1", "--edge", "32", "--margin", "0"])
        == 1
    )
    said = capsys.readouterr().out
    assert f"6 sentence(s) could not be cut: {target / 'not_cut.txt'}" in said
    assert "sgix3p.mpg: cannot be opened as video" in said
    assert [(row["label"], row["sample"]) for row in rows(target)] == [("two", "s1_bbaf2n_digit")]
    assert pictures(target / "digit" / "s1_bbaf2n.mkv").shape == (7, 32, 32), "1.64 to 1.89 s: frames 41 to 47"
    assert cut_grid.main([str(tmp_path / "nowhere"), str(target)]) == 1
    assert "no such folder" in capsys.readouterr().err


# Splits


def test_sentences_of_each_talker_are_divided_alike():
    names = grid_names(40)
    labels = {(talker, name): name[3] for talker in ("s1", "s2") for name in names}
    assert len(labels) == 2000
    splits = sentence_splits(labels)
    counts = Counter((talker, labels[talker, name], split) for (talker, name), split in splits.items())
    for talker in ("s1", "s2"):
        for letter in SLOTS["letter"]:
            assert [counts[talker, letter, split] for split in ("train", "val", "test")] == [28, 4, 8]
    alone = sentence_splits({key: label for key, label in labels.items() if key[0] == "s1"})
    assert alone == {key: split for key, split in splits.items() if key[0] == "s1"}, "depends on other talkers"
    test = sorted(name for (talker, name), split in alone.items() if split == "test")
    assert hashlib.sha256(" ".join(test).encode()).hexdigest()[:16] == SENTENCES, (
        "published numbers would no longer hold"
    )


def test_talkers_are_divided():
    splits = talker_splits(f"s{number}" for number in range(1, 35) if number != 21)
    assert Counter(splits.values()) == {"train": 23, "val": 3, "test": 7}
    assert sorted(talker for talker, split in splits.items() if split == "test") == TALKERS
    assert Counter(talker_splits(["s1", "s2", "s3"]).values()) == {"train": 1, "val": 1, "test": 1}


# Through prepare


def settings(tmp_path):
    return DecodeSettings(tmp_path / "data", workers=1, progress=False)


def prepare(tmp_path, source, *, protocol="published", on_error="fail"):
    inputs = resolve({"dataset": "grid"}).input
    prepare_raw("grid", source, protocol=protocol, on_error=on_error, input_config=inputs, work=settings(tmp_path))


def load(tmp_path, *, protocol="published", on_error="fail"):
    return load_prepared(
        "grid", protocol=protocol, modalities=("audio", "visual"), seed=0, on_error=on_error,
        input_config=resolve({"dataset": "grid"}).input, work=settings(tmp_path),
    )  # fmt: skip


def test_from_the_download_to_splits(tmp_path):
    source = make_grid(tmp_path / "GRID", grid_names(10, "afo"), talkers=("s1", "s2", "s3"))
    prepare(tmp_path, source)
    data = load(tmp_path)
    assert data.classes == ("a", "f", "o")
    assert {split: len(samples) for split, samples in data.splits.items()} == {"train": 63, "val": 9, "test": 18}
    assert data.specs["visual"].shape == (24, 32, 32), "eight frames as channels"
    assert set(data.table["visual_frames"]) == {12}
    assert set(data.table["talker"]) == {"s1", "s2", "s3"}
    words = tmp_path / "data" / "grid" / "words"
    before = {path.name: path.stat().st_mtime_ns for path in words.rglob("*.mkv")}
    prepare(tmp_path, source, protocol="speaker")
    assert {path.name: path.stat().st_mtime_ns for path in words.rglob("*.mkv")} == before
    apart = load(tmp_path, protocol="speaker")
    assert apart.folder == data.folder
    talkers = {split: {sample.split("_")[0] for sample in samples.samples} for split, samples in apart.splits.items()}
    assert sorted(len(members) for members in talkers.values()) == [1, 1, 1]
    assert len(set.union(*talkers.values())) == 3


def test_bad_sentences_stop_prepare_unless_told_otherwise(tmp_path, damaged):
    for name in grid_names(10, "af"):
        path = damaged / "alignments" / "s1" / f"{name}.align"
        path.write_text(grid_alignment(name))
        (damaged / "s1" / f"{name}.mpg").symlink_to(damaged / "s1" / "bbaf2n.mpg")
    with pytest.raises(UserError, match=r"6 bad row.*s1_lrab8s.*on_error=skip"):
        prepare(tmp_path, damaged)
    prepare(tmp_path, damaged, on_error="skip")
    data = load(tmp_path, on_error="skip")
    assert data.counts["skipped"] == 6
    assert sum(len(samples) for samples in data.splits.values()) == 21


def test_one_talker_cannot_be_divided_by_speaker(tmp_path):
    source = make_grid(tmp_path / "GRID", ["bbaf2n"])
    with pytest.raises(
        UserError, match=r"needs at least 3 talkers, and .*words has s1; add talkers.*protocol=published"
    ):
        prepare(tmp_path, source, protocol="speaker")


# Real clips


def test_the_mouths_of_real_talkers_are_found():
    if not GRID.is_dir():
        pytest.skip("no real clips at hand")
    clips = sorted(GRID.glob("*.mpg"))
    assert {clip.stem for clip in clips} == set(MOUTHS)
    for clip in clips:
        x, y = find_mouth(read_gray(clip))
        assert (x * 360, y * 288) == (
            pytest.approx(MOUTHS[clip.stem][0], abs=10),
            pytest.approx(MOUTHS[clip.stem][1], abs=10),
        )


def test_real_clips_are_cut_like_the_prepared_ones(tmp_path):
    if not (GRID.is_dir() and PREPARED.is_dir()):
        pytest.skip("no real clips at hand")
    source = tmp_path / "GRID"
    for clip in sorted(GRID.glob("*.mpg")):
        name = clip.stem.split("_")[-1]
        talker = {"bbaf2n": "s1", "swwp2s": "s2"}.get(name, f"s{10 + len(list(source.glob('*')))}")
        (source / talker / "align").mkdir(parents=True)
        (source / talker / f"{name}.mpg").symlink_to(clip)
        (source / talker / "align" / f"{name}.align").write_text(grid_alignment(name))
    assert cut(source, tmp_path / "words") == []
    assert len(rows(tmp_path / "words")) == 11
    ours, theirs = tmp_path / "words" / "letter" / "s1_bbaf2n.mkv", PREPARED / "letter" / "bbaf2n.mkv"
    sound, expected = (read_sound_file(path)[0] for path in (ours, theirs))
    count = min(len(sound), len(expected))
    assert abs(len(sound) - len(expected)) <= 1
    assert np.corrcoef(sound[:count], expected[:count])[0, 1] > 0.999, "another moment"
    assert len(pictures(ours)) == len(pictures(theirs)) == 12
    assert np.corrcoef(pictures(ours).ravel(), pictures(theirs).ravel())[0, 1] > 0.65, (
        "another place"  # 7 pixels further up or down, it is below 0.65
    )


def test_the_prepared_letters_are_read():
    if not PREPARED.is_dir():
        pytest.skip("the prepared letters are not at hand")
    raw = read_raw("grid", PREPARED, protocol="published")
    assert Counter(row.split for row in raw.rows) == {"train": 700, "val": 100, "test": 200}
    assert len({row.label for row in raw.rows}) == 25
    with pytest.raises(UserError, match=r"needs at least 3 talkers, and .* has none that is named"):
        read_raw("grid", PREPARED, protocol="speaker")
