import math
import re
from typing import Any

import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.losses import (
    ALIASES,
    LOSSES,
    CramerKernel,
    GaussianKernel,
    HingeLoss,
    KernelMMD,
    LabelLoss,
    RandomScaleMMD,
    RepulsiveMMD,
    StudentKernel,
    WassersteinLoss,
    attractive_loss,
    bounded_repulsive_loss,
    kernel_means,
    make_loss,
    mmd2,
    squared_distances,
)
from nas_gan.losses.feedback import Draws, Feedback, Mixing
from nas_gan.losses.kernels import normal_discrepancy, scale_for

# The published vectors were computed from float32 literals (0.1 and 0.2 as float32 has them) in
# float64 arithmetic. With exact decimals every one of them differs by up to 5e-10; this way only
# the rounding of their 14 digits and of a few sums is left.
REAL = torch.tensor([[0, 0], [1, 0], [0, 3]], dtype=torch.float32).double()
FAKE = torch.tensor([[0.1, 0], [0, 0.2], [1, 1]], dtype=torch.float32).double()
ROUNDING: dict[str, Any] = dict(abs=2e-14, rel=0)
OF_PAIRS = [
    name
    for name, loss in LOSSES.items()
    if isinstance(loss, RepulsiveMMD | KernelMMD | RandomScaleMMD)
]


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


@pytest.mark.parametrize("preset", OF_PAIRS)
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
    assert fake.grad is not None
    assert fake.grad[0] < 0 < fake.grad[1]


@pytest.mark.parametrize("changes", [{"lower": 0.0}, {"lower": math.nan}, {"sigma": 0.0}])
def test_a_kernel_that_cannot_train_is_refused(changes):
    with pytest.raises(InvalidValueError, match="must be above 0"):
        RepulsiveMMD(**changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hings", "did you mean 'hinge'"),
        ("mmd_gg", "did you mean 'mmd_g'"),
        ("???", "'???' is not known; choose one of published, latest"),
    ],
)
def test_an_unknown_loss_offers_the_nearest_or_names_them_all(name, message):
    with pytest.raises(InvalidValueError, match=re.escape(message)):
        make_loss(name)


def test_an_unknown_setting_names_the_known():
    with pytest.raises(InvalidValueError, match=r"no setting 'sigm'; it has .*sigma"):
        make_loss("latest", sigm=2.0)


def test_a_loss_is_made_with_other_settings():
    assert make_loss("latest", sigma=2.0) == RepulsiveMMD(sigma=2.0)


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_loss_that_it_stands_for(alias):
    assert make_loss(alias) == LOSSES[ALIASES[alias]]


# Squared distances: 4 within each set; across, without the diagonal, 0 to 1 is 1 and 2 to -1 is 9.
TWO_REAL = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
TWO_FAKE = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)


def e(squared, sigma2=1.0):
    return math.exp(-squared / (2 * sigma2))


def softplus(x):
    return math.log1p(math.exp(x))


FIVE = (1, 2, 4, 8, 16)  # squares of the five sigmas
ALPHAS = (0.2, 0.5, 1, 2, 5)
CROSS = (e(1) + e(9)) / 2


def gaussians(squared):
    return sum(e(squared, s) for s in FIVE)


def students(squared):
    return sum((1 + squared / (2 * a)) ** -a for a in ALPHAS)


def discrepancy(kernel):
    return 2 * kernel(4) - (kernel(1) + kernel(9))


