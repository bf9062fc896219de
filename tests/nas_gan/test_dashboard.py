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
from nas_gan.locks import locked
from nas_gan.networks.genotype import MMD_NAS
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
            | {"pace/wall_s": 65.0 * s, "pace/images_per_s": 12.5, "pace/left_s": 90.0}
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
    for age, name in enumerate(("first", "second", "third")):
        started = time.time() - 100 * age
        os.utime(folder / name / "config.json", (started, started))
    with locked(folder / "second"):
        yield folder


@pytest.fixture
def many_runs(tmp_path):
    """Twelve runs with long names, one of them with a single FID."""
    folder = tmp_path / "runs"
    for n in range(12):
        path = folder / f"upper_bounds_cifar10/mmd_pmish_nas_cifar10/upper_bound_{n:02d}/seed_0"
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"steps": 60, "seed": n}))
        rows = [{"step": s, "loss/d": n + 1 / s} for s in range(10, 61, 10)]
        if n == 7:
            rows.append({"step": 60, "fid": 30.0})
        (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "genotype.json").write_text(MMD_NAS.to_json())
    return folder


def write_compression(path, rise):
    """What `ard.compress` leaves behind, of two layers."""
    path.mkdir(parents=True)
    score = {"fid": 1.0, "delta_fid": rise, "ci_low": rise - 1, "ci_high": rise + 1}
    report = {
        **{"format": "ard-gan report 1", "checkpoint": "net.pt", "metric": "fid"},
        **{"budget_met": True, "extractor": "pixels", "comparable": False, "reference": "dense"},
        **{"plan": {"l1": f"svd({rise})"}, "dense": {"params": 100, "macs": 300}},
        **{"compressed": {"params": 25, "macs": 100}, "recovered": score, "trials": []},
    }
    row = {
        **{"bundle": "small", "batch": 4, "runner": "onnxruntime", "images_per_second": 640},
        **{"latency": {"p50_us": 1500, "p99_us": 2500}, "speedup": None},
    }
    (path / "config.json").write_text("{}")
    (path / "journal.jsonl").write_text("{}\n")
    (path / "report.json").write_text(json.dumps(report))
    (path / "bench").mkdir()
    bench = {"device": {"cpu": "a processor"}, "rows": [row]}
    (path / "bench" / "bench.json").write_text(json.dumps(bench))


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
    assert list(overview["best fid"]) == ["5 at 60", "5 at 60", ""]
    assert list(overview["elapsed"]) == ["1 h 5 min", "1 h 5 min", ""]
    assert list(overview["images/s"]) == ["12.5", "12.5", ""]
    assert list(overview["remaining"]) == ["", "1 min 30 s", ""]
    assert "1 finished · 1 running · 1 damaged" in {caption.value for caption in page.caption}
    assert "third is damaged: config.json: not JSON" in page.warning[0].value
    assert {"loss/d", "loss/g", "gradient/d", "fid"} <= {s.value for s in page.subheader}
    assert {"Losses", "Gradient norms", "Learning rates", "Evaluations", "Samples", "Settings"} <= {
        h.value for h in page.header
    }


@needs_streamlit
def test_compressions_are_compared_on_the_same_page(runs):
    for name, rise in (("small/a", 2), ("small/b", 5)):
        write_compression(runs / name, rise)
    page = page_of(runs)
    assert {"Losses", "Compressions", "Benchmarks"} <= {h.value for h in page.header}
    assert {"ΔFD", "Plans"} <= {s.value for s in page.subheader}
    tables = [frame.value for frame in page.dataframe]
    [overview] = [table for table in tables if "asked for" in table]
    assert dict(zip(overview["run"], overview["rise"], strict=True)) == {
        "small/a": "2.0 [1.0, 3.0]",
        "small/b": "5.0 [4.0, 6.0]",
    }
    [plans] = [table for table in tables if "l1" in table.index]
    assert plans.loc["l1"].to_dict() == {"small/a": "svd(2)", "small/b": "svd(5)"}
    [times] = [table for table in tables if "p99 ms" in table]
    assert list(times["median ms"]) == [1.5, 1.5]


