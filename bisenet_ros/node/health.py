"""Tells in a sentence, for diagnostics, how an active node is doing."""

import time
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticStatus

from bisenet_ros.node.camera_input import CameraInput
from bisenet_ros.node.costmap_output import CostmapOutput
from bisenet_ros.node.faults import Faults
from bisenet_ros.node.frame_processor import FrameProcessor
from bisenet_ros.node.worker import Worker

LOSS_TO_WARN_OF = 0.2
PUBLISHING_SHARE_TO_WARN_OF = 0.5
SEE_LARGE_IMAGES = 'see "Large images" in the README'
SEE_LARGE_IMAGES_OR_WAIT = (
    f'{SEE_LARGE_IMAGES}; if the camera is that slow, make stale_after larger')


class Health:
    """
    Assesses the parts of a node that segments; made anew whenever it starts to.

    :param publisher_counts: returns how many publishers each topic has that should have only one.
    """

    def __init__(self, inputs: Mapping[str, CameraInput], processor: FrameProcessor,
                 costmap: CostmapOutput | None, worker: Worker, faults: Faults,
                 publisher_counts: Callable[[], Mapping[str, int]]) -> None:
        self._inputs = inputs
        self._processor = processor
        self._costmap = costmap
        self._worker = worker
        self._faults = faults
        self._publisher_counts = publisher_counts
        self._costmap_wanted_since: float | None = None

    def assess(self, stale_after: float) -> tuple[bytes, str]:
        """
        Return a DiagnosticStatus level and what is wrong, with the remedy.

        :param stale_after: seconds after which a missing result is a fault.
        """
        errors, warnings = self._camera_troubles(stale_after)
        warnings += [
            f'{count} publishers send on {topic}, whose messages mix: stop all but one (one that '
            'was killed leaves by itself within half a minute)'
            for topic, count in self._publisher_counts().items() if count > 1]
        if self._costmap is not None and self._costmap.odometry_restarts:
            warnings.append('the costmap is cleared again and again, because odometry jumps or '
                            'pauses: does only one node send it, steadily, and no short bag '
                            'loop?')
        overload = self._costmap_overload()
        busy_for = self._worker.busy_for()
        if self._costmap is not None and self._costmap.publishing_fault:
            errors.insert(
                0, f'the costmap is not published: {self._costmap.publishing_fault}')
        if busy_for > stale_after:
            excuse = '' if self._processor.on_cpu else (
                'a GPU may need minutes for the first frame of a size; ')
            errors.insert(0, f'at work on a frame for {busy_for:.1f} s: {excuse}a smaller '
                          'network_size is faster')
        # The overload first: where there is one, it explains the others.
        if troubles := overload + errors + warnings:
            return (DiagnosticStatus.ERROR if errors else DiagnosticStatus.WARN,
                    '; '.join(troubles))
        if not any(self._processor.wanted(camera) for camera in self._inputs):
            return DiagnosticStatus.OK, 'idle: nobody subscribes to an output'
        return DiagnosticStatus.OK, 'segmenting'

    def _costmap_overload(self) -> list[str]:
        """Return a warning if publishing costmaps keeps the node from receiving, else []."""
        share = 0.0 if self._costmap is None else self._costmap.publishing_share()
        if share <= PUBLISHING_SHARE_TO_WARN_OF:
            return []
        return [f'publishing costmaps takes {share:.0%} of the time, so that images and odometry '
                'come late: lower costmap.rate or costmap.size, or make costmap.resolution '
                'coarser']

    def _camera_troubles(self, stale_after: float) -> tuple[list[str], list[str]]:
        """Return errors and warnings; of each camera only the first, which explains the others."""
        missing = self._missing_in_costmap(stale_after)
        errors, warnings = [], []
        for name, camera in self._inputs.items():
            # Called at each assessment, needed or not: it counts from one call to the next.
            lost = camera.lost_lately()
            publishers = camera.publisher_count()
            # A costmap that somebody listens to must not go blind with only a warning.
            silent = errors if name in missing else warnings
            if publishers == 0:
                silent.append(f'nobody publishes {camera.image_topic}: is the camera driver '
                              'running, and is image_topic right?')
            elif camera.silent_for() > stale_after:
                silent.append(
                    f'no image on {camera.image_topic} for {stale_after} s though there is a '
                    f'publisher: {camera.publisher_mismatch() or SEE_LARGE_IMAGES_OR_WAIT}')
            elif fault := self._faults.camera_fault(name):
                errors.append(fault)
            elif name in missing:
                what = 'the costmap is unknown' if len(missing) == len(self._inputs) else (
                    f'the costmap lacks {camera.image_topic}')
                errors.append('; '.join(filter(None, (
                    f'{what}: {missing[name]}', _clock_trouble(camera, stale_after)))))
            elif trouble := _clock_trouble(camera, stale_after):
                warnings.append(trouble)
            elif lost > LOSS_TO_WARN_OF:
                warnings.append(f'{lost:.0%} of the images on {camera.image_topic} were lost on '
                                f'the way: {SEE_LARGE_IMAGES}')
        return errors, warnings

    def _missing_in_costmap(self, stale_after: float) -> dict[str, str]:
        """
        Return the cameras that add nothing to the costmap, and why.

        A camera without a fault is among them only once somebody has listened for longer than
        stale_after: until then the network may have rested.
        """
        now = time.monotonic()
        if not self._processor.costmap_wanted():
            self._costmap_wanted_since = None
            if self._costmap is not None:
                # By the time somebody listens again, their causes may be gone.
                self._costmap.forget_failures()
            return {}
        if self._costmap_wanted_since is None:
            self._costmap_wanted_since = now
        return self._costmap.missing(
            stale_after, only_failed=now - self._costmap_wanted_since <= stale_after)


def _clock_trouble(camera: CameraInput, stale_after: float) -> str:
    """Return how the clock of a camera differs from the node's; '' if it does not."""
    if abs(camera.stamp_age) <= stale_after:
        return ''
    return (f'the stamps of {camera.image_topic} are {abs(camera.stamp_age):.1f} s '
            f'{"old" if camera.stamp_age > 0 else "ahead"} when images arrive: synchronise the '
            'clocks, play bags with --clock, and set use_sim_time on all nodes or none')
