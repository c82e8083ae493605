"""
The node's parameters: what each means, its limits, and when a change takes effect.

`config/segment.yaml` has the same names and defaults.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidTopicNameException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from bisenet_ros.segmentation.device import PRECISIONS
from bisenet_ros.segmentation.engine_choice import ENGINES
from bisenet_ros.transport import IMAGE_TOPIC

LARGEST_IMAGE_SIDE = 16384
_CAMERA_NAME = re.compile('[A-Za-z][A-Za-z0-9_]*')


@dataclass(frozen=True)
class ParameterSpecification:
    """
    One parameter.

    :ivar limits: lowest and highest value; for a list, of each element.
    :ivar choices: the strings allowed; empty: any.
    :ivar both_or_none: whether both numbers must be above 0, or both 0 (for a size).
    :ivar topic: whether the value is the name of a topic.
    :ivar live: whether it may be changed while the node is configured.
    :ivar read_only: whether it can only be set at start.
    :ivar type: only needed where the default is an empty list.
    """

    name: str
    default: Any
    description: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    both_or_none: bool = False
    topic: bool = False
    live: bool = False
    read_only: bool = False
    type: Parameter.Type | None = None

    @property
    def parameter_type(self) -> Parameter.Type:
        """Return the type, which an empty list cannot tell by itself."""
        return self.type or Parameter.Type.from_parameter_value(self.default)

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows."""
        if self.read_only:
            timing = 'Read-only: set it at start.'
        elif self.live:
            timing = 'Takes effect at once.'
        else:
            timing = 'Takes effect when the node is configured.'
        descriptor = ParameterDescriptor(
            description=f'{self.description} {timing}',
            type=self.parameter_type.value,
            read_only=self.read_only)
        if self.choices:
            descriptor.additional_constraints = 'one of: ' + ', '.join(self.choices)
        if self.limits and self.parameter_type == Parameter.Type.DOUBLE:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=self.limits[0], to_value=self.limits[1])]
        elif self.limits and self.parameter_type == Parameter.Type.INTEGER:
            descriptor.integer_range = [
                IntegerRange(from_value=self.limits[0], to_value=self.limits[1], step=1)]
        elif self.limits:
            descriptor.additional_constraints = 'each from {} to {}'.format(*self.limits)
        return descriptor

    def fault(self, value: Any) -> str | None:
        """Return why `value` is invalid, or None; the ranges of scalars are checked by rclpy."""
        if self.choices and value not in self.choices:
            return f'{self.name} is {value!r}; it must be one of {", ".join(self.choices)}'
        # The default may be empty, which is not the name of a topic.
        if self.topic and value != self.default and not _is_topic(value):
            return (f'{self.name} is {value!r}, which cannot be the name of a topic: give '
                    'letters, digits and _, in parts between /, none beginning with a digit')
        if isinstance(self.default, (list, tuple)) and self.type is None:
            return self._fault_of_numbers(value)
        return None

    def _fault_of_numbers(self, value: list) -> str | None:
        if len(value) != len(self.default):
            return f'{self.name} needs {len(self.default)} numbers, got {list(value)}'
        if self.limits and not all(self.limits[0] <= v <= self.limits[1] for v in value):
            return (f'{self.name} is {list(value)}; each must lie from {self.limits[0]} '
                    f'to {self.limits[1]}')
        if self.both_or_none and any(value) != all(value):
            return f'{self.name} is {list(value)}; give both numbers, or [0, 0]'
        return None


P = ParameterSpecification

