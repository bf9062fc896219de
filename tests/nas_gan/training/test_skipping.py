import pytest

from nas_gan.errors import InvalidValueError
from nas_gan.training.skipping import DynamicSkipping


def test_nothing_is_left_out_before_the_first_index_or_while_the_generator_keeps_up():
    skipping = DynamicSkipping(100, seed=0)
    skipping.average = 10.0
    assert not any(skipping.skips(index) for index in range(100))
    skipping.average = 0.1
    assert not any(skipping.skips(index) for index in range(100, 1100))
    assert skipping.skipped == 0


def test_the_share_of_updates_follows_the_averaged_loss():
    skipping = DynamicSkipping(0, seed=1)
    skipping.average = 0.4
    made = sum(not skipping.skips(index) for index in range(4000))
    # 0.1 / 0.4 of 4000 coins: 1000, with a deviation of 27.
    assert abs(made - 1000) < 5 * 27
    assert skipping.skipped == 4000 - made


def test_the_average_forgets_a_hundredth_an_update():
    skipping = DynamicSkipping(0, seed=0)
    for loss in (1.0, 3.0):
        skipping.observe(loss)
    assert skipping.average == pytest.approx(0.01 * 1 * 0.99 + 0.01 * 3)
    assert DynamicSkipping(0, seed=0).probability == 1


def test_it_goes_on_from_its_state_with_the_same_coins():
    whole, first = DynamicSkipping(3, seed=7), DynamicSkipping(3, seed=7)
    losses = [0.5 + index / 10 for index in range(60)]

    def run(skipping, indices):
        found = []
        for index in indices:
            found.append(skipping.skips(index))
            skipping.observe(losses[index])
        return found

    expected = run(whole, range(60))
    run(first, range(30))
    second = DynamicSkipping(3, seed=7)
    second.load_state_dict(first.state_dict())
    assert run(second, range(30, 60)) == expected[30:]
    assert second.state_dict() == whole.state_dict()
    assert any(expected)


def test_a_negative_start_is_refused():
    with pytest.raises(InvalidValueError, match="d_skip_from must be at least 0; got -1"):
        DynamicSkipping(-1, seed=0)
