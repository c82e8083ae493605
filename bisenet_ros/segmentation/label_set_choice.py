"""Which label set goes with which weights."""

import logging
from itertools import combinations
from pathlib import Path

from bisenet_ros.network import Weights
from bisenet_ros.segmentation.labels import LabelSet, LabelSetError, load_label_set
from bisenet_ros.segmentation.onnx_model import OnnxModel

_logger = logging.getLogger(__name__)


def choose_label_set(label_set: str | Path, weights: Weights | OnnxModel,
                     path: Path) -> LabelSet:
    """
    Return the label set, or for `auto` the one the weights name, if it fits the weights.

    A label set that is given may rename some classes of the weights, but not all; one that the
    weights name may rename none. Renamed classes are logged.

    :param path: of the weights, for messages.
    :raises ValueError: there is none, or its classes are not those of the weights.
    """
    is_auto = label_set == 'auto'
    if is_auto:
        if weights.label_set is None:
            raise ValueError(f"label_set 'auto': weights {path} do not say which they were "
                             f'trained on; give the label set of their {weights.classes} classes')
        label_set = weights.label_set
    try:
        chosen = load_label_set(label_set)
    except LabelSetError as error:
        if not is_auto:
            raise
        raise ValueError(f"label_set 'auto': weights {path} were trained with the label set "
                         f'{label_set!r}, which is not shipped: give its YAML file (parameter '
                         'label_set, --label-set)') from error
    _check_class_names(chosen, weights, path, may_rename=not is_auto)
    _warn_of_equal_colors(chosen)
    return chosen


def _warn_of_equal_colors(label_set: LabelSet) -> None:
    for first, second in combinations(label_set.labels, 2):
        if first.color == second.color:
            _logger.warning('label set %r gives %s and %s one colour, %s: pictures do not tell '
                            'them apart', label_set.name, first.name, second.name,
                            list(first.color))


def _check_class_names(label_set: LabelSet, weights: Weights | OnnxModel, path: Path,
                       may_rename: bool) -> None:
    """Refuse classes other than those of the weights, and warn of renamed ones."""
    if len(label_set.labels) != weights.classes:
        raise ValueError(
            f'weights {path} tell {weights.classes} classes apart, label set {label_set.name!r} '
            f'has {len(label_set.labels)}; give the label set the weights were trained on')
    for name, trained in zip(label_set.class_names, weights.class_names):
        if name != trained and not may_rename:
            raise ValueError(
                f"label_set 'auto': weights {path} name the label set {label_set.name!r}, which "
                f'has {name!r} where they have {trained!r}; give the label set they were trained '
                'on')
    # A name unknown to the weights is a renamed class; one they have elsewhere is a moved class.
    if any(name != trained and name in weights.class_names
           for name, trained in zip(label_set.class_names, weights.class_names)):
        raise ValueError(
            f'label set {label_set.name!r} has the classes of weights {path} in another order; '
            f'list them as the weights do: {", ".join(weights.class_names)}')
    renamed = [f'{old} -> {new}'
               for old, new in zip(weights.class_names, label_set.class_names) if old != new]
    if len(renamed) == weights.classes:
        raise ValueError(
            f'label set {label_set.name!r} has not one of the classes of weights {path}, '
            f'{", ".join(weights.class_names)}; give the label set they were trained on')
    if renamed:
        _logger.warning('classes renamed by label set %r: %s', label_set.name, ', '.join(renamed))