BY_HAND = {
    "logistic": (
        (softplus(-1) + softplus(1) + softplus(0) + softplus(-2)) / 2,
        (softplus(1) + softplus(-1)) / 2,
    ),
    "least_squares": ((1 + 1 + 1 + 1) / 4, (4 + 0) / 4),
    "hinge": ((0 + 2) / 2 + (1 + 0) / 2, 0),
    "wasserstein": (-1, 1),
    "wasserstein_clip": (-1, 1),
    "mmd": (-discrepancy(e), discrepancy(e)),
    "mmd_g": (-discrepancy(gaussians), discrepancy(gaussians)),
    "mmd_t": (-discrepancy(students), discrepancy(students)),
    # The cap of 4 reaches the 9 across.
    "mgb": (-(2 * e(4) - e(1) - e(4)), discrepancy(e)),
    "cramer": (-discrepancy(lambda q: -(q**0.5)), discrepancy(lambda q: -(q**0.5))),
    # 4 within both sets, which no bound of 0.25 and 4 moves: both kernels are the same.
    "rep": (0, discrepancy(e)),
    "rmb": (0, discrepancy(e)),
    # Before the first update nothing is mixed.
    "mmd_g_mix": (-discrepancy(gaussians), discrepancy(gaussians)),
    "sgm": (-discrepancy(e), discrepancy(e)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_of_two_pairs_by_hand(name):
    loss = make_loss(name)
    found = loss.discriminator(TWO_REAL, TWO_FAKE), loss.generator(TWO_REAL, TWO_FAKE)
    assert [value.item() for value in found] == pytest.approx(BY_HAND[name], abs=1e-7)


@pytest.mark.parametrize("cross_weight", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_weights_of_a_repulsive_loss_mix_its_kernel_means(cross_weight, rng):
    real, fake = scores(rng), scores(rng)
    means = kernel_means(real, fake, GaussianKernel())
    expected = cross_weight * means.cross - means.fake - (cross_weight - 1) * means.real
    found = KernelMMD(cross_weight=cross_weight).discriminator(real, fake)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_bounds_act_on_each_mean_as_published(rng):
    real, fake = scores(rng, d=2), scores(rng, d=2)
    rr, ff, rf = (squared_distances(a, b) for a, b in ((real, real), (fake, fake), (real, fake)))

    def mean(squared):
        kernel = torch.exp(-squared / 2)
        return ((kernel.sum() - kernel.trace()) / (6 * 5)).item()

    repulsive = mean(rr.clamp(max=1.5)) - mean(ff.clamp(min=0.25))
    attractive = 2 * mean(rf.clamp(max=1.5)) - mean(ff.clamp(min=0.25)) - mean(rr.clamp(min=0.25))
    for name, expected in (("rmb", repulsive), ("mgb", attractive)):
        found = make_loss(name).discriminator(real, fake, upper=1.5).item()
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_two_codes_differ_in_the_diagonal_across():
    difference = make_loss("mmd").generator(REAL, FAKE) - mmd2(REAL, FAKE)
    across = torch.exp(-squared_distances(REAL, FAKE) / 2)
    off = (across.sum() - across.trace()) / 6
    assert difference.item() == pytest.approx(2 * (across.mean() - off).item(), abs=1e-12)


@pytest.mark.parametrize("omega", [0.05, 0.3, 0.85])
def test_a_random_scale_gives_equal_distances_the_mean_kernel_that_was_drawn(omega):
    squared = torch.full((4, 4), 3.0, dtype=torch.float64)
    # One equation, solved by its start: exp(-3 beta) = omega.
    assert scale_for(squared, omega).item() == pytest.approx(-math.log(omega) / 3)


def test_a_random_scale_comes_near_the_mean_kernel_that_was_drawn(rng):
    squared = squared_distances(scores(rng, n=40), scores(rng, n=40))
    kernel = torch.exp(-scale_for(squared, 0.3) * squared)
    mean = (kernel.sum() - kernel.trace()) / (40 * 39)
    assert mean.item() == pytest.approx(0.3, abs=1e-3)  # after three steps of Newton


def test_a_scale_that_does_not_exist_is_a_number_all_the_same():
    squared = torch.zeros(4, 4)
    squared[0, 1:] = 1e4  # three quarters of the pairs coincide: their mean kernel is 0.75
    assert scale_for(squared, 0.05).isfinite()


def test_the_discrepancy_to_a_normal_distribution_is_that_of_samples_from_it(rng):
    d, omega, center = 3, 0.4, 0.5
    x = torch.randn(50, d, generator=rng, dtype=torch.float64) * 2
    drawn = torch.randn(2000, d, generator=rng, dtype=torch.float64) * (2 * d) ** -0.5 + center
    across = squared_distances(x, drawn)
    low, high = 0.0, 10.0
    for _ in range(60):  # bisection for the scale
        beta = (low + high) / 2
        low, high = (beta, high) if torch.exp(-beta * across).mean() > omega else (low, beta)

    def off(squared):
        kernel = torch.exp(-beta * squared)
        n = len(kernel)
        return (kernel.sum() - kernel.trace()) / (n * (n - 1))

    expected = off(squared_distances(x, x)) + off(squared_distances(drawn, drawn)) - 2 * omega
    # 2000 draws know a mean kernel to about 0.01.
    assert normal_discrepancy(x, omega, center).item() == pytest.approx(expected.item(), abs=0.03)


def test_random_scale_losses_are_sums_of_their_discrepancies(monkeypatch, rng):
    real, fake = scores(rng), scores(rng)
    monkeypatch.setattr("nas_gan.losses.mmd.OMEGA", (0.4, 0.4))  # the scale drawn is known

    def between(a, b):
        beta = scale_for(squared_distances(real, fake), 0.4)
        means = kernel_means(a, b, lambda squared: torch.exp(-beta * squared))
        return means.discrepancy.item()

    pair = between(real, fake)
    r, g = normal_discrepancy(real, 0.4).item(), normal_discrepancy(fake, 0.4).item()
    r_up = normal_discrepancy(real, 0.4, 0.5).item()
    g_down = normal_discrepancy(fake, 0.4, -0.5).item()
    expected = {
        "rand_g": (r - pair, pair),
        "rand_g_mix": (r - pair, pair),
        "sym_rg_mix": (r - g - pair, pair + g),
        "sym_rg": ((r_up + g_down) / 2 - pair, pair),
        "instance_noise": (r - pair, pair),
    }
    for name, values in expected.items():
        loss = make_loss(name)
        found = loss.discriminator(real, fake).item(), loss.generator(real, fake).item()
        assert found == pytest.approx(values, abs=1e-12), name


def test_the_bounded_random_scale_keeps_distances_between_its_bounds():
    # Nearly coincident scores ask for a beta in the thousands, whatever mean kernel is drawn.
    loss = make_loss("rgb")
    for _ in range(20):
        value = loss.discriminator(TWO_REAL / 100, TWO_FAKE / 100).item()
        # So it is 2, and distances within a set are 0.125 / 2 at least.
        within = math.exp(-2 * 0.0625)
        across = (math.exp(-2 * 1e-4) + math.exp(-2 * 9e-4)) / 2
        assert value == pytest.approx(-(2 * within - 2 * across), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["equal", "coincident", "far apart", "apart"])
def test_every_loss_has_finite_gradients_everywhere(name, case, rng):
    real, fake = scores(rng), scores(rng)
    if case == "equal":
        fake = real.detach().clone().requires_grad_()
    elif case == "coincident":
        real = torch.zeros(6, 16, dtype=torch.float64, requires_grad=True)
        fake = torch.zeros(6, 16, dtype=torch.float64, requires_grad=True)
    elif case == "far apart":
        fake = scores(rng, scale=1e6)
    loss = make_loss(name)
    for _ in range(3):
        total = loss.generator(real, fake) + loss.discriminator(real, fake)
        total.backward()
        assert total.isfinite()
        assert fake.grad.isfinite().all()
        assert real.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_goes_on_exactly_from_its_state(name, rng):
    real, fake = scores(rng), scores(rng, scale=3.0)

    def play(loss, n):
        return [loss.discriminator(real, fake).item() for _ in range(n)]

    whole, first, second = make_loss(name), make_loss(name), make_loss(name)
    expected = play(whole, 6)
    assert play(first, 3) == expected[:3]
    second.load_state_dict(first.state_dict())
    assert play(second, 3) == expected[3:]


def test_the_state_of_another_loss_is_refused():
    with pytest.raises(InvalidValueError, match="HingeLoss keeps no state; got draws"):
        make_loss("hinge").load_state_dict(make_loss("logistic").state_dict())


def test_a_level_rises_while_the_averaged_loss_is_above_its_threshold():
    feedback = Feedback(threshold=0.2, rate=0.01, cap=0.5)
    feedback.observe(100.0)
    assert feedback.average == pytest.approx(1.0)  # 0.99 * 0 + 0.01 * 100
    assert feedback.level == pytest.approx(0.008)  # 0.01 * (1 - 0.2)
    for _ in range(1000):
        feedback.observe(100.0)
    assert feedback.level == 0.5
    for _ in range(3000):
        feedback.observe(0.0)
    assert feedback.level == 0


def test_mixing_swaps_whole_scores_and_loses_none():
    mixing = Mixing(0.0, Draws(0))
    mixing.feedback.level = 0.5
    real, fake = torch.ones(1000, 2), torch.zeros(1000, 2)
    mixed_real, mixed_fake = mixing(real, fake, torch.tensor(0.0))
    assert torch.equal(mixed_real + mixed_fake, torch.ones(1000, 2))
    assert torch.equal(mixed_real[:, 0], mixed_real[:, 1])
    # 1000 fair coins: within 5 standard errors of a half.
    assert abs(mixed_real.mean().item() - 0.5) < 5 * (0.25 / 1000) ** 0.5


@pytest.mark.parametrize("criterion", ["cross_entropy", "probability"])
def test_soft_labels_by_hand(criterion):
    p, q = 0.8, 0.3
    loss = LabelLoss(criterion, real=0.9, fake=0.1, generator_label=0.95)
    real, fake = torch.tensor([[p]]).double(), torch.tensor([[q]]).double()
    if criterion == "cross_entropy":
        real, fake = real.logit(), fake.logit()

    def entropy(value, label):
        return -label * math.log(value) - (1 - label) * math.log(1 - value)

    expected = entropy(p, 0.9) + entropy(q, 0.1)
    assert loss.discriminator(real, fake).item() == pytest.approx(expected)
    assert loss.generator(real, fake).item() == pytest.approx(entropy(q, 0.95))


def test_labels_from_a_range_are_drawn_for_every_score():
    loss = LabelLoss("least_squares", real=(0.7, 1.0))
    # The slope of the loss at score 0 is minus the label over the number of scores.
    real = torch.zeros(500, 1, dtype=torch.float64, requires_grad=True)
    loss.discriminator(real, torch.zeros(1, 1)).backward()
    assert real.grad is not None
    labels = -real.grad * 500
    assert 0.7 <= labels.min() < 0.72
    assert 0.98 < labels.max() < 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WassersteinLoss(), "needs a gradient penalty or weight clipping"),
        (lambda: LabelLoss(real=1.2), "label real of a cross entropy must be in"),
        (lambda: LabelLoss(fake=(0.3, 0.1)), "range that rises"),
        (lambda: GaussianKernel((1.0, 0.0)), "sigmas above 0"),
        (lambda: StudentKernel(beta=0.0), "alphas and beta above 0"),
        (lambda: KernelMMD(seed=-1), "seed"),
    ],
)
def test_a_loss_that_cannot_train_is_refused(make, message):
    with pytest.raises(InvalidValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["latest", "mmd", "mgb", "rand_g"])
def test_the_health_of_a_kernel_loss_is_its_mean_kernels(name):
    health = make_loss(name).health(TWO_REAL, TWO_FAKE)
    assert health == pytest.approx(
        {"kernel/real": e(4), "kernel/fake": e(4), "kernel/cross": CROSS}
    )


def test_health_is_for_one_kernel_of_a_mixture():
    health = make_loss("mmd_g").health(TWO_REAL, TWO_REAL[[0, 0]])
    assert health["kernel/fake"] == pytest.approx(1)


def test_the_health_of_other_losses_is_their_mean_scores():
    assert HingeLoss().health(TWO_REAL, TWO_FAKE) == {"score/real": 1.0, "score/fake": 0.0}


def test_the_cramer_kernel_is_minus_the_distance():
    assert CramerKernel()(torch.tensor([4.0, 9.0])).tolist() == [-2, -3]
