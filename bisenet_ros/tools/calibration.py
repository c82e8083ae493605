"""Camera calibration as plain values: the fields of sensor_msgs/CameraInfo in a dict, no ROS."""

from pathlib import Path

import yaml

from bisenet_ros.resources import user_path

_MATRICES = {'k': ('camera_matrix', 9), 'r': ('rectification_matrix', 9),
             'p': ('projection_matrix', 12), 'd': ('distortion_coefficients', None)}

_LONGEST_SIDE = 2 ** 32 - 1  # of sensor_msgs/CameraInfo


def load_calibration(path: str | Path) -> dict:
    """
    Read a calibration YAML as camera_calibration's cameracalibrator writes it.

    :returns: `width`, `height` (px), `distortion_model`, `d`, `k` (9, row by row), `r` (9) and
        `p` (12), named as the fields of sensor_msgs/CameraInfo.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: naming the file and the entry that is missing or wrong.
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no calibration file {path}')
    try:
        entries = yaml.safe_load(path.read_text())
        fields = {'width': int(entries['image_width']), 'height': int(entries['image_height']),
                  'distortion_model': str(entries['distortion_model'])}
        fields |= {field: [float(value) for value in entries[entry]['data']]
                   for field, (entry, _) in _MATRICES.items()}
        for side in fields['width'], fields['height']:
            if not 0 < side <= _LONGEST_SIDE:
                raise ValueError(f'no image has a side of {side} pixels')
    except KeyError as error:
        raise ValueError(f'{path}: {error} is missing; expected the YAML that '
                         'camera_calibration writes') from None
    except (yaml.YAMLError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f'{path} is not a camera_calibration YAML: {error}') from None
    for field, (entry, length) in _MATRICES.items():
        if length and len(fields[field]) != length:
            raise ValueError(f'{path}: {entry} has {len(fields[field])} values, not {length}')
    return fields
