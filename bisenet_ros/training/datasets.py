"""Labelled images from disk, checked before training starts and kept in memory."""

import logging
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bisenet_ros.image_files import IMAGE_SUFFIXES, list_images
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.device import is_out_of_memory
from bisenet_ros.segmentation.labels import LabelSet, load_label_set
from bisenet_ros.training.augmentation import IGNORED
from bisenet_ros.training.labelled_image import INVALID, DatasetError, load_labelled_image

# How much the aspect of images may be changed without a warning.
_SQUEEZE = 0.05
# If no pixel of a data set is this bright, a warning says so; 12 bits stored as 16 reach 15.
_LEAST_BRIGHT = 32
_IN_MEMORY = 'there is memory for'
_MEMORY_INFO = Path('/proc/meminfo')
# Where a container finds its own limits (cgroup version 2).
_CONTAINER = Path('/sys/fs/cgroup')

_logger = logging.getLogger(__name__)

# For each palette index in use: its colour, and the label file that it was first found in.
Palette = dict[int, tuple[tuple[int, ...], Path]]


class DatasetFiles(NamedTuple):
    """
    What a data set is read from.

    :ivar layout: one of LAYOUT_ARGUMENTS; it says what the values in labels mean.
    :ivar root: folder of the data set.
    :ivar pairs: image and label file of each image.
    """

    layout: str
    root: Path
    pairs: list[tuple[Path, Path]]


@dataclass
class Dataset:
    """
    Images and labels of one size.

    :ivar images: (N, 3, H, W) uint8 RGB.
    :ivar labels: (N, H, W) uint8, the output channel of each pixel's class, or `IGNORED`.
    :ivar files: the image files.
    """

    images: Tensor
    labels: Tensor
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def to(self, device: torch.device) -> 'Dataset':
        """
        Return the data set in the memory of a device.

        :raises DatasetError: if it does not fit there.
        """
        try:
            return Dataset(self.images.to(device), self.labels.to(device), self.files)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _too_large(*self.labels.shape, 'the GPU has free') from error


def _size_in_memory(count: int, height: int, width: int) -> int:
    return 4 * count * height * width  # bytes: red, green, blue and label


def _too_large(count: int, height: int, width: int, limit: str) -> DatasetError:
    size = _size_in_memory(count, height, width) / 1e9
    return DatasetError(f'{count} pictures of {width}x{height} take {size:.1f} GB, more than '
                        f'{limit}: lower image_size (evaluate: --size)')


def _require_memory(data_sets: Sequence[DatasetFiles], size: tuple[int, int]) -> None:
    """
    Refuse data sets for which there is too little memory, before their files are read.

    Linux grants a process more memory than it, or the container, has, and kills the process when
    it writes to that.

    :param size: (width, height) in pixels of their images in memory.
    :raises DatasetError: if they do not fit; never on a system that does not tell its memory.
    """
    count, (width, height) = sum(len(files.pairs) for files in data_sets), size
    if _size_in_memory(count, height, width) > available_memory():
        raise _too_large(count, height, width, _IN_MEMORY)


def available_memory() -> float:
    """Return how many bytes Linux has without swapping; infinity on other systems."""
    text = _MEMORY_INFO.read_text() if _MEMORY_INFO.is_file() else ''
    available = re.search(r'^MemAvailable: *(\d+) kB$', text, re.MULTILINE)
    return min(1024 * int(available[1]) if available else math.inf, _left_in_container())


def _left_in_container() -> float:
    """Return how many bytes the container's limit leaves; infinity if it has none."""
    try:
        limit, used = (int((_CONTAINER / f'memory.{name}').read_text())
                       for name in ('max', 'current'))
        stat = (_CONTAINER / 'memory.stat').read_text()
    except (OSError, ValueError):  # no container, or 'max', which is no limit
        return math.inf
    # Cached files count as used, but can be dropped; MemAvailable includes them, too.
    cached = re.findall(r'^(?:in)?active_file (\d+)$', stat, re.MULTILINE)
    return limit - used + sum(map(int, cached))


