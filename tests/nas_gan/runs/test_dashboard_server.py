import socket

import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.runs.dashboard_server import ADDRESS, PAGE, free_port, server_command


def test_the_server_is_silent_private_and_headless(tmp_path):
    line = server_command(tmp_path, 8600)
    for flag in (
        "--server.headless=true", "--browser.gatherUsageStats=false", "--server.port=8600",
        "--server.address=localhost",
    ):  # fmt: skip
        assert flag in line
    assert line[-3:] == [str(PAGE), "--", str(tmp_path)]


def test_a_port_that_is_taken_is_refused_and_0_is_a_free_one():
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        with pytest.raises(
            InvalidValueError, match=r"port \d+ cannot be used .*; choose another, or 0"
        ):
            free_port(taken.getsockname()[1])
    assert free_port(0) > 0
    with pytest.raises(InvalidValueError, match="0 to 65535"):
        free_port(65536)
