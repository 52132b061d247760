"""A data set becomes a manifest of vectors: those of the encoders, once for every sample, whatever interrupts it."""

import csv
import inspect
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mm_balance.config import resolve
from mm_balance.errors import Interrupted, UserError
from mm_balance.models import find_encoder
from mm_balance.models.network import MultimodalNetwork
from mm_balance.tracking.lookup import existing_run
from mm_balance.tracking.model import load_network
from mm_balance.types import InputSpec
from mm_balance.workflow.setup import read_data
from tests.helpers.arrays import ArrayFolder
from tests.helpers.commands import by_stage, do, fetch
from tests.helpers.manifests import NoisyFolder, seen
from tests.helpers.raw import cremad_clips, make_cremad
from tools import embed

INPUTS = ["--image_size", "16", "--clip_seconds", "0.1", "--batch_size", "4", "--workers", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clips(tmp_path):
    """The manifest of a small data set with groups and one more column."""
    folder = NoisyFolder(tmp_path)
    folder.header += ["group", "mood"]
    for split, count in (("train", 5), ("val", 1), ("test", 2)):
        for number in range(count):
            for label in ("cat", "dog"):
                folder.add(split, label, group=f"{split}{number}", mood=f"mood {number}")
    return folder.write()


@pytest.fixture
def weights(tmp_path):
    """Files of weights for both encoders of images and sounds: ``encoder_weights``, and the modules with them."""
    modules = {}
    torch.manual_seed(7)
    for name, channels in (("audio", 1), ("visual", 3)):
        spec = InputSpec(
            "sound" if channels == 1 else "image", (channels, 16, 16), (0.0,) * channels, (1.0,) * channels
        )
        modules[name] = find_encoder("resnet_narrow").build(spec)[0]
        save_file(modules[name].state_dict(), tmp_path / f"{name}.safetensors")
    return f"audio:{tmp_path}/audio.safetensors,visual:{tmp_path}/visual.safetensors", modules


def rows(out):
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def call(*words):
    embed.embed([*map(str, words)])


def test_the_vectors_are_those_of_the_encoders_and_the_rest_of_the_manifest_is_kept(clips, weights, tmp_path):
    out = tmp_path / "vectors"
    given, modules = weights
    call("--dataset", clips, "--encoder", "resnet_narrow", "--encoder_weights", given, "--out", out, *INPUTS)

    config = resolve({"dataset": str(clips), "image_size": 16, "clip_seconds": 0.1, "workers": 1})
    data = read_data(config)
    network = MultimodalNetwork(data.specs, 2, encoder="resnet_narrow", fusion="concat")
    for name, module in modules.items():
        network.encoders[name].load_state_dict(module.state_dict())
    network.eval()
    found = {row["sample"]: row for row in rows(out)}
    assert len(found) == 16
    for split in data.splits.values():
        with torch.no_grad():
            expected = network.encode(seen(split))
        for index, sample in enumerate(split.samples):
            row = found[sample]
            assert (row["split"], row["label"]) == (split.name, data.classes[split.labels[index]])
            assert row["group"].startswith(split.name)
            assert row["mood"] == f"mood {row['group'].removeprefix(split.name)}"
            for name, values in expected.items():
                vector = np.load(out / row[name])
                assert (vector.dtype, vector.shape) == (np.float32, (64,))
                np.testing.assert_allclose(vector, values[index].numpy(), rtol=1e-4, atol=1e-5)

    noted = json.loads((out / "embeddings.json").read_text("utf-8"))
    assert noted["data"]["digest"] == data.digest
    audio = noted["encoders"]["audio"]
    assert (audio["encoder"], audio["weights"], audio["features"]) == ("resnet_narrow", "audio.safetensors", 64)
    assert len(audio["file_sha256"]) == len(audio["tensors_sha256"]) == 64
    assert audio["tensors_sha256"] != noted["encoders"]["visual"]["tensors_sha256"]
    assert str(tmp_path) not in json.dumps(noted)

    vectors = read_data(resolve({"dataset": str(out / "manifest.csv"), "preset": "embeddings", "workers": 1}))
    assert {name: (spec.kind, spec.shape) for name, spec in vectors.specs.items()} == {
        "audio": ("vector", (64,)),
        "visual": ("vector", (64,)),
    }
    assert {name: split.samples for name, split in vectors.splits.items()} == {
        name: split.samples for name, split in data.splits.items()
    }


def test_an_interrupted_call_goes_on_where_it_was_and_ends_with_the_same_bits(clips, weights, tmp_path):
    words = ["--dataset", str(clips), "--encoder", "resnet_narrow", "--encoder_weights", weights[0], *INPUTS]
    call(*words, "--out", tmp_path / "whole")
    whole = contents(tmp_path / "whole")

    out = tmp_path / "parts"
    batches = []

    def stop():
        """Asked while files are decoded, too; the batches are what counts here."""
        if inspect.currentframe().f_back.f_code is embed.encode_split.__code__:
            batches.append(0)
        return len(batches) == 3

    with pytest.raises(Interrupted):
        embed.embed([*words, "--out", str(out)], stop)
    there = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert 0 < len(there) < 32
    assert not (out / "manifest.csv").exists()
    # What a kill leaves: a file that was being written, and a batch of which some are missing.
    (out / "audio" / ".train-000009.npy").write_bytes(b"\x93NUMPY")
    lost = out / "visual" / "train-000006.npy"
    lost.unlink()

    with embed.alone(out), pytest.raises(UserError, match="another process is encoding into it"):
        call(*words, "--out", out)
    call(*words, "--out", out)
    assert contents(out) == whole
    kept = {path for path, time in there.items() if path != lost and path.stat().st_mtime_ns == time}
    assert {path.name for path in kept} == {f"train-{number:06d}.npy" for number in range(4)}

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    call(*words, "--out", out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_a_folder_with_other_embeddings_or_other_files_is_refused(clips, weights, tmp_path):
    out = tmp_path / "vectors"
    words = ["--dataset", clips, "--encoder", "resnet_narrow", "--out", out, *INPUTS]
    call(*words, "--encoder_weights", weights[0])
    before = contents(out)
    with pytest.raises(UserError, match=r"made in another way \(other encoders"):
        call(*words, "--encoder_weights", "none")
    with pytest.raises(UserError, match=r"made in another way \(other data and inputs"):
        call(*words, "--encoder_weights", weights[0], "--clip_seconds", "0.2")
    assert contents(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"has files in it, and no embeddings\.json"):
        call(*words, "--out", tmp_path / "mine", "--encoder_weights", weights[0])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "out is missing"),
        (["--out", "new", "--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["--out", "new", "--image_size", "big"], "image_size=big is not a whole number"),
        (["--out", "new", "--encoder", "resnet_narrow"], "no weights for audio, visual"),
        (
            ["--out", "new", "--encoder", "resnet_narrow", "--encoder_weights", "visual:none,audio:no.pt"],
            "cannot be read",
        ),
        (["--out", "new", "--run_id", "0", "--encoder", "mlp"], "encoder: encoders, and how .* are those of run 0"),
        (["--out", "new", "--run_id", "0"], "run_id=0: no such run"),
        (["--out", "new", "--dataset", "cremad", "--encoder_weights", "none"], "is not prepared with this recipe"),
        (["--out", "new", "--dataset", "nowhere"], "dataset=nowhere is not known"),
    ],
)
def test_nonsense_is_refused_in_one_line_and_nothing_is_written(words, message, store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    assert embed.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mm-balance: error: ")
    with pytest.raises(UserError, match=message):
        embed.embed(words)
    assert not (store / "new").exists()


def test_vectors_and_sequences_stay_as_they_are(tmp_path):
    folder = ArrayFolder(tmp_path).fill()
    out = tmp_path / "vectors"
    words = ["--dataset", folder.write(), "--out", out, *INPUTS]
    with pytest.raises(UserError, match="nothing to encode"):
        call(*words, "--modalities", "motion,words")
    call(
        *words,
        "--modalities",
        "visual,words",
        "--encoder",
        "visual:resnet_narrow,words:mlp",
        "--encoder_weights",
        "none",
    )
    for row in rows(out):
        np.testing.assert_array_equal(
            np.load(out / row["words"]), folder.arrays["words", row["sample"]].astype(np.float32)
        )
        assert np.load(out / row["visual"]).shape == (64,)
    noted = json.loads((out / "embeddings.json").read_text("utf-8"))["encoders"]
    assert noted["words"] == {"encoder": "kept as it is", "features": 4}
    assert noted["visual"]["weights"] == "random, seed 0"


def test_a_vector_that_is_not_finite_is_named_by_its_sample(clips, weights, tmp_path):
    given, modules = weights
    state = modules["audio"].state_dict()
    save_file({name: value * (float("nan") if value.is_floating_point() else 1) for name, value in state.items()},
              tmp_path / "audio.safetensors")  # fmt: skip
    words = [
        "--dataset",
        clips,
        "--encoder",
        "resnet_narrow",
        "--encoder_weights",
        given,
        "--out",
        tmp_path / "new",
        *INPUTS,
    ]
    with pytest.raises(UserError, match="sample 's0': its vector of audio is not finite"):
        call(*words)


@pytest.mark.slow
def test_the_encoders_of_a_run(clips, store, capsys):
    settings = "encoder=resnet_narrow image_size=16 clip_seconds=0.1 batch_size=4 device=cpu preset=quick"
    given = f"{settings} train_fraction=1.0 epochs=1 worst=0"
    assert do("train", f"{given} method=ensemble corruption=0.2 corruption_kind=other", dataset=clips) == 0
    run = by_stage()["train"].info.run_id
    out = store / "vectors"
    call("--run_id", run, "--out", out)

    network, _ = load_network(existing_run(run, "run"))
    data = read_data(resolve({"dataset": str(clips), "image_size": 16, "clip_seconds": 0.1, "workers": 1}))
    found = {row["sample"]: row for row in rows(out)}
    # The clean training samples, although the run had corrupted ones.
    with torch.no_grad():
        expected = network.eval().encode(seen(data.splits["train"]), ("audio", "visual"))
    for index, sample in enumerate(data.splits["train"].samples):
        for name, values in expected.items():
            np.testing.assert_allclose(np.load(out / found[sample][name]), values[index], rtol=1e-4, atol=1e-5)
    noted = json.loads((out / "embeddings.json").read_text("utf-8"))["encoders"]["audio"]
    assert noted["weights"] == f"run {run}, epoch 1: ensemble on {data.name}"

    assert do("train", f"{given} method=audio_only", dataset=clips) == 0
    with pytest.raises(UserError, match="did not train its encoder of visual"):
        call("--run_id", by_stage()["train"].info.run_id, "--out", store / "other")
    text = clips.read_text("utf-8")
    clips.write_text(text.replace(",dog,", ",wolf,"), "utf-8")
    with pytest.raises(UserError, match="was trained on different data"):
        call("--run_id", run, "--out", store / "other")


@pytest.mark.slow
@pytest.mark.verify
def test_cremad_with_encoders_of_two_libraries_is_trained_on_and_compared_with_people(store):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(1)
    transformers.ViTModel(config).save_pretrained(store / "vit")
    every = cremad_clips()
    source = make_cremad(store / "CREMA-D", clips=every[:120] + every[6698:6728])
    assert do("prepare", "dataset=cremad image_size=32 on_error=skip workers=1", source=source) == 0
    out = store / "cremad_vectors"  # by its name, the report knows that there are votes
    call(
        "--dataset", "cremad", "--on_error", "skip", "--image_size", "32", "--device", "cpu", "--out", out,
        "--encoder", f"audio:torchvision/mobilenet_v3_small,visual:transformers/{store}/vit",
        "--encoder_weights", f"audio:none,visual:{store}/vit",
    )  # fmt: skip
    noted = json.loads((out / "embeddings.json").read_text("utf-8"))
    assert {name: item["features"] for name, item in noted["encoders"].items()} == {"audio": 1024, "visual": 16}
    assert noted["encoders"]["audio"]["weights"] == "random, seed 0"
    assert noted["encoders"]["visual"]["weights"] == "vit"
    assert noted["data"]["lists"]
    assert {row["actor"] for row in rows(out)} == {clip[:4] for clip in every[:120] + every[6698:6728]}

    given = f"dataset={out}/manifest.csv preset=embeddings warmup_epochs=1 adaptive_epochs=1 refit_every=1 worst=0"
    assert do("main", f"{given} device=cpu") == 0
    assert by_stage()["main"].data.params["config/encoder"] == "by_kind"
    assert do("report") == 0
    (line,) = csv.DictReader(fetch(by_stage()["report"], "tables/human_agreement.csv").read_text().splitlines())
    assert line["n"] == "12"
