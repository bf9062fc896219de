from typing import Any

import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.losses import LOSSES, gaussian, make_loss, off_diagonal_mean, squared_distances
from nas_gan.losses.settings import LossSettings, customised_loss

# A pair of real scores at a distance of 1, one of fake scores at a distance of 0.5.
REAL, FAKE = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [0.5]])


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_given_is_the_loss_itself(name):
    assert customised_loss(name, LossSettings()) == LOSSES[name]


def test_the_lower_bound_is_that_of_squared_distances_of_fake_scores():
    for name in ("latest", "rmb"):
        loss = customised_loss(name, LossSettings(lower=0.5))
        if name == "latest":
            loss = customised_loss(name, LossSettings(lower=0.5, extra_weight=0.0))
        # exp(-1 / 2) - exp(-max(0.25, 0.5) / 2)
        expected = 0.6065306597 - 0.7788007831
        assert loss.discriminator(REAL, FAKE).item() == pytest.approx(expected)


def test_repulsion_has_the_weights_of_the_cross_term():
    loss = customised_loss("rep", LossSettings(cross_weight=0.5))
    k = {
        name: off_diagonal_mean(gaussian(squared_distances(a, b))).item()
        for name, a, b in (("real", REAL, REAL), ("fake", FAKE, FAKE), ("cross", REAL, FAKE))
    }
    expected = 0.5 * k["cross"] - k["fake"] + 0.5 * k["real"]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(expected)


def test_the_kick_start_term_has_its_weight_and_its_epochs():
    loss = customised_loss("published", LossSettings(extra_weight=2.0, extra_epochs=3))
    plain = make_loss("published", extra_weight=0.0).discriminator(REAL, FAKE).item()
    # Squared distances of fake scores: twice 0 and twice 0.25, all at least 0.25.
    values = [loss.discriminator(REAL, FAKE, epoch=epoch).item() - plain for epoch in (2, 3)]
    assert values == pytest.approx([2.0 * 0.25, 0.0])


def test_widths_of_the_kernels():
    loss = customised_loss("mmd", LossSettings(sigmas=(2.0,)))
    one = customised_loss("latest", LossSettings(sigma=2.0, extra_weight=0.0, lower=1e-9))
    # exp(-d2 / 8) of the distances by hand.
    assert one.discriminator(REAL, FAKE, upper=9.0).item() == pytest.approx(
        0.8824969026 - 0.9692332345, rel=1e-5
    )
    cross = (1 - 1) + 0.9692332345 + 0.8824969026  # |0 - 0.5| and |1 - 0|, without the diagonal
    assert loss.generator(REAL, FAKE).item() == pytest.approx(
        0.8824969026 + 0.9692332345 - cross, abs=1e-6
    )


def test_r1_is_half_its_weight_times_the_squared_gradient_at_real_images():
    penalty: Any = customised_loss("logistic", LossSettings(r1=3.0)).parts.penalty
    images = torch.zeros(4, 1, 2, 2)

    def score(x):
        return 5 * x.flatten(1).sum(dim=1, keepdim=True)  # squared gradient 4 * 25

    scores = score(images)
    assert penalty(score, images, images + 9, scores, scores).item() == pytest.approx(
        3.0 / 2 * 100, rel=1e-5
    )


def test_parts_are_changed_added_and_left_out():
    def parts(name: str, **settings: float) -> Any:
        return customised_loss(name, LossSettings(**settings)).parts  # type: ignore[arg-type]

    assert parts("rep_gp", penalty_weight=7.0).penalty.weight == 7.0
    assert parts("hinge", penalty_weight=7.0).penalty.weight == 7.0
    assert parts("rep_gp", penalty_weight=0.0).penalty is None
    assert parts("hinge", clip_weights=0.1).clipping.bound == 0.1
    scaling, before = parts("rep_ds", scaling_weight=0.3).scaling, parts("rep_ds").scaling
    assert (scaling.weight, scaling.offset) == (0.3, before.offset)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hinge", {"lower": 1.0}, "^loss.lower is not taken by the loss hinge; it takes penalty_"),
        ("rep", {"lower": 1.0}, "^loss.lower is for bounded losses, and rep has no bounds"),
        ("latest", {"sigmas": (1.0,)}, "^loss.sigmas is not taken by the loss latest"),
        ("mmd_g", {"alphas": (1.0,)}, "^loss.alphas is not taken"),
        ("mmd_g", {"sigmas": (1.0, 0.0)}, "^loss.sigmas cannot be used: .* sigmas above 0"),
        ("latest", {"lower": 0.0}, "^loss.lower cannot be used"),
        ("hinge", {"penalty_at": "real"}, "^loss.penalty_at .* set penalty_weight too"),
        ("hinge", {"penalty_weight": -1.0}, "^loss.penalty_weight cannot be used"),
        ("hinge", {"r1": -1.0}, "^loss.r1 cannot be used"),
        ("hinge", {"r1": 1.0, "penalty_weight": 1.0}, "^loss.r1 is another penalty"),
        ("wasserstein", {"penalty_weight": 0.0}, "^loss.penalty_weight cannot be used"),
        ("soft_labels", {"real": (0.2, 0.1)}, "^loss.real cannot be used"),
    ],
)
def test_what_a_loss_does_not_take_is_refused_by_table_and_key(name, settings, message):
    with pytest.raises(InvalidValueError, match=message):
        customised_loss(name, LossSettings(**settings))
