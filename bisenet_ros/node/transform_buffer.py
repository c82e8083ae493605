"""A TF buffer that knows when time jumped back, and when a transform jumped or was silent."""

import math
import time
from collections import defaultdict

import tf2_ros
from geometry_msgs.msg import TransformStamped

from bisenet_ros.node.faults import LOG_THROTTLE
from bisenet_ros.node.pose_gaps import PoseGaps
from bisenet_ros.node.stamps import nanoseconds

# How far from 1 the squared length of a quaternion may be for tf2 to accept it
# (tf2/src/buffer_core.cpp).
_LENGTH_TOLERANCE = 0.01


class TransformBuffer(tf2_ros.Buffer):
    """
    A tf2 buffer that forgets all moving transforms when time jumps back, and remembers gaps.

    Time jumps back when a bag loops or a simulation is restarted. tf2 would mix the new transforms
    with the old ones, and refuse those older than its cache of 10 s. tf2_ros clears its buffer
    only when a simulated clock jumps, and not every bag comes with one. Here it is enough that
    the stamps of one watched transform jump back; those of others may just be late.

    :param largest_gap: longest time (s) between two transforms that still count as one motion.
    """

    def __init__(self, largest_gap: float) -> None:
        super().__init__()
        self._parents: dict[str, str] = {}
        self._watched: set[tuple[str, str]] = set()
        # By child frame, for transforms that move.
        self._gaps: dict[str, PoseGaps] = defaultdict(lambda: PoseGaps(largest_gap))
        # Child frames whose last transform was not valid, and when tf2 may log that again.
        self._refused: set[str] = set()
        self._next_log: dict[str, float] = {}

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Add a moving transform, if not late; called by tf2_ros.TransformListener."""
        parent, child = _frames(transform)
        if not _is_taken(transform, parent, child):
            # Not added to the gaps: a source that sends invalid poses counts as silent.
            self._refuse(transform, authority, parent, child)
            return
        self._refused.discard(child)
        instant = nanoseconds(transform.header.stamp)
        gaps, pose = self._gaps[child], transform.transform
        if gaps.add(instant, pose.translation, pose.rotation) and self._is_watched(child):
            self.clear()
            self._gaps.clear()
            self._gaps[child] = gaps
        if instant < gaps.last:
            # The source was restarted; tf2 would mix this with what it sent before.
            return
        self._parents[child] = parent
        super().set_transform(transform, authority)

    def _refuse(self, transform: TransformStamped, authority: str, parent: str,
                child: str) -> None:
        self._refused.add(child)
        if '' not in (parent, child):
            self._parents.setdefault(child, parent)  # so that `refused` finds the link
        now = time.monotonic()
        if now >= self._next_log.get(child, -math.inf) and not _is_infinite(transform):
            self._next_log[child] = now + LOG_THROTTLE
            super().set_transform(transform, authority)  # tf2 refuses it, and logs why.

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Add a fixed transform; called by tf2_ros.TransformListener."""
        parent, child = _frames(transform)
        self._parents[child] = parent
        super().set_transform_static(transform, authority)

    def gap(self, frame: str, child: str, instant: int) -> str:
        """
        Return what happened to the pose of `child` in `frame` around an instant, see PoseGaps.

        tf2 interpolates straight across a gap, however long or wide it is.

        :param instant: nanoseconds.
        :returns: '' where there is no gap.
        """
        return next(filter(None, (
            gaps.around(instant) for gaps in self._gaps_between(frame, child))), '')

    def may_have_begun_anew(self, frame: str, child: str, start: float, end: float) -> bool:
        """Return whether a source may have begun anew between two instants (ns); see PoseGaps."""
        return any(gaps.may_have_begun_anew(start, end)
                   for gaps in self._gaps_between(frame, child))

    def newest(self, frame: str, child: str) -> int | None:
        """Return the last instant (ns) at which the pose is known; None if it never changes."""
        return min((gaps.last for gaps in self._gaps_between(frame, child)), default=None)

    def refused(self, frame: str, child: str) -> list[str]:
        """Return the child frames between two frames whose last transform was not valid."""
        return sorted(self._refused & self._links(frame, child))

    def watch(self, frame: str, child: str) -> None:
        """Note that the pose of `child` in `frame` is used: only jumps of its transforms count."""
        self._watched.add((frame, child))

    def _is_watched(self, child: str) -> bool:
        """Return whether a transform is part of a watched pose, or no pose is watched yet."""
        return not self._watched or any(
            child in self._links(*pair) for pair in list(self._watched))

    def _gaps_between(self, frame: str, child: str) -> list[PoseGaps]:
        """Return the gaps of the moving transforms between two frames."""
        moving = map(self._gaps.get, self._links(frame, child))
        return [gaps for gaps in moving if gaps is not None and gaps.last is not None]

    def _links(self, frame: str, child: str) -> set[str]:
        """Return the child frames of the transforms between two frames."""
        return self._way_up(child) ^ self._way_up(frame)

    def _way_up(self, child: str) -> set[str]:
        """Return the child frames of the transforms from `child` up to the root."""
        way = set()
        while child in self._parents and child not in way:
            way.add(child)
            child = self._parents[child]
        return way


def _frames(transform: TransformStamped) -> tuple[str, str]:
    """Return the names of parent and child as tf2 reads them: without a slash in front."""
    return (transform.header.frame_id.removeprefix('/'),
            transform.child_frame_id.removeprefix('/'))


def _is_infinite(transform: TransformStamped) -> bool:
    translation = transform.transform.translation
    return any(map(math.isinf, (translation.x, translation.y, translation.z)))


def _is_taken(transform: TransformStamped, parent: str, child: str) -> bool:
    """Return whether a transform is finite, and one that tf2 accepts."""
    translation, rotation = transform.transform.translation, transform.transform.rotation
    quaternion = rotation.x, rotation.y, rotation.z, rotation.w
    return (parent != child and '' not in (parent, child)
            and all(map(math.isfinite, (translation.x, translation.y, translation.z)))
            and abs(sum(value * value for value in quaternion) - 1) < _LENGTH_TOLERANCE)
