"""Which rooms (subpackages) may import each other, and which libraries: only node/ needs ROS."""

import ast
import sys
from pathlib import Path

import pytest

import bisenet_ros

PACKAGE = Path(bisenet_ros.__file__).parent
# What each room may import besides the standard library, its own modules and those of '.': the
# modules that are in no room.
MAY_IMPORT = {
    '.': {'cv2', 'numpy', 'yaml'},
    'network': {'safetensors', 'torch'},
    'segmentation': {'bisenet_ros.network', 'cv2', 'numpy', 'onnx', 'onnxruntime', 'torch',
                     'triton', 'yaml'},
    'costmap': {'cv2', 'numpy'},
    'training': {'bisenet_ros.network', 'bisenet_ros.segmentation', 'PIL', 'cv2', 'matplotlib',
                 'numpy', 'torch', 'torchmetrics', 'tqdm', 'yaml'},
    'node': {'bisenet_ros.network', 'bisenet_ros.segmentation', 'bisenet_ros.costmap',
             'bisenet_ros.msg', 'builtin_interfaces', 'cv2', 'cv_bridge', 'diagnostic_msgs',
             'geometry_msgs', 'nav_msgs', 'numpy', 'rcl_interfaces', 'rclpy', 'rosbags',
             'sensor_msgs', 'std_msgs', 'std_srvs', 'tf2_ros', 'vision_msgs'},
}
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {'msg'}


def imported(room):
    """Yield (file name, imported module) of all imports in a room, even those inside functions."""
    paths = PACKAGE.glob('*.py') if room == '.' else (PACKAGE / room).rglob('*.py')
    for path in sorted(paths):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield path.name, f'{node.module}.{alias.name}'
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield path.name, alias.name


@pytest.mark.parametrize('room', MAY_IMPORT)
def test_rooms_import_only_what_they_may(room):
    def is_wrong(module):
        library, _, rest = module.partition('.')
        if library != 'bisenet_ros':
            return library not in MAY_IMPORT[room] | sys.stdlib_module_names
        other = rest.partition('.')[0]
        return other in ROOMS - {room} and f'bisenet_ros.{other}' not in MAY_IMPORT[room]
    imports = list(imported(room))
    assert len(imports) > 5
    assert [(file, module) for file, module in imports if is_wrong(module)] == []
