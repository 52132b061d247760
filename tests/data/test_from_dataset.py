"""Data sets of Python: lists of mappings, torch's, Hugging Face's; in memory or in files."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import mm_balance
from mm_balance import InputColumn, from_dataset
from mm_balance.data import Corruption
from mm_balance.data.corruption import plant
from mm_balance.data.dataset import BatchLoader
from mm_balance.errors import UserError
from tests.helpers.manifests import OPTIONS, seen

CLASSES = ("cat", "dog")
MODALITIES = {"audio": "embedding", "visual": "frame"}


def one(number, **changes):
    random = np.random.default_rng(number)
    return {
        "embedding": random.normal(2, 3, 5).astype(np.float32),
        "frame": random.integers(0, 256, (3, 8, 8), dtype=np.uint8),
        "label": CLASSES[number % 2],
        "speaker": f"p{number // 2}",
        **changes,
    }


def some(first, count, **changes):
    return [one(number, **changes) for number in range(first, first + count)]


def splits(**changes):
    return {"train": some(0, 20, **changes), "val": some(20, 4, **changes), "test": some(24, 4, **changes)}


class Torch(Dataset):
    def __init__(self, samples):
        self.samples, self.read = samples, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, number):
        self.read += 1
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.samples[number].items()
        }


def test_lists_and_torch_data_sets_give_the_same(tmp_path):
    given = splits()
    data = from_dataset(given, modalities=MODALITIES)
    other = from_dataset({name: Torch(part) for name, part in given.items()}, modalities=MODALITIES)
    assert data.digest == other.digest
    assert data.classes == CLASSES
    assert [(name, spec.kind, spec.shape) for name, spec in data.specs.items()] == [
        ("audio", "vector", (5,)), ("visual", "image", (3, 8, 8)),
    ]  # fmt: skip
    for name, part in given.items():
        values = seen(data.splits[name])
        assert (values["audio"].numpy() == [item["embedding"] for item in part]).all()
        assert (values["visual"].numpy() == [item["frame"] for item in part]).all()
        assert [data.classes[label] for label in data.splits[name].labels] == [item["label"] for item in part]
    vectors = np.stack([item["embedding"] for item in given["train"]])
    assert data.specs["audio"].mean == pytest.approx(vectors.mean(0), rel=1e-5)
    pixels = np.stack([item["frame"] for item in given["train"]]) / 255
    assert data.specs["visual"].mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-5)
    assert data.specs["visual"].std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-5)
    assert mm_balance.from_dataset is from_dataset


def test_one_data_set_with_a_column_of_splits():
    samples = [{**item, "part": name} for name, part in splits().items() for item in part]
    names = {"val": "validation"}
    renamed = [{**item, "part": names.get(item["part"], item["part"])} for item in samples]
    for given in (samples, renamed):
        data = from_dataset(given, modalities=MODALITIES, split="part")
        assert data.counts == {"train": 20, "val": 4, "test": 4}
    assert data.specs == from_dataset(splits(), modalities=MODALITIES).specs


def test_without_validation_a_stratified_tenth_of_whole_groups_is_taken():
    given = {"train": some(0, 40), "test": some(40, 4)}
    data = from_dataset(given, modalities=MODALITIES, group="speaker")
    assert data.counts == {"train": 36, "val": 4, "test": 4}
    assert data.splits["val"].labels.tolist().count(0) == 2
    group = dict(zip(data.table["sample"], data.table["group"], strict=True))
    parts = [{group[sample] for sample in data.splits[name].samples} for name in ("train", "val")]
    assert not parts[0] & parts[1]
    assert from_dataset(given, modalities=MODALITIES, group="speaker").digest == data.digest
    assert from_dataset(given, modalities=MODALITIES, group="speaker", seed=1).digest != data.digest


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([2, 10], None, ("2", "10")),
        (["10", "9"], None, ("9", "10")),
        ([0, 1], ("dog", "cat"), ("dog", "cat")),
        (["cat", "dog"], ("dog", "cat"), ("dog", "cat")),
        ([torch.tensor(1), torch.tensor(0)], None, ("0", "1")),
        ([True, np.False_], None, ("0", "1")),
    ],
)
def test_classes_by_name_and_by_number(labels, classes, expected):
    given = {name: [one(number, label=labels[number % 2]) for number in range(6)] for name in ("train", "val", "test")}
    data = from_dataset(given, modalities=MODALITIES, classes=classes)
    assert data.classes == expected
    first = labels[0] if isinstance(labels[0], str) else int(labels[0])
    named = first if isinstance(first, str) else expected[first] if classes else str(first)
    assert data.classes[data.splits["train"].labels[0]] == named


def sequence(steps):
    return np.arange(1, 2 * steps + 1, dtype=np.float64).reshape(steps, 2)


KINDS = {
    "nested lists": ([[1.0, 2.0], [3.0, 4.0]], "x", ("sequence", (2, 2))),
    "whole numbers": ([1, 2, 3], "x", ("vector", (3,))),
    "gray": (np.ones((4, 6), np.uint8), "x", ("image", (1, 4, 6))),
    "channels last": (np.ones((9, 6, 3), np.uint8), "x", ("image", (3, 9, 6))),
    "a spectrogram": (np.ones((1, 40, 30), np.float32), "x", ("image", (1, 40, 30))),
    "a sound": (np.ones((1, 40, 30), np.float32), "speech", ("sound", (1, 40, 30))),
    "a video": (np.ones((2, 3, 4, 5), np.uint8), "x", ("image", (2, 3, 4, 5))),
    "a video, channels last": (np.ones((2, 9, 5, 3), np.uint8), "x", ("image", (2, 3, 9, 5))),
    "a picture": (Image.new("RGB", (6, 4)), "x", ("image", (3, 4, 6))),
    "a gray picture": (Image.new("L", (6, 4)), "x", ("image", (1, 4, 6))),
    "a picture with a palette": (Image.new("P", (6, 4)), "x", ("image", (3, 4, 6))),
}


@pytest.mark.parametrize("case", KINDS)
def test_kinds_are_guessed(case):
    value, name, expected = KINDS[case]
    data = from_dataset(splits(other=value), modalities={name: "other", "visual": "frame"})
    assert (data.specs[name].kind, data.specs[name].shape) == expected
    assert seen(data.splits["val"])[name].shape == (4, *expected[1])


def test_a_kind_that_is_given_wins_and_sequences_are_cut_and_padded():
    given = {name: [one(number, motion=sequence(2 + number % 4)) for number in range(8)] for name in splits()}
    given["test"][0]["motion"] = sequence(9)
    data = from_dataset(given, modalities={"motion": "motion", "visual": "frame"})
    assert data.specs["motion"].shape == (5, 2)
    assert seen(data.splits["test"])["motion"][0].tolist() == sequence(9)[:5].tolist()
    assert seen(data.splits["train"])["motion"][0].tolist() == [*sequence(2).tolist(), *[[0, 0]] * 3]
    data = from_dataset(given, modalities={"motion": InputColumn("motion", steps=3), "visual": "frame"})
    assert data.specs["motion"].shape == (3, 2)
    whole = {name: [one(number, map=np.ones((3, 4))) for number in range(6)] for name in splits()}
    data = from_dataset(whole, modalities={"map": InputColumn("map", kind="sound"), "visual": "frame"})
    assert (data.specs["map"].kind, data.specs["map"].shape) == ("sound", (1, 3, 4))


def with_one(name, number, **changes):
    given = splits()
    given[name][number].update(changes)
    return given


WHERE = "split val, sample 'val-1', column embedding: "
BAD = {
    "NaN": ({"embedding": np.array([1, 2, np.nan, 4, 5])}, WHERE + "NaN or infinite values"),
    "width": ({"embedding": np.ones(6)}, WHERE + r"an array of shape \(6,\), but the first one has \(5,\)"),
    "text": ({"embedding": "abc"}, WHERE + "<U3, not numbers"),
    "nothing": ({"embedding": None}, WHERE + "nothing"),
    "empty": ({"embedding": []}, WHERE + r"an empty array, of shape \(0,\)"),
    "ragged": ({"embedding": [[1], [1, 2]]}, WHERE + "no array"),
    "rank": ({"embedding": np.ones((2, 5))}, WHERE + r"an array of shape \(2, 5\); that of a vector is \(features\)"),
    "floats among pictures": ({"frame": np.ones((3, 8, 8))}, "column frame: float32, but the first one is uint8"),
    "another label": ({"label": "bird"}, "sample 'val-1': label 'bird' does not occur in train"),
    "no label": ({"label": None}, "sample 1 of val: no label"),
    "regression": ({"label": 0.5}, r"the label 0\.5 is no class; .* \(regression is not supported\)"),
    "several labels among single ones": (
        {"label": [1, 0]},
        "the label is a list, others are not; give a list in all, or in none",
    ),
    "one column of targets": (
        {"label": torch.tensor([0.5])},
        r"sample 1 of val: the label is an array of shape \(1,\)\. .*\(regression is not supported\)",
    ),
    "a dictionary": ({"label": {"cat": 1}}, "the label is a dict; give a text or a whole number, or a list of these"),
    "a target in a tensor": (
        {"label": torch.tensor(0.5)},
        r"The method needs classes: .* \(regression is not supported\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_named(case):
    changes, told = BAD[case]
    with pytest.raises(UserError, match=told) as caught:
        from_dataset(with_one("val", 1, **changes), modalities=MODALITIES)
    assert "\n" not in str(caught.value)


SEVERAL = (["cat", "dog"], ["dog"], ["bird", "cat"], ["cat"])


def several(label=lambda classes: classes):
    return {
        name: [{**item, "label": label(SEVERAL[number % 4])} for number, item in enumerate(part)]
        for name, part in splits().items()
    }


def hot(classes):
    return np.isin(["bird", "cat", "dog"], classes)


@pytest.mark.parametrize(
    "label",
    [
        tuple, set, hot, lambda classes: hot(classes).astype(np.float32), lambda classes: torch.from_numpy(hot(classes)).int(),
        lambda classes: hot(classes).astype(float).tolist(), lambda classes: [("bird", "cat", "dog").index(name) for name in classes],
    ],
)  # fmt: skip
def test_several_classes_in_every_form_are_the_same_data(label):
    names = ("bird", "cat", "dog")
    plain = from_dataset(several(), modalities=MODALITIES)
    assert plain.several_classes
    assert plain.classes == names
    assert plain.splits["train"].labels[:4].tolist() == [hot(classes).tolist() for classes in SEVERAL]
    other = from_dataset(several(label), modalities=MODALITIES, classes=names)
    assert other.digest == plain.digest
    assert sorted(other.table["label"]) == sorted(", ".join(sorted(name.split(", "))) for name in plain.table["label"])


def test_validation_taken_from_several_classes_leaves_each_in_train():
    given = several()
    rare = {**one(99), "label": ["fish", "cat"]}
    data = from_dataset({"train": [*given["train"], rare], "test": given["test"]}, modalities=MODALITIES)
    assert data.classes == ("bird", "cat", "dog", "fish")
    assert data.splits["train"].labels.any(dim=0).all()
    assert data.splits["val"].labels[:, :3].any(dim=0).all()
    assert len(data.splits["val"]) == 3  # a tenth of each class, at least one sample; some count in two


BAD_SEVERAL = {
    "no class": ([], "sample 1 of val, label: no true class, so it has no gap"),
    "nothing true": (np.zeros(3), "sample 1 of val, label: no true class"),
    "twice": (["cat", "cat"], "sample 1 of val, label: class 'cat' occurs twice$"),
    "multi-hot as a list of whole numbers": ([0, 1, 1], "class '1' occurs twice; a multi-hot vector must be an array"),
    "unknown": (["cat", "fish"], "sample 'val-1': label 'fish' does not occur in train"),
    "another form": ("cat", "the label is a str, others are not; give a list in all, or in none"),
    "targets": ([0.25, 3.0], r"0\.25 is neither 0 nor 1\. .*\(regression is not supported\)"),
    "a target": ([["cat"], ["dog"]], "the label is a list; give a text or a whole number"),
    "two dimensions": (np.ones((2, 3)), r"the label is an array of shape \(2, 3\)\. Give one number for each class"),
}


@pytest.mark.parametrize("case", BAD_SEVERAL)
def test_several_classes_that_cannot_be_used_are_named(case):
    label, told = BAD_SEVERAL[case]
    given = several()
    given["val"][1]["label"] = label
    with pytest.raises(UserError, match=told) as caught:
        from_dataset(given, modalities=MODALITIES)
    assert "\n" not in str(caught.value)


def test_multi_hot_labels_have_one_number_per_class():
    with pytest.raises(UserError, match="the labels have 3 numbers each, but there are 2 classes"):
        from_dataset(several(hot), modalities=MODALITIES, classes=("cat", "dog"))
    given = several(hot)
    given["test"][2]["label"] = np.ones(4)
    with pytest.raises(UserError, match="sample 2 of test: the label has 4 numbers, those before it 3"):
        from_dataset(given, modalities=MODALITIES)
    assert from_dataset(several(hot), modalities=MODALITIES).classes == ("0", "1", "2")


def targets(**more):
    texts = splits()
    for part in texts.values():
        for number, item in enumerate(part):
            item["label"] = f"{number % 4 / 2}"  # 0.0, 0.5, 1.0, 1.5
    return from_dataset(texts, modalities=MODALITIES, **more)


def test_targets_of_a_regression_as_texts_are_refused_unless_they_are_named_as_classes():
    with pytest.raises(
        UserError, match=r"numbers with fractions, as '0\.5' of sample 'train-1'.*give classes=.*regression"
    ) as found:
        targets()
    assert "\n" not in str(found.value)
    assert targets(classes=("0.0", "0.5", "1.0", "1.5")).classes == ("0.0", "0.5", "1.0", "1.5")


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        (splits(), {"modalities": {"audio": "embeding", "visual": "frame"}}, "no column embeding; the samples have embedding, frame"),
        (splits(), {"modalities": "embedding"}, "give two or more"),
        (splits(), {"modalities": ("embedding",)}, "give two or more"),
        (splits(), {"label": "class"}, "no column class"),
        (splits(), {"split": "label"}, "give one of both"),
        (splits(), {"modalities": {"a": InputColumn("embedding", kind="text"), "b": "frame"}}, "kind 'text' is not one of sound"),
        (splits()["train"], {}, "without a column of splits"),
        (splits()["train"], {"split": "label"}, "split 'cat' is not one of train, val, test"),
        ({**splits(), "unlabeled": []}, {}, "split 'unlabeled' is not one of train, val, test: leave it out"),
        ({"train": some(0, 20)}, {}, "no samples in split test"),
        ({"test": some(0, 20)}, {}, "no samples of split train"),
        ({"train": [], "test": []}, {}, "has no samples"),
        ({"train": iter([])}, {}, "has no length"),
        ({"train": [(1, 2)]}, {}, "sample 0 of train is a tuple, not a mapping"),
        (splits(), {"sample": "label"}, "the id 'cat' occurs twice"),
        (splits(speaker="p"), {"group": "speaker"}, "group 'p' is in train .* and in val"),
        (splits(label="cat"), {}, r"has the classes \['cat'\]; give two or more"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(data, options, told):
    with pytest.raises(UserError, match=told):
        from_dataset(data, **{"modalities": MODALITIES, **options})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data" / "arrays"


def test_large_data_lie_in_files_and_are_the_same(cache):
    given = {"train": some(0, 20), "test": some(20, 4)}
    memory = from_dataset(given, modalities=MODALITIES)
    assert not cache.exists()
    files = from_dataset(given, modalities=MODALITIES, in_memory=100)
    assert files.digest == memory.digest
    assert files.specs == memory.specs
    (folder,) = cache.iterdir()
    assert {path.name for path in folder.iterdir()} == {"audio.npy", "visual.npy", "written.json"}
    batches = [list(BatchLoader(data.splits["train"], 8).epoch(1, torch.device("cpu"))) for data in (memory, files)]
    for first, second in zip(*batches, strict=True):
        assert all(torch.equal(first.inputs[name], second.inputs[name]) for name in MODALITIES)
    assert from_dataset(given, modalities=MODALITIES, in_memory=100).digest == memory.digest
    assert list(cache.iterdir()) == [folder], "the same contents are not kept twice"
    given["train"][0]["embedding"] += 1
    assert from_dataset(given, modalities=MODALITIES, in_memory=100).digest != memory.digest
    assert len(list(cache.iterdir())) == 2
    corrupted = plant(files, Corruption(0.3, "noise"), OPTIONS, seed=0)
    same = plant(memory, Corruption(0.3, "noise"), OPTIONS, seed=0)
    assert corrupted.digest == same.digest
    assert all(torch.equal(seen(corrupted.splits["train"])[m], seen(same.splits["train"])[m]) for m in MODALITIES)


class Breaking(Torch):
    """Fails once the arrays of some samples have been read in its second pass."""

    def __getitem__(self, number):
        if self.read == self.limit:
            raise RuntimeError("the disk is gone")
        return super().__getitem__(number)


def test_a_version_lets_what_was_interrupted_go_on_and_what_is_there_be_used(cache, monkeypatch):
    monkeypatch.setattr("mm_balance.data.from_dataset.SAVED_EVERY", 4)
    given = {"train": some(0, 20), "val": some(20, 4), "test": some(24, 4)}
    train = Breaking(given["train"])
    train.limit = 20 + 2 + 10  # all for the labels, the first one twice, and ten for their arrays

    def load():
        parts = {**given, "train": train}
        return from_dataset(parts, modalities=MODALITIES, in_memory=100, version="1")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        load()
    train.limit, train.read = None, 0
    data = load()
    assert train.read == 20 + 2 + 12, "eight samples were written before"
    assert data.digest == from_dataset(given, modalities=MODALITIES).digest
    train.read = 0
    assert load().digest == data.digest
    assert train.read == 20 + 2
    assert len(list(cache.iterdir())) == 1


def test_hugging_face_lists_of_classes(cache):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({
        "embedding": datasets.List(datasets.Value("float32"), length=5), "speaker": datasets.Value("string"),
        "label": datasets.List(datasets.ClassLabel(names=["bird", "cat", "dog"])),
    })  # fmt: skip
    given = several()
    made = {
        name: datasets.Dataset.from_list(
            [{key: value for key, value in item.items() if key != "frame"} for item in part], features=features
        )
        for name, part in given.items()
    }
    columns = {"audio": "embedding", "visual": "embedding"}
    data = from_dataset(made, modalities=columns)
    assert data.classes == ("bird", "cat", "dog")
    assert data.digest == from_dataset(given, modalities=columns).digest


def test_hugging_face(cache):
    datasets = pytest.importorskip("datasets")
    given = splits()
    pictures = {
        name: [{**item, "frame": Image.fromarray(item["frame"].transpose(1, 2, 0))} for item in part]
        for name, part in given.items()
    }
    features = datasets.Features({
        "embedding": datasets.List(datasets.Value("float32"), length=5), "frame": datasets.Image(),
        "label": datasets.ClassLabel(names=["dog", "cat"]), "speaker": datasets.Value("string"),
    })  # fmt: skip
    made = datasets.DatasetDict(
        {
            "validation" if name == "val" else name: datasets.Dataset.from_list(part, features=features)
            for name, part in pictures.items()
        }
    )
    data = from_dataset(made, modalities=MODALITIES, group="speaker")
    plain = from_dataset(given, modalities=MODALITIES, classes=("dog", "cat"), group="speaker")
    assert data.classes == ("dog", "cat")
    assert data.digest == plain.digest
    mapped = from_dataset(made.with_format("torch"), modalities=MODALITIES, in_memory=100)
    assert mapped.digest == data.digest
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    assert from_dataset(made.with_format("torch"), modalities=MODALITIES, in_memory=100).digest == data.digest
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == before
