"""A data set whose labels, ids, groups, extra columns and file names are hostile: trained, explored, reported, and shown by MLflow."""

import csv
import re

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from markdown_it import MarkdownIt
from mlflow.tracking import MlflowClient
from PIL import Image

from mm_balance import names
from tests.helpers.browser import BROWSER, Browser
from tests.helpers.commands import artifacts, by_stage, do, fetch, runs
from tests.helpers.hostile import HOSTILE
from tests.helpers.models import model_uri
from tests.helpers.servers import tracking_server

pytestmark = pytest.mark.verify
LABELS = [text for text in HOSTILE if len(text) < 11_000]
READER = MarkdownIt("commonmark", {"html": True}).enable("table")


def file_name(text):
    return text.replace("/", "").replace("\\", "")[:60]


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / file_name(HOSTILE[4])
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number, label in enumerate(LABELS):
            for copy in range(count):
                sample = f"{split}{copy}{label[:500]}"
                sound, picture = (f"{split}-{number}-{copy}{file_name(label)}{suffix}" for suffix in (".wav", ".png"))
                soundfile.write(folder / sound, draw.uniform(-0.3, 0.3, 800).astype(np.float32), 8000)
                Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / picture)
                rows.append([sample, split, label, sound, picture, f"{split} {label[:200]}", label])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["sample", "split", "label", "audio", "visual", "group", HOSTILE[3]], *rows])
    return folder / "manifest.csv"


def assert_only_text(markdown):
    parts = [part for token in READER.parse(markdown) for part in (token, *(token.children or ()))]
    assert not [part.content for part in parts if part.type in ("html_inline", "html_block", "image")]
    addresses = [part.attrs["href"] for part in parts if part.type == "link_open"]
    assert not [
        address for address in addresses if not re.match(r"#/|/#/|https?://127\.0\.0\.1|\w+\.(html|md)$", address)
    ]


def test_it_is_text_everywhere(store, manifest, tmp_path):
    assert do("main", "preset=quick device=cpu worst=5", dataset=manifest) == 0
    assert do("report", "") == 0
    found = by_stage()
    parent = next(run for run in runs() if names.EXPLORER_FILE in artifacts(run))
    for run in runs():
        assert_only_text(run.data.tags.get("mlflow.note.content", ""))
    assert_only_text(fetch(parent, f"{names.DATA_FOLDER}/{names.CARD_FILE}").read_text("utf-8"))
    assert_only_text(
        fetch(found["report"], names.REPORT_TEXT).read_text("utf-8").replace("![", "(").replace("](figures", "(figures")
    )
    classes = pd.read_csv(fetch(found["evaluate"], f"{names.CLASS_TABLE}.csv"))
    assert not [
        text for text in (*classes["class"], *map(str, classes["taken_for"])) if re.match(r"[=@+-](?!\d+$)", text)
    ]
    exact = pd.read_parquet(fetch(parent, names.SAMPLES_FILE))
    assert set(exact["class"]) == set(LABELS)
    media = {
        name: next(manifest.parent.glob(f"test-*{suffix}")) for name, suffix in (("audio", ".wav"), ("visual", ".png"))
    }
    answers = mlflow.pyfunc.load_model(model_uri(parent)).predict(
        pd.DataFrame({name: [str(path)] for name, path in media.items()})
    )
    assert list(answers["probabilities"][0]) == sorted(LABELS)  # as they are: whoever makes a page of them escapes them
    if BROWSER is None:
        pytest.skip("NO BROWSER, MLflow's pages are not tested: install chromium")
    client = MlflowClient()
    raw = client.create_run("0", run_name=HOSTILE[4]).info.run_id  # what another program may log
    client.set_tag(raw, "mlflow.note.content", "\n\n".join(text[:500] for text in HOSTILE))
    with tracking_server(store) as address, Browser(tmp_path) as browser:
        pages = [
            (parent, ""),
            (parent, f"/artifacts/{names.EXPLORER_FILE}"),
            (parent, f"/artifacts/{names.DATA_FOLDER}/{names.CARD_FILE}"),
            (found["evaluate"], f"/artifacts/{names.CLASS_TABLE}.json"),
            (found["report"], f"/artifacts/{names.REPORT_FILE}"),
        ]
        for run, place in pages:
            nothing_runs(browser, f"{address}/#/experiments/0/runs/{run.info.run_id}{place}")
        asked = {item.split("/")[2] for item in browser.requested()}
        assert asked == {address.split("/")[2]}
        # Pictures in such a description are loaded by MLflow's page, as docs/security.md says; nothing runs.
        nothing_runs(browser, f"{address}/#/experiments/0/runs/{raw}")


def nothing_runs(browser, address):
    browser.open(address)
    browser.wait_for("document.body.innerText.length > 300")
    browser.ask("new Promise(done => setTimeout(done, 3000))")
    assert browser.ask("document.documentElement.dataset.broken ?? ''") == "", address
