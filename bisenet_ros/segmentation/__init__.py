"""An image in, class ids and confidence out."""

from bisenet_ros.segmentation.colors import color_mask, overlay
from bisenet_ros.segmentation.frame import Segmentation
from bisenet_ros.segmentation.labels import NO_DECISION, LabelSet, LabelSetError, load_label_set
from bisenet_ros.segmentation.segmenter import Segmenter, shipped_weights

__all__ = ['LabelSet', 'LabelSetError', 'NO_DECISION', 'Segmentation', 'Segmenter', 'color_mask',
           'load_label_set', 'overlay', 'shipped_weights']
