"""The thread that runs the network, so that the executor never waits for it."""

import threading
import time
from collections.abc import Callable, Sequence

from bisenet_ros.node.camera_input import CameraInput, Frame


class Worker:
    """Hands the newest frames of all cameras to `process`, in a thread of its own."""

    def __init__(self, inputs: Sequence[CameraInput], new_frame: threading.Condition,
                 process: Callable[[list[Frame]], None]) -> None:
        self._inputs = inputs
        self._new_frame = new_frame
        self._process = process
        self._stopping = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name='segmentation', daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def stop(self) -> None:
        """Return once the frames in work are done; no frame is processed afterwards."""
        with self._new_frame:
            self._stopping = True
            self._new_frame.notify()
        self._thread.join()

    def busy_for(self) -> float:
        """Return for how long (s) it has been at work on the frames in hand; 0 if on none."""
        busy_since = self._busy_since
        return 0.0 if busy_since is None else time.monotonic() - busy_since

    def _run(self) -> None:
        while frames := self._wait_for_frames():
            self._busy_since = time.monotonic()
            self._process(frames)
            self._busy_since = None

    def _wait_for_frames(self) -> list[Frame]:
        """Return the newest frame of each camera that has one; none means stop."""
        with self._new_frame:
            while not self._stopping:
                taken = [camera.take() for camera in self._inputs]
                frames = [frame for frame in taken if frame is not None]
                if frames:
                    return frames
                self._new_frame.wait()
        return []
