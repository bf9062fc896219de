"""The documents are executed: what they show must exist, run, and mean what they say."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from ard.assembly.assembler import MAX_OUTPUTS, N_MOMENTS
from ard.assembly.statistics import MAX_POSITIONS
from ard.factorization.cp import MAX_DEGENERACY, MAX_WEIGHTS
from ard.factorization.whitening import RIDGE
from ard.grid import FRACTIONS
from ard.pipeline import MIN_SHARE
from ard.recovery.adversarial import FineTuning
from ard.search.allocation import N_BINS
from ard.search.controller import EAGER, UNSPENT, WELL_SPENT, WORTHWHILE
from ard.search.outlook import AGAIN, EXPONENT, FACTOR, FLOOR, PACE
from ard.session.recovering import FEATURE_WEIGHT
from ard.session.search import N_PROXY
from edge_bench.device import JETPACK
from edge_bench.jetson_rails import TOTALS
from export.build_engine import trtexec_line
from export.manifest import BatchRange
from nas_gan import cli
from nas_gan.checkpoint import Checkpoint, save_checkpoint
from nas_gan.metrics.frechet import statistics_of
from nas_gan.metrics.reference import save_statistics
from nas_gan.networks.searched import Generator, GeneratorConfig

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("runs", "build", "dist", "site")
               for part in path.relative_to(ROOT).parts)
)  # fmt: skip
PACKAGES = ("nas_gan", "ard", "export", "edge_bench")
COMMANDS = ("nas_gan.search", "nas_gan.train", "nas_gan.sample", "nas_gan.evaluate",
            "nas_gan.figures", "nas_gan.dashboard", "nas_gan.experiments", "ard.compress",
            "ard.inspect", "ard.select", "ard.sweep", "ard.pareto", "ard.latency", "export",
            "edge_bench", "edge_bench.layers", "edge_bench.profile",
            "export.build_engine")  # fmt: skip
OTHER_MODULES = {"pip", "pytest", "venv"}
# Options of NVIDIA's tools, of Python's venv and of jetson_clocks.
FOREIGN_OPTIONS = {"--dumpProfile", "--fp16", "--stronglyTyped", "--system-site-packages", "--show"}
ZOO = "nas_gan/zoo/fashion_mnist.pt"
TINY_REFERENCE = "tiny.npz"
FEW_SAMPLES = (
    f"--samples 32 --sweep-samples 16 --features efficientnet-lite0 --reference {TINY_REFERENCE}"
)
# What cuts the commands down to seconds, in the order in which docs/usage.md shows them.
SMALL = {
    "nas_gan.search": "--dataset synthetic --steps 2 --gf-dim 2 --df-dim 2 --batch-size 4",
    "nas_gan.train": "--dataset synthetic --steps 2 --gf-dim 4 --df-dim 4 --batch-size 4 "
    "--precision fp32",
    "nas_gan.figures": "pmish",
    "nas_gan.sample": "--n 4",
    "ard.compress": f"{FEW_SAMPLES} --recover-steps 2 --max-trials 1 --methods svd --no-bundle",
    "ard.select": "",
    "ard.sweep": f"{FEW_SAMPLES} --anchors 2 --methods svd",
    "ard.pareto": f"{FEW_SAMPLES} --recover-steps 2 --max-trials 1 --anchors 2 --methods svd",
    "ard.latency": "--methods svd --fractions 0.5",
    "nas_gan.evaluate": f"--samples 32 --features efficientnet-lite0 --reference {TINY_REFERENCE}",
    "export": "--samples 2 --tensorrt-rtx off",
    "edge_bench": "--runs 2 --warmup 1 --duration 0",
    "edge_bench.layers": "",
}
# A page that is served until somebody stops it; its own tests open it in a browser.
LONG_RUNNING = {"nas_gan.dashboard"}
# One process for all commands of a list: importing torch takes longer than they do.
RUN_MODULES = """
import contextlib, io, json, runpy, sys
from pathlib import Path

