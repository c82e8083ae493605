"""Gaps found in short, hand-made sequences of poses."""

import math

import pytest

geometry_msgs = pytest.importorskip('geometry_msgs.msg', reason='needs ROS 2')

from bisenet_ros.node.pose_gaps import PoseGaps  # noqa: E402

SECOND = 10 ** 9


def gaps(*seconds):
    """Return the gaps of a robot that stands still."""
    return gaps_of(*((second, 0.0, 0.0) for second in seconds))


def gaps_of(*poses):
    """Return the gaps of poses at (seconds, x, yaw)."""
    found = PoseGaps(0.5)
    for second, x, yaw in poses:
        found.add(round(second * SECOND), geometry_msgs.Point(x=x),
                  geometry_msgs.Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2)))
    return found


def around(found, second):
    return found.around(round(second * SECOND))


def test_poses_close_to_each_other_have_no_gap():
    found = gaps_of((1.0, 0.0, 0.0), (1.1, 1.5, -0.4), (1.2, 0.0, 0.2))
    assert around(found, 1.15) == ''
    assert not found.may_have_begun_anew(SECOND, 3 * SECOND)
    assert found.last == 12 * SECOND // 10


def test_a_gap_is_found_by_what_lies_in_it_and_around_it():
    found = gaps(1.0, 1.4, 3.0, 3.4)
    assert around(found, 2.0) == 'was silent for 1.60 s'
    assert around(found, 1.4) == around(found, 3.0) == ''
    for start, end in ((1.0, 4), (1.4, 3.0), (1.2, 3.4)):
        assert found.may_have_begun_anew(start * SECOND, end * SECOND)
    for start, end in ((1.0, 1.4), (3.0, 4), (3.4, 1.0)):
        assert not found.may_have_begun_anew(start * SECOND, end * SECOND)
    # Seconds as a float may be off by a little.
    assert found.may_have_begun_anew(1.4 * SECOND + 200, 3 * SECOND - 200)
    assert not found.may_have_begun_anew(3 * SECOND - 200, 4 * SECOND)


def test_a_slow_source_is_not_silent():
    """Except at first, while nobody knows its pace yet."""
    found = gaps(1.0, 2.0, 3.1, 4.0, 9.0)
    assert around(found, 2.5) == 'was silent for 1.10 s'
    assert not found.may_have_begun_anew(2 * SECOND, 4 * SECOND)
    assert found.may_have_begun_anew(4 * SECOND, 9 * SECOND)


@pytest.mark.parametrize('x, yaw, seconds, jumps', [
    (1.9, 0.0, 0.1, True), (1.7, 0.0, 0.1, False), (-1.9, 0.0, 0.1, True), (1.9, 0.0, 0.2, False),
    (0.0, 0.8, 0.1, True), (0.0, 0.6, 0.1, False), (0.0, -3.0, 0.1, True)])
@pytest.mark.parametrize('heading', [0.0, 3.1, -1.5])
def test_faster_than_a_robot_is_a_gap_however_short(x, yaw, seconds, jumps, heading):
    """Too fast is more than 0.3 m and 15 m/s, or more than 0.2 rad and 5 rad/s."""
    before, after = (5.0, heading), (5.0 + x, heading + yaw)
    found = gaps_of(
        (0.9, *before), (1.0, *before), (1.0 + seconds, *after), (1.1 + seconds, *after))
    assert ('jumped' in around(found, 1.0 + seconds / 2)) == jumps
    assert found.may_have_begun_anew(SECOND, (1 + seconds) * SECOND) == jumps
    assert not found.may_have_begun_anew(0.9 * SECOND, SECOND)
    assert not found.may_have_begun_anew((1 + seconds) * SECOND, 2 * SECOND)


def test_stamps_that_go_back_by_more_than_two_messages_are_of_a_source_started_again():
    late = gaps(1.0, 1.1, 1.2, 1.0, 1.3)
    assert around(late, 1.25) == '' and not late.may_have_begun_anew(SECOND, 2 * SECOND)
    restarted = gaps(1.0, 1.1, 1.2, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
    assert 'jumped' in around(restarted, 1.25)
    assert restarted.may_have_begun_anew(1.2 * SECOND, 1.3 * SECOND)
    assert not restarted.may_have_begun_anew(1.3 * SECOND, 1.4 * SECOND)


def test_where_time_jumps_back_what_follows_is_no_gap():
    found = gaps(3.0, 3.1)
    assert not found.add(3 * SECOND, geometry_msgs.Point(), geometry_msgs.Quaternion())
    assert found.add(SECOND, geometry_msgs.Point(x=9.0), geometry_msgs.Quaternion())
    found.add(11 * SECOND // 10, geometry_msgs.Point(x=9.0), geometry_msgs.Quaternion())
    assert found.last == 11 * SECOND // 10 and around(found, 1.05) == ''
    assert not found.may_have_begun_anew(SECOND, 4 * SECOND)
    # An image from just before, if there is one, was placed by poses from before the jump.
    assert found.may_have_begun_anew(0.9 * SECOND, SECOND)


def test_an_invalid_rotation_raises_no_error():
    found = gaps(1.0, 1.1)
    for second, number in (1.2, 0.0), (1.3, math.nan), (1.4, math.inf):
        found.add(round(second * SECOND), geometry_msgs.Point(x=number),
                  geometry_msgs.Quaternion(x=number, y=0.0, z=0.0, w=number))
    assert found.last == 14 * SECOND // 10
