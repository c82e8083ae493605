"""A TF buffer that knows when time jumped back and when a transform was silent."""

from collections import defaultdict

import tf2_ros
from geometry_msgs.msg import TransformStamped

from bisenet_ros.costmap.semantic_costmap import JUMP_BACK
from bisenet_ros.node.stamp_gaps import StampGaps
from bisenet_ros.node.stamps import nanoseconds


class TransformBuffer(tf2_ros.Buffer):
    """
    A tf2 buffer that forgets the moving transforms when time jumps back, and remembers gaps.

    One transform in use that jumps back is enough; what nobody uses here may be late.

    Time jumps back where a bag loops or a simulation starts again. tf2 would mix the new ones with
    the old, and refuse those older than its cache of 10 s. tf2_ros clears it only when a simulated
    clock jumps, which not every bag comes with.

    :param largest_gap: between two transforms that are taken for one motion, seconds.
    """

    def __init__(self, largest_gap: float) -> None:
        super().__init__()
        self._parents: dict[str, str] = {}
        self._used: set[tuple[str, str]] = set()
        # Of each child frame that moves.
        self._stamps: dict[str, StampGaps] = defaultdict(lambda: StampGaps(largest_gap))

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Add a moving transform; called by tf2_ros.TransformListener."""
        child, instant = transform.child_frame_id, nanoseconds(transform.header.stamp)
        last = self._stamps[child].last
        if last is not None and last - instant > JUMP_BACK * 1e9 and self._is_of_use(child):
            self.clear()
            self._stamps.clear()
        self._stamps[child].add(instant)
        self._parents[child] = transform.header.frame_id
        super().set_transform(transform, authority)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Add a fixed transform; called by tf2_ros.TransformListener."""
        self._parents[transform.child_frame_id] = transform.header.frame_id
        super().set_transform_static(transform, authority)

    def silence(self, frame: str, child: str, instant: int) -> float:
        """
        Return for how long nothing was told of where `child` was in `frame` around an instant.

        tf2 draws a straight line across such a gap, however long.

        :param instant: nanoseconds.
        :returns: seconds, 0 where there is no gap longer than largest_gap.
        """
        return max((stamps.around(instant) for stamps in self._stamps_between(frame, child)),
                   default=0.0)

    def was_silent_between(self, frame: str, child: str, start: float, end: float) -> bool:
        """Return whether a transform was silent, see StampGaps, between two instants, ns."""
        return any(stamps.silent_between(start, end)
                   for stamps in self._stamps_between(frame, child))

    def newest(self, frame: str, child: str) -> int | None:
        """Return up to which instant, ns, all is told about a pose; None if nothing moves it."""
        return min((stamps.last for stamps in self._stamps_between(frame, child)), default=None)

    def use(self, frame: str, child: str) -> None:
        """Say that the pose of `child` in `frame` is wanted: only jumps on the way to it count."""
        self._used.add((frame, child))

    def _is_of_use(self, child: str) -> bool:
        """Return whether a transform is on the way of a pose that is wanted, or none is yet."""
        return not self._used or any(child in self._links(*pair) for pair in list(self._used))

    def _stamps_between(self, frame: str, child: str) -> list[StampGaps]:
        """Return the stamps of what moves on the way between two frames."""
        moving = map(self._stamps.get, self._links(frame, child))
        return [stamps for stamps in moving if stamps is not None and stamps.last is not None]

    def _links(self, frame: str, child: str) -> set[str]:
        """Return the children of the transforms on the way between two frames."""
        return self._way_up(child) ^ self._way_up(frame)

    def _way_up(self, child: str) -> set[str]:
        """Return the children of the transforms from child up to the root."""
        way = set()
        while child in self._parents and child not in way:
            way.add(child)
            child = self._parents[child]
        return way
