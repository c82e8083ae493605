"""The drive along the rendered street as a clip on disk: rendering is slower than a camera."""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
from tqdm import tqdm

from bisenet_ros.image_files import read_image, write_image
from bisenet_ros.tools import street
from bisenet_ros.tools.processes import die_with_parent
from bisenet_ros.tools.street import DriveFrame, StreetDrive

SIZE = (640, 480)
RATE = 10.0  # Hz
PROGRESS_PERIOD = 0.5  # s
LOG_PERIOD = 10.0  # s between lines of progress where they go to a file
DURATION = 20.0  # s
JPEG_SETTINGS = [cv2.IMWRITE_JPEG_QUALITY, 95]
if hasattr(cv2, 'IMWRITE_JPEG_SAMPLING_FACTOR'):  # Not in OpenCV 4.6, that of Ubuntu 24.04.
    JPEG_SETTINGS += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


class StreetClip:
    """
    The frames of a StreetDrive as a sequence of DriveFrame, rendered once and kept.

    They lie in the user's cache, in a folder named after the renderer's code, so that a changed
    renderer gets a clip of its own.
    """

    def __init__(self, size: tuple[int, int] = SIZE, duration: float = DURATION) -> None:
        """
        Render what is not there yet, showing the progress.

        :raises OSError: if a process that renders ends early, or the cache cannot be written to.
        """
        self.drive = _drive(size, duration)
        self._settings = size, duration
        self._folder = _cache() / 'street_{}x{}_{}'.format(*size, _renderer_version())
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [index for index in range(len(self))
                   if not _is_kept(self._folder, index)]
        if missing:
            self._render(missing)

    def __len__(self) -> int:
        return len(self.drive)

    def __getitem__(self, index: int) -> DriveFrame:
        image = read_image(_image_path(self._folder, index))
        class_ids = read_image(_class_ids_path(self._folder, index), cv2.IMREAD_GRAYSCALE)
        stamp = index / self.drive.rate
        return DriveFrame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), class_ids, stamp,
                          self.drive.base_pose(stamp))

    def _render(self, indices: list[int]) -> None:
        count = min(len(os.sched_getaffinity(0)), len(indices))
        # Not a pool, which may wait for ever after one of its processes was killed.
        processes = [get_context('spawn').Process(
            target=_render_frames, args=(*self._settings, self._folder, indices[first::count]))
            for first in range(count)]
        try:
            with _ignoring_ctrl_c():
                for process in processes:
                    process.start()
            self._follow(processes, indices)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()

    def _follow(self, processes: list[BaseProcess], indices: list[int]) -> None:
        """Show how far the processes are, until all have ended."""
        with tqdm(desc='rendering the street, once', total=len(indices), unit='frame',
                  mininterval=PROGRESS_PERIOD if sys.stderr.isatty() else LOG_PERIOD) as bar:
            codes = [None]
            while None in codes:
                wait([each.sentinel for each in processes if each.exitcode is None],
                     PROGRESS_PERIOD)
                codes = [each.exitcode for each in processes]
                bar.update(sum(_is_kept(self._folder, index) for index in indices) - bar.n)
                if any(codes):
                    raise ChildProcessError(_early_end(codes))


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Have processes started here ignore Ctrl-C: it is for their parent, which ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _early_end(codes: list[int | None]) -> str:
    code = next(filter(None, codes))
    remedy = '' if code > 0 else (
        ', as where memory runs out: `taskset -c 0` before the command has one render alone')
    return (f'one of {len(codes)} processes that render the street ended early (exit code {code})'
            f'{remedy}; what is rendered is kept')


def _image_path(folder: Path, index: int) -> Path:
    return folder / f'{index:05}.jpg'


def _class_ids_path(folder: Path, index: int) -> Path:
    return folder / f'{index:05}.png'


def _is_kept(folder: Path, index: int) -> bool:
    """Return whether both files hold something; after a power cut they may be there, but empty."""
    return all(path.is_file() and path.stat().st_size > 0
               for path in (_class_ids_path(folder, index), _image_path(folder, index)))


def _keep(folder: Path, index: int, frame: DriveFrame) -> None:
    image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    for path, pixels, settings in ((_class_ids_path(folder, index), frame.class_ids, ()),
                                   (_image_path(folder, index), image, JPEG_SETTINGS)):
        unfinished = folder / f'{os.getpid()}{path.suffix}'  # Another demo may render the same.
        write_image(unfinished, pixels, settings)
        unfinished.replace(path)


def _cache() -> Path:
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(root) / 'bisenet_ros'


def _renderer_version() -> str:
    version = hashlib.sha256()
    for source in sorted(Path(street.__file__).parent.glob('*.py')):
        version.update(source.read_bytes())
    return version.hexdigest()[:12]


def _drive(size: tuple[int, int], duration: float) -> StreetDrive:
    return StreetDrive(size=size, rate=RATE, duration=duration)


def _render_frames(size: tuple[int, int], duration: float, folder: Path,
                   indices: list[int]) -> None:
    die_with_parent()
    if not parent_process().is_alive():  # The parent ended while this process started.
        return
    cv2.setNumThreads(1)
    drive = _drive(size, duration)
    try:
        for index in indices:
            _keep(folder, index, drive[index])
    except OSError as error:
        sys.exit(str(error))
