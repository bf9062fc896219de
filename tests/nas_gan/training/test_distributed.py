import json
import socket
from typing import Any

import pytest
import torch
import torch.multiprocessing
from gloo_processes import JOBS, work
from torch import nn
from torch.multiprocessing.spawn import spawn

from nas_gan.errors import InvalidValueError
from nas_gan.training.distributed import (
    Processes,
    Share,
    gather_scores,
    global_batch_norm_,
    joined_processes,
    synchronised,
)
from nas_gan.training.pace import without_pace

CURVES: list[dict[str, Any]] = [
    {"loss": "latest", "skip": True},
    {"loss": "rand_g_mix"},
    {"loss": "hinge", "n_critic": 2, "g_batch": 16},
]
SEARCHES: list[dict[str, Any]] = [{"arch_loss": "hinge"}, {"arch_loss": "mmd", "amending": 0.01}]
ALL: list[tuple[str, dict[str, Any]]] = [
    ("summed", {}), ("gathered", {}), ("normalised", {}), ("averaged", {})
]  # fmt: skip
ALL += [("curve", settings) for settings in CURVES]
ALL += [("architecture_curve", settings) for settings in SEARCHES]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two gloo processes returned for every job, by rank."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(probe.getsockname()[1]))
    jobs = [*ALL, ("run_search", {"folder": str(folder / "search")})]
    spawn(work, (str(folder), jobs), nprocs=2)
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    found = {name: [r[i] for r in results] for i, name in enumerate(map(repr, ALL))}
    return found | {"folder": folder, "search": [r[-1] for r in results]}


def results_of(both, name, **settings):
    return both[repr((name, settings))]


def test_processes_know_their_number(both):
    assert results_of(both, "summed") == [[0, 2, 2], [1, 2, 2]]


def test_scores_come_together_in_order_of_rank(both):
    (first, _), (second, _) = results_of(both, "gathered")
    assert torch.equal(first, torch.tensor([[1.0, 2], [3, 4], [11, 12], [13, 14]]))
    assert torch.equal(first, second)


def test_the_gradient_of_gathered_scores_sums_the_losses_of_all(both):
    # Both processes have the same loss, with coefficients 0 to 7; each gets its own rows, twice.
    gradients = [gradient for _, gradient in results_of(both, "gathered")]
    assert torch.equal(torch.cat(gradients), 2 * torch.arange(8.0).view(4, 2))


def test_two_halves_are_normalised_like_the_whole(both):
    whole = JOBS["normalised"](Processes())
    halves = results_of(both, "normalised")
    out = torch.cat([half["out"] for half in halves])
    torch.testing.assert_close(out, whole["out"], rtol=1e-5, atol=1e-5)
    # The mean over processes of gradients that are sums over processes.
    gradient = torch.cat([half["gradient"] for half in halves]) / 2
    torch.testing.assert_close(gradient, whole["gradient"], rtol=1e-4, atol=1e-5)
    for half in halves:
        for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
            torch.testing.assert_close(half[name], whole[name])


@pytest.mark.parametrize("settings", CURVES, ids=[c["loss"] for c in CURVES])
def test_two_processes_have_the_curve_of_one_with_the_same_global_batch(both, settings):
    one = JOBS["curve"](processes=Processes(), **settings)
    for curve in results_of(both, "curve", **settings):
        assert len(curve) == len(one)
        for found, expected in zip(curve, one, strict=True):
            # float32, sums in another order, four updates.
            assert found == pytest.approx(expected, rel=2e-4, abs=2e-6)


@pytest.mark.parametrize("settings", SEARCHES, ids=repr)
def test_a_search_in_two_processes_has_the_curve_of_one(both, settings):
    one = JOBS["architecture_curve"](processes=Processes(), **settings)
    for curve in results_of(both, "architecture_curve", **settings):
        for found, expected in zip(curve, one, strict=True):
            # float32, sums in another order; second derivatives the more so. Without these the
            # parameters of the second search would be off by up to 6.
            assert found == pytest.approx(expected, rel=1e-3, abs=2e-3)


def test_two_processes_write_the_run_directory_of_one_search(both, tmp_path):
    assert JOBS["run_search"](processes=Processes(), folder=str(tmp_path)) == "finished"
    assert both["search"] == ["finished"] * 2
    one, two = tmp_path, both["folder"] / "search"
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    logs = [
        [without_pace(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (one, two)
    ]
    assert [line["step"] for line in logs[1]] == [1]
    for expected, found in zip(*logs, strict=True):
        # Adam divides by gradients, which makes more of rounding.
        assert found == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_means_over_processes_can_be_differentiated_twice(both):
    for rank, (first, second, slope, curvature) in enumerate(results_of(both, "averaged")):
        assert first.tolist() == [2.5, 10]  # of 1 and 4, of 4 and 16
        assert second.tolist() == [[0.5], [0.5]]
        # The sum over processes of the same mean: x^2 by its own x, then 2 by the sum's half.
        assert slope.tolist() == [2 * (rank + 1), 4 * (rank + 1)]
        assert curvature.tolist() == [2, 2]


def test_skipping_left_out_the_same_updates_everywhere(both):
    curves = results_of(both, "curve", loss="latest", skip=True)
    counts = [[line["d_skipped"] for line in curve[:-1]] for curve in curves]
    assert counts[0] == counts[1]
    assert 0 < counts[0][-1] < 4


def test_the_mean_of_two_half_batches_would_be_another_curve(both):
    one = JOBS["curve"](processes=Processes(), loss="latest")
    halves = [
        JOBS["curve"](processes=Processes(rank, 2), loss="latest", n_steps=1) for rank in (0, 1)
    ]
    mean = sum(half[0]["loss/d"] for half in halves) / 2
    assert abs(mean - one[0]["loss/d"]) > 1e-3 * abs(one[0]["loss/d"])


def test_alone_nothing_is_wrapped():
    net, scores = nn.Sequential(nn.BatchNorm1d(3)), torch.ones(2, 3)
    assert synchronised(net) is net
    assert type(global_batch_norm_(net).get_submodule("0")) is nn.BatchNorm1d
    assert gather_scores(scores) is scores


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes("cpu") as processes:
        assert processes == Processes(0, 1, "cpu")
        assert processes.is_main


def test_shares_are_the_rows_of_the_global_batch():
    def batch(index):
        return torch.arange(6) + index, torch.arange(6) * 10

    parts = [Share(batch, Processes(rank, 3))(100) for rank in range(3)]
    assert [images.tolist() for images, _ in parts] == [[100, 101], [102, 103], [104, 105]]
    assert parts[2][1].tolist() == [40, 50]


def test_a_batch_that_does_not_divide_is_refused():
    share = Share(lambda index: torch.zeros(5, 2), Processes(0, 2))
    with pytest.raises(InvalidValueError, match="batch of 5 does not divide into 2 processes"):
        share(0)
