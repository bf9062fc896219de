import csv

from nas_gan.runs.experiments import Outcome
from nas_gan.runs.summary import summarise, summary_csv, summary_table

# SiLU on CIFAR-10 as published: six seeds, 5.78 with a deviation of 0.17.
FIDS = [6.01, 5.80, 5.89, 5.60, 5.57, 5.83]


def outcome(seed=0, fid=None, reason="", variant="default"):
    metrics = {} if fid is None else {"fid": fid}
    return Outcome("dcgan", variant, seed, metrics, reason, 1.0)


def test_mean_and_deviation_are_the_published_ones():
    (row,) = summarise(outcome(seed, fid) for seed, fid in enumerate(FIDS))
    assert (round(row.mean["fid"], 2), round(row.deviation["fid"], 2)) == (5.78, 0.17)


def test_failed_runs_are_counted_and_spoil_no_mean():
    rows = summarise(
        [outcome(0, 4.0), outcome(1, 99.0, "diverged"), outcome(2, variant="b", reason="killed")]
    )
    assert [(row.finished, row.failed) for row in rows] == [(1, 1), (0, 1)]
    assert (rows[0].mean, rows[0].deviation) == ({"fid": 4.0}, {})
    lines = list(csv.reader(summary_csv(rows, ["fid", "loss/g"]).splitlines()))
    assert lines[0] == ["preset", "variant", "finished", "failed", "fid mean", "fid deviation"]
    assert lines[1:] == [
        ["dcgan", "default", "1", "1", "4.0", ""],
        ["dcgan", "b", "0", "1", "", ""],
    ]


def test_the_table_for_people_has_a_deviation_if_two_runs_finished():
    rows = summarise([outcome(0, 4.0), outcome(1, 8.0), outcome(2, 5.0, variant="b")])
    table = summary_table(rows, ["fid", "loss/g"])
    header, _, both, one = table.splitlines()
    assert header.split() == ["preset", "variant", "finished", "failed", "fid"]
    # (4 - 6)^2 + (8 - 6)^2 = 8 over n - 1.
    assert both.split() == ["dcgan", "default", "2", "0", "6", "±", "2.8"]
    assert one.split() == ["dcgan", "b", "1", "0", "5"]
