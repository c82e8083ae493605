"""The checkpoint of a run: how it is written and read, and what may be resumed from it."""

import fcntl
import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import torch
import yaml

from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.segmentation.device import choose_device
from bisenet_ros.segmentation.labels import load_label_set
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.training.config import ConfigError, flat_settings

# A resumed run may change the settings whose names begin with one of these.
_PASSING_SETTINGS = ('schedule.', 'validate_every', 'device')

# The first line of the config.yaml of a run, which one that somebody wrote does not have.
_WRITTEN_HERE = '# Written by train, which overwrites it.\n'


def check_output(output: Path, resume: bool) -> None:
    """
    Refuse an output folder that does not suit a new run, or the resumption of one.

    :raises ValueError: where a new run would replace an earlier one or somebody's config.yaml, or
        there is none to resume.
    """
    has_run = (output / 'checkpoint.pth').is_file()
    if has_run and not resume:
        raise ValueError(f'{output} holds an earlier run: go on with it by --resume, or give '
                         'another folder by --output')
    if resume and not has_run:
        raise ValueError(f'{output} holds no checkpoint.pth to go on with: leave --resume out, or '
                         'give the folder of the run by --output')
    config = output / 'config.yaml'
    # A new run may begin where another one has ended before its first checkpoint.
    if not resume and config.is_file() and not config.read_bytes().startswith(
            _WRITTEN_HERE.encode()):
        raise ValueError(f'{config} would be overwritten by that of the run: give another folder '
                         'by --output')


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """
    Keep every other training from writing to a folder while the block runs.

    :raises ValueError: where another one is writing to it.
    """
    folder = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f'another training is writing to {output}: wait until it ends, or '
                             'give another folder by --output') from None
        except OSError:  # Some network file systems have no locks.
            pass
        yield
    finally:
        os.close(folder)


def schedule_progress(schedule: dict, iteration: int, seconds: float) -> float:
    """
    Return the share of the schedule that is done: 0 to 1, or more if it was shortened.

    :param schedule: the settings of that name.
    :param iteration, seconds: how far the run has come.
    """
    progress = iteration / schedule['iterations']
    if schedule['minutes']:
        progress = max(progress, seconds / 60 / schedule['minutes'])
    return progress


def lasting_settings(config: dict) -> dict:
    """
    Return the settings that must stay the same when a run is resumed.

    They include the contents of label set and teacher, not only the names.
    """
    lasting = {name: value for name, value in flat_settings(config).items()
               if not name.startswith(_PASSING_SETTINGS)}
    label_set = load_label_set(config['label_set'])
    lasting['label_set'] = [[label.name, label.id] for label in label_set.labels]
    lasting['ignore_id'] = label_set.ignore_id
    if teacher := config['distillation']['teacher']:
        path = weights_path(teacher, choose_device(config['device']))
        lasting['distillation.teacher'] += (
            f' (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]})')
    return lasting


def save_config(config: dict, output: Path) -> None:
    """Write the settings of the run in a folder."""
    with atomic_write(output / 'config.yaml') as part:
        part.write_text(_WRITTEN_HERE + yaml.safe_dump(config, sort_keys=False), encoding='utf-8')


def save_checkpoint(state: dict, output: Path) -> None:
    """
    Write the checkpoint of the run in a folder; if that fails, the earlier one stays.

    :raises OSError: where it cannot be written.
    """
    path = output / 'checkpoint.pth'
    try:
        with atomic_write(path) as part:
            torch.save(state, part)
    except RuntimeError as error:  # how PyTorch says that the disk is full
        raise OSError(f'{path} cannot be written: {error}') from error


def load_checkpoint(config: dict, output: Path) -> dict:
    """
    Return the checkpoint in a run's output folder.

    :raises ConfigError: if it is damaged, if one of the settings that must stay the same has
        changed, or if the schedule is done.
    """
    path = output / 'checkpoint.pth'
    new_run = _new_run(output)
    try:
        with ZipFile(path) as file:
            if damaged := file.testzip():  # torch.load reads on where bytes have changed.
                raise ValueError(f'{damaged} in it is damaged')
        # To the CPU; whoever takes a tensor moves it to its own device.
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # Damaged pickles fail in many ways.
        raise ConfigError(f'{path} cannot be read ({error}): {new_run}') from error
    lasting = lasting_settings(config)
    settings = state.get('settings', {}) if isinstance(state, dict) else {}
    if lasting.keys() != settings.keys() or 'fingerprints' not in state:
        raise ConfigError(f'{path} is of another version of this package: {new_run}')
    for name, value in lasting.items():
        if value != settings[name]:
            raise ConfigError(f'{name} is {value}, in the run to resume {settings[name]}: give '
                              f'{output}/config.yaml, or {new_run}')
    if schedule_progress(config['schedule'], state['iteration'], state['seconds']) >= 1:
        raise ConfigError(f'the schedule of {output} is done after {state["iteration"]} '
                          'iterations: raise schedule.iterations or schedule.minutes to go on')
    return state


def check_pictures(state: dict, pictures: dict[str, list[tuple[str, str, str]]],
                   output: Path) -> None:
    """
    Refuse a checkpoint of a run on other pictures.

    :param state: as load_checkpoint returns it.
    :param pictures: what `train` and `val` have now: file name, hash of the pixels and of the
        labels of each picture.
    :param output: the run's folder, for the message.
    :raises ConfigError: if pictures have been added or removed, or they or labels have changed.
    """
    for role, earlier in state['fingerprints'].items():
        if earlier != pictures[role]:
            then, now = Counter(earlier), Counter(pictures[role])
            names = sorted({name for name, *_ in (then - now) + (now - then)})
            some = names[:3] or ['their order']
            raise ConfigError(
                f'data.{role} has {len(pictures[role])} pictures, in the run to resume '
                f'{len(earlier)} (others, or other pixels or labels: {", ".join(some)}): restore '
                f'them, or {_new_run(output)}')


def _new_run(output: Path) -> str:
    return f'begin a new run with network.init={shlex.quote(f"{output}/last.safetensors")}'
