"""Where the poses of a source lie far apart, in time or in space."""

import math
from collections import deque

from geometry_msgs.msg import Point, Quaternion, Vector3

from bisenet_ros.costmap.geometry import is_jump
from bisenet_ros.costmap.semantic_costmap import JUMP_BACK

# The latest.
GAPS_KEPT = 100


class PoseGaps:
    """
    Remembers where a source of poses had a gap; between two such poses a robot may be anywhere.

    A gap is a silence, or a step or turn that is no motion. The source may have begun anew there,
    at another place; but not if it is always as slow. It has, too, where stamps go back by more
    than a message or two: then a source was started again.

    Written by one thread, read by others. Instants are stamps in nanoseconds.

    :param largest: between two stamps that follow each other, seconds.
    :ivar last: the latest stamp, None before the first.
    """

    def __init__(self, largest: float) -> None:
        self._largest = largest * 1e9
        # (before, after, what happened) between two stamps.
        self._gaps: deque[tuple[int, int, str]] = deque(maxlen=GAPS_KEPT)
        # Those at which the source may have begun anew.
        self._breaks: deque[tuple[int, int]] = deque(maxlen=GAPS_KEPT)
        self._pace = 0
        self._went_back = False
        self._pose: tuple[Point | Vector3, Quaternion] | None = None
        self.last: int | None = None

    def add(self, instant: int, position: Point | Vector3, orientation: Quaternion) -> bool:
        """
        Take the next pose, metres; return whether time jumped back, and all before is forgotten.

        A pose a message or two late changes nothing.
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
        self._breaks.clear()
        if self.last is not None:
            # An image just before it was placed by what was told before.
            self._breaks.append((instant, instant))
        self._pace, self._went_back = 0, False
        self.last, self._pose = instant, pose

    def _note_gap(self, instant, elapsed, pose):
        """Note what happened between the last pose and the next, nanoseconds later, if it did."""
        jumped = self._went_back or _is_jump(self._pose, pose, elapsed * 1e-9)
        if jumped:
            self._gaps.append((self.last, instant, 'jumped, in place or time,'))
        elif elapsed > self._largest:
            self._gaps.append((self.last, instant, f'was silent for {elapsed * 1e-9:.2f} s'))
        if jumped or elapsed > max(self._largest, 2 * self._pace):
            self._breaks.append((self.last, instant))

    def around(self, instant: int) -> str:
        """Return what the source did in the gap that an instant lies in; '' if it is in none."""
        return next((what for before, after, what in reversed(list(self._gaps))
                     if before < instant < after), '')

    def may_have_begun_anew(self, start: float, end: float) -> bool:
        """Return whether it may have between two instants, ns, that lie in no gap."""
        return any(start < (before + after) // 2 <= end for before, after in list(self._breaks))


def _is_jump(start, end, seconds):
    """Return whether no robot gets from one (position, orientation) to the other so fast."""
    (start_position, start_turn), (end_position, end_turn) = start, end
    step = math.dist((start_position.x, start_position.y, start_position.z),
                     (end_position.x, end_position.y, end_position.z))
    q, r = ((turn.x, turn.y, turn.z, turn.w) for turn in (start_turn, end_turn))
    # Of any length: tf2 refuses what is no rotation, but only later.
    cosine = abs(sum(a * b for a, b in zip(q, r)))
    sine = math.sqrt(max(0.0, (math.hypot(*q) * math.hypot(*r)) ** 2 - cosine ** 2))
    return is_jump(step, 2 * math.atan2(sine, cosine), seconds)
