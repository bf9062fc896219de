import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from nas_gan.architecture_search.config import SearchConfig
from nas_gan.cli import run
from nas_gan.errors import CollapsedError, DivergedError
from nas_gan.interrupts import Terminated
from nas_gan.search import main as search_main
from nas_gan.train import main
from nas_gan.training.config import TrainConfig
from nas_gan.training.finish import how_it_ended, tell

WRITE = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps([os.environ['NAS_GAN_STATUS'], os.environ['NAS_GAN_RUN_DIR'], os.environ['NAS_GAN_REASON'], sys.argv[2]]))"  # noqa: E501


def writer(file):
    return f'{sys.executable} -c "{WRITE}" {file} {{status}}:{{reason}}'


def test_a_command_is_told_by_its_environment_and_its_words(tmp_path):
    file = tmp_path / "told.json"
    tell(writer(file), status="diverged", run_dir=tmp_path, reason="a NaN; $(touch x)")
    told = json.loads(file.read_text())
    assert told == ["diverged", str(tmp_path), "a NaN; $(touch x)", "diverged:a NaN; $(touch x)"]


def test_an_address_is_told_in_json(tmp_path):
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        tell(address, status="finished", run_dir=tmp_path, reason="")
    assert seen == [{"status": "finished", "run_dir": str(tmp_path), "reason": ""}]


@pytest.mark.parametrize(
    ("target", "warning"),
    [
        ("no-such-program-anywhere", "no-such-program-anywhere"),
        (f"{sys.executable} -c 'raise SystemExit(7)'", "ended with 7"),
        (f"{sys.executable} -c 'import time; time.sleep(60)'", "took over 0.5 s"),
        ("http://127.0.0.1:1/", "refused"),
        ("http://[", "--on-finish: "),
    ],
)
def test_what_goes_wrong_is_one_line(target, warning, tmp_path, capfd):
    tell(target, status="finished", run_dir=tmp_path, reason="", limit=0.5)
    shown = capfd.readouterr().err
    assert warning in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CollapsedError("x"), "collapsed"),
        (DivergedError("x"), "diverged"),
        (Terminated(), "terminated"),
        (KeyboardInterrupt(), "interrupted"),
        (OSError("x"), "failed"),
    ],
)
def test_an_error_says_how_a_run_ended(error, status):
    assert how_it_ended(error) == status


def test_the_command_tells_of_a_run_and_keeps_its_exit_code(tmp_path, capsys):
    tiny = TrainConfig(
        dataset="synthetic", gf_dim=4, df_dim=4, batch_size=4, steps=1, sample_every=0,
        run_dir=tmp_path / "run", on_finish=writer(tmp_path / "told.json"),
    )  # fmt: skip

    def call(*args):
        code = run(main, TrainConfig, prog="x", description=None, args=args, default=lambda: tiny)
        return code, json.loads((tmp_path / "told.json").read_text())

    assert call() == (0, ["finished", str(tmp_path / "run"), "", "finished:"])
    code, told = call("--loss", "hinge")
    assert (code, told[0]) == (1, "failed")
    assert "holds a run with loss = latest" in told[2]
    assert capsys.readouterr().err.startswith("error: ") or Path(told[1]).is_dir()


def test_a_search_tells_of_its_end_too(tmp_path, capsys):
    tiny = SearchConfig(
        dataset="synthetic", gf_dim=4, df_dim=4, batch_size=4, steps=1, sample_every=0,
        run_dir=tmp_path / "run", on_finish=writer(tmp_path / "told.json"),
    )  # fmt: skip
    code = run(search_main, SearchConfig, prog="x", description=None, args=[], default=lambda: tiny)
    assert code == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == ["finished", str(tmp_path / "run"), "", "finished:"]