from nas_gan import zoo

if Path(sys.argv[2]).is_dir():
    zoo.FOLDER = Path(sys.argv[2]).resolve()
results = []
for command in json.loads(sys.argv[1]):
    sys.argv = command
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        except SystemExit as exit_:
            code = exit_.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
MY_GAN = """
import torch
from torch import nn

class Net(nn.Module):
    latent_dim = 16

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16 * 8 * 8)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, z):
        x = self.first(z).view(-1, 16, 8, 8).relu()
        return self.last(self.middle(x).relu()).tanh()

torch.manual_seed(0)
generator = Net().eval()
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run_modules(commands: list[list[str]], cwd: Path) -> list[Done]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_MODULES, json.dumps(commands), str(Path(ZOO).parent)],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Done(*result) for result in json.loads(done.stdout.splitlines()[-1])]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(text: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_fences(text))


def shell_lines(text: str) -> list[str]:
    """Every command of the shell blocks, on one line, without its comment."""
    lines = "".join(fences(text, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def python_commands(text: str) -> Iterator[list[str]]:
    """`[module or script, argument, ...]` of every Python command in blocks and in the prose."""
    for line in [*shell_lines(text), *inline_code(text)]:
        if not re.search(r"(^|/|\s)python3? ", line):
            continue
        tokens = [token for token in shlex.split(line) if not re.fullmatch(r"\w+=\S*", token)]
        if Path(tokens[0]).name in ("python", "python3"):
            command = tokens[2:] if tokens[1] == "-m" else tokens[1:]
            if command:  # the prose also speaks of `python -m` as such
                yield command


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its first two lines."""
    lines = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", without_fences(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.fixture(scope="session")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What each command answers to --help."""
    commands = [[module, "--help"] for module in COMMANDS]
    return dict(zip(COMMANDS, run_modules(commands, tmp_path_factory.mktemp("help")), strict=True))


def make_workplace(folder: Path) -> None:
    """A tiny checkpoint in place of the zoo's, and a reference of few images: its rank is low."""
    rng = np.random.default_rng(0)
    save_statistics(
        folder / TINY_REFERENCE,
        statistics_of(rng.random((24, 1280))),
        extractor="efficientnet-lite0@96",
        dataset="synthetic",
        resolution=32,
        data_sha256="",
    )
    config = GeneratorConfig(gf_dim=4, n_classes=0)  # the fewest channels that are factorized
    state = Generator(config).state_dict()
    architecture = {"kind": "mmd-nas", **config.to_dict()}
    save_checkpoint(
        Checkpoint(architecture, state, provenance={"dataset": "synthetic"}), folder / ZOO
    )


