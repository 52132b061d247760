"""Encoders of one's own, pretrained and frozen: trained, continued, evaluated and loaded where their module is missing."""

import shutil
import sys

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file

from mm_balance.engine.checkpoint import read_checkpoint
from mm_balance.errors import UserError
from mm_balance.models import MultimodalNetwork
from mm_balance.tracking.lookup import existing_run
from mm_balance.tracking.model import load_network
from mm_balance.workflow import provenance, setup
from tests.helpers.commands import by_stage, do, newest, runs
from tests.helpers.outside import write_module

pytestmark = pytest.mark.slow
QUICK = "preset=quick device=cpu train_fraction=0.05"
SOURCE = '''
from torch import nn

def build(spec):
    """The mean of each of 4 x 4 fields of every channel, and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * spec.shape[0], 24), nn.ReLU())
'''


@pytest.fixture
def fields(import_folder):
    """The folder with a module `fields_encoder` of the current user's."""
    write_module(import_folder, "fields_encoder", SOURCE)
    return import_folder


@pytest.mark.verify
def test_the_whole_recipe_with_an_encoder_of_ones_own(store, fields, monkeypatch):
    encoder = "audio:fields_encoder:build,visual:resnet_narrow"
    assert do("main", f"{QUICK} encoder={encoder} worst=0") == 0
    main = by_stage()["main"]
    assert main.data.params["config/encoder"] == encoder
    model, _ = load_network(existing_run(main.info.run_id, "run"))
    assert model.widths == {"audio": 24, "visual": 64}
    # Its source travels with the model.
    (logged,) = main.outputs.model_outputs
    names = [item.path for item in MlflowClient().list_logged_model_artifacts(logged.model_id, "code")]
    assert "code/fields_encoder.py" in names

    # A change of it is a change of the training code: the warm-up no longer matches.
    code = by_stage()["warmup"].data.tags["mm.code"]
    shutil.rmtree(fields)
    write_module(fields, "fields_encoder", SOURCE.replace("24", "32"))
    sys.modules.pop("fields_encoder", None)
    provenance._outside_digest.cache_clear()
    assert do("adaptive", f"{QUICK} encoder={encoder} worst=0") == 1
    assert do("warmup", f"{QUICK} encoder={encoder}") == 0
    assert newest(stage="warmup").data.tags["mm.code"] != code

    with pytest.raises(UserError, match=r"the code of its encoders from outside .fields_encoder. .* is another"):
        load_network(existing_run(main.info.run_id, "run"))


@pytest.mark.verify
def test_pretrained_weights_are_where_training_begins_and_belong_to_what_was_trained(store, tmp_path, capsys):
    torch.manual_seed(4)
    first = do("warmup", f"{QUICK} warmup_epochs=1")
    assert first == 0
    path = MlflowClient().download_artifacts(by_stage()["warmup"].info.run_id, "checkpoints/last", str(tmp_path))
    state = read_checkpoint(type(tmp_path)(path))["model"]
    weights = {
        name.removeprefix("encoders.audio."): value.contiguous()
        for name, value in state.items()
        if name.startswith("encoders.audio.")
    }
    save_file(weights, tmp_path / "audio.safetensors")
    words = (
        f"{QUICK} encoder_weights=audio:{tmp_path}/audio.safetensors,visual:none encoder_freeze=audio warmup_epochs=2"
    )
    capsys.readouterr()
    assert do("warmup", words) == 0
    count = sum(value.dim() > 0 for value in weights.values())
    assert f"pretrained weights: audio: {count} tensors from {tmp_path}" in capsys.readouterr().out
    run = newest(stage="warmup")
    trained = read_checkpoint(
        type(tmp_path)(MlflowClient().download_artifacts(run.info.run_id, "checkpoints/last", str(tmp_path / "again")))
    )
    for name, value in weights.items():
        if value.dim():
            assert torch.equal(trained["model"][f"encoders.audio.{name}"], value), name
    assert "audio:" in trained["record"]["trained_by"][0]["weights"]

    # Same file content elsewhere = the same warm-up; other content = another.
    shutil.copy(tmp_path / "audio.safetensors", tmp_path / "copy.safetensors")
    found = len(runs(stage="warmup"))
    again = words.replace("audio.safetensors", "copy.safetensors") + " worst=0"
    assert do("adaptive", again.replace(" warmup_epochs=2", "")) == 0
    assert len(runs(stage="warmup")) == found
    others = {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}
    save_file(others, tmp_path / "copy.safetensors")
    assert do("adaptive", again.replace(" warmup_epochs=2", "")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("encoder=resnet_narow", "encoder=resnet_narow is not known (did you mean resnet_narrow?)"),
        ("encoder=absent:build", "encoder=absent:build: there is no module absent"),
        ("encoder_freeze=smell", "encoder_freeze=smell: the data have no modality 'smell'"),
        ("encoder_learning_rate_scale=-1", "encoder_learning_rate_scale=-1: -1 is out of range"),
        ("encoder_weights=nowhere.pt", "nowhere.pt: cannot be read (No such file or directory)"),
        ("encoder_weights=audio:x.pt", "x.pt: nothing for visual; write VALUE, or audio:VALUE,visual:VALUE"),
        ("encoder=torchvision/resnt18", "torchvision has no model 'resnt18' (did you mean resnet18?)"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_before_data_are_read(store, capsys, monkeypatch, words, message):
    monkeypatch.setattr(setup, "load_data", lambda *words, **more: pytest.fail("data were read"))
    assert do("train", f"{QUICK} {words}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not [run for run in runs() if run.info.status == "FINISHED"]


def test_a_frozen_network_still_has_a_model_and_gaps(store):
    assert do("train", f"{QUICK} encoder_freeze=all encoder_learning_rate_scale=audio:0.1,visual:0.5 worst=0") == 0
    model, _ = load_network(existing_run(newest(stage="train").info.run_id, "run"))
    assert isinstance(model, MultimodalNetwork)
