"""The checkpoint of a run: saved to its output folder, and what may go on with it."""

import fcntl
import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.segmentation.device import choose_device
from bisenet_ros.segmentation.labels import load_label_set
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.training.config import ConfigError, flat_settings

# Beginnings of the names of settings that a run may change when it is resumed.
_PASSING_SETTINGS = ('schedule.', 'validate_every', 'device')


def check_output(output: Path, resume: bool) -> None:
    """
    Refuse a folder that does not fit what is to be done.

    :raises ValueError: where a new run would replace an earlier one, or there is none to resume.
    """
    has_run = (output / 'checkpoint.pth').is_file()
    if has_run and not resume:
        raise ValueError(f'{output} holds an earlier run: go on with it by --resume, or give '
                         'another folder by --output')
    if resume and not has_run:
        raise ValueError(f'{output} holds no checkpoint.pth to go on with: leave --resume out, or '
                         'give the folder of the run by --output')


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """
    Keep every other training from writing to a folder while the block runs.

    :raises ValueError: where another one is writing to it.
    """
    folder = os.open(output, os.O_RDONLY)
    try:
        with suppress(OSError):  # Some network file systems have no locks.
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f'another training is writing to {output}: wait until it ends, '
                                 'or give another folder by --output') from None
        yield
    finally:
        os.close(folder)


def how_to_go_on(output: Path) -> str:
    """Return a line break and the command that resumes the run in a folder, or nothing."""
    if not (output / 'checkpoint.pth').is_file():
        return ''
    config_path, folder = (shlex.quote(str(path)) for path in (output / 'config.yaml', output))
    return f'\ngo on: train {config_path} --output {folder} --resume'


def schedule_progress(schedule: dict, iteration: int, seconds: float) -> float:
    """
    Return how much of the schedule is done, 0 to 1 and, where it was shortened, beyond.

    :param schedule: the settings of that name.
    :param iteration, seconds: how far the run is.
    """
    progress = iteration / schedule['iterations']
    if schedule['minutes']:
        progress = max(progress, seconds / 60 / schedule['minutes'])
    return progress


def lasting_settings(config: dict) -> dict:
    """
    Return what a run must not change when it is resumed.

    With the contents of label set and teacher, not only their names.
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


def save_checkpoint(state: dict, output: Path) -> None:
    """
    Write what the run in a folder can go on with, or leave what was there.

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

    :raises ConfigError: where it is damaged, the settings are not that run's (those of the
        schedule need not be), or the schedule is done.
    """
    path = output / 'checkpoint.pth'
    new_run = _new_run(output)
    try:
        # To the CPU; all goes to where it belongs.
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # Damaged pickles fail in many ways.
        raise ConfigError(f'{path} cannot be read ({error}): {new_run}') from error
    lasting, settings = lasting_settings(config), state.get('settings', {})
    if lasting.keys() != settings.keys() or 'pictures' not in state:
        raise ConfigError(f'{path} is of another version of this package: {new_run}')
    for name, value in lasting.items():
        if value != settings[name]:
            raise ConfigError(f'{name} is {value}, in the run to resume {settings[name]}: give '
                              f'{output}/config.yaml, or {new_run}')
    if schedule_progress(config['schedule'], state['iteration'], state['seconds']) >= 1:
        raise ConfigError(f'the schedule of {output} is done after {state["iteration"]} '
                          'iterations: raise schedule.iterations or schedule.minutes to go on')
    return state


def check_pictures(state: dict, pictures: dict[str, list[str]], output: Path) -> None:
    """
    Refuse a checkpoint of a run on other pictures.

    :param state: as load_checkpoint returns it.
    :param pictures: the names of the files that `train` and `val` have now.
    :param output: the run's folder, for the message.
    :raises ConfigError: where some have come or gone.
    """
    for role, names in state['pictures'].items():
        if names != pictures[role]:
            then, now = Counter(names), Counter(pictures[role])
            some = sorted((then - now) + (now - then))[:3]
            raise ConfigError(
                f'data.{role} has {len(pictures[role])} pictures, in the run to resume '
                f'{len(names)} (other: {", ".join(some)}): restore them, or {_new_run(output)}')


def _new_run(output: Path) -> str:
    return f'begin a new run with network.init={shlex.quote(f"{output}/last.safetensors")}'
