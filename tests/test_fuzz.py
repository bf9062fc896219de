from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_reader_answers_or_refuses_in_one_line_whatever_the_file_is():
    """In a process of its own, whose memory and time it limits; the same cases every time."""
    done = subprocess.run(
        [sys.executable, "benchmarks/fuzz.py", "--cases", "540", "--seed", "1"],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    counts = re.match(r"(\d+) refused, (\d+) answered, 0 failed\n", done.stdout)
    assert counts is not None, done.stdout
    refused, answered = map(int, counts.groups())
    # Whole files are read and damaged ones refused, so the cases are neither trivial nor hopeless.
    assert min(refused, answered) > 100
