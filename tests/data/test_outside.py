"""Data sets that a function makes: found by import path or name, checked, identified by content."""

from dataclasses import replace

import pytest
import torch

from mm_balance.commands import COMMANDS
from mm_balance.config import resolve, restore
from mm_balance.data import Corruption, DecodeSettings, load_data
from mm_balance.data.outside import content_digest, load_outside
from mm_balance.errors import UserError
from mm_balance.testing import tiny_data
from tests.helpers.manifests import OPTIONS, seen
from tests.helpers.outside import write_module, write_plugin

MODULE = """
from mm_balance.testing import tiny_data

def build():
    return tiny_data(("depth", "touch"))

build.settings = {"modalities": "depth,touch", "epochs": 7, "encoder": "resnet_narrow"}

def bare():
    return tiny_data(("depth", "touch"))

def wrong():
    return [1, 2]

def unknown():
    pass

unknown.settings = {"epoch": 7}
number = 5
"""


@pytest.fixture
def module(import_folder):
    return write_module(import_folder, "own_data", MODULE)


def load(dataset, modalities=("depth", "touch"), tmp_path=None, corruption=0.0, kind="mixed"):
    return load_data(
        dataset, seed=0, visual_difficulty=1.0, corruption=Corruption(corruption, kind), protocol="published",
        modalities=modalities, on_error="fail", input_config=OPTIONS, work=DecodeSettings(tmp_path, progress=False),
    )  # fmt: skip


def test_a_function_brings_its_settings_and_what_is_given_wins(module):
    values = resolve({"dataset": "own_data:build", "seed": 3}).values()
    assert values["modalities"] == "depth,touch"
    assert (values["epochs"], values["encoder"], values["batch_size"]) == (7, "resnet_narrow", 64)
    assert resolve({"dataset": "own_data:build", "epochs": 9}).train.epochs == 9
    assert resolve({"dataset": "own_data:build", "preset": "quick"}).train.epochs == 4


def test_a_restored_run_does_not_need_the_function(module):
    saved = resolve({"dataset": "own_data:build"}).values()
    assert restore({**saved, "dataset": "gone_data:build"}).train.epochs == 7


