"""The lifecycle node: camera images in; masks, their companions and costmaps out."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from std_srvs.srv import SetBool, Trigger

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.costmap.semantic_costmap import CostmapSettings
from bisenet_ros.node.camera_input import CameraInput, Frame
from bisenet_ros.node.costmap_output import CostmapOutput, UnknownCostmap
from bisenet_ros.node.diagnostics import Diagnostics
from bisenet_ros.node.image_conversion import ColorImage, ImageConversionError, to_color_image
from bisenet_ros.node.outputs import LabelInfoOutput, SegmentationOutputs
from bisenet_ros.node.parameters import Parameters
from bisenet_ros.node.poses import RobotPoses, fixed_camera_pose, grid_frame
from bisenet_ros.node.statistics import Rate, Throughput
from bisenet_ros.node.worker import Worker
from bisenet_ros.segmentation import Segmentation, Segmenter
from bisenet_ros.segmentation.postprocess import without_uncertain

WATCH_PERIOD = 0.5
DIAGNOSTICS_PERIOD = 1.0
LOG_THROTTLE = 5.0
LOSS_TO_WARN_OF = 0.2
SEE_LARGE_IMAGES = 'see "Large images" in the README'


class SegmentationNode(LifecycleNode):
    """
    Segments camera images with BiSeNet.

    Configuring loads the weights and puts the topics on the graph; activating subscribes to the
    cameras. Whatever goes wrong with a frame is reported, and the next frame is tried.
    """

    def __init__(self) -> None:
        super().__init__('segmentation')
        self._settings = Parameters(self)
        self._diagnostics = Diagnostics(self)
        self._new_frame = threading.Condition()
        self._inputs: dict[str, CameraInput] = {}
        self._outputs: dict[str, SegmentationOutputs] = {}
        self._label_info: LabelInfoOutput | None = None
        self._costmap: CostmapOutput | None = None
        self._unknown_costmap: UnknownCostmap | None = None
        self._costmap_timer = None
        self._segmenter: Segmenter | None = None
        self._worker: Worker | None = None
        self._active = False
        self._paused = False
        self._configuration_error = ''
        self._camera_errors: dict[str, str] = {}
        self._last_error = ''
        self._logged_at: dict[str, float] = {}
        self._throughput = Throughput()
        self._rate_in, self._rate_out = Rate(), Rate()
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/clear_costmap', self._on_clear_costmap)
        # A simulated clock that stands still must stop neither the costmap's expiry nor Ctrl-C.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._create_steady_timer(WATCH_PERIOD, self._watch)
        self._create_steady_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics)
        self.add_post_set_parameters_callback(self._on_parameters_changed)
        if self._settings['costmap.enabled']:
            self._try_to_say_unknown()

    def autostart(self) -> None:
        """Configure and activate, if parameter `autostart` says so."""
        if not self._settings['autostart']:
            self.get_logger().info('autostart is false: waiting for a lifecycle manager')
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights and put the output topics on the graph."""
        try:
            self._settings.check()
            self._configure()
        except Exception as error:  # Devices and engines fail in many ways; the node lives on.
            self._configuration_error = self._fail(f'not configured: {error}')
        else:
            self._configuration_error = ''
            self._settings.configured = True
            return super().on_configure(state)
        self._release()  # Not in the clause: the error would hold the GPU's memory.
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras, unless paused."""
        self._active = True
        try:
            if not self._paused:
                self._start()
        except Exception as error:  # For example two topics of one name and different types.
            self._configuration_error = self._fail(f'not activated: {error}')
            return TransitionCallbackReturn.ERROR
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the weights stay loaded."""
        self._stop()
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the weights and the device's memory; every parameter can be set again."""
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release, from whatever state."""
        self.close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after a transition that failed, to be configured again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop, leave an unknown costmap behind, and release everything."""
        self._stop()
        self._active = False
        self._release()
        self._withdraw_unknown()

    def _fail(self, error: str) -> str:
        self._last_error = error
        self.get_logger().error(error)
        return error

    def _configure(self) -> None:
        parameters = self._settings
        if parameters['costmap.enabled']:
            self._say_unknown()  # before anything can fail
        self._segmenter = Segmenter(
            weights=parameters['weights'], label_set=parameters['label_set'],
            device=parameters['device'], engine=parameters['engine'],
            precision=parameters['precision'], network_size=tuple(parameters['network_size']))
        label_set = self._segmenter.label_set
        self._label_info = LabelInfoOutput(self, label_set)
        self._label_info.publish(parameters['confidence_threshold'])
        for name in parameters['cameras'] or ['']:
            self._inputs[name] = CameraInput(
                self, name, parameters.of_camera(name, 'image_topic'),
                parameters.of_camera(name, 'camera_info_topic'),
                parameters['image_transport'], parameters['image_reliability'], self._new_frame)
            self._outputs[name] = SegmentationOutputs(self, name, label_set)
        if parameters['costmap.enabled']:
            self._configure_costmap()
        self._apply_live_parameters()
        self._warm_up()
        self._withdraw_unknown()  # CostmapOutput has said it, too.

    def _costmap_settings(self) -> CostmapSettings:
        return CostmapSettings(**{field.name: self._settings[f'costmap.{field.name}']
                                  for field in fields(CostmapSettings)})

    def _say_unknown(self) -> None:
        """Take back what a node before this one may have said."""
        self._withdraw_unknown()
        frame, base_frame = (self._settings[f'costmap.{name}'] for name in ('frame', 'base_frame'))
        for name, value in ('frame', frame), ('base_frame', base_frame):
            if not value:
                raise ValueError(f'costmap.{name} is empty: give the name of a frame')
        self._unknown_costmap = UnknownCostmap(
            self, self._costmap_settings(),
            grid_frame(frame, base_frame, self._settings['costmap.odometry.source']))

    def _try_to_say_unknown(self) -> None:
        """Say it before a lifecycle manager asks to be configured, which may be never."""
        try:
            self._say_unknown()
        except Exception as error:  # A parameter is wrong, as configuring will say again.
            self._fail(f'the costmap was not made unknown: {error}')

    def _withdraw_unknown(self) -> None:
        if self._unknown_costmap is not None:
            self._unknown_costmap.destroy()
            self._unknown_costmap = None

    def _configure_costmap(self) -> None:
        def value(name: str) -> Any:
            return self._settings[f'costmap.{name}']
        poses = RobotPoses(
            self, value('frame'), value('base_frame'), value('odometry.source'),
            value('odometry.topic'),
            {name: self._fixed_camera_pose(name) for name in self._inputs})
        try:
            self._costmap = CostmapOutput(
                self, self._costmap_settings(), self._segmenter.label_set, poses, self._inputs,
                value('publish_classes'))
        except Exception:
            poses.destroy()
            raise
        self._costmap_timer = self._create_steady_timer(
            1.0 / value('rate'), self._publish_costmap)

    def _create_steady_timer(self, period: float, callback: Callable[[], None]) -> Timer:
        return self.create_timer(period, callback, clock=self._steady_clock)

    def _fixed_camera_pose(self, camera: str) -> np.ndarray | None:
        """Return the pose the parameters give, None if TF gives it."""
        if self._settings.of_camera(camera, 'camera_pose.source') == 'tf':
            return None
        return fixed_camera_pose(self._settings.of_camera(camera, 'camera_pose.xyz'),
                                 self._settings.of_camera(camera, 'camera_pose.rpy'))

    def _warm_up(self) -> None:
        """
        Run the network, so that the first frames are as fast as the others.

        A GPU prepares itself for each number of images, as cameras do not wait for each other, and
        once more for images of another size than these.
        """
        blank = np.zeros((480, 640, 3), np.uint8)
        for count in range(1, len(self._inputs) + 1):
            self._segmenter.segment([blank] * count)

    def _start(self) -> None:
        self._camera_errors = {}
        for camera in self._inputs.values():
            camera.start()
        self._worker = Worker(list(self._inputs.values()), self._new_frame, self._process)
        self._worker.start()
        topics = ', '.join(camera.image_topic for camera in self._inputs.values())
        self.get_logger().info(
            f'segmenting {topics} with {self._segmenter.weights} ({self._segmenter.engine}, '
            f'{self._segmenter.device})')

    def _stop(self) -> None:
        for camera in self._inputs.values():
            camera.stop()
        if self._worker is None:
            return
        # Before the frame in work is done: that may take longer than we are given to end.
        try:
            if self._costmap is not None:
                self._costmap.publish_unknown()
        except Exception as error:  # Whatever a middleware raises; the worker must end.
            self._fail(f'the costmap was not made unknown: {error}')
        self._worker.stop()
        self._worker = None

    def _release(self) -> None:
        releases = [part.destroy for part in (
            *self._outputs.values(), self._label_info, self._costmap) if part is not None]
        if self._costmap_timer is not None:
            releases.insert(0, partial(self.destroy_timer, self._costmap_timer))
        if self._segmenter is not None:
            releases.append(self._segmenter.close)
        self._inputs, self._outputs = {}, {}
        self._label_info = self._segmenter = self._costmap = self._costmap_timer = None
        self._settings.configured = False
        for release in releases:
            try:
                release()
            except Exception as error:  # A GPU that has failed must not keep the rest.
                self.get_logger().error(f'not released: {error}')

    # One frame of each camera that has a new one; in the worker's thread

    def _process(self, frames: list[Frame]) -> None:
        try:
            self._process_frames(frames)
        except Exception as error:  # The thread must live on, whatever nobody thought of.
            for frame in frames:
                self._report_camera(frame.camera, f'not segmented: {error}')

    def _process_frames(self, frames: list[Frame]) -> None:
        images: list[tuple[Frame, ColorImage]] = []
        for frame in frames:
            if not self._wanted(frame.camera):
                self._camera_errors.pop(frame.camera, None)
                continue
            try:
                images.append((frame, to_color_image(frame.message)))
            except ImageConversionError as error:
                self._report_camera(frame.camera, str(error))
        for order in ('rgb', 'bgr'):
            if group := [pair for pair in images if pair[1].channel_order == order]:
                self._segment_and_publish(group, order)

    def _wanted(self, camera: str) -> bool:
        return self._outputs[camera].wanted() or self._costmap_wanted()

    def _costmap_wanted(self) -> bool:
        return self._costmap is not None and self._costmap.wanted()

    def _segment_and_publish(self, images: list[tuple[Frame, ColorImage]], order: str) -> None:
        costmap_wanted = self._costmap_wanted()
        # rclpy lets a value pass that is a rounding error above its limit.
        least_confidence = min(1.0, self._settings['confidence_threshold'])
        with_confidence = costmap_wanted or least_confidence > 0 or any(
            self._outputs[frame.camera].confidence_wanted() for frame, _ in images)
        segmented = self._segment(images, order, with_confidence)
        for frame, image, segmentation in segmented:
            self._publish(frame, image, segmentation, least_confidence)
        if costmap_wanted:  # After all masks: it may wait for a transform.
            for frame, image, segmentation in segmented:
                self._observe(frame, image, segmentation, least_confidence)

    def _segment(self, images: list[tuple[Frame, ColorImage]], order: str,
                 with_confidence: bool) -> list[tuple[Frame, ColorImage, Segmentation]]:
        """Segment in one batch; one by one where that fails, so that one cannot fail the rest."""
        pixels = [image.pixels for _, image in images]
        wanted_size = tuple(self._settings['mask_size'])
        sizes = [wanted_size if all(wanted_size) else p.shape[1::-1] for p in pixels]
        try:
            segmentations = self._segmenter.segment(
                pixels, sizes, channel_order=order, with_confidence=with_confidence)
        except Exception as error:  # The network's failures have no common type; the node lives.
            failure = f'segmentation failed: {error}'
        else:
            return [(*pair, segmentation) for pair, segmentation in zip(images, segmentations)]
        # Not in the clause: the error would hold the GPU's memory.
        if len(images) > 1:
            return [done for pair in images
                    for done in self._segment([pair], order, with_confidence)]
        self._report_camera(images[0][0].camera, failure)
        return []

    def _publish(self, frame: Frame, image: ColorImage, segmentation: Segmentation,
                 least_confidence: float) -> None:
        outputs = self._outputs[frame.camera]
        if least_confidence > 0:
            segmentation = segmentation._replace(
                class_ids=without_uncertain(*segmentation, least_confidence))
        try:
            outputs.publish(frame, image, segmentation, self._settings['overlay_alpha'])
            self._throughput.add(frame.received)
            outputs.publish_camera_info(
                frame, image.pixels.shape[1::-1], segmentation.class_ids.shape[::-1])
        except Exception as error:  # A wrong calibration, or whatever a middleware raises.
            self._report_camera(frame.camera, str(error))
        else:
            self._camera_errors.pop(frame.camera, None)

    def _observe(self, frame: Frame, image: ColorImage, segmentation: Segmentation,
                 least_confidence: float) -> None:
        try:
            self._costmap.observe(
                frame, image.pixels.shape[1::-1], segmentation, least_confidence)
        except Exception as error:  # Whatever it is, masks go on, and other cameras' costmap.
            self._report(frame.camera, f'costmap: {self._named(frame.camera, error)}')

    # Services, parameters, diagnostics; in the executor's thread

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response):
        self._paused = not request.data
        if self._active:
            self._configuration_error = ''  # of the last time
        if self._active and self._paused:
            self._stop()
        elif self._active and self._worker is None:
            try:
                self._start()
            except Exception as error:  # As in on_activate.
                self._paused = True
                self._stop()
                response.message = self._fail(f'not enabled: {error}')
                self._configuration_error = response.message
                response.success = False
                return response
        response.success = True
        response.message = 'paused' if self._paused else 'enabled'
        if not self._active:
            response.message += ', when the node is activated'
        return response

    def _on_clear_costmap(self, request: Trigger.Request, response: Trigger.Response):
        response.success = self._costmap is not None
        if response.success:
            self._costmap.clear()
        else:
            response.message = ('there is no costmap: the node is not configured, or '
                                'costmap.enabled is false')
        return response

    def _publish_costmap(self) -> None:
        if self._worker is not None:
            self._costmap.publish(self._settings['stale_after'])

    def _on_parameters_changed(self, changes: list[Parameter]) -> None:
        if self._segmenter is not None:
            self._apply_live_parameters()
            if any(change.name == 'confidence_threshold' for change in changes):
                self._label_info.publish(self._settings['confidence_threshold'])

    def _apply_live_parameters(self) -> None:
        for camera in self._inputs.values():
            camera.max_rate = self._settings['max_rate']

    def _watch(self) -> None:
        if self._worker is not None:
            for camera in self._inputs.values():
                camera.follow_publishers()
            if self._costmap is not None:
                self._costmap.expire(self._settings['stale_after'])

    def _report_camera(self, camera: str, error: str) -> None:
        self._camera_errors[camera] = self._named(camera, error)
        self._report(camera, self._camera_errors[camera])

    def _named(self, camera: str, error: object) -> str:
        return f'{self._inputs[camera].image_topic}: {error}'

    def _report(self, camera: str, error: str) -> None:
        self._last_error = error
        # Throttled here, for rclpy would let one camera's errors silence another's.
        now = time.monotonic()
        if now - self._logged_at.get(camera, -math.inf) >= LOG_THROTTLE:
            self._logged_at[camera] = now
            self.get_logger().error(error)

    def _publish_diagnostics(self) -> None:
        level, message = self._health()
        counts = [camera.counts for camera in self._inputs.values()]
        received = sum(count.received for count in counts)
        missed = [count.missed for count in counts]
        median, p99 = self._throughput.latency_percentiles()
        segmenter = self._segmenter
        self._diagnostics.publish(level, message, segmenter.device if segmenter else '', {
            'state': self._state_name(),
            'rate_in_hz': self._rate_in.update(received),
            'rate_out_hz': self._rate_out.update(self._throughput.published),
            'frames_in': received,
            'frames_out': self._throughput.published,
            'dropped': sum(count.dropped for count in counts),
            'missed_in_transit': None if None in missed else sum(missed),
            'latency_p50_ms': 1e3 * median,
            'latency_p99_ms': 1e3 * p99,
            'device': segmenter.device if segmenter else '',
            'engine': segmenter.engine if segmenter else '',
            'weights': segmenter.weights if segmenter else '',
            'label_set': segmenter.label_set.name if segmenter else '',
            'last_error': self._last_error,
        })

    def _state_name(self) -> str:
        if self._active:
            return 'paused' if self._paused else 'active'
        return 'unconfigured' if self._segmenter is None else 'inactive'

    def _health(self) -> tuple[bytes, str]:
        if self._configuration_error:
            return DiagnosticStatus.ERROR, self._configuration_error
        if self._worker is None:
            return DiagnosticStatus.WARN, self._state_name()  # nobody looks where the robot goes
        errors, warnings = self._camera_troubles()
        busy_for, stale_after = self._worker.busy_for(), self._settings['stale_after']
        if busy_for > stale_after:
            errors.insert(0, f'at work on a frame for {busy_for:.1f} s: a GPU may need minutes '
                          'for the first of a size; a smaller network_size is faster')
        if errors or warnings:
            return (DiagnosticStatus.ERROR if errors else DiagnosticStatus.WARN,
                    '; '.join(errors + warnings))
        if not any(self._wanted(camera) for camera in self._inputs):
            return DiagnosticStatus.OK, 'idle: nobody subscribes to an output'
        return DiagnosticStatus.OK, 'segmenting'

    def _camera_troubles(self) -> tuple[list[str], list[str]]:
        """Return errors and warnings; of each camera the first that explains the others."""
        stale_after = self._settings['stale_after']
        missing = self._costmap.missing(stale_after) if self._costmap_wanted() else {}
        errors, warnings = [], []
        for name, camera in self._inputs.items():
            publishers = camera.publisher_count()
            if publishers == 0:
                warnings.append(f'nobody publishes {camera.image_topic}: is the camera driver '
                                'running, and is image_topic right?')
            elif camera.silent_for() > stale_after:
                warnings.append(
                    f'no image on {camera.image_topic} for {stale_after} s though there is a '
                    f'publisher: {camera.publisher_mismatch() or SEE_LARGE_IMAGES}')
            elif error := self._camera_errors.get(name):
                errors.append(error)
            elif name in missing:
                what = 'the costmap is unknown' if len(missing) == len(self._inputs) else (
                    f'the costmap lacks {camera.image_topic}')
                errors.append(f'{what}: {missing[name]}')
            elif publishers > 1:
                warnings.append(f'{publishers} publishers send on {camera.image_topic}, whose '
                                'images mix: stop all but one')
            elif (lost := camera.lost_lately()) > LOSS_TO_WARN_OF:
                warnings.append(f'{lost:.0%} of the images on {camera.image_topic} were lost on '
                                f'the way: {SEE_LARGE_IMAGES}')
        return errors, warnings


def spin(node: Node) -> None:
    """
    Do the node's work until the context ends.

    In Jazzy, asking a lifecycle node for a transition that its state does not allow raises here
    (rclpy issue 1209); nobody who does so may end the node.
    """
    while rclpy.ok():
        try:
            rclpy.spin(node)
        except rclpy_implementation.RCLError as error:
            if 'lifecycle state machine transition' not in str(error):
                raise
            node.get_logger().error(str(error))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    keep_large_blocks()
    # Our own handlers: rclpy's would take the context away before the node can say goodbye. SIGINT
    # explicitly, because a script's background jobs start with it ignored.
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup asks for
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))
    node = SegmentationNode()
    try:
        node.autostart()
        spin(node)
    except (KeyboardInterrupt, SystemExit, ExternalShutdownException):
        pass
    finally:
        # A launch in a script sends Ctrl-C a second time, a closing terminal SIGHUP, to a process
        # that is already ending.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
