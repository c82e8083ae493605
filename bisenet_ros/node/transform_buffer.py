"""A TF buffer for time that jumps back: a bag that loops, a simulation that starts again."""

import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time


class TransformBuffer(tf2_ros.Buffer):
    """
    A tf2 buffer that forgets the moving transforms when time jumps back.

    tf2 would mix the new ones with the old, and refuse those older than its cache of 10 s.
    tf2_ros clears it only when a simulated clock jumps, which not every bag comes with, and in
    Humble not even then.

    :param jump_back: nanoseconds; a transform that much older than the one before of the same
        frame is not just out of order.
    """

    def __init__(self, jump_back: int) -> None:
        super().__init__()
        self._jump_back = jump_back
        self._last: dict[str, int] = {}

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Add a moving transform; called by tf2_ros.TransformListener."""
        instant = Time.from_msg(transform.header.stamp).nanoseconds
        if instant < self._last.get(transform.child_frame_id, 0) - self._jump_back:
            self.clear()
            self._last.clear()
        self._last[transform.child_frame_id] = instant
        super().set_transform(transform, authority)