def find_files(layout: str, root: str | Path, sequences: Sequence[str] = (),
               **layout_arguments: str) -> DatasetFiles:
    """
    Find the images and labels of a data set, without reading any.

    Layouts, all below `root`:

    - `camvid`: `<split>/x.png` and `<split>annot/x.png` (the SegNet form of CamVid);
    - `cityscapes`: `leftImg8bit/<split>/<city>/` and `gtFine/<split>/<city>/`, whose labelIds
      become trainIds;
    - `folders`: `<images>/x.*` and `<labels>/x.png`, without splits.

    :param sequences: only images whose names start with one of these; all if empty.
    :param layout_arguments: values for the names in angle brackets; by default train, images,
        labels.
    :raises DatasetError: for an unknown layout, an argument that it does not have, a missing
        folder or label, no image at all or for one of the sequences, or a label file that is its
        own image or belongs to two images.
    """
    root = user_path(root)
    pairs = _pairs(layout, root, layout_arguments)
    _warn_of_labels_without_image(layout, pairs)
    missing = [prefix for prefix in sequences
               if not any(image.name.startswith(prefix) for image, _ in pairs)]
    if missing or not pairs:
        of = f' that start with {" or ".join(missing)}' if missing else ''
        where = ''.join(f', {name} {value}' for name, value in layout_arguments.items())
        raise DatasetError(f'{root}: no images{of} (layout {layout}{where}; read are '
                           f'{", ".join(IMAGE_SUFFIXES)})')
    if sequences:
        pairs = [pair for pair in pairs if pair[0].name.startswith(tuple(sequences))]
    _require_one_label_each(pairs)
    return DatasetFiles(layout, root, pairs)


def load_dataset(data_sets: Sequence[DatasetFiles], label_set: LabelSet, size: tuple[int, int],
                 palette: Palette | None = None) -> Dataset:
    """
    Read data sets, check all of them, and return them as one, in their order.

    :param data_sets: each as find_files returns it.
    :param size: (width, height) in pixels to which everything is resized.
    :param palette: colours found in other data sets of the same training; theirs are added.
    :raises ValueError: for a file that holds no image.
    :raises DatasetError: for a label set that is not the layout's, a damaged file, an image with
        an EXIF rotation, a label file that is no PNG of class ids, palettes or sizes that differ,
        a label value the label set does not have, a data set whose labels are all ignored, or
        more than fits into memory.
    """
    _require_memory(data_sets, size)
    files = [[image for image, _ in each.pairs] for each in data_sets]
    images, labels = _allocate(sum(map(len, files)), size)
    palette = {} if palette is None else palette
    counts = [len(each) for each in files]
    # The parts are views: filling them fills the whole.
    parts = map(Dataset, images.split(counts), labels.split(counts), files)
    for each, part in zip(data_sets, parts):
        _load_part(each, part, size, label_set, palette)
    return Dataset(images, labels, sum(files, []))


