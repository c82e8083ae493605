"""Which part of the package may import which."""

import ast
from pathlib import Path

import pytest

import bisenet_ros

PACKAGE = Path(bisenet_ros.__file__).parent
# All may import libraries and the modules beside the rooms, such as allocator.
ALLOWED = {
    'network': set(),
    'segmentation': {'network'},
    'costmap': set(),
    'training': {'network', 'segmentation'},
    'node': {'network', 'segmentation', 'costmap', 'msg'},
}
NEEDS_ROS = {'rclpy', 'sensor_msgs', 'std_msgs', 'nav_msgs', 'diagnostic_msgs', 'vision_msgs',
             'geometry_msgs', 'builtin_interfaces', 'tf2_ros', 'rosgraph_msgs'}


def imported(room):
    """Return (file, imported module) of all imports in a room, wherever they stand."""
    for path in sorted((PACKAGE / room).rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield path.name, f'{node.module}.{alias.name}'
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield path.name, alias.name


@pytest.mark.parametrize('room', ALLOWED)
def test_rooms_import_only_what_lies_before_them(room):
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    parts = [(file, module.split('.')) for file, module in imported(room)]
    assert len(parts) > 10
    wrong = [(file, '.'.join(part)) for file, part in parts
             if part[0] == 'bisenet_ros' and len(part) > 1
             and part[1] in rooms - ALLOWED[room] - {room}]
    assert wrong == []


@pytest.mark.parametrize('room', [room for room in ALLOWED if room != 'node'])
def test_the_library_needs_no_ros(room):
    assert [each for each in imported(room) if each[1].split('.')[0] in NEEDS_ROS] == []