@needs_streamlit
def test_a_damaged_genotype_is_a_warning(runs):
    (runs / "first" / "genotype.json").write_text('{"table": "mmd-nas"}')
    assert "genotype.json cannot be drawn" in page_of(runs).warning[-1].value


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
# Names in the key of the first charts: the text, and whether all of it can be seen.
NAMES = """[...document.querySelectorAll('.run-name')].slice(0, 12).map((name) => [
    name.innerText.replaceAll('\\n', ''),
    name.scrollWidth <= name.clientWidth && name.scrollHeight <= name.clientHeight
        && name.getBoundingClientRect().right <= document.documentElement.clientWidth,
])"""
POINTS = "document.querySelectorAll('svg.marks .mark-symbol path').length"
# Wide pictures of architectures; samples are 64 pixels wide.
GRAPHS = "[...document.images].filter((image) => image.naturalWidth > 600).length"


@contextmanager
def served(runs: Path, home: Path) -> Iterator[str]:
    """The address of the dashboard of a folder."""
    server = subprocess.Popen(
        [sys.executable, "-m", "nas_gan.dashboard", str(runs), "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(home)},
    )  # fmt: skip
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://localhost:\d+", address)
        wait_for(lambda: is_listening(address))
        yield address
    finally:
        server.terminate()
        assert server.wait(timeout=PATIENCE) == 0
        server.stdout.close()


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on PATH")


@needs_streamlit
@needs_browser
def test_a_browser_shows_the_charts_and_the_samples_and_nothing_comes_from_elsewhere(
    runs, tmp_path
):
    with served(runs, tmp_path) as address, browser_tab(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=address)
        wait_for(lambda: "Settings" in str(tab.evaluate(TEXT)))
        wait_for(lambda: (tab.evaluate(CHARTS) or 0) >= 4)
        wait_for(lambda: tab.evaluate(PICTURES) == 2)  # the last step of both runs
        assert "third is damaged" in tab.evaluate(TEXT)
        foreign = [u for u in tab.evaluate(LOADED) if not u.startswith((address, "data:"))]
        assert foreign == []


@needs_streamlit
@needs_browser
def test_a_browser_shows_twelve_whole_names_single_points_and_a_genotype(many_runs, tmp_path):
    write_compression(many_runs / "small", 2)
    with served(many_runs, tmp_path) as address, browser_tab(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=address)
        wait_for(lambda: "Benchmarks" in str(tab.evaluate(TEXT)))
        wait_for(lambda: len(tab.evaluate(NAMES) or ()) == 12)
        shown = dict(tab.evaluate(NAMES))
        runs = [path.parent for path in many_runs.rglob("log.jsonl")]
        assert set(shown) == {str(run.relative_to(many_runs)) for run in runs}
        assert all(shown.values())
        # 12 curves of 6 points, an FID, and the result of a compression.
        wait_for(lambda: tab.evaluate(POINTS) == 12 * 6 + 1 + 1)
        wait_for(lambda: tab.evaluate(GRAPHS) == 1)
        foreign = [u for u in tab.evaluate(LOADED) if not u.startswith((address, "data:"))]
        assert foreign == []


@needs_streamlit
@needs_browser
def test_the_page_follows_its_runs_without_a_click(many_runs, tmp_path):
    path = many_runs / "new"
    code = (
        "import sys, time; from pathlib import Path; from nas_gan.locks import locked\n"
        "with locked(Path(sys.argv[1])): time.sleep(600)"
    )
    with served(many_runs, tmp_path) as address, browser_tab(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=address)
        wait_for(lambda: "12 finished" in str(tab.evaluate(TEXT)))
        with subprocess.Popen([sys.executable, "-c", code, path]) as owner:
            wait_for(path.is_dir)
            (path / "config.json").write_text(json.dumps({"steps": 60, "seed": 99}))
            (path / "log.jsonl").write_text('{"step": 10, "novel/scalar": 1}\n')
            wait_for(lambda: "12 finished · 1 running" in str(tab.evaluate(TEXT)))
            owner.kill()
        wait_for(lambda: "12 finished · 1 stopped" in str(tab.evaluate(TEXT)))


def is_listening(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, int(address.rpartition(":")[2]))) == 0