def _allocate(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return tensors to be filled with images and labels."""
    width, height = size
    try:
        # By NumPy: for too little memory PyTorch raises the same error as for any other fault.
        images = np.empty((count, 3, height, width), np.uint8)
        labels = np.empty((count, height, width), np.uint8)
    except MemoryError as error:
        raise _too_large(count, height, width, _IN_MEMORY) from error
    return torch.from_numpy(images), torch.from_numpy(labels)


def _load_part(files: DatasetFiles, part: Dataset, size: tuple[int, int], label_set: LabelSet,
               palette: Palette) -> None:
    """Fill the images and labels of one data set, and check them."""
    _warn_of_unread(files.pairs)
    originals = _read_files(files, part, size, _label_table(label_set, files.layout), palette)
    _warn_of_squeezing(files.root, part.files, originals, size)
    _warn_of_darkness(files.root, part)
    _check_ignored(files, part)


def _read_files(files: DatasetFiles, part: Dataset, size: tuple[int, int],
                to_channel: np.ndarray, palette: Palette) -> list[tuple[int, int]]:
    """Fill the images and labels; return the sizes that the images had, (width, height)."""
    images, labels = part.images.numpy(), part.labels.numpy()
    originals = []
    threads = ThreadPoolExecutor()
    try:
        loaded = threads.map(
            lambda pair: load_labelled_image(*pair, size, to_channel), files.pairs)
        for index, each in enumerate(
                tqdm(loaded, desc=f'reading {files.root.name}', total=len(files.pairs),
                     leave=False, disable=None)):
            images[index], labels[index] = each.image, each.labels
            originals.append(each.original)
            _require_one_palette(palette, each.colors, files.pairs[index][1])
    finally:  # A thread that outlives the interpreter may abort the process.
        threads.shutdown(cancel_futures=True)
    return originals


def _require_one_palette(palette: Palette, colors: dict[int, tuple[int, ...]],
                         path: Path) -> None:
    """Refuse a label file whose colours contradict the palette; otherwise add them to it."""
    for index, color in colors.items():
        earlier, file = palette.setdefault(index, (color, path))
        if color != earlier:
            raise DatasetError(
                f'{path} has the colour {color} for index {index} of its palette, {file} '
                f'{earlier}: masks in colours that were stored with palettes (quantised, indexed) '
                'give each file indices of its own, which are no class ids, and two exports may '
                'order classes differently: turn colours into ids (where the indices are right, '
                'save them without a palette)')


def _pairs(layout: str, root: Path, layout_arguments: dict[str, str]) -> list[tuple[Path, Path]]:
    """Return image and label file of each image."""
    if layout not in LAYOUT_ARGUMENTS:
        raise DatasetError(f'layout {layout!r} is not one of {", ".join(LAYOUT_ARGUMENTS)}')
    defaults = LAYOUT_ARGUMENTS[layout]
    if unknown := ', '.join(sorted(layout_arguments.keys() - defaults.keys())):
        raise DatasetError(f'{root}: layout {layout} has no {unknown}, but {", ".join(defaults)}: '
                           'what to train on and what to measure on are told apart by these, or '
                           'by root')
    return _PAIRS[layout](root, **{**defaults, **layout_arguments})


def _camvid_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    return _folder_pairs(root, split, f'{split}annot')


def _folder_pairs(root: Path, images: str, labels: str) -> list[tuple[Path, Path]]:
    return [(image, root / labels / f'{image.stem}.png') for image in _image_files(root / images)]


_CITYSCAPES_LABEL_SUFFIX = '_gtFine_labelIds.png'


def _cityscapes_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    suffix = '_leftImg8bit.png'
    return [(image, root / 'gtFine' / split / image.parent.name
             / image.name.replace(suffix, _CITYSCAPES_LABEL_SUFFIX))
            for city in _subfolders(root / 'leftImg8bit' / split)
            for image in _image_files(city) if image.name.endswith(suffix)]


_PAIRS = {'camvid': _camvid_pairs, 'cityscapes': _cityscapes_pairs, 'folders': _folder_pairs}
# For each layout, the names in its paths that may be given, and their defaults.
LAYOUT_ARGUMENTS = {'camvid': {'split': 'train'}, 'cityscapes': {'split': 'train'},
                    'folders': {'images': 'images', 'labels': 'labels'}}


def _warn_of_labels_without_image(layout: str, pairs: list[tuple[Path, Path]]) -> None:
    suffix = _CITYSCAPES_LABEL_SUFFIX if layout == 'cityscapes' else '.png'
    used = {label for _, label in pairs}
    for folder in sorted({label.parent for label in used}):
        unused = sorted(path.name for path in folder.glob(f'[!.]*{suffix}') if path not in used)
        if unused:
            _logger.warning('%s: %d labels in it have no image and are not used, such as %s',
                            folder, len(unused), unused[0])


def _require_one_label_each(pairs: list[tuple[Path, Path]]) -> None:
    image_of = {}
    for image, label in pairs:
        if image == label:
            raise DatasetError(f'{image} is image and label at once: keep labels in a folder of '
                               'their own')
        if label in image_of:
            raise DatasetError(f'{image_of[label]} and {image} have the same label, {label}: '
                               'rename one')
        if not label.is_file():
            raise DatasetError(f'{image} has no label: {label} does not exist (it must end in '
                               '.png, in lower case)')
        image_of[label] = image


def _image_files(folder: Path) -> list[Path]:
    _require_folder(folder)
    return list_images(folder)


def _subfolders(folder: Path) -> list[Path]:
    _require_folder(folder)
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(f'no folder {folder}: correct root (or split, images, labels)')


# labelIds of the 19 evaluated classes in the order of their trainIds (cityscapesScripts).
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def _label_table(label_set: LabelSet, layout: str) -> np.ndarray:
    """Return (256,) uint8: value in a label image -> output channel, IGNORED or INVALID."""
    table = np.full(256, INVALID, np.uint8)
    if layout == 'cityscapes':
        table[:34] = IGNORED
        table[255] = IGNORED  # -1, "license plate", as uint8
        values = CITYSCAPES_LABEL_IDS
        if label_set.class_names != load_label_set('cityscapes').class_names:
            raise DatasetError(f'layout cityscapes has the classes of label set cityscapes, not '
                               f'those of {label_set.name!r}: use cityscapes, or its names in its '
                               'order')
    else:
        table[label_set.ignore_id] = IGNORED
        values = [label.id for label in label_set.labels]
    table[list(values)] = np.arange(len(values))
    return table


def _check_ignored(files: DatasetFiles, dataset: Dataset) -> None:
    """Refuse a data set whose labels are all ignored; warn if those of some images are."""
    # By the minimum: `== IGNORED` on all pixels would take as much memory as the labels.
    silent = (dataset.labels.flatten(1).amin(1) == IGNORED).nonzero().flatten().tolist()
    if not silent:
        return
    example = files.pairs[silent[0]][1]
    if len(silent) == len(dataset):
        raise DatasetError(f'{files.root}: every pixel of its labels is ignored ({example} ...)')
    _logger.warning('%s: %d of %d labels ignore every pixel, such as %s', files.root, len(silent),
                    len(dataset), example.name)


def _warn_of_squeezing(root: Path, files: list[Path], originals: list[tuple[int, int]],
                       size: tuple[int, int]) -> None:
    squeezed = [index for index, (width, height) in enumerate(originals)
                if abs(width / height / (size[0] / size[1]) - 1) > _SQUEEZE]
    if squeezed:
        _logger.warning(
            '%s: %d of %d images are squeezed to %dx%d (%s has %dx%d), but the node keeps the '
            'aspect: choose image_size and augmentation.crop (evaluate: --size) by the camera',
            root, len(squeezed), len(files), *size, files[squeezed[0]].name,
            *originals[squeezed[0]])


def _warn_of_darkness(root: Path, dataset: Dataset) -> None:
    brightness = dataset.images.flatten(1).amax(1)
    brightest = int(brightness.argmax())
    if brightness[brightest] < _LEAST_BRIGHT:
        _logger.warning(
            '%s: the images are nearly black, none is brighter than %s, which reaches %d of 255: '
            'where they hold 10 or 12 bits as 16, save them with 8', root,
            dataset.files[brightest].name, brightness[brightest])


def _warn_of_unread(pairs: list[tuple[Path, Path]]) -> None:
    label_folders = {label.parent for _, label in pairs}
    for folder in sorted({image.parent for image, _ in pairs}):
        unread = sorted(path.name for path in folder.iterdir()
                        if path.suffix.lower() not in IMAGE_SUFFIXES
                        and not path.name.startswith('.') and path not in label_folders)
        if unread:
            _logger.warning('%s: %d files or folders in it are not read, such as %s (read are %s)',
                            folder, len(unread), ', '.join(unread[:3]), ', '.join(IMAGE_SUFFIXES))
