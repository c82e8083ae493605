"""Command `train`: from labelled images to weights the node loads."""

import argparse
import copy
import csv
import hashlib
import math
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.command_line import ending_in_a_line, make_folder
from bisenet_ros.end_signals import set_handler
from bisenet_ros.network import Weights, load_weights, save_weights
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.device import (
    choose_device,
    choose_dtype,
    cpu_computes_in_bf16,
    naming_full_memory,
)
from bisenet_ros.segmentation.labels import LabelSet, LabelSetError, load_label_set
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.training.augmentation import IGNORED, Augmentation
from bisenet_ros.training.checkpoint import (
    check_output,
    check_pictures,
    lasting_settings,
    load_checkpoint,
    locked,
    save_checkpoint,
    save_config,
    schedule_progress,
)
from bisenet_ros.training.config import ConfigError, load_config
from bisenet_ros.training.console import surviving_lost_readers
from bisenet_ros.training.datasets import (
    LAYOUT_ARGUMENTS,
    Dataset,
    DatasetError,
    DatasetFiles,
    Palette,
    available_memory,
    find_files,
    load_dataset,
)
from bisenet_ros.training.initial_network import has_classes, make_network
from bisenet_ros.training.losses import DistillationLoss, JointLoss, log_class_weights
from bisenet_ros.training.metrics import network_predictor, score
from bisenet_ros.training.step import TrainingStep, can_capture

_LONGEST_WARMUP = 0.1  # of the schedule
# What an iteration takes at least for each pixel of its crops: 450 with Xception39 in bf16, with
# ResNet-18 or in fp32 more.
_LEAST_BYTES = 400


