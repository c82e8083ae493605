"""Parameters: shipped file and code agree, everything is described, wrong values are named."""

import re
from dataclasses import fields

import pytest
import yaml

pytest.importorskip('rclpy', reason='needs ROS 2')

from rclpy.lifecycle import LifecycleNode  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from bisenet_ros.costmap.settings import CostmapSettings  # noqa: E402
from bisenet_ros.node.parameters import ParameterError, Parameters  # noqa: E402
from bisenet_ros.resources import config_path  # noqa: E402


@pytest.fixture
def make_parameters(ros_context):
    """Return a function that makes a node with the given overrides and its Parameters."""
    def make(**overrides):
        node = LifecycleNode(
            'segmentation', context=ros_context, start_parameter_services=False,
            parameter_overrides=[Parameter(name.replace('__', '.'), value=value)
                                 for name, value in overrides.items()])
        return node, Parameters(node)
    return make


def flattened(block: dict, prefix: str = '') -> dict:
    flat = {}
    for key, value in block.items():
        if isinstance(value, dict):
            flat.update(flattened(value, f'{prefix}{key}.'))
        else:
            flat[prefix + key] = value
    return flat


def set_value(node, name, value) -> str:
    """Set one parameter; return the reason it was refused, '' if it was not."""
    return node.set_parameters([Parameter(name, value=value)])[0].reason


def test_shipped_file_has_every_parameter_with_its_default(make_parameters):
    node, parameters = make_parameters()
    content = yaml.safe_load(config_path('segment.yaml').read_text(encoding='utf-8'))
    shipped = flattened(content['/**']['ros__parameters'])
    names = set(parameters._specifications)
    assert set(shipped) == names
    assert {name: parameters[name] for name in names} == shipped
    parameters.check()


def test_what_is_ignored_is_told(make_parameters, capfd):
    make_parameters(cameras=['front'], image_topic='/camera/image_raw', front__image_topic='/a',
                    costmap__obstacle_probabilty=0.5, use_sim_time=False)
    told = [line for line in capfd.readouterr().err.splitlines() if 'is ignored' in line]
    assert len(told) == 2
    assert 'parameter image_topic is ignored' in told[0] + told[1]
    assert 'parameter costmap.obstacle_probabilty is ignored' in told[0] + told[1]


def test_every_setting_of_the_costmap_is_a_parameter_with_the_same_default(make_parameters):
    _, parameters = make_parameters()
    for field in fields(CostmapSettings):
        default = parameters._specifications[f'costmap.{field.name}'].default
        assert default == (list(field.default) if field.name == 'size' else field.default)


def test_every_parameter_is_described(make_parameters):
    node, parameters = make_parameters()
    for name, specification in parameters._specifications.items():
        assert len(specification.description) > 10, name
        descriptor = node.describe_parameter(name)
        assert descriptor.description.startswith(specification.description), name
        assert descriptor.type != 0, name


def test_wrong_values_at_start_are_named_and_can_be_mended(make_parameters):
    node, parameters = make_parameters(max_rate=-3.0, engine='tensorflow', network_size=[640],
                                       stale_after='soon', mask_size=[640, 0])
    with pytest.raises(ParameterError) as error:
        parameters.check()
    for words in ('max_rate', '-3.0', 'tensorflow', 'onnxruntime', 'network_size', 'stale_after',
                  'mask_size'):
        assert words in str(error.value)
    for name, value in (('max_rate', 5.0), ('engine', 'torch'), ('network_size', [640, 360]),
                        ('stale_after', 2.0), ('mask_size', [0, 0])):
        assert set_value(node, name, value) == ''
    parameters.check()
    assert parameters['max_rate'] == 5.0


@pytest.mark.parametrize('name,value,words', [
    ('engine', 'tensorrt', 'one of auto'), ('network_size', [1, 2, 3], '2 numbers'),
    ('network_size', [-1, 5], 'from 0'), ('overlay_alpha', 1.5, 'range'),
    ('image_topic', 'front-cam/image', "'front-cam/image'.*between /"),
    ('image_topic', '', "''.*between /"), ('camera_info_topic', '1cam', "'1cam'"),
    ('costmap.odometry.topic', 'od om', "'od om'"), ('cameras', ['front'], 'read-only')])
def test_wrong_values_are_refused_with_the_reason(make_parameters, name, value, words):
    node, parameters = make_parameters()
    before = parameters[name]
    assert re.search(words, set_value(node, name, value))
    assert parameters[name] == before


def test_only_live_parameters_change_while_configured(make_parameters):
    node, parameters = make_parameters()
    parameters.configured = True
    assert 'cleanup' in set_value(node, 'weights', 'camvid_resnet18')
    assert set_value(node, 'overlay_alpha', 0.25) == ''
    assert parameters['overlay_alpha'] == 0.25
    parameters.configured = False
    assert set_value(node, 'weights', 'camvid_resnet18') == ''


def test_the_live_parameters_are_those_that_the_readme_names(make_parameters):
    node, parameters = make_parameters()
    parameters.configured = True
    live = {name for name in parameters._specifications
            if node.set_parameters([node.get_parameter(name)])[0].successful}
    assert live == {'confidence_threshold', 'overlay_alpha', 'max_rate', 'stale_after'}


def test_each_of_several_cameras_has_its_own_block(make_parameters):
    _, parameters = make_parameters(cameras=['front', 'rear'], rear__image_topic='/back/image')
    assert parameters.of_camera('front', 'image_topic') == '/front/image_raw'
    assert parameters.of_camera('rear', 'image_topic') == '/back/image'
    assert 'image_topic' not in parameters._specifications


def test_cameras_of_the_same_name_are_named(make_parameters):
    _, parameters = make_parameters(cameras=['front', 'front'])
    with pytest.raises(ParameterError, match="cameras is .*'front', 'front'"):
        parameters.check()


@pytest.mark.parametrize('names', [['front-cam'], ['front', '1st'], ['']])
def test_names_that_no_camera_can_have_are_named(make_parameters, names):
    _, parameters = make_parameters(cameras=names)
    with pytest.raises(ParameterError, match=f"cameras has .*'{names[-1]}'.*begin with a letter"):
        parameters.check()
