"""The lifecycle node: camera images in; masks, what goes with them, and costmaps out."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.timer import Timer
from std_srvs.srv import SetBool, Trigger

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.costmap.geometry import camera_pose_from_rpy
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.end_signals import handle_end_signals, raise_if_signalled
from bisenet_ros.node.camera_input import CameraInput, NewestFrames
from bisenet_ros.node.costmap_feeder import CostmapFeeder
from bisenet_ros.node.costmap_output import (
    COSTMAP_TOPIC,
    CostmapOutput,
    CostmapPlaceholder,
)
from bisenet_ros.node.diagnostics import Diagnostics
from bisenet_ros.node.faults import Faults, describe
from bisenet_ros.node.frame_processor import FrameProcessor
from bisenet_ros.node.health import Health
from bisenet_ros.node.outputs import LabelInfoOutput, SegmentationOutputs
from bisenet_ros.node.parameters import Parameters
from bisenet_ros.node.poses import RobotPoses, grid_frame
from bisenet_ros.node.start_ros import start_ros
from bisenet_ros.node.statistics import Rate, Throughput
from bisenet_ros.node.worker import Worker, repeated
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.segmentation.device import device_is_lost

WATCH_PERIOD = 0.5  # s
DIAGNOSTICS_PERIOD = 1.0  # s
# Seconds for which releasing waits for the frame in work; ros2 launch kills a process after ten.
RELEASE_TIMEOUT = 8.0


class SegmentationNode(LifecycleNode):
    """
    Segments camera images with BiSeNet.

    Configuring loads the weights and puts the topics on the graph; activating subscribes to the
    cameras. A separate thread takes their frames through the network.

    :ivar device_lost: whether the GPU refuses all work in this process, which therefore ends.
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
        self._costmap_feeder: CostmapFeeder | None = None
        self._placeholder: CostmapPlaceholder | None = None
        self._segmenter: Segmenter | None = None
        self._processor: FrameProcessor | None = None
        self._worker: Worker | None = None
        self._health: Health | None = None
        # Each releases a part that configuring has made; in the order in which they were made.
        self._releases: list[Callable[[], None]] = []
        self._active = False
        self._paused = False
        self._transition_error = ''
        self._finalized = False
        self.device_lost = False
        self._lost_segmenter: Segmenter | None = None
        self._faults = Faults(self.get_logger())
        self._rate_in, self._rate_out = Rate(), Rate()
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/clear_costmap', self._on_clear_costmap)
        # A simulated clock that stands still must stop neither the costmap's expiry nor Ctrl-C.
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._create_steady_timer(WATCH_PERIOD, self._watch)
        self._create_steady_timer(DIAGNOSTICS_PERIOD, self._publish_diagnostics)
        self.add_post_set_parameters_callback(self._on_parameters_changed)
        self._try_to_put_placeholder()

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
            with repeated(self._say_configuring, DIAGNOSTICS_PERIOD):
                self._configure()
        except Exception as error:  # Devices and engines fail in many ways; the node lives on.
            raise_if_signalled()
            self._transition_error = self._faults.report(f'not configured: {describe(error)}')
        else:
            self._transition_error = ''
            self._settings.configured = True
            return super().on_configure(state)
        if device_is_lost(self._settings['device']):
            self._on_device_lost()
        self._release()  # Not in the except clause: the error would still hold the GPU's memory.
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras, unless paused."""
        self._active = True
        try:
            if not self._paused:
                self._start()
        except Exception as error:  # For example one topic name used with two types.
            self._transition_error = self._faults.report(f'not activated: {describe(error)}')
            return TransitionCallbackReturn.ERROR
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the weights stay loaded."""
        self._stop()
        self._active = False
        self._transition_error = ''  # left by a failed attempt to resume
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the weights and the device's memory; every parameter can be set again."""
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything, from any state."""
        self.close()
        self._transition_error = ''  # obsolete: nothing can be configured any more
        self._finalized = True
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after a failed transition, so that it can be configured again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop, leave an unknown costmap behind, and release everything."""
        self._stop()
        self._active = False
        self._release()
        self._remove_placeholder()

    def _configure(self) -> None:
        parameters = self._settings
        self._put_placeholder()  # before anything can fail
        self._segmenter = Segmenter(
            weights=parameters['weights'], label_set=parameters['label_set'],
            device=parameters['device'], engine=parameters['engine'],
            precision=parameters['precision'], network_size=tuple(parameters['network_size']))
        self._releases.append(partial(self._close, self._segmenter))
        label_set = self._segmenter.label_set
        self._label_info = LabelInfoOutput(self, label_set)
        self._releases.append(self._label_info.destroy)
        self._label_info.publish(parameters['confidence_threshold'])
        for name in parameters['cameras'] or ['']:
            self._inputs[name] = CameraInput(
                self, name, parameters.of_camera(name, 'image_topic'),
                parameters.of_camera(name, 'camera_info_topic'),
                parameters['image_transport'], parameters['image_reliability'],
                parameters.of_camera(name, 'image_geometry'), self._new_frame)
            self._outputs[name] = SegmentationOutputs(self, name, label_set)
            self._releases.append(self._outputs[name].destroy)
        if parameters['costmap.enabled']:
            self._configure_costmap()
        self._apply_max_rate()
        self._processor = FrameProcessor(
            self._segmenter, self._outputs, self._costmap_feeder, parameters, self._faults,
            self._on_device_lost)
        newest_frames = NewestFrames(self._inputs.values())
        self._worker = Worker(
            lambda: newest_frames.take(self._processor.most_at_once), self._new_frame,
            self._processor.process, 'segmentation')
        self._processor.warm_up()
        self._worker.start()  # It waits until cameras are subscribed to.
        self._remove_placeholder()  # CostmapOutput has published unknown, too.

    def _say_configuring(self) -> None:
        """Publish that the node is being configured; called in a thread of its own."""
        with suppress(rclpy_implementation.RCLError):  # The context may have been shut down.
            self._diagnostics.publish(
                DiagnosticStatus.WARN, 'configuring: loading weights and preparing the device, '
                'for which a GPU may need minutes', {'state': 'configuring'})

    def _costmap_settings(self) -> CostmapSettings:
        values = {field.name: self._settings[f'costmap.{field.name}']
                  for field in fields(CostmapSettings)}
        try:
            return CostmapSettings(**values | {'size': tuple(values['size'])})
        except ValueError as error:
            raise ValueError(f'costmap.{error}') from error

    def _put_placeholder(self) -> None:
        """Replace costmaps of a node before this one by unknown ones, unless costmaps are off."""
        if not self._settings['costmap.enabled']:
            return
        self._remove_placeholder()
        frame, base_frame = (self._settings[f'costmap.{name}'] for name in ('frame', 'base_frame'))
        for name, value in ('frame', frame), ('base_frame', base_frame):
            if not value:
                raise ValueError(f'costmap.{name} is empty: give the name of a frame')
        try:
            settings = self._costmap_settings()
        except ValueError:  # Configuring reports it. Nav2 adopts the size of any grid.
            settings = CostmapSettings()
        self._placeholder = CostmapPlaceholder(
            self, settings,
            grid_frame(frame, base_frame, self._settings['costmap.odometry.source']),
            self._settings['costmap.publish_classes'])

    def _try_to_put_placeholder(self) -> None:
        """Put the placeholder at start: the node may be configured much later, or never."""
        try:
            self._put_placeholder()
        except Exception as error:  # A parameter is wrong; configuring reports it again.
            self._faults.report(f'the costmap was not made unknown: {describe(error)}')

    def _remove_placeholder(self) -> None:
        if self._placeholder is not None:
            self._placeholder.destroy()
            self._placeholder = None

    def _configure_costmap(self) -> None:
        def value(name: str) -> Any:
            return self._settings[f'costmap.{name}']
        poses = RobotPoses(
            self, value('frame'), value('base_frame'), value('odometry.source'),
            value('odometry.topic'),
            {name: self._fixed_camera_pose(name) for name in self._inputs})
        self._releases.append(poses.destroy)
        self._costmap = CostmapOutput(
            self, self._costmap_settings(), self._segmenter.label_set, poses, self._inputs,
            value('publish_classes'))
        self._releases.append(self._costmap.destroy)
        self._costmap.publish_unknown()
        self._costmap_feeder = CostmapFeeder(self._costmap, self._inputs, self._faults)
        timer = self._create_steady_timer(1.0 / value('rate'), self._publish_costmap)
        self._releases.append(partial(self.destroy_timer, timer))

    def _create_steady_timer(self, period: float, callback: Callable[[], None]) -> Timer:
        return self.create_timer(period, callback, clock=self._steady_clock)

    def _fixed_camera_pose(self, camera: str) -> np.ndarray | None:
        """Return the pose from the parameters, None if it comes from TF."""
        if self._settings.of_camera(camera, 'camera_pose.source') == 'tf':
            return None
        return camera_pose_from_rpy(self._settings.of_camera(camera, 'camera_pose.xyz'),
                                    self._settings.of_camera(camera, 'camera_pose.rpy'))

    def _start(self) -> None:
        for name, camera in self._inputs.items():
            self._faults.clear_camera_fault(name)
            camera.start()
        if self._costmap_feeder is not None:
            self._costmap.begin_anew()
            self._costmap_feeder.start()
        self._processor.start()
        self._health = Health(
            self._inputs, self._processor, self._costmap, self._worker, self._faults,
            self._publisher_counts)
        self._transition_error = ''  # left by an earlier attempt
        topics = ', '.join(camera.image_topic for camera in self._inputs.values())
        self.get_logger().info(
            f'segmenting {topics} with {self._segmenter.weights} ({self._segmenter.engine}, '
            f'{self._segmenter.device})')

    def _publisher_counts(self) -> dict[str, int]:
        """Return how many publishers each topic has that should have only one."""
        topics = [topic for camera in self._inputs.values()
                  for topic in (camera.image_topic, camera.camera_info_topic)]
        if self._costmap is not None:
            topics.append(self.resolve_topic_name(COSTMAP_TOPIC))
            if self._settings['costmap.odometry.source'] == 'topic':
                topics.append(self.resolve_topic_name(self._settings['costmap.odometry.topic']))
        return {topic: self.count_publishers(topic) for topic in topics}

    def _on_device_lost(self) -> None:
        """End the process; further calls, as for several frames in work, do nothing."""
        if self.device_lost:
            return
        self.device_lost = True
        self.get_logger().fatal(
            f'the GPU (device is {self._settings["device"]!r}) refuses all further work, so this '
            'process ends. The launch file starts it again; without one, start it yourself')
        os.kill(os.getpid(), signal.SIGTERM)  # handled in the main thread, which cleans up

    def _stop(self) -> None:
        """Stop segmenting; do not wait for the frame in work, which may hang with the device."""
        self._health = None
        for camera in self._inputs.values():
            camera.stop()
        # First, because the calls below wait for masks in work, and a remote listener may hold up
        # the publishing of one.
        self._make_costmap_unknown()
        if self._processor is not None:
            self._processor.stop()
        if self._costmap_feeder is not None:
            self._costmap_feeder.stop()

    def _make_costmap_unknown(self) -> None:
        try:
            if self._costmap is not None:
                self._costmap.publish_unknown()
        except Exception as error:  # Whatever a middleware raises; _watch tries again.
            self._report_costmap('not made unknown', error)

    def _report_costmap(self, failure: str, error: Exception) -> None:
        """Report a failure that may repeat with each grid."""
        self._faults.report_throttled('', failure, f'the costmap was {failure}: {describe(error)}')

    def _end_at_once(self) -> None:
        """End the process without releasing anything: the frame in work still uses it."""
        self.get_logger().fatal(
            f'still at work on a frame after {RELEASE_TIMEOUT:.0f} s, as where a GPU hangs or '
            'compiles for a new image size, so this process ends. The launch file starts it '
            'again, unless it was asked to end')
        os._exit(1)

    def _release(self) -> None:
        # The frame in work uses what is released below.
        at_rest = self._worker is None or self._worker.stop(RELEASE_TIMEOUT)
        if self._costmap is not None and self._costmap.holds_data:
            self._make_costmap_unknown()  # again, in case it failed before
        if not at_rest:
            self._end_at_once()
        self._worker = None
        self._inputs, self._outputs = {}, {}
        self._label_info = self._costmap = self._costmap_feeder = None
        self._segmenter = self._processor = None
        self._settings.configured = False
        releases, self._releases = self._releases, []
        for release in reversed(releases):
            try:
                release()
            except Exception as error:  # A GPU that has failed must not keep the rest.
                self.get_logger().error(f'not released: {describe(error)}')

    def _close(self, segmenter: Segmenter) -> None:
        if self.device_lost:
            # PyTorch ends the process where it frees pinned memory that a lost GPU has used
            # (pytorch/pytorch#178154).
            self._lost_segmenter = segmenter
        else:
            segmenter.close()

    # Services, parameters, diagnostics; in the executor's thread

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response):
        if self._finalized:
            response.success = False
            response.message = 'the node was shut down: start its process again'
            return response
        self._paused = not request.data
        if self._active:
            self._transition_error = ''  # left by an earlier attempt
        if self._active and self._paused:
            self._stop()
        elif self._active and self._health is None:
            try:
                self._start()
            except Exception as error:  # As in on_activate.
                self._paused = True
                self._stop()
                response.message = self._faults.report(f'not enabled: {describe(error)}')
                self._transition_error = response.message
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
        if self._health is None:
            return
        try:
            self._costmap.publish(self._settings['stale_after'])
        except Exception as error:
            self._report_costmap('not published', error)

    def _on_parameters_changed(self, changes: list[Parameter]) -> None:
        if self._segmenter is not None:
            self._apply_max_rate()
            if any(change.name == 'confidence_threshold' for change in changes):
                self._label_info.publish(self._settings['confidence_threshold'])

    def _apply_max_rate(self) -> None:
        for camera in self._inputs.values():
            camera.max_rate = self._settings['max_rate']

    def _watch(self) -> None:
        if self._health is not None:
            for name, camera in self._inputs.items():
                camera.follow_demand(self._processor.wanted(name))
            if self._costmap is not None and self._costmap.is_stale(self._settings['stale_after']):
                self._make_costmap_unknown()
        elif self._costmap is not None and self._costmap.listeners_may_know:
            self._make_costmap_unknown()

    def _publish_diagnostics(self) -> None:
        level, message = self._assess()
        counts = [camera.counts for camera in self._inputs.values()]
        received = sum(count.received for count in counts)
        missed = [count.missed for count in counts]
        throughput = self._processor.throughput if self._processor else Throughput()
        median, p99 = throughput.latency_percentiles()
        segmenter = self._segmenter
        self._diagnostics.publish(level, message, {
            'state': self._state_name(),
            'rate_in_hz': self._rate_in.update(received),
            'rate_out_hz': self._rate_out.update(throughput.published),
            'frames_in': received,
            'frames_out': throughput.published,
            'dropped': sum(count.dropped for count in counts),
            'missed_in_transit': None if None in missed else sum(missed),
            'latency_p50_ms': 1e3 * median,
            'latency_p99_ms': 1e3 * p99,
            'device': segmenter.device if segmenter else '',
            'engine': segmenter.engine if segmenter else '',
            'weights': segmenter.weights if segmenter else '',
            'label_set': segmenter.label_set.name if segmenter else '',
            'last_error': self._faults.last,
        })

    def _assess(self) -> tuple[bytes, str]:
        if self._transition_error:
            return DiagnosticStatus.ERROR, self._transition_error
        if self._health is None:
            return DiagnosticStatus.WARN, self._state_name()  # nobody watches where the robot goes
        return self._health.assess(self._settings['stale_after'])

    def _state_name(self) -> str:
        if self._finalized:
            return 'finalized'
        if self._active:
            return 'paused' if self._paused else 'active'
        return 'unconfigured' if self._segmenter is None else 'inactive'


