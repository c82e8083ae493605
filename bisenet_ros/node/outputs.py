"""The topics of one camera's segmentation; each message is built only if somebody subscribes."""

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from bisenet_ros.node.camera_info import scaled_camera_info
from bisenet_ros.node.camera_input import Frame
from bisenet_ros.node.image_conversion import ColorImage, to_image_message
from bisenet_ros.segmentation import LabelSet, Segmentation, color_mask, overlay

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = None

# Reliable, because RViz's Image display asks for it; volatile, because an old mask is of no use.
IMAGE_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                         durability=DurabilityPolicy.TRANSIENT_LOCAL)


class SegmentationOutputs:
    """Publishers of mask, confidence, colour mask, overlay and calibration of one camera."""

    def __init__(self, node: LifecycleNode, camera: str, label_set: LabelSet) -> None:
        self._node = node
        self._label_set = label_set
        prefix = f'segmentation/{camera}/' if camera else 'segmentation/'

        def image_publisher(name: str) -> Publisher:
            return node.create_publisher(Image, prefix + name, IMAGE_QOS)

        self._mask = image_publisher('mask')
        self._confidence = image_publisher('confidence')
        self._color_mask = image_publisher('color_mask')
        self._overlay = image_publisher('overlay')
        self._camera_info = node.create_publisher(CameraInfo, prefix + 'camera_info', IMAGE_QOS)
        self._publishers = (
            self._mask, self._confidence, self._color_mask, self._overlay, self._camera_info)

    def destroy(self) -> None:
        """Take the topics off the graph."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def wanted(self) -> bool:
        """Return whether anybody subscribes to anything here."""
        return any(publisher.get_subscription_count() for publisher in self._publishers)

    def confidence_wanted(self) -> bool:
        """Return whether anybody subscribes to the confidence, which costs extra on a CPU."""
        return self._confidence.get_subscription_count() > 0

    def publish(self, frame: Frame, image: ColorImage, segmentation: Segmentation,
                overlay_alpha: float) -> None:
        """Publish one frame's segmentation; every message has the input's header unchanged."""
        header = frame.message.header
        class_ids = segmentation.class_ids
        # It is missing if somebody subscribed only after the image was segmented.
        if segmentation.confidence is not None and self.confidence_wanted():
            self._confidence.publish(to_image_message(segmentation.confidence, 'mono8', header))
        if self._mask.get_subscription_count():
            self._mask.publish(to_image_message(class_ids, 'mono8', header))
        if self._color_mask.get_subscription_count():
            colors = color_mask(class_ids, self._label_set)
            self._color_mask.publish(to_image_message(colors, 'rgb8', header))
        if self._overlay.get_subscription_count():
            blended = overlay(_rgb_of_size(image, class_ids.shape), class_ids, self._label_set,
                              overlay_alpha)
            self._overlay.publish(to_image_message(blended, 'rgb8', header))

    def publish_camera_info(self, frame: Frame, image_size: tuple[int, int],
                            mask_size: tuple[int, int]) -> None:
        """
        Publish the calibration of one frame's mask; sizes are (width, height).

        :raises CalibrationError: if the frame's calibration does not fit its image.
        """
        if frame.camera_info is not None and self._camera_info.get_subscription_count():
            self._camera_info.publish(scaled_camera_info(
                frame.camera_info, frame.message.header, image_size, mask_size,
                frame.rectified))


class LabelInfoOutput:
    """
    The latched list of classes, published before any mask.

    A mask without it crashes the process that runs Nav2's semantic segmentation layer.
    """

    def __init__(self, node: LifecycleNode, label_set: LabelSet) -> None:
        self._node = node
        self._label_set = label_set
        self._publisher = None
        if LabelInfo is None:
            node.get_logger().warning(
                'vision_msgs is not installed: segmentation/label_info is off, which Nav2\'s '
                'semantic segmentation layer needs (apt install ros-$ROS_DISTRO-vision-msgs)')
            return
        self._publisher = node.create_publisher(
            LabelInfo, 'segmentation/label_info', LATCHED_QOS)

    def destroy(self) -> None:
        """Take the topic off the graph."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)

    def publish(self, confidence_threshold: float) -> None:
        """Publish the classes, and the probability (0-1) below which a pixel has none."""
        if self._publisher is None:
            return
        message = LabelInfo(threshold=confidence_threshold)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.class_map = [VisionClass(class_id=label.id, class_name=label.name)
                             for label in self._label_set.labels]
        self._publisher.publish(message)


def _rgb_of_size(image: ColorImage, shape: tuple[int, int]) -> np.ndarray:
    pixels = np.ascontiguousarray(image.pixels)
    if pixels.shape[:2] != shape:
        pixels = cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA)
    return ColorImage(pixels, image.channel_order).in_order('rgb')
