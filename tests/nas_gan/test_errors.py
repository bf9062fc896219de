from __future__ import annotations

import pickle

import pytest

from nas_gan.errors import InvalidValueError, MissingDataError, NasGanError


@pytest.mark.parametrize("kind", [NasGanError, InvalidValueError, MissingDataError])
def test_an_error_names_the_setting_that_it_is_about(kind):
    assert (
        str(kind("must be at least 1; got 0", setting="steps")) == "steps must be at least 1; got 0"
    )
    assert str(kind("a.pt is empty")) == "a.pt is empty"


@pytest.mark.parametrize("kind", [InvalidValueError, MissingDataError])
def test_an_error_crosses_a_process_border_whole(kind):
    error = pickle.loads(pickle.dumps(kind("must be 2", setting="n")))
    assert (str(error), error.setting) == ("n must be 2", "n")
