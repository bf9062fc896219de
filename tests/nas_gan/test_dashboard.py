import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from nas_gan.cli import run
from nas_gan.dashboard import DashboardConfig, main
from nas_gan.runs.dashboard_server import ADDRESS

HAS_STREAMLIT = importlib.util.find_spec("streamlit") is not None
needs_streamlit = pytest.mark.skipif(not HAS_STREAMLIT, reason="streamlit is not installed")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (path := shutil.which(name))),
    None,
)  # fmt: skip
ROOT = Path(__file__).parents[2]
# Long for a machine that is busy with other things; nothing waits longer than it has to.
PATIENCE = 120.0


@pytest.fixture(autouse=True)
def own_main(monkeypatch):
    """Streamlit's AppTest leaves its script behind as `__main__`, which spawned processes run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def runs(tmp_path):
    """A finished run with samples and an evaluation, one that is running, and a damaged one."""
    from PIL import Image

    folder = tmp_path / "runs"
    for name, steps, seed in (("first", 60, 1), ("second", 600, 2)):
        path = folder / name
        (path / "samples").mkdir(parents=True)
        config = {"steps": steps, "seed": seed, "g_lr": 0.0002, "d_lr": 0.0004, "loss": "rep"}
        (path / "config.json").write_text(json.dumps(config))
        rows = [
            {"step": s, "loss/d": 1 / s, "loss/g": seed / s, "gradient/d": 1.0, "fid": 300 / s}
            for s in (20, 40, 60)
        ]
        (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for s in (20, 60):
            Image.new("RGB", (64, 64), (s, 90 * seed, 90)).save(path / "samples" / f"{s:06d}.png")
    result = {"extractor": "pixels", "comparable": False, "n": 8, "fid": 4.5}
    (folder / "first" / "eval.json").write_text(json.dumps(result))
    (folder / "third").mkdir()
    (folder / "third" / "config.json").write_text("{broken")
    (folder / "third" / "log.jsonl").write_text("")
    return folder


def page_of(folder):
    """The page as Streamlit makes it, without a browser."""
    from streamlit.testing.v1 import AppTest

    def script(folder: str) -> None:
        from pathlib import Path

        from nas_gan.runs.dashboard_page import show

        show(Path(folder))

    page = AppTest.from_function(script, args=(str(folder),), default_timeout=PATIENCE).run()
    assert not page.exception
    return page


def command(*args):
    return run(main, DashboardConfig, prog="dashboard", description=None, args=list(map(str, args)))


@needs_streamlit
def test_the_page_shows_status_scalars_and_damage(runs):
    page = page_of(runs)
    overview = page.dataframe[0].value
    assert list(overview["status"]) == ["✔ finished", "▶ running", "⚠ damaged"]
    assert list(overview["step"]) == ["60 of 60", "60 of 600", "0"]
    assert "third is damaged: config.json: not JSON" in page.warning[0].value
    assert {"loss/d", "loss/g", "gradient/d", "fid"} <= {s.value for s in page.subheader}
    assert {"Losses", "Gradient norms", "Learning rates", "Evaluations", "Samples", "Settings"} <= {
        h.value for h in page.header
    }


@needs_streamlit
def test_an_empty_folder_and_one_that_is_gone_are_one_message(tmp_path):
    [message] = page_of(tmp_path).info
    assert "holds no run yet" in message.value
    [message] = page_of(tmp_path / "none").error
    assert "no such folder" in message.value


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    assert command(tmp_path / "none") == 1
    assert capsys.readouterr().err.count("no such folder") == 1


def test_without_streamlit_the_error_has_the_install_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command(tmp_path) == 1
    assert 'pip install "ard-gan[dashboard]"' in capsys.readouterr().err


@dataclass
class Tab:
    """A page in a real browser, over its debugging protocol."""

    socket: Any
    sent: int = 0

    def call(self, method: str, **params: object) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=PATIENCE))
            if answer.get("id") == self.sent:
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")


@contextmanager
def browser_tab(profile: Path) -> Iterator[Tab]:
    from websockets.sync.client import connect

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--no-first-run", "--remote-debugging-port=0", "--window-size=1400,2800",
             f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
    browser = subprocess.Popen(
        [str(BROWSER), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        # A browser that finds no home directory it can write to does not start.
        env={**os.environ, "HOME": str(profile.parent)},
    )  # fmt: skip
    try:
        port_file = profile / "DevToolsActivePort"
        wait_for(lambda: port_file.exists() and port_file.read_text().count("\n"))
        port = port_file.read_text().split()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            [tab] = [t for t in json.load(answer) if t["type"] == "page"]
        # A busy browser may answer late; it is asked again, not given up.
        with connect(
            tab["webSocketDebuggerUrl"], max_size=None, open_timeout=PATIENCE, ping_interval=None
        ) as socket_:
            yield Tab(socket_)
    finally:
        browser.terminate()
        browser.wait()


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.1)
    return found


TEXT = "document.body.innerText"
CHARTS = "document.querySelectorAll('[data-testid=stVegaLiteChart] svg.marks').length"
PICTURES = "[...document.images].filter((image) => image.naturalWidth == 64).length"
LOADED = "performance.getEntriesByType('resource').map((e) => e.name)"


@needs_streamlit
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")
def test_a_browser_shows_the_charts_and_the_samples_and_nothing_comes_from_elsewhere(
    runs, tmp_path
):
    server = subprocess.Popen(
        [sys.executable, "-m", "nas_gan.dashboard", str(runs), "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://localhost:\d+", address)
        with browser_tab(tmp_path / "profile") as tab:
            wait_for(lambda: is_listening(address))
            tab.call("Page.navigate", url=address)
            wait_for(lambda: "Settings" in str(tab.evaluate(TEXT)))
            wait_for(lambda: (tab.evaluate(CHARTS) or 0) >= 4)
            wait_for(lambda: tab.evaluate(PICTURES) == 2)  # the last step of both runs
            assert "third is damaged" in tab.evaluate(TEXT)
            foreign = [u for u in tab.evaluate(LOADED) if not u.startswith((address, "data:"))]
            assert foreign == []
    finally:
        server.terminate()
        assert server.wait(timeout=PATIENCE) == 0
        server.stdout.close()


def is_listening(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, int(address.rpartition(":")[2]))) == 0
