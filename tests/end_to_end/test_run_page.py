"""The pages of a run in the real MLflow UI, in a real browser: the density picture is in sight, and no text of the data is run."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.helpers.browser import BROWSER, Browser
from tests.helpers.commands import artifact_folder, by_stage, do
from tests.helpers.processes import environment
from tests.helpers.stores import copy_database, use_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="NO BROWSER, the run page is not tested: install chromium"),
]


class Asked(http.server.BaseHTTPRequestHandler):
    """Remembers what is asked of it: a label asks, if a page takes it for more than text."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def trap():
    """A server, with the label that calls it from whatever page takes the label for HTML."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        server.asked = []
        server.label = f"<script src={address}/script></script><img src={address}/picture>"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def write_clips(folder, evil):
    """Sounds of two pitches, pictures of two grays, in two classes; one is named ``evil``."""
    draw = np.random.default_rng(0)
    rows = ["sample,split,label,audio,visual"]
    for number in range(60):
        label = number % 2
        sound = 0.3 * np.sin(2 * np.pi * (400 + 900 * label) * np.arange(4000) / 16000) + 0.1 * draw.normal(size=4000)
        soundfile.write(folder / f"{number}.wav", sound, 16000)
        picture = draw.integers(0, 60, (24, 24, 3)) + 120 * label
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number}.png")
        split = ("train", "train", "train", "val", "test")[number // 2 % 5]
        rows.append(f"clip-{number},{split},{evil if label else 'plain'},{number}.wav,{number}.png")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def ui(tmp_path_factory, empty_database, trap):
    """The address of a server, and the runs of a short recipe that it shows."""
    folder = tmp_path_factory.mktemp("ui")
    copy_database(empty_database, folder)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.MonkeyPatch.context() as patch:
        use_store(folder, patch)
        torch.set_num_threads(1)
        words = "preset=quick device=cpu encoder=resnet_narrow image_size=24 clip_seconds=0.25 batch_size=8 train_fraction=1.0 worst=5"
        assert do("main", words, dataset=write_clips(folder, trap.label)) == 0
        found = by_stage()
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1", "--backend-store-uri",
             f"sqlite:///{folder}/mlflow.db"],
            env=environment(folder) | {"MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_it_answers(address, server)
            yield address, found
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)


def wait_until_it_answers(address, server):
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def page(ui, run, part=""):
    address, _ = ui
    return f"{address}/#/experiments/0/runs/{run.info.run_id}{part}?workflowType=machine_learning"


IN_SIGHT = """
((name) => {
  const element = document.querySelector(name);
  if (!element) return null;
  const box = element.getBoundingClientRect();
  const middle = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return {
    top: box.top, bottom: box.bottom, left: box.left, right: box.right, width: box.width, height: box.height,
    uncovered: element === middle || element.contains(middle) || middle?.contains(element),
  };
})
"""
PICTURE = 'img[src*="balance~density"]'


def check_in_sight(browser, element):
    box = browser.ask(f"{IN_SIGHT}('{element}')")
    assert 0 <= box["top"] < box["bottom"] <= 1000, box
    assert 0 <= box["left"] < box["right"] <= 1600, box
    assert box["uncovered"], box
    return box


def test_the_density_and_its_slider_are_in_sight_on_the_page_of_stage_2(ui, browser):
    """At 1600 x 1000, where a page is opened for the first time, without scrolling."""
    browser.open(page(ui, ui[1]["adaptive"], "/model-metrics"))
    browser.wait_for("!!document.querySelector('[role=slider]')")
    browser.wait_for(f"document.querySelector('{PICTURE}').naturalWidth > 0")
    box = check_in_sight(browser, PICTURE)
    assert box["width"] > 150, "a picture, no icon"
    check_in_sight(browser, "[role=slider]")
    shown = browser.ask(f"document.querySelector('{PICTURE}').src")
    assert "step%2B0%2B" in shown, "the slider begins with a picture"
    browser.ask("document.querySelector('[role=slider]').focus()")
    browser.press("ArrowRight")
    browser.wait_for(f"document.querySelector('{PICTURE}')?.src.includes('step%2B2%2B')")
    browser.press("ArrowRight")
    browser.wait_for(f"document.querySelector('{PICTURE}')?.src.includes('step%2B3%2B')")
    browser.wait_for(f"document.querySelector('{PICTURE}').naturalWidth > 0")
    check_in_sight(browser, PICTURE)


def test_accuracy_and_gap_over_both_stages_are_in_sight_on_the_page_of_the_recipe(ui, browser):
    browser.open(page(ui, ui[1]["main"], "/model-metrics"))
    for title in ("val_accuracy", "val_accuracy_audio", "val_accuracy_visual", "gap_mean"):
        box = browser.wait_for(
            f"(() => {{ const found = [...document.querySelectorAll('h4')].find((one) => one.innerText === '{title}');"
            "return found && found.getBoundingClientRect().toJSON(); })()"
        )
        assert 0 <= box["top"] < box["bottom"] <= 1000, (title, box)


def test_no_page_takes_a_label_for_more_than_text(ui, browser, trap):
    _, found = ui
    browser.open(page(ui, found["main"]))
    browser.wait_for("document.body.innerText.includes('On validation')")
    browser.open(page(ui, found["evaluate"]))
    browser.wait_for("document.body.innerText.includes('calibration error')")
    browser.open(page(ui, found["evaluate"], "/artifacts/evaluation/per_class.json"))
    browser.wait_for(f"document.body.innerText.includes('{trap.label}')")
    browser.open(page(ui, found["main"], "/artifacts/explorer.html"))
    browser.wait_for("!!document.querySelector('iframe')")
    # The UI's frame keeps its content to itself, so the same file once more, as somebody who downloads it opens it.
    browser.open((artifact_folder(found["main"]) / "explorer.html").as_uri())
    browser.wait_for("document.documentElement.dataset.ready === 'yes'")
    browser.ask("document.querySelector('#samples tbody tr').click()")
    browser.wait_for(f"document.body.innerText.includes('{trap.label}')")
    browser.ask(f"document.body.insertAdjacentHTML('beforeend', '{trap.label}')")  # the page's policy allows no request
    browser.wait_for("document.images[document.images.length - 1].complete")
    assert trap.asked == []
    browser.open(page(ui, found["main"]))
    browser.wait_for("document.body.innerText.includes('On validation')")
    browser.ask(f"document.body.insertAdjacentHTML('beforeend', '{trap.label}')")  # what the trap is there for
    browser.wait_for("document.images[document.images.length - 1].complete")
    assert trap.asked == ["/picture"]