CAMERA_PARAMETERS = (
    P('image_topic', IMAGE_TOPIC,
      'Camera image, sensor_msgs/Image; its CompressedImage sibling is <image_topic>/compressed.',
      topic=True),
    P('camera_info_topic', '',
      'Calibration, sensor_msgs/CameraInfo. Empty: camera_info beside the image topic.',
      topic=True),
    P('image_geometry', 'auto', 'Which part of the calibration describes the image. raw: K and D; '
      'rectified: P; auto: P if the last part of the image topic begins with image_rect, else K '
      'and D.',
      choices=('auto', 'raw', 'rectified')),
)
CAMERA_POSE_PARAMETERS = (
    P('camera_pose.source', 'tf', 'Where the pose of the camera in costmap.base_frame comes '
      'from: TF at the stamp of the image, or xyz and rpy.', choices=('tf', 'parameters')),
    P('camera_pose.xyz', [0.0, 0.0, 1.0],
      'Position of the camera in costmap.base_frame (m), used with source "parameters".',
      limits=(-1000.0, 1000.0)),
    P('camera_pose.rpy', [0.0, 0.0, 0.0],
      'Fixed-axis roll, pitch, yaw (rad) of the camera body frame (x forward, y left, z up) in '
      'costmap.base_frame; pitch > 0 looks down. Used with source "parameters".',
      limits=(-7.0, 7.0)),
)
NODE_PARAMETERS = (
    P('autostart', True, 'Configure and activate at start, without a lifecycle manager.',
      read_only=True),
    P('cameras', [], 'Names of several cameras, each with its own block <camera>.image_topic, '
      '<camera>.camera_info_topic, <camera>.image_geometry, <camera>.camera_pose.*; empty: a '
      'single camera without a name.',
      read_only=True, type=Parameter.Type.STRING_ARRAY),
    P('image_transport', 'raw', 'Transport of the image.', choices=('raw', 'compressed')),
    P('image_reliability', 'auto', 'Reliability of the image subscription; auto follows the '
      'publisher.', choices=('auto', 'reliable', 'best_effort')),
    P('weights', 'auto', 'Name of shipped weights or path of a .safetensors, .pth or .onnx '
      'file; auto: ResNet-18 on a GPU if it is shipped, else Xception39.'),
    P('label_set', 'auto', 'Name of a shipped label set or path of a YAML file; auto: the one '
      'the weights name.'),
    P('device', 'auto', 'auto, cuda, cuda:N or cpu.'),
    P('engine', 'auto', 'What runs the network.', choices=ENGINES),
    P('precision', 'auto', 'Number format of the network.', choices=('auto', *PRECISIONS)),
    P('network_size', [0, 0], 'Width and height at which the network sees the image; '
      '[0, 0]: the aspect of the image, with as many pixels as the weights were trained on or, '
      'if the weights do not tell, as the image has. Multiples of 8, at least 32.',
      limits=(0, LARGEST_IMAGE_SIDE), both_or_none=True),
    P('confidence_threshold', 0.0, 'Pixels whose class is less probable than this become 255 (no '
      'decision). In the costmap, ground in such pixels is unknown; obstacles stay.',
      limits=(0.0, 1.0), live=True),
    P('mask_size', [0, 0], 'Width and height of the mask and of what is published with it; '
      '[0, 0]: those of the input image.', limits=(0, LARGEST_IMAGE_SIDE), both_or_none=True),
    P('overlay_alpha', 0.5, 'Opacity of the class colours in the overlay.',
      limits=(0.0, 1.0), live=True),
    P('max_rate', 0.0, 'Most frames per second taken from each camera (Hz); 0: all.',
      limits=(0.0, 1000.0), live=True),
    P('stale_after', 1.0, 'Longest time (s of the wall clock, also in simulation) since the '
      'arrival of a camera\'s last segmented image. After it, diagnostics warn, or report an '
      'error while somebody listens to the costmap. When it has passed for all cameras, costmaps '
      'become unknown; so they do after costmap.decay_time if that is shorter. An image this '
      'much older than the newest odometry does not count (not in simulation).',
      limits=(0.05, 3600.0), live=True),
    P('costmap.enabled', True, 'Make costmaps from the masks; needs calibration and camera pose.'),
    P('costmap.frame', 'odom', 'Frame of the costmap: the global frame of the Nav2 costmap that '
      'uses it. Without odometry the costmap is in base_frame.'),
    P('costmap.base_frame', 'base_link', 'Frame of the robot, on or above the ground.'),
    P('costmap.ground_z', 0.0, 'Height of the ground in base_frame (m).', limits=(-10.0, 10.0)),
    P('costmap.resolution', 0.05, 'Side of a cell (m).', limits=(0.005, 5.0)),
    P('costmap.size', [10.0, 10.0], 'Size in x and y (m), with the robot at the centre; at most '
      'four million cells.',
      limits=(0.1, 500.0)),
    P('costmap.rate', 10.0, 'How often costmaps are published (Hz).', limits=(0.1, 100.0)),
    P('costmap.min_range', 0.0, 'Ground nearer than this (m) to the point below the camera is '
      'not used, and obstacles there, such as the robot itself, are not marked.',
      limits=(0.0, 100.0)),
    P('costmap.max_range', 8.0, 'Ground farther than this (m) from the point below the camera is '
      'not used; at most 1000 cells.', limits=(0.1, 100.0)),
    P('costmap.max_pixel_footprint', 0.0, 'Ground is unknown where one pixel of the mask covers '
      'more than this (m) of it along the line of sight: there the mask is too coarse. 0: two '
      'cells.',
      limits=(0.0, 100.0)),
    P('costmap.decay_time', 10.0, 'Cells not seen for this long (s) become unknown again.',
      limits=(0.01, 86400.0)),
    P('costmap.obstacle_probability', 0.3, 'Obstacle classes of equal cost that together are at '
      'least this probable set the cost of a cell, even if another class is more probable.',
      limits=(0.01, 1.0)),
    P('costmap.footprint_radius', 0.25, 'Radius (m) around the origin of base_frame within which '
      'the robot stands: obstacles there are removed, and cells not seen are free. Less than '
      'half of costmap.size.',
      limits=(0.0, 100.0)),
    P('costmap.publish_classes', [], 'Names of the classes that get a topic of their own, '
      'segmentation/costmap/<class>.', type=Parameter.Type.STRING_ARRAY),
    P('costmap.odometry.source', 'tf', 'Where the motion of the robot comes from: TF, a '
      'nav_msgs/Odometry topic, or none: then nothing accumulates.',
      choices=('tf', 'topic', 'none')),
    P('costmap.odometry.topic', '/odom', 'nav_msgs/Odometry, used with source "topic".',
      topic=True),
)


