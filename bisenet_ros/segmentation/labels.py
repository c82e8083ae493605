"""Label sets: what each class id is called, how it is drawn, and what it means for a robot."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from bisenet_ros.resources import config_path, user_path
from bisenet_ros.strict_yaml import parse_yaml

NO_DECISION = 255
"""Class id of a pixel for which no class was chosen; never the id of a class."""

# A class name becomes the last part of a topic, segmentation/costmap/<class>.
_TOPIC_TOKEN = re.compile(r'[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*')


class LabelSetError(ValueError):
    """A label set cannot be used; the message names the file, the entry and the remedy."""


@dataclass(frozen=True)
class Label:
    """
    One class.

    :ivar id: value in masks, 0 to 254.
    :ivar name: valid as a part of a topic name.
    :ivar color: (red, green, blue), each 0 to 255.
    :ivar cost: 0 to 98 graded, 99 inscribed, 100 lethal; -1 none: obstacles have one above 0,
        what is neither obstacle nor ground (sky) has none.
    :ivar obstacle: stands on the ground and hides what lies behind it.
    :ivar ground: is ground itself.
    """

    id: int
    name: str
    color: tuple[int, int, int]
    cost: int
    obstacle: bool
    ground: bool


@dataclass(frozen=True)
class LabelSet:
    """
    The classes a network tells apart, in the order of its output channels.

    :ivar ignore_id: value in label images that training and evaluation ignore.
    """

    name: str
    labels: tuple[Label, ...]
    ignore_id: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the network's output channels."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def palette(self) -> np.ndarray:
        """Colour of every mask value, (256, 3) uint8 RGB; black where there is no class."""
        palette = np.zeros((256, 3), np.uint8)
        for label in self.labels:
            palette[label.id] = label.color
        palette.setflags(write=False)
        return palette


def load_label_set(name_or_path: str | Path) -> LabelSet:
    """
    Read a label set and check every value in it.

    :param name_or_path: a shipped name (`camvid`) or the path of a YAML file of the same form.
    :raises LabelSetError: naming the file, the entry, the value and what is allowed.
    """
    path = _find(name_or_path)
    try:
        content = parse_yaml(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabelSetError(f'label set {path} cannot be read: {error}') from error
    _check_keys(path, 'the file', content, ('name', 'ignore_id', 'classes'))
    name = content['name']
    if not isinstance(name, str) or not name:
        raise LabelSetError(f'label set {path}: name is {name!r}; give a text')
    ignore_id = _integer(path, 'ignore_id', content['ignore_id'], 0, 255)
    entries = content['classes']
    if not isinstance(entries, list):
        raise LabelSetError(f'label set {path}: classes is {entries!r}; give a list of classes')
    if len(entries) < 2:
        raise LabelSetError(f'label set {path}: classes has {len(entries)} of them; give at least '
                            'two, as of one alone a network is always certain')
    labels = tuple(_label(path, index, entry) for index, entry in enumerate(entries))
    _check_together(path, labels, ignore_id)
    return LabelSet(name, labels, ignore_id)


def _find(name_or_path: str | Path) -> Path:
    path = user_path(name_or_path)
    if path.suffix in ('.yaml', '.yml') or len(path.parts) > 1:
        if path.is_file():
            return path
        raise LabelSetError(f'label set {path.absolute()} does not exist; give the path of a '
                            'YAML file')
    try:
        return config_path(f'labels/{name_or_path}.yaml')
    except FileNotFoundError:
        shipped = sorted(file.stem for file in config_path('labels/camvid.yaml').parent.iterdir())
        raise LabelSetError(
            f'label set {str(name_or_path)!r} is not shipped; '
            f'choose one of {", ".join(shipped)}, or give the path of a YAML file') from None


def _label(path: Path, index: int, entry) -> Label:
    where = f'class number {index + 1}'
    _check_keys(path, where, entry, ('id', 'name', 'color', 'cost', 'obstacle', 'ground'))
    name = entry['name']
    if not isinstance(name, str) or not _TOPIC_TOKEN.fullmatch(name):
        raise LabelSetError(
            f'label set {path}, {where}: name is {name!r}; it becomes part of a topic name: start '
            'with a letter, then letters, digits and single underscores')
    where = f'class {name!r}'
    color = entry['color']
    if not isinstance(color, list) or len(color) != 3:
        raise LabelSetError(f'label set {path}, {where}: color is {color!r}; '
                            'give [red, green, blue], each 0 to 255')
    label = Label(
        id=_integer(path, f'{where}, id', entry['id'], 0, 254),
        name=name,
        color=tuple(_integer(path, f'{where}, color', part, 0, 255) for part in color),
        cost=_integer(path, f'{where}, cost', entry['cost'], -1, 100),
        obstacle=_boolean(path, f'{where}, obstacle', entry['obstacle']),
        ground=_boolean(path, f'{where}, ground', entry['ground']))
    if label.obstacle and label.ground:
        raise LabelSetError(f'label set {path}, {where}: obstacle and ground are both true; '
                            'what stands on the ground is not ground: set one of them to false')
    if label.obstacle and label.cost < 1:
        raise LabelSetError(f'label set {path}, {where}: an obstacle needs a cost, and it is '
                            f'{label.cost}: give 1 to 100')
    if label.cost >= 0 and not (label.obstacle or label.ground):
        raise LabelSetError(f'label set {path}, {where}: cost is {label.cost}, but what is '
                            'neither obstacle nor ground hangs, and never gets into a costmap: '
                            'set obstacle or ground to true, or cost to -1')
    return label


def _check_keys(path: Path, where: str, mapping, keys: tuple[str, ...]):
    """Refuse missing and unknown keys: a misspelt `obstacle` must not make a wall harmless."""
    if not isinstance(mapping, dict):
        found = 'empty' if mapping is None else repr(mapping)
        raise LabelSetError(f'label set {path}: {where} is {found}; '
                            f'give a mapping with the keys {", ".join(keys)}')
    missing = ', '.join(key for key in keys if key not in mapping)
    unknown = ', '.join(str(key) for key in mapping if key not in keys)
    # Both are reported at once: a misspelt key is unknown, and the right one is missing.
    wrong = ' and '.join(f'{what} {names}' for what, names in (
        ('lacks', missing), ('has unknown', unknown)) if names)
    if wrong:
        raise LabelSetError(f'label set {path}: {where} {wrong}; the keys are {", ".join(keys)}')


def _integer(path: Path, where: str, value, lowest: int, highest: int) -> int:
    # bool is an int in Python, and YAML reads a bare `yes` as true.
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise LabelSetError(f'label set {path}: {where} is {value!r}; '
                            f'give a whole number from {lowest} to {highest}')
    return value


def _boolean(path: Path, where: str, value) -> bool:
    if not isinstance(value, bool):
        raise LabelSetError(f'label set {path}: {where} is {value!r}; give true or false')
    return value


def _check_together(path: Path, labels: tuple[Label, ...], ignore_id: int):
    for what in ('id', 'name'):
        seen = {}
        for label in labels:
            value = getattr(label, what)
            if value in seen:
                raise LabelSetError(
                    f'label set {path}: {what} {value!r} is given to {seen[value].name!r} and to '
                    f'{label.name!r}; every class needs its own')
            seen[value] = label
    for label in labels:
        if label.id == ignore_id:
            raise LabelSetError(
                f'label set {path}: ignore_id {ignore_id} is also the id of class '
                f'{label.name!r}; give a value that no class has, such as 255')