class RosLogHandler(logging.Handler):
    """Hands what the rest of the package logs to a node's logger, and so to /rosout."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        # Three calls, because rclpy allows one line of code only one severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


def spin(node: Node) -> None:
    """
    Do the node's work until the context ends, or a signal asks this process to end.

    In Jazzy, asking a lifecycle node for a transition that its state does not allow raises here
    (rclpy issue 1209); that must not end the node.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while rclpy.ok():
        raise_if_signalled()
        try:
            executor.spin_once()
        except rclpy_implementation.RCLError as error:
            if 'lifecycle state machine transition' not in str(error):
                raise
            node.get_logger().error(str(error))


def main(argv: Sequence[str] | None = None) -> str | None:
    """
    Run the node until it is interrupted.

    :returns: why it could not be started, for sys.exit; None if it was.
    """
    keep_large_blocks()
    handle_end_signals()
    node = None
    try:
        if failure := start_ros('segmentation_node', argv):
            return failure
        node = SegmentationNode()
        logging.getLogger('bisenet_ros').addHandler(RosLogHandler(node.get_logger()))
        node.autostart()
        spin(node)
    except (KeyboardInterrupt, SystemExit, ExternalShutdownException):
        pass
    finally:
        # A launch in a script sends Ctrl-C a second time, any launch SIGTERM after five seconds,
        # and a closing terminal SIGHUP. Our handler ignores these, but Python removes it when it
        # ends.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        try:
            if node is not None:
                node.close()
                node.destroy_node()
            rclpy.try_shutdown()
        finally:
            if node is not None and node.device_lost:
                # For those who restart failed processes. At once: see SegmentationNode._close.
                os._exit(1)
    return None


if __name__ == '__main__':
    sys.exit(main())
