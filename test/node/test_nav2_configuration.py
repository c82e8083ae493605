"""
The Nav2 snippet names our topics and the classes of the shipped label set, with their costs.

The RViz file names our topics, too.
"""

import math

import pytest
import yaml
from helpers import wait_for

from bisenet_ros.resources import config_path
from bisenet_ros.segmentation import load_label_set


@pytest.fixture
def costmap() -> dict:
    content = yaml.safe_load(config_path('nav2_costmap.yaml').read_text(encoding='utf-8'))
    return content['local_costmap']['local_costmap']['ros__parameters']


@pytest.fixture
def published() -> dict:
    """Return the topics of a node that is configured, and their types."""
    pytest.importorskip('rclpy', reason='needs ROS 2')
    from node_in_process import configured_node
    with configured_node() as node:
        def topics():
            return dict(node.get_publisher_names_and_types_by_node('segmentation', '/'))
        # Discovery takes a moment.
        wait_for(lambda: {each.topic_name for each in node.publishers} <= topics().keys())
        yield topics()


def with_topic(part) -> list[dict]:
    """Return the displays in a part of an RViz file that show a topic."""
    if isinstance(part, list):
        return [display for each in part for display in with_topic(each)]
    if not isinstance(part, dict):
        return []
    return [part] if 'Topic' in part else with_topic(list(part.values()))


def test_static_layer_takes_graded_costs_and_cannot_hide_obstacles(costmap):
    """Why: see static_layer.cpp and costmap_layer.cpp of nav2_costmap_2d."""
    layer = costmap['segmentation_layer']
    assert layer['map_topic'] == '/segmentation/costmap'
    assert layer['map_subscribe_transient_local'] is True
    assert costmap['rolling_window'] is True
    # StaticLayer::getParameters() asks for these without the layer's name.
    for name, value in {'trinary_costmap': False, 'use_maximum': True,
                        'track_unknown_space': False}.items():
        assert costmap[name] is value
        assert name not in layer


def test_obstacle_layer_measures_ranges_from_the_robot(costmap):
    """Without sensor_frame, observation_buffer.cpp would measure from the origin of `odom`."""
    source = costmap['segmentation_obstacle_layer']['segmentation']
    assert source['topic'] == '/segmentation/obstacles'
    assert source['sensor_frame'] == costmap['robot_base_frame']
    # As far as the corners of the window.
    assert source['obstacle_max_range'] >= math.hypot(costmap['width'], costmap['height']) / 2


def test_obstacle_layer_takes_points_of_hills(costmap):
    """
    Nav2 limits the height in `odom` twice: in ObstacleLayer (0 to 2 m) and in its sources.

    ObservationBuffer::bufferCloud() drops points outside. On a hill, odometry's z may be outside.
    """
    layer = costmap['segmentation_obstacle_layer']
    for level in layer, layer['segmentation']:
        assert level['min_obstacle_height'] <= -1e4 and level['max_obstacle_height'] >= 1e4


def test_frames_are_those_of_the_segmentation(costmap):
    content = yaml.safe_load(config_path('segment.yaml').read_text(encoding='utf-8'))
    segmentation = content['/**']['ros__parameters']['costmap']
    assert costmap['global_frame'] == segmentation['frame']
    assert costmap['robot_base_frame'] == segmentation['base_frame']


def test_semantic_layer_has_every_class_that_costs_with_its_cost(costmap):
    camera = costmap['semantic_segmentation_layer']['camera']
    costs = {name: camera[kind]['base_cost']
             for kind in camera['class_types'] for name in camera[kind]['classes']}
    # The costs that StaticLayer makes of ours: its interpretValue() scales 100 to lethal, 254.
    expected = {label.name: label.cost * 254 // 100
                for label in load_label_set('camvid').labels if label.cost >= 0}
    assert costs == expected


def test_semantic_layer_takes_our_masks(costmap):
    camera = costmap['semantic_segmentation_layer']['camera']
    for kind, topic in ('segmentation', 'mask'), ('confidence', 'confidence'), (
            'labels', 'label_info'):
        assert camera[f'{kind}_topic'] == f'/segmentation/{topic}'


def test_all_layers_are_configured(costmap):
    layers = {name for name in costmap if name.endswith('_layer')}
    assert layers >= set(costmap['plugins'])
    assert [name for name in layers if 'plugin' not in costmap[name]] == []


def test_rviz_shows_what_the_node_publishes(published):
    content = yaml.safe_load(config_path('segment.rviz').read_text(encoding='utf-8'))
    types = {'Image': 'sensor_msgs/msg/Image', 'Map': 'nav_msgs/msg/OccupancyGrid',
             'PointCloud2': 'sensor_msgs/msg/PointCloud2'}
    displays = with_topic(content)
    assert len(displays) > 3
    for display in displays:
        kind = types[display['Class'].removeprefix('rviz_default_plugins/')]
        assert published.get('/' + display['Topic']['Value']) == [kind], display['Name']