@pytest.fixture(scope="session")
def readme_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The commands of the README and from training to timing, in order, at small sizes."""
    folder = tmp_path_factory.mktemp("readme")
    make_workplace(folder)
    commands = []
    pages = [(ROOT / name).read_text() for name in ("README.md", "docs/usage.md")]
    for line in [line for page in pages for line in shell_lines(page)]:
        if line.startswith("python -m "):
            module, *arguments = shlex.split(line)[2:]
            if module in LONG_RUNNING:
                continue
            presets = [str(ROOT / a) if a.startswith("nas_gan/presets/") else a for a in arguments]
            commands.append([module, *presets, *shlex.split(SMALL[module])])
    return SimpleNamespace(
        folder=folder, commands=commands, results=run_modules(commands, cwd=folder)
    )


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_relative_link_and_anchor_leads_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(text)):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked.read_text()), f"{target} is no heading"


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_command_exists_and_knows_the_options_it_is_shown_with(
    path: Path, helps: dict[str, Done]
) -> None:
    for name, *arguments in python_commands(path.read_text()):
        options = [a.partition("=")[0] for a in arguments if a.startswith("--")]
        if name in OTHER_MODULES:
            continue
        if name.endswith(".py"):
            in_place = ROOT / name  # a script of a bundle is named without the folder it is from
            scripts = [in_place] if in_place.exists() else list(ROOT.glob(f"*/{Path(name).name}"))
            assert len(scripts) == 1, f"{name} is not there"
            known = scripts[0].read_text()
        else:
            assert name in helps, f"python -m {name} is not a command"
            known = helps[name].out
        for option in options:
            assert re.search(rf"{option}\b", known), f"{name} has no {option}"


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_answers_help(module: str, helps: dict[str, Done]) -> None:
    assert helps[module].code == 0
    assert "--help" in helps[module].out


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_option_in_the_prose_belongs_to_a_command(path: Path, helps: dict[str, Done]) -> None:
    known = " ".join(done.out for done in helps.values())
    for code in inline_code(path.read_text()):
        if option := re.match(r"--[a-z][\w-]*", code):
            found = option[0] in FOREIGN_OPTIONS or re.search(rf"{option[0]}\b", known)
            assert found, f"no command has {option[0]}"


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_make_target_is_in_the_makefile(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in [*shell_lines(text), *inline_code(text)]:
        if match := re.match(r"make ([a-z]+)", code):
            assert match[1] in targets, f"the Makefile has no {match[1]}"


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_file_of_ours_that_is_named_exists(path: Path) -> None:
    folders = "|".join((*PACKAGES, "tests", "benchmarks", "docs"))
    for code in inline_code(path.read_text()):
        if re.fullmatch(rf"(?:{folders})/[\w./]*", code) and "NAME" not in code and code != ZOO:
            made = code.startswith("benchmarks/results")  # written by the scripts
            assert made or (ROOT / code).exists(), f"{code} is not there"


def test_every_feature_of_the_seeds_has_a_place_here_and_tests_that_exist() -> None:
    lines = (ROOT / "docs" / "seeds.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    features = [row for row in rows[2:] if not row[0].startswith("**")]
    assert len(features) > 30
    for feature, place, tests in features:
        modules = re.findall(r"`python -m ([\w.]+)", place)
        files = re.findall(r"`([\w/]+/(?:\w+\.py)?)`", place)
        assert modules or files, f"{feature}: neither a command nor a file"
        assert set(modules) <= set(COMMANDS), f"{feature}: {modules}"
        named = re.findall(r"`([^`]+)`", tests)
        assert named, f"{feature}: no test"
        for file in [*files, *named]:
            assert (ROOT / file).exists(), f"{feature}: {file} is not there"
        assert all(re.fullmatch(r"tests/[\w/]+\.py", file) for file in named), feature


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_dotted_name_of_ours_can_be_imported(path: Path) -> None:
    for code in inline_code(path.read_text()):
        if not re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+", code):
            continue
        parent, _, last = code.rpartition(".")
        if (ROOT / code.replace(".", "/")).with_suffix(".py").exists():
            continue
        assert hasattr(importlib.import_module(parent), last), f"{code} does not exist"


@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_no_document_names_this_machine_or_a_package_registry(path: Path) -> None:
    text = path.read_text()
    for place in (str(ROOT), str(Path.home()) + "/", tempfile.gettempdir() + "/"):
        assert place not in text
    assert not re.search(r"index-url|pypi\.org|pythonhosted", text)


def test_spelling() -> None:
    pytest.importorskip("codespell_lib", reason="codespell is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *map(str, DOCS)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_command_of_the_readme_and_of_the_usage_page_runs(
    readme_run: SimpleNamespace,
) -> None:
    assert [command[0] for command in readme_run.commands] == ["ard.compress", *SMALL]
    for command, done in zip(readme_run.commands, readme_run.results, strict=True):
        # Whether a tiny untrained net meets a budget is not the question here.
        searches = command[0] in ("ard.compress", "ard.pareto")
        allowed = (0, cli.BUDGET_MISSED) if searches else (0,)
        assert done.code in allowed, f"{command}: {done.err}"


def test_the_run_directory_holds_what_the_usage_page_lists(readme_run: SimpleNamespace) -> None:
    rows = table_rows((ROOT / "docs" / "usage.md").read_text(), "What a run directory holds")
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    # Of --bundle, which the test leaves out, and of a target beside a budget.
    delivered = {"bundle/", "bench/bench.json", "at-target/"}
    run_dir = readme_run.folder / "runs" / "small"
    found = {path.name + "/" * path.is_dir() for path in run_dir.iterdir()}
    assert found == listed - delivered
    assert delivered <= listed


def test_the_bundle_holds_what_the_deployment_page_lists(readme_run: SimpleNamespace) -> None:
    rows = table_rows((ROOT / "docs" / "deployment.md").read_text(), "What is in the bundle")
    listed = {row[0].split("`")[1] for row in rows}
    found = {
        path.name + "/" * path.is_dir() for path in (readme_run.folder / "runs/bundle").iterdir()
    }
    assert found == {name for name in listed if not name.endswith(".engine")}


def test_bench_json_has_the_keys_that_the_deployment_page_explains(
    readme_run: SimpleNamespace,
) -> None:
    report = json.loads((readme_run.folder / "runs" / "bench" / "bench.json").read_text())
    for keys, meaning in table_rows(
        (ROOT / "docs/deployment.md").read_text(), "5. Read bench.json"
    ):
        for key in re.findall(r"`([^`]+)`", keys):
            value: Any = report
            for part in key.split("."):
                value = value[part.removesuffix("[]")]
                value = value[-1] if part.endswith("[]") else value
            if isinstance(value, dict):
                named = set(re.findall(r"`(\w+)`", meaning)) - {"null"}
                assert named <= value.keys(), f"{key} has no {named - value.keys()}"


def test_the_rails_of_the_deployment_page_are_those_that_add_up_to_the_total() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    totals = {
        tuple(re.findall(r"`(\w+)`", total.partition(":")[0]))
        for _, sensor, total in table_rows(page, "What the power includes")
        if "INA" in sensor
    }
    # A first Nano has no JetPack that the page is about.
    assert totals == set(TOTALS) - {("POM_5V_IN",)}


def test_the_jetpack_of_an_l4t_release_on_the_deployment_page_is_the_one_in_reports() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    for jetpack, l4t, *_ in table_rows(page, "JetPack and TensorRT"):
        for release in re.findall(r"[\d.]+", l4t):
            names = {name for full, name in JETPACK.items() if full.startswith(f"{release}.")}
            assert names, release
            for name in names - {"6.0 DP"}:
                assert any(name.startswith(listed) for listed in jetpack.split(", ")), name


def test_benchmark_results_have_the_keys_that_their_page_explains() -> None:
    result = ROOT / "benchmarks" / "results" / "frechet_distance.json"
    if not result.exists():
        pytest.skip("benchmarks/results/frechet_distance.json has not been measured here")
    [case, *_] = json.loads(result.read_text())["distance"]
    for keys, _ in table_rows((ROOT / "docs" / "benchmarks.md").read_text(), "Read"):
        assert set(re.findall(r"`([^`]+)`", keys)) <= case.keys()


def test_the_exit_codes_of_the_usage_page_are_those_of_the_commands() -> None:
    rows = table_rows((ROOT / "docs" / "usage.md").read_text(), "Exit codes")
    codes = [cli.DONE, cli.ERROR, cli.USAGE, cli.BUDGET_MISSED]
    codes += [cli.INTERRUPTED, cli.NOT_READ, cli.TERMINATED]
    assert [int(row[0]) for row in rows] == codes


def test_the_trtexec_line_of_the_deployment_page_is_the_one_that_bundles_hold() -> None:
    manifest = {
        "onnx": "model.onnx",
        "name": "model",
        "inputs": [
            {"name": "latents", "shape": ["batch", GeneratorConfig(n_classes=0).latent_dim]}
        ],
    }
    line = trtexec_line(manifest, tuple(asdict(BatchRange()).values()), workspace_mib=512)
    assert line in shell_lines((ROOT / "docs" / "deployment.md").read_text())


@pytest.mark.parametrize(
    "claim",
    [
        f"({', '.join(map(str, FRACTIONS[:-1]))} and {FRACTIONS[-1]} of",
        f"features of {N_PROXY} images",
        f"on the same {N_MOMENTS} latents",
        f"`--feature-weight`, is {FEATURE_WEIGHT:g} if it has one",
        f"kernels of more than {MAX_WEIGHTS:,} weights",
        f"more than {MAX_OUTPUTS:,} outputs",
        f"kernel is kept below {MAX_DEGENERACY:g}",
        f"less than {MIN_SHARE:.1%}".replace("%", " %"),
        f"{N_BINS:,} bins",
        f"save less than {WORTHWHILE:.0%}, or {UNSPENT:.0%} while".replace("%", " %"),
        f"while less than {WELL_SPENT:.0%} of".replace("%", " %"),
        f"`P g^{EAGER:g}`",
        f"s² (k m^-q A^p + {FLOOR:g})²",
        f"priors about {FACTOR:g}, {EXPONENT:g} and {PACE:g};",
        f"within {AGAIN:.0%}".replace("%", " %"),
        f"more than\n{MAX_POSITIONS} positions",
        f"up to {FineTuning.lr:.0e} for biases".replace("e-04", "e-4"),
        f"ridge of {RIDGE:.0e}".replace("e-06", "e-6"),
    ],
)
def test_the_numbers_of_the_method_page_are_those_of_the_code(claim: str) -> None:
    text = " ".join((ROOT / "docs" / "method.md").read_text().split())
    assert " ".join(claim.split()) in text


def test_pre_commit_uses_the_versions_that_were_tested() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
    )
    revisions = dict(re.findall(r"repo: \S+/(\S+)\n\s+rev: v(\S+)", hooks))
    assert revisions["ruff-pre-commit"] == tested["ruff"]
    assert revisions["codespell"] == tested["codespell"]


def test_the_example_of_the_readme_is_what_make_demo_runs() -> None:
    [shown] = [
        line for line in shell_lines((ROOT / "README.md").read_text()) if "python -m" in line
    ]
    recipe = (ROOT / "Makefile").read_text().split("\ndemo:")[1].split("\n\n")[0]
    made = recipe.partition("\n")[2].replace("\\\n", " ").replace("$(BIN)/", "").split()
    assert shlex.split(shown) == made


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_lists_exactly_the_public_names(package: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text()
    listed = re.findall(rf"^::: {package}\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(importlib.import_module(package).__all__)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    pages = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(pages) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def test_the_python_examples_run_on_a_net_of_ones_own_and_on_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, shipped = fences((ROOT / "docs" / "python.md").read_text(), "python")
    (tmp_path / "my_gan.py").write_text(MY_GAN)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(own, "python.md", "exec"), names)
    del sys.modules["my_gan"]
    images = names["result"].generator(torch.zeros(2, 16))
    assert images.shape == (2, 3, 8, 8)
    assert "Score(" in capsys.readouterr().out
    exec(compile(shipped, "python.md", "exec"), names)
    assert names["images"].shape == (16, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_make_demo_ends_with_the_table_and_the_path_of_the_report(tmp_path: Path) -> None:
    if not (ROOT / ZOO).exists():
        pytest.skip(f"{ROOT / ZOO} is not there")
    for name in (*PACKAGES, "Makefile", "pyproject.toml", "constraints.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    # With the environment that runs the tests: installing another one is not what is tested.
    bin_folder = f"BIN={Path(sys.executable).parent}"
    done = subprocess.run(
        ["make", "demo", bin_folder, "--old-file", ".venv/installed"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "runs/demo/report.html"
    assert (tmp_path / lines[-1]).stat().st_size > 10_000
    for row in ("params", "MACs per image", "size", "latency, batch 1"):
        assert any(line.startswith(row) for line in lines), f"no {row} in the table"
