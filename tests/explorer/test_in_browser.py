"""The explorer in a real browser: it opens, sorts, filters, shows pictures, plays sounds, and runs no text of the data."""

import http.server
import json
import queue
import re
import shutil
import subprocess
import threading

import numpy as np
import pandas as pd
import pytest

from mm_balance.data.opus import opus
from mm_balance.explorer.media import Media, frames_picture, spectrogram_png
from mm_balance.explorer.page import PageText, explorer_html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="NO BROWSER, the explorer's page is not tested: install chromium"),
]
EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
COUNT = 10_000
POLICY = '<meta http-equiv="Content-Security-Policy"'

SCRIPT = """
<script type="module">
const seen = {};
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const look = async () => {
while (document.documentElement.dataset.ready !== "yes") await wait(20);
const first = () => document.querySelector("#samples tbody tr");
const text = (row) => [...row.children].map((cell) => cell.textContent);
const small = document.createElement("iframe");
small.width = 1100; small.height = 700; small.src = "/plain";
document.body.append(small);
const ready = () => small.contentDocument?.documentElement?.dataset.ready === "yes";
while (!ready()) await wait(20);
const line = small.contentDocument.querySelector("#samples tbody tr");
await Promise.all([...line.querySelectorAll("img")].map((image) => { image.loading = "eager"; return image.decode(); }));
const { innerWidth: width, innerHeight: height } = small.contentWindow;
seen.small = { bottom: line.getBoundingClientRect().bottom, height, width };
small.remove();
seen.initial = { split: document.querySelector('[data-filter="split"]').value, info: document.querySelector(".dt-info").textContent };
seen.hint = [...document.querySelectorAll("#samples th")].find((cell) => cell.textContent === "suspicion").title;
seen.train = text(first());
document.querySelector('[data-filter="split"]').value = "*";
document.querySelector('[data-filter="split"]').dispatchEvent(new Event("change"));
seen.first = text(first());
await Promise.all([...first().querySelectorAll("img")].map((image) => { image.loading = "eager"; return image.decode(); }));
seen.widths = [...first().querySelectorAll("img")].map((image) => image.naturalWidth);
const audio = first().querySelector("audio");
audio.preload = "metadata"; audio.load();
await new Promise((done, failed) => { audio.onloadedmetadata = done; audio.onerror = failed; });
seen.seconds = audio.duration;
document.querySelector('[data-order="gap"]').click();
seen.largestGap = text(first());
const choose = (name, value) => {
  const select = document.querySelector(`[data-filter="${name}"]`);
  select.value = value;
  select.dispatchEvent(new Event("change"));
};
choose("class", "=dog");
seen.info = document.querySelector(".dt-info").textContent;
choose("split", "=test");
seen.both = document.querySelector(".dt-info").textContent;
document.querySelector('[data-order="suspicion"]').click();
first().click();
seen.details = document.querySelector(".details").textContent;
choose("class", "*"); choose("split", "*");
document.querySelector("input[type=search]").value = "sample-00017";
document.querySelector("input[type=search]").dispatchEvent(new Event("input"));
await wait(500);
seen.searched = text(first());
seen.title = document.title;
};
try { await look(); } catch (error) { seen.error = String(error); }
await fetch("/", { method: "POST", body: JSON.stringify(seen) });
</script>
"""


def page():
    """Ten thousand samples; the most suspect one has pictures and a sound."""
    draw = np.random.default_rng(0)
    number = np.arange(COUNT)
    gap = draw.uniform(-0.9, 0.9, COUNT)
    gap[4321] = -1.0
    table = pd.DataFrame(
        {
            "split": np.where(number % 10 == 0, "test", "train"), "sample": [f"sample-{place:05d}" for place in number],
            "class": np.where(number % 5 == 0, "dog, wolf", EVIL),
            "true_classes": [["dog", "wolf"] if place % 5 == 0 else [EVIL] for place in number],
            "predicted": EVIL, "predicted_audio": "dog", "predicted_visual": "dog",
            "right": np.where(number % 2 == 0, "audio", "none"), "p_fused": 0.5, "p_audio": 0.5, "p_visual": 0.5, "loss": 0.7,
            "gap": gap, "loss_audio": 0.1, "loss_visual": 0.2, "suspicion": 10.0 - number / 1000, "suspect": "audio",
            "doubted": np.where(number < 50, "audio", ""), "why": np.where(number < 50, "because of " + EVIL, ""), "movement": 0.1,
            "corrupted": np.where(number < 40, "audio", ""), "corruption_kind": np.where(number < 40, "mismatch", ""),
            "group": np.where(number % 3 == 0, "first speaker", "second speaker"),
            "gap_by_refit": "0.100 0.500 -0.300", "posterior_by_refit": "0.100 0.500 0.300",
        }
    )  # fmt: skip
    pictures = {
        "audio": spectrogram_png(draw.random((40, 64))),
        "visual": frames_picture(draw.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)),
    }
    sound = opus(draw.uniform(-0.3, 0.3, 8000).astype(np.float32), 8000)
    media = {
        ("train" if place % 10 else "test", f"sample-{place:05d}"): Media(pictures, {"audio": sound})
        for place in range(200)
    }
    text = PageText(EVIL, {"run": "x"}, ["audio is ahead"], ["audio", "visual"], [6, 9, 12], embedded=200)
    return explorer_html(table, media, text)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page, and takes what its script has seen. The browser's virtual time would run out while media are decoded."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.plain if self.path == "/plain" else self.server.page)

    def do_POST(self):
        self.server.answers.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    content = page()
    assert len(content) < 20e6
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # The page forbids every script but its own, and every request; this one must tell what it sees. `/plain` is the page itself.
        assert content.count(POLICY) == 1
        server.page = re.sub(f"{POLICY}[^>]*>", "", content).replace("</body>", f"{SCRIPT}</body>").encode()
        server.plain = content.encode()
        server.answers = queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
            f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", f"http://127.0.0.1:{server.server_port}/",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                answer = json.loads(server.answers.get(timeout=240))
            finally:
                browser.kill()
                server.shutdown()
    assert "error" not in answer, answer
    return answer


def test_it_opens_with_the_training_samples_and_says_the_unit_of_suspicion(seen):
    assert seen["initial"]["split"] == "=train"
    assert "of 9,000 entries" in seen["initial"]["info"]
    assert "sample-00001" in seen["train"]  # number 0 is of the test split
    assert "nats; from 1 on" in seen["hint"]


def test_the_first_sample_is_seen_whole_without_scrolling_in_the_pane_of_the_tracking_ui(seen):
    assert (seen["small"]["width"], seen["small"]["height"]) == (1100, 700)
    assert 0 < seen["small"]["bottom"] < 700


def test_the_most_suspect_sample_is_first_with_pictures_and_sound(seen):
    assert "sample-00000" in seen["first"]
    assert seen["widths"] == [64, 96]
    assert seen["seconds"] == pytest.approx(1.0, abs=0.1)


def test_it_sorts_by_the_size_of_the_gap(seen):
    assert "sample-04321" in seen["largestGap"]
    assert "-1.000" in seen["largestGap"]


def test_it_filters_by_several_columns_and_searches(seen):
    assert "of 2,000 entries" in seen["info"]
    assert "of 1,000 entries" in seen["both"]
    assert "sample-00017" in seen["searched"]


def test_a_click_shows_why(seen):
    assert "because of <script>" in seen["details"]


def test_texts_of_the_data_are_never_run(seen):
    assert seen["title"] == EVIL  # as text, not `broken`
