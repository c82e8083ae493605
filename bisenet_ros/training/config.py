"""Training settings: a YAML file in which every setting is visible, and overrides of it."""

import math
from pathlib import Path

import yaml

from bisenet_ros.network import BACKBONES, OUTPUT_STRIDES, VARIANTS
from bisenet_ros.resources import config_path, user_path
from bisenet_ros.segmentation.device import PRECISIONS
from bisenet_ros.strict_yaml import parse_yaml

_TYPES = {int: 'a whole number', float: 'a number', str: 'a text (of digits alone, in quotes)'}
_CHOICES = {'network.variant': VARIANTS, 'network.backbone': BACKBONES,
            'network.output_stride': OUTPUT_STRIDES, 'optimizer.name': ('adamw', 'sgd'),
            'precision': ('auto', *PRECISIONS)}
# The least and the most that a number may be. Most go far beyond what makes sense: a slip is told
# as such, not by an overflow further on.
_RANGES = {
    'image_size': (32, 65536),  # at least 32 like evaluate's --size
    'mean': (0, 1), 'std': (0.01, 1),
    'data.train share': (0.001, 1e6),
    'augmentation.crop': (1, 65536), 'augmentation.scale': (0.05, math.inf),
    'augmentation.aspect': (0, math.inf), 'augmentation.flip': (0, 1),
    'augmentation.brightness': (0, math.inf), 'augmentation.contrast': (0, math.inf),
    'augmentation.saturation': (0, math.inf), 'augmentation.gamma': (0, math.inf),
    'augmentation.channel_gain': (0, math.inf), 'augmentation.class_mix': (0, 1),
    'loss.class_balance': (0, 2),  # Weights reach 50 to this power, and 50 ^ 23 overflows.
    'loss.auxiliary_weight': (0, 1e3), 'loss.ohem_threshold': (0, 1),
    'distillation.weight': (0, 1e3),
    'distillation.temperature': (0.1, 100),  # At 100 all are alike; 1e155 overflows.
    'optimizer.lr': (1e-9, math.inf), 'optimizer.weight_decay': (0, math.inf),
    'optimizer.momentum': (0, 0.999),  # With 1 a step would never lose its momentum.
    'schedule.iterations': (1, 10 ** 9), 'schedule.minutes': (0, math.inf),
    'schedule.warmup': (0, math.inf), 'schedule.power': (0, math.inf),
    'schedule.closing': (0, 1), 'schedule.closing_augmentation': (0, 1),
    'batch_size': (2, 65536),  # Batch norm of the pooled branch needs more than one value.
    'ema_decay': (0, 1), 'validate_every': (1, 10 ** 9), 'seed': (0, 2 ** 63 - 1)}
# The keys that an entry of data.train or data.val may have, each with a value of its type.
_DATA_SET = {'layout': 'camvid', 'root': 'mine', 'split': 'train', 'sequences': ['0001TP'],
             'images': 'images', 'labels': 'labels', 'share': 1.0}


class ConfigError(ValueError):
    """A training configuration that cannot be used; the message names the setting."""


