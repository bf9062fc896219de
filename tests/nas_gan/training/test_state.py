import pytest
import torch

from nas_gan.errors import CheckpointError
from nas_gan.training.state import Position, resume, save_state


class Counter:
    def __init__(self, value=0):
        self.value = torch.tensor(value)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


SETTINGS = {"seed": "1", "data_sha256": "ab"}


def test_a_run_goes_on_from_what_was_saved(tmp_path):
    save_state(tmp_path, SETTINGS, Counter(7), Position(3))
    step = Counter()
    assert resume(tmp_path, SETTINGS, step) == Position(3)
    assert step.value == 7
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_new_run_starts_at_0(tmp_path):
    step = Counter(5)
    assert resume(tmp_path / "new", SETTINGS, step) == Position()
    assert step.value == 5


def test_a_run_with_other_settings_is_refused_by_the_first_that_differs(tmp_path):
    save_state(tmp_path, SETTINGS, Counter(), Position(3))
    with pytest.raises(CheckpointError, match="holds a run with seed = 1, asked for 2; use anoth"):
        resume(tmp_path, SETTINGS | {"seed": "2"}, Counter())
    with pytest.raises(CheckpointError, match="holds a run with new = None, asked for x"):
        resume(tmp_path, SETTINGS | {"new": "x"}, Counter())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"step": 3}, "not a training state"),
        ({"config": SETTINGS, "step": "many", "step_state": {}}, "not a training state"),
        ({"config": SETTINGS, "step": 3, "step_state": {}}, "damaged training state"),
    ],
)
def test_a_state_that_is_not_one_is_refused(state, message, tmp_path):
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=message):
        resume(tmp_path, SETTINGS, Counter())
