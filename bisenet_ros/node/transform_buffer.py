"""A TF buffer for time that jumps back: a bag that loops, a simulation that starts again."""

import tf2_ros
from geometry_msgs.msg import TransformStamped

from bisenet_ros.costmap.semantic_costmap import JUMP_BACK
from bisenet_ros.node.stamps import nanoseconds


class TransformBuffer(tf2_ros.Buffer):
    """
    A tf2 buffer that forgets the moving transforms when time jumps back.

    tf2 would mix the new ones with the old, and refuse those older than its cache of 10 s.
    tf2_ros clears it only when a simulated clock jumps, which not every bag comes with.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, int] = {}

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Add a moving transform; called by tf2_ros.TransformListener."""
        instant = nanoseconds(transform.header.stamp)
        if self._last.get(transform.child_frame_id, 0) - instant > JUMP_BACK * 1e9:
            self.clear()
            self._last.clear()
        self._last[transform.child_frame_id] = instant
        super().set_transform(transform, authority)