def test_a_plug_in_is_found_by_its_name(module, import_folder, tmp_path):
    write_plugin(
        import_folder, "touching", group="mm_balance.datasets", touch_set="own_data:build", grid="own_data:build"
    )
    assert resolve({"dataset": "touch_set"}).train.epochs == 7
    assert load("touch_set").name == "tiny"
    with pytest.raises(UserError, match=r"dataset=touch_se is not known; .*touch_set.* \(did you mean touch_set\?\)"):
        resolve({"dataset": "touch_se"})
    with pytest.raises(
        UserError, match=r"dataset=grid is ambiguous: the data set grid of MM-Balance and own_data:build of"
    ):
        resolve({"dataset": "grid"})


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ("own_data:biuld", "own_data has no biuld; it has: build, bare, wrong, unknown"),
        ("no_data:build", "there is no module no_data"),
        ("own_data:number", "number is not a function"),
        ("./own_data:build", "is not an import path"),
        ("own_data:unknown", r"sets epoch, which is not a parameter \(did you mean epochs\?\)"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(module, dataset, told):
    with pytest.raises(UserError, match=told) as caught:
        COMMANDS["train"].parse(["--dataset", dataset])
    assert dataset in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modalities_are_chosen_and_ordered(module):
    assert list(load("own_data:build", ("touch", "depth")).specs) == ["touch", "depth"]
    assert list(load("own_data:build", ("touch", "depth")).splits["val"].inputs) == ["touch", "depth"]
    with pytest.raises(
        UserError, match=r"has the modalities depth,touch, not audio,visual; give modalities=depth,touch"
    ):
        load("own_data:bare", ("audio", "visual"))


def test_other_things_than_data_are_refused(module):
    with pytest.raises(
        UserError, match=r"dataset=own_data:wrong returned a list; return what mm_balance\.from_dataset makes"
    ):
        load("own_data:wrong")


def changed(name, change):
    data = tiny_data()
    change(data.splits[name])
    return data


def spoil_value(split):
    split.inputs["visual"][1, 0, 2, 3] += 1e-3


def spoil_label(split):
    split.labels[0] = 2


def spoil_sample(split):
    split.samples[0] = "renamed"


@pytest.mark.parametrize("change", [spoil_value, spoil_label, spoil_sample])
@pytest.mark.parametrize("name", ["train", "test"])
def test_the_digest_covers_contents(name, change):
    assert content_digest(tiny_data()) == content_digest(tiny_data())
    assert content_digest(changed(name, change)) != content_digest(tiny_data())


def test_what_the_function_says_of_the_digest_is_not_believed():
    first = load_outside(tiny_data, ("audio", "visual"), "x")
    other = load_outside(lambda: changed("train", spoil_value), ("audio", "visual"), "x")
    assert tiny_data().digest == "0" * 64
    assert first.digest != other.digest
    assert load_outside(tiny_data, ("visual", "audio"), "x").digest != first.digest


def test_the_table_of_samples_is_complete_whatever_the_function_gives():
    data = load_outside(lambda: tiny_data(kind="sequence"), ("audio", "visual"), "x")
    parts = data.splits.items()
    assert data.table["sample"] == [sample for _, split in parts for sample in split.samples]
    assert data.table["split"] == [name for name, split in parts for _ in split.samples]
    assert data.table["label"] == [str(label) for _, split in parts for label in split.labels.tolist()]
    assert data.table["audio_steps"] == [5] * len(data.table["sample"])
    assert "true_classes" not in data.table
    assert data.with_train_fraction(0.5, seed=0).table == data.table, "it is that of the whole data set"

    def given():
        cut = tiny_data(kind="sequence", several_classes=True)
        cut.splits["val"].inputs["visual"][3, 2:] = 0.0
        samples = ["gone", *reversed([sample for split in cut.splits.values() for sample in split.samples])]
        return replace(cut, table={"sample": samples, "label": ["?"] * len(samples), "site": list(range(len(samples)))})

    several = load_outside(given, ("audio", "visual"), "x")
    assert several.table["sample"][:2] == ["test-11", "test-10"]
    assert several.table["site"][:2] == [1, 2]
    assert (several.table["split"][0], several.table["split"][-1]) == ("test", "train")
    assert several.table["true_classes"][-2:] == [["1"], ["0", "1"]]
    assert several.table["label"][-2:] == ["1", "0, 1"]
    assert several.table["visual_steps"][several.table["sample"].index("val-3")] == 2


def not_finite(data):
    data.splits["val"].inputs["audio"][2, 0, 0, 0] = torch.nan


def no_test(data):
    del data.splits["test"]


def double_id(data):
    data.splits["val"].samples[0] = "train-0"


def wide_label(data):
    data.splits["val"].labels[0] = 3


def short(data):
    data.splits["train"].inputs["audio"] = data.splits["train"].inputs["audio"][:5]


def other_shape(data):
    data.splits["val"].inputs["audio"] = data.splits["val"].inputs["audio"][..., :4]


def doubles(data):
    data.splits["val"].inputs["audio"] = data.splits["val"].inputs["audio"].double()


def other_kind(data):
    data.specs["audio"] = replace(data.specs["audio"], kind="text")


def vector(data):
    data.specs["audio"] = replace(data.specs["audio"], kind="vector")


def relabeled(change):
    def spoil(data):
        data.splits["val"].labels = change(data.splits["val"].labels)

    return spoil


def no_class(data):
    data.splits["train"].labels[:] = 0


def with_table(change):
    def spoil(data):
        data.table = {"sample": [sample for split in data.splits.values() for sample in split.samples]}
        change(data.table)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (not_finite, "split val, modality audio, sample 'val-2': NaN or infinite values"),
        (no_test, "no samples in split test"),
        (with_table(lambda table: table["sample"].pop()), "its table has no row of sample 'test-11'"),
        (with_table(lambda table: table.update(site=["a"])), "needs one value for each sample in each column"),
        (with_table(lambda table: table["sample"].append("val-0")), "and each sample once"),
        (with_table(lambda table: table.update(site=["a", *range(63)])), "column site of its table"),
        (double_id, "the sample id 'train-0' is in train and in val"),
        (wide_label, "split val: labels from 0 to 3, but classes are 0 to 2"),
        (short, "split train, modality audio: 5 samples, 40 labels"),
        (other_shape, r"split val, modality audio: samples of shape \(1, 8, 4\), but its spec says \(1, 8, 8\)"),
        (doubles, r"torch\.float64; give float32, or uint8 for pictures"),
        (other_kind, "kind 'text' is not one of sound, image, video, vector, sequence"),
        (vector, r"the shape of a vector is \(features\), not \(1, 8, 8\)"),
        (no_class, "no training samples of class '1', '2'"),
        (
            relabeled(lambda labels: labels / 2),
            r"split val: labels are torch\.float32 .*\(regression is not supported\)",
        ),
        (
            relabeled(lambda labels: labels[:, None] / 2),
            r"\(12, 1\)\. The method needs classes.*\(regression is not supported\)",
        ),
        (
            relabeled(lambda labels: torch.eye(3)[labels]),
            r"float32 of shape \(12, 3\)\. Give int64.*; or bool, \(samples, 3\), true for each of its classes",
        ),
        (
            relabeled(lambda labels: labels.int()),
            r"int32 of shape \(12,\)\. Give int64, \(samples,\), the number of each sample's class; or bool",
        ),
        (
            relabeled(lambda labels: torch.eye(3)[labels].bool()),
            "split val: several classes per sample, but one in train; give all splits the same",
        ),
        (
            relabeled(lambda labels: torch.eye(3)[labels].bool() & (torch.arange(12)[:, None] != 4)),
            "split val, sample 'val-4': no true class, so it has no gap",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(spoil, told):
    data = tiny_data()
    spoil(data)
    with pytest.raises(UserError, match=told):
        load_outside(lambda: data, ("audio", "visual"), "dataset=x:y")


@pytest.mark.parametrize("kind", ["noise", "blank", "other", "mismatch", "label"])
def test_corruption_and_a_fraction_work_in_memory(module, kind):
    clean, data = load("own_data:build"), load("own_data:build", corruption=0.5, kind=kind)
    before, after = seen(clean.splits["train"]), seen(data.splits["train"])
    train = data.splits["train"]
    assert sum(map(bool, train.corrupted)) == 20
    assert clean.digest != data.digest
    for number, modality in enumerate(train.corrupted):
        for name in after:
            assert torch.equal(after[name][number], before[name][number]) == (name != modality)
    part = data.with_train_fraction(0.5, seed=0).splits["train"]
    place = {sample: number for number, sample in enumerate(train.samples)}
    expected = after["depth"][[place[sample] for sample in part.samples]]
    assert torch.equal(seen(part)["depth"], expected)
