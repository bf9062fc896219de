import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.runs.grid import Grid, Skip, plan_runs, read_grid

SLOTS = {
    "output_activation": ["default", "bhsa", "bhana"],
    "d_output_activation": ["default", "bhsa"],
    "hidden_activation": ["default", "mida"],
    "d_hidden_activation": ["default", "mida", "mish"],
}


def write(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return path


def test_hidden_and_output_changes_never_meet():
    changes = Grid(("dcgan",), (0,), variants=SLOTS).combinations()
    assert len(changes) == 1 + (3 * 2 - 1) + (2 * 3 - 1)
    assert not any("output" in str(c) and "hidden" in str(c) for c in changes)
    assert {} in changes


@pytest.mark.parametrize(
    ("skip", "n"), [("default", 10), ("different_hidden", 10), ("different_output", 10)]
)
def test_skip_rules_leave_out_what_they_name(skip, n):
    grid = Grid(("dcgan",), (0,), variants=SLOTS, skip=Skip(**{skip: True}))
    left_out = [c for c in Grid(("dcgan",), (0,), variants=SLOTS).combinations()
                if c not in grid.combinations()]  # fmt: skip
    assert len(grid.combinations()) == n
    assert left_out == [
        {
            "default": {},
            "different_hidden": {"hidden_activation": "mida", "d_hidden_activation": "mish"},
            "different_output": {"output_activation": "bhana", "d_output_activation": "bhsa"},
        }[skip]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset = ['a']", "key 'preset' is not known; did you mean presets"),
        ("presets = []\nseeds = [1]", "presets must be a list of names"),
        ("presets = ['smoke']\nseeds = ['a']", "seeds must be a list of whole numbers"),
        ("presets = ['smok']\nseeds = [1]", "preset 'smok' is not known; did you mean smoke"),
        ("presets = ['smoke']\nseeds = [1]\n[settings]\nstep = 2", "did you mean steps"),
        ("presets = ['smoke']\nseeds = [1]\n[variants]\nloss = 'rep'", "loss must be a list"),
        ("presets = ['smoke']\nseeds = [1]\n[variants]\nloss = ['repp']", "'repp' is not known"),
        ("presets = ['smoke']\nseeds = [1]\n[variants]\ngf_dim = ['a']", "gf_dim must be int"),
        ("presets = ['smoke']\nseeds = [1]\n[skip]\ndefault = true", "every combination"),
        ("presets = ['smoke']\nseeds = [1]\n[skip]\nmixed = true", "skip: key 'mixed'"),
        ("presets = ['smoke']\nseeds = [1]\nsettings = 3", "settings must be a table"),
        ("presets = ['smoke']\nseeds = [1]\nmetrics = 'fid'", "metrics must be a list of names"),
        ("presets = ['smoke']\nseeds = [1]\nmetrics = ['first_fid']", "not understood"),
        ("presets = [", "not a TOML file"),
        ("presets = 'smoke'\nseeds = [1]", "presets must be a list of names"),
        ("presets = ['smoke']\nseeds = 1", "seeds must be a list of whole numbers"),
        ("presets = ['smoke']\nseeds = [1]\n[skip]\ndefault = 1", "default must be true or false"),
        (
            "presets = ['smoke']\nseeds = [1]\n[variants]\n"
            + "".join(f"{name} = [{', '.join(map(str, range(1, 1001)))}]\n" for name in "abc"),
            "a grid of 1,000,000,000 runs .* at most 10,000",
        ),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_runs(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(InvalidValueError, match=message):
        plan_runs(read_grid(path), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