def load_config(name_or_path: str, overrides: list[str] = ()) -> dict:
    """
    Read a training configuration.

    :param name_or_path: a shipped one by name (`camvid_xception39`), or a YAML file.
    :param overrides: `optimizer.lr=0.01`, the value in YAML; only settings the file has.
    :returns: the settings, each in the type it has in the shipped file.
    :raises ConfigError: for an unreadable file, a missing or unknown setting, or a value that is
        none of those allowed.
    """
    path = user_path(name_or_path)
    if path.suffix not in ('.yaml', '.yml'):
        path = _shipped(name_or_path)
    try:
        config = parse_yaml(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: {error}') from error
    if not isinstance(config, dict):
        raise ConfigError(f'{path}: not a YAML mapping of settings')
    for override in overrides:
        _override(config, override)
    example = parse_yaml(_shipped('camvid_xception39').read_text(encoding='utf-8'))
    _check_names(path, set(flat_settings(config)), set(flat_settings(example)))
    return {name: _checked(name, config[name], each) for name, each in example.items()}


def _shipped(name: str) -> Path:
    files = {file.stem: file for file in sorted(
        config_path('train/camvid_xception39.yaml').parent.glob('*.yaml'))}
    if name not in files:
        raise ConfigError(f'no configuration {name!r} is shipped; choose one of '
                          f'{", ".join(files)}, or give the path of a YAML file')
    return files[name]


def _check_names(path: Path, given: set[str], expected: set[str]) -> None:
    if given != expected:
        missing = ', '.join(sorted(expected - given)) or 'nothing'
        unknown = ', '.join(sorted(given - expected)) or 'nothing'
        raise ConfigError(f'{path}: missing {missing}; unknown {unknown}')


def _checked(name: str, value, example):
    """Return the value in the type of the example, or raise a ConfigError."""
    if isinstance(example, dict):
        return {key: _checked(f'{name}.{key}', value[key], each) for key, each in example.items()}
    if name in ('data.train', 'data.val'):
        return _checked_data_sets(name, value)
    if isinstance(example, list):
        # A list of numbers has a fixed length, a list of texts may have any.
        any_length = isinstance(example[0], str)
        if not isinstance(value, list) or not (any_length or len(value) == len(example)):
            raise ConfigError(f'{name} is {value!r}; give a list such as {example}')
        return [_checked(name, each, example[0]) for each in value]
    if isinstance(example, float):
        value = _as_float(value)
    if type(value) is not type(example) or (
            isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f'{name} is {value!r}; give {_TYPES[type(example)]}')
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ConfigError(f'{name} is {value!r}; give one of '
                          f'{", ".join(map(str, _CHOICES[name]))}')
    if name in _RANGES:
        least, most = _RANGES[name]
        if value < least:
            raise ConfigError(f'{name} is {value}; give at least {least}')
        if value > most:
            raise ConfigError(f'{name} is {value}; give at most {most}')
    return value


def _checked_data_sets(name: str, value) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f'{name} is {value!r}; give a list of data sets, such as '
                          '[{layout: folders, root: mine}]')
    # Pictures to measure on are not drawn at random, so they have no share.
    allowed = [key for key in _DATA_SET if (name, key) != ('data.val', 'share')]
    for entry in value:
        if not isinstance(entry, dict) or not {'layout', 'root'} <= entry.keys() <= set(allowed):
            raise ConfigError(f'{name} has {entry!r}; give each data set a layout and a root, and '
                              f'nothing else but {", ".join(allowed[2:])}')
    return [{key: _checked(f'{name} {key}', each, _DATA_SET[key]) for key, each in entry.items()}
            for entry in value]


def _as_float(value):
    """Return the value as a float if it is a number; 5e-4 is a text in YAML 1.1."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def _override(config: dict, override: str) -> None:
    name, equals, value = override.partition('=')
    *parents, last = name.split('.')
    place = config
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not equals or not isinstance(place, dict) or last not in place:
        raise ConfigError(f'cannot set {override!r}: give setting=value, the setting one of '
                          f'{", ".join(flat_settings(config))}')
    try:
        place[last] = parse_yaml(value) if value else ''
    except yaml.YAMLError as error:
        reason = ' '.join(str(error).split())
        raise ConfigError(f'cannot set {override!r}: the value is not YAML: {reason}') from error


def flat_settings(config: dict, prefix: str = '') -> dict:
    """Return the settings by their full names, `optimizer.lr` for example."""
    settings = {}
    for key, value in config.items():
        # In quotes, a key `optimizer.lr` is not taken for `lr` in `optimizer`.
        name = f'{prefix}{key!r}' if '.' in str(key) else f'{prefix}{key}'
        settings |= flat_settings(value, f'{name}.') if isinstance(value, dict) else {name: value}
    return settings
