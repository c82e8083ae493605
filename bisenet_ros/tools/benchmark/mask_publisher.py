"""A publisher of masks and nothing else."""

import numpy as np
import rclpy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from bisenet_ros.node.image_conversion import to_image_message
from bisenet_ros.node.outputs import IMAGE_QOS
from bisenet_ros.transport import free_domain_id


class MaskPublisher:
    """Publishes masks as the node does, in a domain of its own: a robot may listen to this one."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=free_domain_id())
        node = rclpy.create_node('mask_publisher', context=self._context,
                                 start_parameter_services=False)
        self._publisher = node.create_publisher(Image, 'segmentation/mask', IMAGE_QOS)

    def publish(self, class_ids: np.ndarray) -> None:
        """Publish a mask (H, W) uint8."""
        self._publisher.publish(to_image_message(class_ids, 'mono8', Header()))

    def close(self) -> None:
        """Leave the graph."""
        self._context.shutdown()
