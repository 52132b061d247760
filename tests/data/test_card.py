"""The data card: right numbers, whatever the names."""

from mm_balance.data.card import CardSample, data_card

WORDS = {"recipe": "a | b", "digest": "d" * 64, "source": "Made up.", "lists": {"train.txt": "ab" * 32},
         "notes": ["one\ntwo"], "excluded": ["x: broken"], "skipped": [f"s{number}: bad" for number in range(60)]}  # fmt: skip


def clip(split, label, seconds=2.0, **more):
    return CardSample(
        split, (label,), {"audio": seconds}, {"audio": 16_000}, {"visual": (480, 360)}, {"visual": 2}, **more
    )


def test_counts_durations_and_kinds():
    samples = [
        clip("train", "cat", 1.0),
        clip("train", "cat", 3.0),
        clip("train", "dog|wolf", 2.0),
        clip("test", "cat", 5.0),
    ]
    card = data_card("set", samples, **WORDS)
    assert "| cat | 2 | 0 | 1 | 3 |" in card
    assert "| dog\\|wolf | 1 | 0 | 0 | 1 |" in card
    assert "| **all** | **3** | **0** | **1** | **4** |" in card
    assert "Largest training class over smallest: 2.00." in card
    assert "| audio | train | 3 | 1.00 | 2.00 | 2.00 | 3.00 |" in card
    assert "| audio | test | 1 | 5.00 | 5.00 | 5.00 | 5.00 |" in card
    assert "- audio, sampling rate in Hz (files): 16000 (4)" in card
    assert "- visual, image size in pixels (files): 480 x 360 (4)" in card
    assert "recipe: a \\| b" in card
    assert "| train.txt | `" + "ab" * 32 in card
    assert "- one two" in card
    assert "## Skipped (60)" in card
    assert "s49: bad" in card
    assert "s50: bad" not in card
    assert "- and 10 more" in card


def test_many_kinds_are_cut_short_and_pictures_alone_do():
    samples = [CardSample("train", ("a",), size={"visual": (number, number)}) for number in range(1, 21)]
    card = data_card("pictures", samples, **{**WORDS, "lists": {}, "notes": [], "excluded": [], "skipped": []})
    assert "1 x 1 (1)" in card
    assert "and 12 more" in card
    assert "duration in s" not in card
    assert "##" in card
    assert "Skipped" not in card
