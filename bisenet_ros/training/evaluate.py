"""Command `evaluate`: how well weights, or an exported ONNX model, segment a data set."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.command_line import ending_in_a_line, make_folder
from bisenet_ros.network import load_weights
from bisenet_ros.network.bisenet import upsample_logits
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.colors import color_mask
from bisenet_ros.segmentation.device import choose_device, naming_full_memory
from bisenet_ros.segmentation.engines import OnnxRuntimeEngine
from bisenet_ros.segmentation.label_set_choice import choose_label_set
from bisenet_ros.segmentation.labels import NO_DECISION, LabelSet
from bisenet_ros.segmentation.onnx_model import OnnxModel, load_onnx_model
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.training.datasets import LAYOUT_ARGUMENTS, Dataset, find_files, load_dataset
from bisenet_ros.training.metrics import Predictor, multi_scale_flip, network_predictor, score
from bisenet_ros.training.pictures import save_pictures
from bisenet_ros.training.scores import Scores

# Images in worst.png.
WORST_COUNT = 4
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
_MODES = {'ss': 'single scale (ss)', 'msf': 'multi-scale and flip (msf)'}


def onnx_predictor(model: OnnxModel) -> Predictor:
    """Wrap a model written by `export` so that it takes uint8 images and gives probabilities."""
    engine = OnnxRuntimeEngine(model.model)

    def predict(images: Tensor) -> Tensor:
        pixels = images.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        logits = torch.from_numpy(engine(pixels))
        return upsample_logits(logits, model.output_stride, images.shape[2:]).softmax(1)

    return predict


def table(scores: Scores, label_set: LabelSet) -> str:
    """Return the scores as lines of text, with - for classes without labels."""
    lines = [f'{label.name:>14}  {"-" if np.isnan(iou) else format(100 * iou, ".1f"):>5}'
             for label, iou in zip(label_set.labels, scores.class_iou)]
    return '\n'.join([*lines, f'{"mean IoU":>14}  {100 * scores.mean_iou:5.1f}',
                      f'{"pixel accuracy":>14}  {100 * scores.pixel_accuracy:5.1f}'])


def ground_by_confidence(scores: Scores, label_set: LabelSet) -> list[dict[str, float]]:
    """
    Return what each of the node's `confidence_threshold` would cost, and save.

    :returns: for each of scores.confident `threshold`; `ground_found`, the share of the pixels of
        ground classes that are classified as any of these; and `obstacles_taken_for_ground`, the
        share of the pixels of obstacle classes that are. Empty where either kind has no pixels.
    """
    is_ground, is_obstacle = (np.array([getattr(label, kind) for label in label_set.labels], bool)
                              for kind in ('ground', 'obstacle'))
    pixels = scores.confusion.sum(1)
    if not pixels[is_ground].sum() or not pixels[is_obstacle].sum():
        return []

    def share(confusion: np.ndarray, kind: np.ndarray) -> float:
        return round(float(confusion[np.ix_(kind, is_ground)].sum() / pixels[kind].sum()), 5)

    return [{'threshold': threshold, 'ground_found': share(confusion, is_ground),
             'obstacles_taken_for_ground': share(confusion, is_obstacle)}
            for threshold, confusion in scores.confident.items()]


def ground_table(rows: list[dict[str, float]]) -> str:
    """Return what ground_by_confidence gives as lines of text."""
    return '\n'.join([
        'confidence_threshold  ground found  obstacles taken for ground',
        *(f'{row["threshold"]:20.1f}  {row["ground_found"]:12.1%}  '
          f'{row["obstacles_taken_for_ground"]:26.2%}' for row in rows)])


def as_json(scores: Scores, label_set: LabelSet, **about) -> str:
    """Return the scores as JSON, null for classes without labels, after the entries of `about`."""
    class_iou = {label.name: None if np.isnan(iou) else round(float(iou), 5)
                 for label, iou in zip(label_set.labels, scores.class_iou)}
    return json.dumps({**about, 'mean_iou': round(scores.mean_iou, 5),
                       'pixel_accuracy': round(scores.pixel_accuracy, 5), 'class_iou': class_iou,
                       'confusion': scores.confusion.tolist()}, indent=1)


def confusion_figure(scores: Scores, label_set: LabelSet) -> Figure:
    """Draw the confusion matrix, each row (true class) in percent of its pixels."""
    names = label_set.class_names
    share = 100 * scores.confusion / np.maximum(scores.confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(max(4.5, 1.5 + 0.55 * len(names)),) * 2, layout='constrained')
    axes = figure.add_subplot()
    axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=60, ha='right')
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel='predicted', ylabel='true',
             title=f'mean IoU {100 * scores.mean_iou:.1f}, percent of the true pixels')
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.5:
            axes.text(column, row, f'{value:.0f}', ha='center', va='center', fontsize=8,
                      color='white' if value > 60 else 'black')
    return figure


@torch.inference_mode()
def save_worst(path: Path, scores: Scores, predict: Predictor, dataset: Dataset,
               label_set: LabelSet) -> None:
    """Save the images with the lowest accuracy, each with its labels and its prediction."""
    worst = np.argsort(scores.image_accuracy)[:WORST_COUNT]  # NaN comes last
    ids = np.full(256, NO_DECISION, np.uint8)
    ids[:len(label_set.labels)] = [label.id for label in label_set.labels]
    images, labels, predictions = [], [], []
    for index in worst.tolist():
        predicted = predict(dataset.images[index:index + 1]).argmax(1)[0].cpu().numpy()
        images.append(dataset.images[index].permute(1, 2, 0).cpu().numpy())
        labels.append(color_mask(ids[dataset.labels[index].cpu().numpy()], label_set))
        predictions.append(color_mask(ids[predicted], label_set))
    save_pictures(path, [('image', images), ('labels', labels), ('prediction', predictions)],
                  label_set)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog='evaluate', description=__doc__)
    parser.add_argument('weights', help='shipped weights by name, a weights file or an .onnx file')
    parser.add_argument('root', help='folder of the data set')
    parser.add_argument('--layout', default='camvid', choices=list(LAYOUT_ARGUMENTS))
    parser.add_argument('--split', help='of the layouts camvid and cityscapes (val)')
    parser.add_argument('--images', metavar='FOLDER',
                        help='of the layout folders, in the data set (images)')
    parser.add_argument('--labels', metavar='FOLDER', help='likewise (labels)')
    parser.add_argument('--sequences', nargs='+', default=[], metavar='PREFIX',
                        help='only images whose names start so')
    parser.add_argument('--label-set', default='auto',
                        help="name or YAML file (the one the weights name)")
    parser.add_argument('--size', type=int, nargs=2, metavar=('WIDTH', 'HEIGHT'),
                        help="of the images (the weights' own)")
    parser.add_argument('--mode', choices=_MODES, default='ss',
                        help=' or '.join(_MODES.values()))
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--output', type=user_path,
                        help='folder for scores.json, confusion.png and worst.png '
                        '(runs/evaluation/<folder of the weights>/<their name>); of msf '
                        'scores_msf.json and so on')
    arguments = parser.parse_args(argv)
    with ending_in_a_line('evaluate'), naming_full_memory(
            'give a smaller --size, or on a GPU --device cpu'):
        _evaluate(arguments)


def _evaluate(arguments: argparse.Namespace) -> None:
    device = choose_device(arguments.device)
    path = weights_path(arguments.weights, device)
    if path.suffix == '.onnx':
        if arguments.device not in ('auto', 'cpu'):
            raise ValueError(f'--device {arguments.device}: an .onnx file is evaluated on the '
                             'CPU: leave --device out')
        device = torch.device('cpu')
        weights = load_onnx_model(path)
        predict = onnx_predictor(weights)
    else:
        weights = load_weights(path)
        network = weights.network.to(device, memory_format=torch.channels_last)
        predict = network_predictor(network, weights.mean, weights.std)
    size = arguments.size or weights.network_size
    if not size:
        raise ValueError(f'weights {path} do not say of what size their images are: give --size')
    if min(size) < 32:
        raise ValueError(f'--size is {size[0]}x{size[1]}: give at least 32x32')
    label_set = choose_label_set(arguments.label_set, weights, path)
    layout_arguments = _layout_arguments(arguments)
    output = arguments.output or Path('runs/evaluation') / path.parent.name / path.stem
    make_folder(output)
    files = find_files(arguments.layout, arguments.root, arguments.sequences, **layout_arguments)
    dataset = load_dataset([files], label_set, tuple(size))
    if arguments.mode == 'msf':
        predict = multi_scale_flip(predict, device)
    scores = score(predict, dataset, len(label_set.labels), thresholds=THRESHOLDS)
    ground = ground_by_confidence(scores, label_set)

    print(f'{len(dataset)} pictures, scored at {size[0]}x{size[1]}, {_MODES[arguments.mode]}')
    print(table(scores, label_set))
    if ground:
        print(f'\n{ground_table(ground)}\n')
    suffix = '' if arguments.mode == 'ss' else f'_{arguments.mode}'
    with atomic_write(output / f'scores{suffix}.json') as part:
        part.write_text(as_json(
            scores, label_set, weights=arguments.weights, root=arguments.root,
            layout=arguments.layout, places=layout_arguments, sequences=arguments.sequences,
            size=size, mode=arguments.mode, images=len(dataset),
            ground_by_confidence=ground))
    with atomic_write(output / f'confusion{suffix}.png') as part:
        confusion_figure(scores, label_set).savefig(part, dpi=100)
    save_worst(output / f'worst{suffix}.png', scores, predict, dataset, label_set)
    print(f'written: {output}/scores{suffix}.json, confusion{suffix}.png, worst{suffix}.png')


def _layout_arguments(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the names in the layout's paths that the options give."""
    given = {name: getattr(arguments, name) for name in ('split', 'images', 'labels')}
    if 'split' in LAYOUT_ARGUMENTS[arguments.layout]:
        given['split'] = given['split'] or 'val'
    return {name: value for name, value in given.items() if value is not None}


if __name__ == '__main__':
    main()
