"""Options that the measurements share."""

import argparse

SEGMENTER_OPTIONS = {
    'weights': 'shipped name, or a file', 'engine': 'auto, torch or onnxruntime',
    'device': 'auto, cuda, cuda:N or cpu', 'precision': 'auto, fp32, fp16 or bf16',
    'label_set': 'shipped name, or a YAML file'}


def add_segmenter_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the named options of a Segmenter; each is `auto` by default."""
    for name in names:
        parser.add_argument(f'--{name.replace("_", "-")}', default='auto',
                            help=SEGMENTER_OPTIONS[name])


def segmenter_settings(options: argparse.Namespace) -> dict[str, object]:
    """Return what the node and a Segmenter both take."""
    return {'weights': options.weights, 'engine': options.engine, 'device': options.device,
            'precision': options.precision, 'label_set': options.label_set,
            'network_size': tuple(options.network_size)}
