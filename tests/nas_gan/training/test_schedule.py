from nas_gan.training.schedule import Schedule
from nas_gan.training.skipping import DynamicSkipping


def turns(schedule, n):
    """The updates among the first `n` in which generator and discriminator take part."""
    return (
        [index for index in range(n) if schedule.generator_is_due(index)],
        [index for index in range(n) if schedule.discriminator_is_due(index)],
    )


def test_the_generator_waits_for_its_critic_and_never_the_other_way_round():
    assert turns(Schedule(6, 2, n_critic=3), 6) == ([2, 5], [0, 1, 2, 3, 4, 5])
    assert turns(Schedule(6, 2, d_every=2), 6) == ([0, 1, 2, 3, 4, 5], [1, 3, 5])


def test_a_run_of_eight_updates_in_epochs_of_three():
    schedule = Schedule(n_steps=8, updates_per_epoch=3)
    assert [schedule.epoch(index) for index in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [schedule.fraction(index) for index in (0, 2, 8)] == [0, 0.25, 1]


def test_an_update_that_is_skipped_is_not_due_and_counts_once():
    skipping = DynamicSkipping(first=2, seed=0)
    skipping.average = 1e9  # none that may be left out is made
    assert turns(Schedule(4, 4, d_skipping=skipping), 4) == ([0, 1, 2, 3], [0, 1])
    assert skipping.skipped == 2
