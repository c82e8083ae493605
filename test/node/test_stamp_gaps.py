"""Where stamps lie far apart, told by hand."""

from bisenet_ros.node.stamp_gaps import StampGaps

SECOND = 10 ** 9


def gaps(*seconds):
    stamps = StampGaps(0.5)
    for second in seconds:
        stamps.add(round(second * SECOND))
    return stamps


def test_stamps_close_to_each_other_have_no_gap():
    stamps = gaps(1.0, 1.5, 2.0)
    assert stamps.around(round(1.2 * SECOND)) == 0
    assert not stamps.silent_between(0, 3 * SECOND)
    assert stamps.last == 2 * SECOND


def test_a_gap_is_found_by_what_lies_in_it_and_around_it():
    stamps = gaps(1.0, 1.4, 3.0, 3.4)
    assert stamps.around(2 * SECOND) == 1.6
    assert stamps.around(round(1.4 * SECOND)) == stamps.around(3 * SECOND) == 0
    for start, end in ((0, 4), (1.4, 3.0), (1.2, 3.4)):
        assert stamps.silent_between(start * SECOND, end * SECOND)
    for start, end in ((0, 1.4), (3.0, 4), (3.4, 1.0)):
        assert not stamps.silent_between(start * SECOND, end * SECOND)
    # Seconds as a float may be off by a little.
    assert stamps.silent_between(1.4 * SECOND + 200, 3 * SECOND - 200)
    assert not stamps.silent_between(3 * SECOND - 200, 4 * SECOND)


def test_a_slow_source_is_not_silent():
    """But for the first time: nobody knows its pace yet."""
    stamps = gaps(1.0, 2.0, 3.1, 4.0, 9.0)
    assert stamps.around(round(2.5 * SECOND)) == 1.1
    assert not stamps.silent_between(2 * SECOND, 4 * SECOND)
    assert stamps.silent_between(4 * SECOND, 9 * SECOND)


def test_stamps_out_of_order_and_none_at_all_make_no_gap():
    assert gaps().last is None and not gaps().silent_between(0, SECOND)
    stamps = gaps(2.0, 1.0, 2.4)
    assert stamps.last == round(2.4 * SECOND) and not stamps.silent_between(0, 3 * SECOND)
