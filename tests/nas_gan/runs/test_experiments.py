from nas_gan.reading import read_toml
from nas_gan.runs.experiments import run_experiment, to_toml
from nas_gan.runs.grid import Grid, plan_runs


def test_settings_survive_their_file(tmp_path):
    settings = {"model": 'a "b"', "g_lr": 2e-05, "steps": 10, "flip": True, "d_lr": 1e22}
    (tmp_path / "settings.toml").write_text(to_toml(settings))
    assert read_toml(tmp_path / "settings.toml") == settings


def test_a_finished_run_is_not_run_again_and_a_failed_one_is(tmp_path):
    (one,) = plan_runs(Grid(("smoke",), (3,)), tmp_path)
    calls, reasons = [], iter(["diverged", "", "unused"])

    def train(folder):
        calls.append(read_toml(folder / "settings.toml")["seed"])
        (folder / "log.jsonl").write_text('{"step": 1, "fid": 2.5}\n')
        return next(reasons)

    outcomes = [run_experiment(one, ["fid"], train=train) for _ in range(3)]
    assert [o.reason for o in outcomes] == ["diverged", "", ""]
    assert calls == [3, 3]
    assert outcomes[2].metrics == {"fid": 2.5}
    (longer,) = plan_runs(Grid(("smoke",), (3,), settings={"steps": 9}), tmp_path)
    assert run_experiment(longer, ["fid"], train=train).reason == "unused"
