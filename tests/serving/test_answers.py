"""Answers of a served model: classes, probabilities, disagreement, warnings."""

import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm_balance.engine.predictions import predict_split
from mm_balance.errors import UserError
from mm_balance.methods import build_method
from mm_balance.models import MultimodalNetwork
from mm_balance.serving import ServedModel, modality_recipes, save_served_model
from mm_balance.testing import tiny_data
from mm_balance.types import Output
from tests.helpers.manifests import OPTIONS, NoisyFolder, files_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set of files, and a model of it as it was saved and loaded again."""
    path = tmp_path_factory.mktemp("served")
    folder = NoisyFolder(path).fill(counts=(("train", 8), ("val", 1), ("test", 3)))
    data = folder.load(clip_seconds=0.3, image_size=16)
    torch.manual_seed(0)
    model = MultimodalNetwork(data.specs, len(data.classes), encoder="resnet_narrow", fusion="concat")
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.mul_(20)  # so that an untrained network is not undecided
    model = model.to(memory_format=torch.channels_last).eval()
    recipes = modality_recipes(data, replace(OPTIONS, clip_seconds=0.3, image_size=16))
    save_served_model(model, data.classes, recipes, path / "model")
    return folder, data, model, ServedModel.load(path / "model")


def table(folder, data, split="test"):
    return {name: files_of(data, folder, split, name) for name in data.specs}


def test_files_are_predicted_as_evaluation_predicts_the_prepared_split(trained):
    folder, data, model, served = trained
    found = served.predict(table(folder, data))
    method = build_method("concat", {}, model.modalities, 0)
    expected = predict_split(model, method, data.splits["test"], torch.device("cpu"))
    for suffix, logits in {
        "": expected.fused,
        "_audio": expected.unimodal["audio"],
        "_visual": expected.unimodal["visual"],
    }.items():
        probabilities = logits.softmax(1)
        assert found[f"class{suffix}"] == [data.classes[index] for index in probabilities.argmax(1)]
        assert found[f"probability{suffix}"] == probabilities.amax(1).tolist()
        assert [list(item.values()) for item in found[f"probabilities{suffix}"]] == probabilities.tolist()
        assert all(list(item) == ["cat", "dog"] for item in found[f"probabilities{suffix}"])
    assert list(found) == served.columns()
    assert found["warning"] == [""] * 6


def test_an_answer_does_not_depend_on_the_other_rows(trained, monkeypatch):
    folder, data, _, served = trained
    together = served.predict(table(folder, data))["probability"]
    monkeypatch.setattr("mm_balance.serving.answers.BATCH", 2)
    assert served.predict(table(folder, data))["probability"] == pytest.approx(together, abs=1e-6)
    assert served.predict({"audio": [], "visual": []}) == {name: [] for name in served.columns()}


def test_no_sure_answer_to_a_blank_input_without_a_warning(trained, tmp_path):
    folder, data, _, served = trained
    audio, visual = (column[0] for column in table(folder, data).values())
    shape, edge = served.recipes["audio"].shape, (3, 16, 16)
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "red.png")
    blank = (
        [np.zeros(shape), np.full(shape, -7.5)],
        [np.zeros(edge, np.uint8), np.full(edge, 0.5), tmp_path / "red.png"],
    )
    for cell in blank[0]:
        (warning,) = served.predict({"audio": [cell], "visual": [visual]})["warning"]
        assert warning == "audio: constant spectrogram: nothing to recognize"
    for cell in blank[1]:
        (warning,) = served.predict({"audio": [audio], "visual": [cell]})["warning"]
        assert warning == "visual: constant picture: nothing to recognize"


def test_inputs_unlike_the_training_data_are_flagged(trained, tmp_path):
    folder, data, _, served = trained
    audio, visual = (column[0] for column in table(folder, data).values())
    time = np.arange(400) / 4000
    soundfile.write(tmp_path / "short.wav", 0.4 * np.sin(2 * np.pi * 300 * time[:200]), 4000)
    soundfile.write(tmp_path / "loud.wav", np.sign(np.random.default_rng(0).standard_normal(1600)), 8000)
    dark = np.zeros((20, 20, 3), np.uint8)
    dark[:5] = 9
    Image.fromarray(dark).save(tmp_path / "dark.png")

    def warning(**cells):
        return served.predict({name: [cell] for name, cell in ({"audio": audio, "visual": visual} | cells).items()})[
            "warning"
        ][0]

    assert warning() == ""
    assert "audio: too short: 0.05 s, training sounds lasted 0.2 to 0.2 s" in warning(audio=tmp_path / "short.wav")
    assert "audio: sampled at 4,000 Hz, training sounds at 8,000 Hz or more" in warning(audio=tmp_path / "short.wav")
    assert re.search(r"audio: far from the training data .*: mean \d\.\d+, there", warning(audio=tmp_path / "loud.wav"))
    assert re.search(
        r"visual: far from the training data .*: mean -\d\.\d+, there", warning(visual=tmp_path / "dark.png")
    )
    # An image in the wrong unit: 0 to 255 as fractions of 1.
    assert "visual: far from" in warning(visual=np.random.default_rng(0).uniform(0, 255, (3, 16, 16)))


def test_errors_name_row_column_and_file_and_all_are_looked_for(trained):
    folder, data, _, served = trained
    cells = {name: list(map(str, column)) for name, column in table(folder, data).items()}
    cells["audio"][2] = "missing.wav"
    cells["visual"][1] = cells["audio"][1]
    cells["visual"][4] = cells["visual"][5] = None
    with pytest.raises(UserError) as error:
        served.predict(cells, [f"clip {number}" for number in range(6)])
    text = str(error.value)
    assert text.startswith("4 input(s) cannot be used: row clip 2, column audio (missing.wav): cannot be read")
    assert "row clip 1, column visual (" in text
    assert text.endswith("and 1 more")


def test_tables_that_do_not_fit_are_refused(trained):
    *_, served = trained
    with pytest.raises(UserError, match="no column visual; this model needs audio, visual"):
        served.predict({"audio": ["a.wav"]})
    with pytest.raises(UserError, match="differ in length"):
        served.predict({"audio": ["a.wav"], "visual": []})


class Decided(torch.nn.Module):
    """A network that answers what it is given: the logarithm of its input, as probabilities."""

    def __init__(self, specs):
        super().__init__()
        self.specs, self.modalities = specs, tuple(specs)

    def forward(self, inputs):
        logits = {name: value.flatten(1)[:, :3].log() for name, value in inputs.items()}
        return Output(sum(logits.values()), logits, {})


def test_disagreement_is_a_distance_of_probabilities_and_strong_when_both_are_sure():
    data = tiny_data()
    served = ServedModel(Decided(data.specs), data.classes, modality_recipes(data, None))

    def given(*rows):
        values = np.ones((len(rows), 1, 8, 8), np.float32)
        values.reshape(len(rows), -1)[:, :3] = rows
        return list(values)

    audio = given([0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6])
    visual = given([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25])
    found = served.predict({"audio": audio, "visual": visual})
    # Half the sum of absolute differences: (0.7 + 0.7) / 2; (0.4 + 0.55 + 0.15) / 2; (0.2 + 0.15 + 0.35) / 2.
    assert found["disagreement"] == pytest.approx([0.0, 0.7, 0.55, 0.35], abs=1e-6)
    assert found["modalities_disagree"] == [False, True, False, False]
    # Fused: the product, normalized. 0.64 / 0.66; 0.08, 0.08, 0.01; 0.05, 0.2, 0.025; 0.08, 0.07, 0.15.
    assert found["class"] == ["0", found["class"][1], "1", "2"]
    assert found["probability"] == pytest.approx([0.64 / 0.66, 0.08 / 0.17, 0.2 / 0.275, 0.5], abs=1e-6)


def test_with_three_modalities_the_widest_pair_counts():
    data = tiny_data(("audio", "depth", "visual"))
    served = ServedModel(Decided(data.specs), data.classes, modality_recipes(data, None))
    values = np.ones((3, 1, 8, 8), np.float32)
    values.reshape(3, -1)[:, :3] = [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]
    found = served.predict({name: [value] for name, value in zip(data.specs, values, strict=True)})
    assert found["disagreement"] == pytest.approx([0.8], abs=1e-6)  # audio and visual: (0.8 + 0.05 + 0.75) / 2
    assert found["modalities_disagree"] == [True]