class ParameterError(ValueError):
    """A parameter has an invalid value; the text names it and the remedy."""


class Parameters:
    """
    The declared parameters of the node, read by name: `parameters['max_rate']`.

    A wrong value in the launch configuration does not end the node: it is remembered,
    `check()` reports it, and setting the parameter to a valid value makes it go away.

    :ivar configured: set by the node; while true, only live parameters may be changed.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._specifications: dict[str, ParameterSpecification] = {}
        self._faults: dict[str, str] = {}
        self.configured = False
        for specification in NODE_PARAMETERS:
            self._declare(specification)
        cameras = self['cameras']
        if len(set(cameras)) < len(cameras):
            self._faults['cameras'] = f'cameras is {cameras}; give each camera a name of its own'
        if wrong := [name for name in cameras if not _CAMERA_NAME.fullmatch(name)]:
            self._faults['cameras'] = (
                f'cameras has {wrong}; a name becomes part of topics: begin with a letter, then '
                'letters, digits and _ ([] for a single camera); it can only be set at start')
            cameras = [name for name in cameras if name not in wrong]
        for camera in dict.fromkeys(cameras or ['']):
            for specification in CAMERA_PARAMETERS + CAMERA_POSE_PARAMETERS:
                self._declare(_of_camera(specification, camera))
        self._warn_of_what_is_ignored()
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def of_camera(self, camera: str, name: str) -> Any:
        """Return parameter `name` of the camera called `camera` ('' for a single one)."""
        return self[_name_of_camera(name, camera)]

    def check(self) -> None:
        """Raise a ParameterError that names every invalid value, if there is one."""
        faults = dict(self._faults)
        for name, specification in self._specifications.items():
            if name not in faults and (fault := specification.fault(self[name])):
                faults[name] = fault
        if faults:
            raise ParameterError('; '.join(faults.values()))

    def _declare(self, specification: ParameterSpecification) -> None:
        name = specification.name
        # read_only is set last: it would forbid the corrections below.
        descriptor = specification.descriptor()
        descriptor.read_only = False
        try:
            parameter = self._node.declare_parameter(
                name, specification.parameter_type, descriptor)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            self._faults[name] = str(error)
            parameter = self._node.declare_parameter(
                name, specification.parameter_type, descriptor, ignore_override=True)
        if parameter.type_ == Parameter.Type.NOT_SET:
            # Set, not declared as the default: rclpy would take an empty list for a byte array.
            self._node.set_parameters(
                [Parameter(name, specification.parameter_type, specification.default)])
        self._node.set_descriptor(name, specification.descriptor())
        self._specifications[name] = specification

    def _warn_of_what_is_ignored(self) -> None:
        # rclpy ignores values given for parameters that are not declared, and has no public access
        # to them. If a later rclpy keeps them elsewhere, there is no warning.
        for name in getattr(self._node, '_parameter_overrides', {}):
            if not (self._node.has_parameter(name) or name.startswith('qos_overrides.')):
                self._node.get_logger().warning(
                    f'parameter {name} is ignored, because the node has none of this name: is it '
                    "spelt right? With `cameras` set, each camera has its own, such as "
                    '<camera>.image_topic and <camera>.camera_pose.source')

    def _on_set(self, changes: list[Parameter]) -> SetParametersResult:
        for change in changes:
            specification = self._specifications.get(change.name)
            if specification is None:
                continue
            fault = specification.fault(change.value)
            if fault is None and self.configured and not specification.live:
                fault = (f'{change.name} takes effect when the node is configured: clean it up '
                         'first (ros2 lifecycle set <node> deactivate, then cleanup)')
            if fault is not None:
                return SetParametersResult(successful=False, reason=fault)
        for change in changes:
            self._faults.pop(change.name, None)
        return SetParametersResult(successful=True)


def _is_topic(name: str) -> bool:
    try:
        return validate_topic_name(name)
    except InvalidTopicNameException:
        return False


def _name_of_camera(name: str, camera: str) -> str:
    if camera:
        return f'{camera}.{name}'
    return f'costmap.{name}' if name.startswith('camera_pose.') else name


def _of_camera(specification: ParameterSpecification, camera: str) -> ParameterSpecification:
    default = specification.default
    if camera and specification.name == 'image_topic':
        default = f'/{camera}/image_raw'
    return replace(
        specification, name=_name_of_camera(specification.name, camera), default=default)
