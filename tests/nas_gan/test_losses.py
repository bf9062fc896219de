import math

import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.losses import (
    LOSSES,
    RepulsiveMMD,
    attractive_loss,
    bounded_repulsive_loss,
    make_loss,
    mmd2,
    squared_distances,
)

# The published vectors were computed from float32 literals (0.1 and 0.2 as float32 has them) in
# float64 arithmetic. With exact decimals every one of them differs by up to 5e-10; this way only
# the rounding of their 14 digits and of a few sums is left.
REAL = torch.tensor([[0, 0], [1, 0], [0, 3]], dtype=torch.float32).double()
FAKE = torch.tensor([[0.1, 0], [0, 0.2], [1, 1]], dtype=torch.float32).double()
ROUNDING = dict(abs=2e-14, rel=0)


def scores(rng, n=6, d=16, scale=1.0):
    return (torch.randn(n, d, generator=rng, dtype=torch.float64) * scale).requires_grad_()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (bounded_repulsive_loss, -0.28342307253345),
        (mmd2, -0.14602371380199),
        (LOSSES["latest"].discriminator, -0.28331414692606),
        (LOSSES["published"].discriminator, -0.28251751697955),
    ],
    ids=["bounded", "mmd2", "latest", "published"],
)
def test_a_loss_has_its_published_value(loss, expected):
    assert loss(REAL, FAKE).item() == pytest.approx(expected, **ROUNDING)


def test_the_squared_discrepancy_of_two_pairs_by_hand():
    # Distances: 1 within the reals, 0 within the fakes, 0 and 1 across.
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [0.0]])
    k = math.exp(-0.5)
    assert mmd2(real, fake).item() == pytest.approx(k + 1 - 2 * (1 + k) / 2)


def test_the_attractive_loss_is_minus_the_generators():
    assert attractive_loss(REAL, FAKE) == -mmd2(REAL, FAKE)


def test_distances_far_from_the_origin_keep_their_digits():
    a = torch.tensor([[1000.0, 1000.0], [1000.01, 1000.0]])
    exact = (a[1, 0].double() - 1000).square().item()
    assert squared_distances(a, a)[0, 1].item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("upper", [4.0, 64.0])
@pytest.mark.parametrize("spread", [(1e-3, 1e3), (1e3, 1e-3), (1.0, 1.0)])
def test_the_bounded_loss_stays_in_its_range(upper, spread, rng):
    real, fake = (scores(rng, scale=scale) for scale in spread)
    loss = bounded_repulsive_loss(real, fake, upper=upper).item()
    assert math.exp(-upper / 2) - math.exp(-0.25 / 2) - 1e-12 <= loss <= 1


def test_the_least_bounded_loss_is_the_published_one(rng):
    far, near = scores(rng, scale=1e3), torch.zeros(6, 16, dtype=torch.float64)
    loss = bounded_repulsive_loss(far, near).item()
    assert loss == pytest.approx(0.135335 - 0.882497, abs=1e-6)


def test_bounds_never_reach_the_generators_loss(rng):
    real, fake = scores(rng), scores(rng)
    values = {RepulsiveMMD(lower=lower).generator(real, fake).item() for lower in (0.1, 0.25, 4)}
    assert values == {mmd2(real, fake).item()}


def test_more_fakes_than_reals_are_cut_to_the_first(rng):
    real, fake = scores(rng, n=4), scores(rng, n=7)
    for loss in (LOSSES["latest"].discriminator, LOSSES["published"].generator):
        assert loss(real, fake) == loss(real, fake[:4])


@pytest.mark.parametrize("preset", LOSSES)
@pytest.mark.parametrize(("m", "n", "message"), [(1, 1, "at least 2; got 1"), (4, 3, "got 3")])
def test_batches_that_have_no_mmd_are_refused(preset, m, n, message, rng):
    real, fake = scores(rng, n=m), scores(rng, n=n)
    for loss in (make_loss(preset).discriminator, make_loss(preset).generator):
        with pytest.raises(InvalidValueError, match=message):
            loss(real, fake)


@pytest.mark.parametrize("extra", ["sq_l2_mean", "sqrt_l1_offdiag"])
@pytest.mark.parametrize("transform", ["none", "clamp", "sqrt"])
@pytest.mark.parametrize("case", ["equal", "coincident", "far apart", "apart"])
def test_gradients_are_finite(transform, extra, case, rng):
    real, fake = scores(rng), scores(rng)
    if case == "equal":
        fake = real.detach().clone().requires_grad_()
        assert mmd2(real, fake) < 0
    elif case == "coincident":
        fake = torch.zeros(6, 16, dtype=torch.float64, requires_grad=True)
    elif case == "far apart":
        fake = scores(rng, scale=1e6)
    loss = RepulsiveMMD(transform, extra, 1e-3)
    total = loss.generator(real, fake) + loss.discriminator(real, fake)
    total.backward()
    assert total.isfinite()
    assert fake.grad.isfinite().all()
    assert real.grad.isfinite().all()


def test_a_negative_discrepancy_under_the_root_gives_no_gradient(rng):
    real = scores(rng).detach()
    fake = real.clone().requires_grad_()
    loss = LOSSES["published"].generator(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(1e-5)
    assert not fake.grad.any()


@pytest.mark.parametrize(
    ("transform", "of"),
    [
        ("none", lambda v: v),
        ("clamp", lambda v: max(v, 0)),
        ("sqrt", lambda v: max(v, 1e-10) ** 0.5),
    ],
)
@pytest.mark.parametrize("fake", [FAKE, FAKE + 9], ids=["negative", "positive"])
def test_the_generator_minimises_its_transform_of_the_discrepancy(transform, of, fake):
    value = mmd2(REAL, fake).item()
    found = RepulsiveMMD(transform).generator(REAL, fake).item()
    assert found == pytest.approx(of(value), rel=1e-14)


def test_the_kick_start_lasts_as_many_epochs_as_its_preset_says():
    plain = bounded_repulsive_loss(REAL, FAKE)
    for name, lasting in (("published", False), ("latest", True)):
        loss = make_loss(name)
        assert loss.discriminator(REAL, FAKE, epoch=0) != plain
        assert (loss.discriminator(REAL, FAKE, epoch=1) != plain) == lasting


def test_the_kick_start_pulls_far_fakes_together():
    fake = torch.tensor([[0.0], [100.0]], requires_grad=True)
    LOSSES["latest"].discriminator(torch.tensor([[0.0], [1.0]]), fake).backward()
    assert fake.grad[0] < 0 < fake.grad[1]


@pytest.mark.parametrize("changes", [{"lower": 0.0}, {"lower": math.nan}, {"sigma": 0.0}])
def test_a_kernel_that_cannot_train_is_refused(changes):
    with pytest.raises(InvalidValueError, match="must be above 0"):
        RepulsiveMMD(**changes)


def test_an_unknown_preset_names_the_known():
    with pytest.raises(InvalidValueError, match="'hinge' is not known; choose one of published"):
        make_loss("hinge")
