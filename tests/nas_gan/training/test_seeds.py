from nas_gan.training.seeds import Stream


def test_no_two_streams_are_the_same():
    offsets = [int(stream) for stream in Stream.__members__.values()]
    assert sorted(offsets) == list(range(len(offsets)))
