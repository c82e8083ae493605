"""Finds where successive poses of a source lie far apart, in time or in space."""

import math
from collections import deque
from typing import NamedTuple

from geometry_msgs.msg import Point, Quaternion, Vector3

from bisenet_ros.costmap.geometry import is_jump
from bisenet_ros.costmap.semantic_costmap import JUMP_BACK

# Only the latest are kept; a source that is always slow has one about every second.
GAPS_KEPT = 1000


class _Gap(NamedTuple):
    """
    What happened between two stamps, nanoseconds.

    :ivar what: in words; '' if before and after are the same, so that no image lies in it.
    :ivar is_break: whether the source may have begun anew there.
    """

    before: int
    after: int
    what: str
    is_break: bool


class PoseGaps:
    """
    Remembers the gaps between a source's poses; within a gap the robot may be anywhere.

    A gap is a silence, or a step or turn that is too fast to be motion. The source may have begun
    anew in it, at another place, unless it is a silence that is usual for a slow source. Stamps
    that go back by more than a message or two count as such a gap: the source was restarted.

    Written by one thread, read by others. Instants are stamps in nanoseconds.

    :param largest: longest time between two successive stamps that is not a silence, seconds.
    :ivar last: the latest stamp, None before the first.
    """

    def __init__(self, largest: float) -> None:
        self._largest = largest * 1e9
        self._gaps: deque[_Gap] = deque(maxlen=GAPS_KEPT)
        self._pace = 0
        self._went_back = False
        self._pose: tuple[Point | Vector3, Quaternion] | None = None
        self.last: int | None = None

    def add(self, instant: int, position: Point | Vector3, orientation: Quaternion) -> bool:
        """
        Add the next pose (m); return whether time jumped back, so that all before is forgotten.

        A pose that comes a message or two late changes nothing.
        """
        pose = position, orientation
        jumped_back = self.last is not None and self.last - instant > JUMP_BACK * 1e9
        if self.last is None or jumped_back:
            self._begin_anew(instant, pose)
            return jumped_back
        elapsed = instant - self.last
        self._went_back |= elapsed < -2 * self._pace
        if elapsed > 0:
            self._note_gap(instant, elapsed, pose)
            self._pace, self._went_back = elapsed, False
            self.last, self._pose = instant, pose
        return False

    def _begin_anew(self, instant, pose):
        self._gaps.clear()
        if self.last is not None:
            # A break, as an image stamped just before was placed by poses from before the jump.
            self._gaps.append(_Gap(instant, instant, '', is_break=True))
        self._pace, self._went_back = 0, False
        self.last, self._pose = instant, pose

    def _note_gap(self, instant, elapsed, pose):
        """Note a gap between the last pose and the next, `elapsed` ns later, if there is one."""
        if self._went_back or _is_jump(self._pose, pose, elapsed * 1e-9):
            what, is_break = 'jumped in place or time', True
        elif elapsed > self._largest:
            what, is_break = f'was silent for {elapsed * 1e-9:.2f} s', elapsed > 2 * self._pace
        else:
            return
        self._gaps.append(_Gap(self.last, instant, what, is_break))

    def around(self, instant: int) -> str:
        """Return what the source did in the gap around an instant; '' if there is no gap."""
        return next((gap.what for gap in reversed(list(self._gaps))
                     if gap.before < instant < gap.after), '')

    def may_have_begun_anew(self, start: float, end: float) -> bool:
        """Return whether the source may have begun anew between two instants outside of gaps."""
        return any(gap.is_break and start < (gap.before + gap.after) // 2 <= end
                   for gap in list(self._gaps))


def _is_jump(start, end, seconds):
    """Return whether no robot gets from one (position, orientation) to the other in that time."""
    (start_position, start_turn), (end_position, end_turn) = start, end
    step = math.dist((start_position.x, start_position.y, start_position.z),
                     (end_position.x, end_position.y, end_position.z))
    q, r = ((turn.x, turn.y, turn.z, turn.w) for turn in (start_turn, end_turn))
    # Quaternions may have any length here: tf2 refuses invalid ones, but only later.
    cosine = abs(sum(a * b for a, b in zip(q, r)))
    sine = math.sqrt(max(0.0, (math.hypot(*q) * math.hypot(*r)) ** 2 - cosine ** 2))
    return is_jump(step, 2 * math.atan2(sine, cosine), seconds)