class Training:
    """
    One training run: its data, network and state, and the loop over them.

    :param config: as :func:`load_config` returns it.
    :param output: existing folder for log, curves, checkpoint and weights.
    :param checkpoint: of the run to resume, as :func:`load_checkpoint` returns it.
    :raises ValueError: for a setting or a data set that cannot be used, naming it.
    """

    def __init__(self, config: dict, output: Path, checkpoint: dict | None = None):
        self.config = config
        self.output = output
        torch.manual_seed(config['seed'])
        self.generator = torch.Generator().manual_seed(config['seed'])
        self.device = choose_device(config['device'])
        self.label_set = _named_label_set(config['label_set'])
        # Before reading the data, which may take minutes, so that a wrong setting shows at once.
        dtype = _compute_dtype(config['precision'], self.device)
        _tell_unusual(config)
        _require_memory(config, self.device)
        self.network, mean, std = make_network(config, self.label_set, checkpoint)
        distillation = _make_distillation(config, self.label_set, mean, std, self.device)
        # For the same reason, find the files of all data sets before reading any.
        train_files, val_files = (_find_files(config, role) for role in ('train', 'val'))
        palette = {}  # shared by all labels, as all must have the same order of classes
        self.val_data, _ = self._load(val_files, palette)  # first, as it is read sooner
        self.train_data, self.sample_weights = self._load(train_files, palette)
        print(f'{len(self.train_data)} pictures to train on, {len(self.val_data)} to measure on')
        self._fingerprints = {'train': _fingerprints(self.train_data),
                              'val': _fingerprints(self.val_data)}
        self._warn_of_seen_pictures()
        self.network.to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        self._averaged, self._trained = _floats(self.average), _floats(self.network)
        self.augmentation = Augmentation(**config['augmentation'])
        self.closing_augmentation = self.augmentation.weakened(
            config['schedule']['closing_augmentation'])
        captures = can_capture(self.device, dtype, config['loss']['ohem_threshold'])
        self.optimizer = _make_optimizer(self.network, config['optimizer'], captures)
        self.step = TrainingStep(self.network, self._make_loss(), distillation, self.optimizer,
                                 dtype, self.device, captures)
        # A recorded step reads its learning rate from this tensor.
        self._captured_lr = torch.zeros((), device=self.device) if captures else None
        self.mean = torch.tensor(mean, device=self.device)
        self.std = torch.tensor(std, device=self.device)
        # Taken now, because the files of label set and teacher may change during the run, which
        # goes on with what it has read.
        self._lasting_settings = lasting_settings(config)
        self.iteration = 0
        self.seconds = 0.0
        self.history: list[dict] = []
        self.best = -1.0  # below every score, so that even 0 is kept
        self.stop = False
        self.saved_at = -1  # iteration of the checkpoint in the output folder
        if checkpoint is not None:
            self._resume(checkpoint)

    def _load(self, data_sets: list[tuple[DatasetFiles, float]],
              palette: Palette) -> tuple[Dataset, torch.Tensor]:
        """
        Return several data sets as one, and the weight with which each image is drawn.

        :param data_sets: the files of each, and its share.
        """
        dataset = load_dataset([files for files, _ in data_sets], self.label_set,
                               tuple(self.config['image_size']), palette)
        weights = [torch.full((len(files.pairs),), share / len(files.pairs))
                   for files, share in data_sets]
        return dataset.to(self.device), torch.cat(weights)

    def _warn_of_seen_pictures(self) -> None:
        # Compare pixels, as a picture may be in both under different names.
        trained_on = {pixels for _, pixels, _ in self._fingerprints['train']}
        if seen := sum(pixels in trained_on for _, pixels, _ in self._fingerprints['val']):
            print(f'{seen} of {len(self.val_data)} val pictures are trained on: the score says '
                  'nothing of new ones')

    def _make_loss(self) -> JointLoss:
        settings = self.config['loss']
        # Each picture counts as often as it is drawn.
        counts = _pixel_counts(self.train_data, self.sample_weights)
        _require_two_classes(counts, self.label_set)
        val_counts = _pixel_counts(self.val_data, torch.ones(len(self.val_data)))
        labels = self.label_set.labels
        for where, each in (('training picture, so the network will not learn it', counts),
                            ('val picture', val_counts)):
            if absent := [label.name for label, count in zip(labels, each) if not count]:
                print(f'in no {where}: {", ".join(absent)}')
        weights = log_class_weights(counts[:len(labels)])
        return JointLoss(weights ** settings['class_balance'], settings['auxiliary_weight'],
                         settings['ohem_threshold']).to(self.device)

    def run(self) -> None:
        """Train to the end of the schedule, or until interrupted; then save."""
        began = time.monotonic() - self.seconds
        running = []
        # The bar shows the schedule rather than iterations, as a time limit may end it.
        with tqdm(total=1.0, initial=self._progress(), bar_format=(
                '{percentage:5.1f}%|{bar}| {elapsed} < {remaining}{postfix}')) as bar:
            while self._progress() < 1 and not self.stop:
                lr = self._set_learning_rate()
                running.append(self.step(*self._batch()))
                self._update_average()
                self.iteration += 1
                self.seconds = time.monotonic() - began
                bar.update(self._progress() - bar.n)
                if self.iteration % 20 == 0:
                    speed = self.iteration * self.config['batch_size'] / self.seconds
                    recent = self._require_finite(torch.stack(running[-20:]).mean().item())
                    bar.set_postfix(iteration=self.iteration, loss=f'{recent:.3f}',
                                    lr=f'{lr:.5f}', images=f'{speed:.1f}/s')
                if self.iteration % self.config['validate_every'] == 0:
                    self._validate(torch.stack(running).mean().item(), lr)
                    running.clear()
        if running:
            self._validate(torch.stack(running).mean().item(), lr)

    def how_to_go_on(self) -> str:
        """Return a line break and the command with which to go on; '' if nothing is left to do."""
        if self._progress() >= 1:
            last = shlex.quote(str(self.output / 'last.safetensors'))
            is_scored = bool(self.history) and self.history[-1]['iteration'] == self.iteration
            return '' if is_scored else f'\nonly the score is missing: evaluate {last} <data set>'
        config_path, folder = (shlex.quote(str(path))
                               for path in (self.output / 'config.yaml', self.output))
        return f'\ngo on: train {config_path} --output {folder} --resume'

    def _progress(self) -> float:
        return schedule_progress(self.config['schedule'], self.iteration, self.seconds)

    def _set_learning_rate(self) -> float:
        schedule = self.config['schedule']
        progress = self._progress()
        # A warm-up of many iterations must not last to the end of a short schedule.
        warm = max((self.iteration + 1) / max(1, schedule['warmup']), progress / _LONGEST_WARMUP)
        lr = self.config['optimizer']['lr'] * (1 - progress) ** schedule['power'] * min(1.0, warm)
        if self._captured_lr is not None:
            self._captured_lr.fill_(lr)
        for group in self.optimizer.param_groups:
            group['lr'] = lr if self._captured_lr is None else self._captured_lr
        return lr

    def _update_average(self) -> None:
        # Faster at first, so that the random start is soon forgotten.
        weight = max(1 - self.config['ema_decay'], 9 / (9 + self.iteration))
        torch._foreach_lerp_(self._averaged, self._trained, weight)

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.multinomial(self.sample_weights, self.config['batch_size'],
                                  replacement=True, generator=self.generator)
        drawn = drawn.to(self.device, non_blocking=True)
        is_closing = self._progress() >= 1 - self.config['schedule']['closing']
        augmentation = self.closing_augmentation if is_closing else self.augmentation
        images, labels = augmentation(self.train_data.images[drawn], self.train_data.labels[drawn],
                                      self.mean, self.generator)
        images = (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        return images.contiguous(memory_format=torch.channels_last), labels

    def _require_finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise ValueError(f'the loss is {loss} at iteration {self.iteration}: '
                             'lower optimizer.lr or lengthen schedule.warmup')
        return loss

    def _validate(self, loss: float, lr: float) -> None:
        self._require_finite(loss)
        # Before scoring, because somebody who stops the run may not wait for the score.
        self._save_weights('last.safetensors')
        self._save_checkpoint()
        predict = network_predictor(self.average, self.mean.tolist(), self.std.tolist())
        scores = score(predict, self.val_data, len(self.label_set.labels))
        row = {'iteration': self.iteration, 'minutes': round(self.seconds / 60, 2),
               'lr': round(lr, 6), 'loss': round(loss, 4),
               'mean_iou': round(scores.mean_iou, 4),
               # With a prefix, as a class may have the name of another column.
               **{f'iou_{label.name}': '-' if math.isnan(iou) else round(float(iou), 4)
                  for label, iou in zip(self.label_set.labels, scores.class_iou)}}
        self.history.append(row)
        tqdm.write('  '.join(f'{key} {value}' for key, value in row.items()))
        if scores.mean_iou > self.best:
            self.best = scores.mean_iou
            self._save_weights('best.safetensors')
        self._save_checkpoint()
        self._write_log()  # last, as it is the least that a full disk can take

    def _write_log(self) -> None:
        with atomic_write(self.output / 'log.csv') as part, open(part, 'w', newline='') as file:
            writer = csv.DictWriter(file, self.history[0])
            writer.writeheader()
            writer.writerows(self.history)
        self._draw_curves()

    def _draw_curves(self) -> None:
        figure = Figure(figsize=(9, 4), layout='constrained')
        iterations = [row['iteration'] for row in self.history]
        for axes, key in zip(figure.subplots(1, 2), ('loss', 'mean_iou')):
            axes.plot(iterations, [row[key] for row in self.history], marker='.')
            axes.set(xlabel='iteration', title=key)
            axes.grid(alpha=0.3)
        with atomic_write(self.output / 'curves.png') as part:
            figure.savefig(part, dpi=100)

    def _save_weights(self, name: str) -> None:
        network = self.config['network']
        weights = Weights(
            self.average, variant=network['variant'], backbone=network['backbone'],
            classes=len(self.label_set.labels), mean=tuple(self.mean.tolist()),
            std=tuple(self.std.tolist()), label_set=self.label_set.name,
            network_size=tuple(self.config['image_size']), class_names=self.label_set.class_names)
        save_weights(self.output / name, weights)

    def _save_checkpoint(self) -> None:
        state = {'settings': self._lasting_settings, 'fingerprints': self._fingerprints,
                 'mean': self.mean.tolist(), 'std': self.std.tolist(),
                 'network': self.network.state_dict(), 'average': self.average.state_dict(),
                 'optimizer': self.optimizer.state_dict(), 'scaler': self.step.scaler.state_dict(),
                 'generator': self.generator.get_state(), 'iteration': self.iteration,
                 'seconds': self.seconds, 'history': self.history, 'best': self.best}
        save_checkpoint(state, self.output)
        self.saved_at = self.iteration

    def _resume(self, state: dict) -> None:
        check_pictures(state, self._fingerprints, self.output)
        self.network.load_state_dict(state['network'])
        self.average.load_state_dict(state['average'])
        for saved, own in zip(state['optimizer']['param_groups'], self.optimizer.param_groups):
            # These depend on this device, not on the one that the run was on before.
            saved |= {name: own[name] for name in ('fused', 'capturable') if name in own}
        self.optimizer.load_state_dict(state['optimizer'])
        if state['scaler']:  # empty where the run did not compute in fp16
            self.step.scaler.load_state_dict(state['scaler'])
        self.generator.set_state(state['generator'])
        self.iteration = self.saved_at = state['iteration']
        self.seconds = state['seconds']
        self.history, self.best = state['history'], state['best']


def _find_files(config: dict, role: str) -> list[tuple[DatasetFiles, float]]:
    """
    Return the files of each data set of `train` or `val`, and its share.

    :raises DatasetError: as find_files does, naming the role.
    """
    data_sets = []
    for description in config['data'][role]:
        description = dict(description)
        if 'split' in LAYOUT_ARGUMENTS.get(description['layout'], ()):
            description.setdefault('split', role)
        share = description.pop('share', 1.0)
        try:
            data_sets.append((find_files(**description), share))
        except DatasetError as error:
            raise DatasetError(f'data.{role}: {error}') from error
    return data_sets


def _fingerprints(data: Dataset) -> list[tuple[str, str, str]]:
    """Return, of each picture, the name of its file and hashes of its pixels and its labels."""
    pixels, labels = ([hashlib.blake2b(each.cpu().numpy(), digest_size=16).hexdigest()
                       for each in part] for part in (data.images, data.labels))
    return [*zip((file.name for file in data.files), pixels, labels)]


def _pixel_counts(data: Dataset, weights: torch.Tensor) -> torch.Tensor:
    """Return how many pixels have each label value, (256,) float, with a weight for each image."""
    counts = [torch.bincount(labels.flatten(), minlength=256) for labels in data.labels]
    return weights @ torch.stack(counts).cpu().float()


def _require_two_classes(counts: torch.Tensor, label_set: LabelSet) -> None:
    """
    Refuse labels with a single class, because a network learns to see it everywhere.

    :param counts: as _pixel_counts returns them.
    :raises DatasetError: naming the class.
    """
    found = [label for label, count in zip(label_set.labels, counts) if count]
    if len(found) < 2:
        ignored = (f' and, beside it, pixels that count for nothing (ignore_id '
                   f'{label_set.ignore_id})' if counts[IGNORED] else '')
        raise DatasetError(f'data.train: the labels hold {found[0].name} (id {found[0].id}) as '
                           f'their only class{ignored}: give the pixels of each class its id, of '
                           'at least two classes, none of which may be ignore_id')


def _named_label_set(name_or_path: str) -> LabelSet:
    """
    Return the label set.

    :raises ConfigError: if a different label set with the same name is shipped. Weights store only
        the name, so the node would use the ids and costs of the shipped one.
    """
    label_set = load_label_set(name_or_path)
    try:
        shipped = load_label_set(label_set.name)
    except LabelSetError:
        return label_set
    if label_set != shipped:
        raise ConfigError(f'label_set {name_or_path} has the name {label_set.name!r}, by which '
                          'another one is shipped: give it a name of its own')
    return label_set


def _compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != 'auto':
        return choose_dtype(precision, device)
    if device.type == 'cuda':  # GPUs before Ampere emulate bf16, slowly.
        is_ampere = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if is_ampere else torch.float16
    return torch.bfloat16 if cpu_computes_in_bf16() else torch.float32


def _tell_unusual(config: dict) -> None:
    """Print which settings are allowed, but rarely intended."""
    crop_width, crop_height = config['augmentation']['crop']
    width, height = config['image_size']
    zoom = config['augmentation']['scale'][0]
    shown = min(1, crop_width / width) * min(1, crop_height / height)
    filled = min(1, zoom * width / crop_width) * min(1, zoom * height / crop_height)
    crop = f'augmentation.crop {crop_width}x{crop_height}'
    if shown < 0.5:
        print(f'{crop} shows {100 * shown:.0f} % of a picture of {width}x{height}: better the '
              'whole of it, at least at the end')
    if filled < 0.25:
        print(f'{crop} is filled to {100 * filled:.0f} % at the smallest augmentation.scale, the '
              'rest is of one colour: better no larger than image_size')
    if config['batch_size'] < 4:
        print(f'batch_size {config["batch_size"]} is too small for batch norm to work well (after '
              'global pooling it has one value of each picture): better at least 4')


def _require_memory(config: dict, device: torch.device) -> None:
    """
    Refuse batches for which there is too little memory: Linux would end the process.

    :raises MemoryError: if they do not fit; never for a GPU, which says so itself.
    """
    width, height = config['augmentation']['crop']
    needed = _LEAST_BYTES * config['batch_size'] * width * height
    if device.type == 'cpu' and needed > available_memory():
        raise MemoryError


def _make_distillation(config: dict, label_set: LabelSet, mean: tuple, std: tuple,
                       device: torch.device) -> DistillationLoss | None:
    settings = config['distillation']
    if not settings['teacher']:
        return None
    teacher = load_weights(weights_path(settings['teacher'], device))
    if not has_classes(teacher, label_set):
        raise ConfigError(f'distillation.teacher {settings["teacher"]} has other classes than '
                          f'label_set {label_set.name}: take one with the same')
    return DistillationLoss(teacher, mean, std, settings['weight'], settings['temperature']).to(
        device, memory_format=torch.channels_last)


def _floats(network: nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers, without the counts of batches, which nothing reads."""
    return [value for value in network.state_dict().values() if value.is_floating_point()]


def _make_optimizer(network: nn.Module, settings: dict,
                    captures: bool) -> torch.optim.Optimizer:
    # Vectors are biases and normalisation, for which weight decay is of no use.
    groups = [{'params': [p for p in network.parameters() if p.ndim > 1],
               'weight_decay': settings['weight_decay']},
              {'params': [p for p in network.parameters() if p.ndim <= 1], 'weight_decay': 0.0}]
    if settings['name'] == 'adamw':
        return torch.optim.AdamW(groups, settings['lr'], fused=captures, capturable=captures)
    return torch.optim.SGD(groups, settings['lr'], settings['momentum'], fused=captures)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog='train', description=__doc__)
    parser.add_argument('config', help='camvid_xception39, camvid_resnet18, '
                        'cityscapes_resnet18, or a YAML file')
    parser.add_argument('--set', nargs='+', action='extend', default=[], metavar='SETTING=VALUE',
                        help='override settings of the file, for example optimizer.lr=0.01')
    parser.add_argument('--output', type=user_path,
                        help='folder for everything written (runs/<name>)')
    parser.add_argument('--resume', action='store_true',
                        help='go on from the checkpoint in the output folder')
    arguments = parser.parse_args(argv)
    output = arguments.output or Path('runs') / Path(arguments.config).stem
    with ending_in_a_line('train'), naming_full_memory(
            'lower batch_size or augmentation.crop (image_size saves only the memory for pictures '
            'and their scores)'):
        _train(load_config(arguments.config, arguments.set), output, arguments.resume)


def _train(config: dict, output: Path, resume: bool) -> None:
    keep_large_blocks()
    check_output(output, resume)
    make_folder(output)
    with locked(output):
        checkpoint = load_checkpoint(config, output) if resume else None
        training = Training(config, output, checkpoint)
        del checkpoint
        _run(training, config, output)


def _run(training: Training, config: dict, output: Path) -> None:
    """Train until the schedule ends, a signal comes, or nobody reads what is said."""
    save_config(config, output)

    def stop(*_):
        if training.stop and training.saved_at == training.iteration:
            raise KeyboardInterrupt(training.how_to_go_on())
        training.stop = True
        # RuntimeError: the signal came while the same stream was written to.
        with suppress(OSError, RuntimeError):
            tqdm.write('stopping: the iteration is finished and saved, then scored; interrupt '
                       'again, once it is saved, to leave without the score')

    def stop_unread():
        training.stop = True

    set_handler(stop, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    with surviving_lost_readers(stop_unread):
        training.run()
        print(f'best mean IoU {100 * training.best:.1f}; weights, log and curves in {output}'
              f'{training.how_to_go_on()}')


if __name__ == '__main__':
    main()
