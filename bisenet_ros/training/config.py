"""Training settings: a YAML file in which every setting is visible, and overrides of it."""

from pathlib import Path

import yaml

from bisenet_ros.resources import config_path


class ConfigError(ValueError):
    """A training configuration that cannot be used; the message names the setting."""


def load_config(name_or_path: str, overrides: list[str] = ()) -> dict:
    """
    Read a training configuration.

    :param name_or_path: a shipped one by name (`camvid_xception39`), or a YAML file.
    :param overrides: `optimizer.lr=0.01`, the value in YAML; only settings the file has.
    :raises ConfigError: for an unreadable file, missing or unknown settings, or a batch of one.
    """
    path = Path(name_or_path)
    if path.suffix not in ('.yaml', '.yml'):
        path = config_path(f'train/{name_or_path}.yaml')
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: {error}') from error
    if not isinstance(config, dict):
        raise ConfigError(f'{path}: not a YAML mapping of settings')
    for override in overrides:
        _override(config, override)
    expected = yaml.safe_load(config_path('train/camvid_xception39.yaml').read_text())
    _check(path, set(_settings(config)), set(_settings(expected)))
    if config['batch_size'] < 2:
        raise ConfigError(f'{path}: batch_size is {config["batch_size"]}; the pooled branch '
                          'normalises over the batch, so at least 2')
    return config


def _check(path: Path, given: set[str], expected: set[str]) -> None:
    if given != expected:
        missing = ', '.join(sorted(expected - given)) or 'nothing'
        unknown = ', '.join(sorted(given - expected)) or 'nothing'
        raise ConfigError(f'{path}: missing {missing}; unknown {unknown}')


def _override(config: dict, override: str) -> None:
    name, equals, value = override.partition('=')
    *parents, last = name.split('.')
    place = config
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not equals or not isinstance(place, dict) or last not in place:
        raise ConfigError(f'cannot set {override!r}: give setting=value, the setting one of '
                          f'{", ".join(_settings(config))}')
    place[last] = yaml.safe_load(value)


def _settings(config: dict, prefix: str = '') -> list[str]:
    names = []
    for key, value in config.items():
        names += _settings(value, f'{prefix}{key}.') if isinstance(value, dict) else [prefix + key]
    return names
