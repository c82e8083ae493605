"""What the launch file would start: process command, parameters and environment."""

import importlib.util
from pathlib import Path

import pytest
import yaml

pytest.importorskip('launch_ros', reason='launch_ros is not on PyPI: needs a ROS distribution')

from launch import LaunchContext  # noqa: E402
from launch.actions import DeclareLaunchArgument, OpaqueFunction  # noqa: E402
from launch.utilities import perform_substitutions  # noqa: E402

LAUNCH_FILE = Path(__file__).parents[2] / 'launch' / 'segment.launch.py'
PROFILE = 'FASTDDS_DEFAULT_PROFILES_FILE'


@pytest.fixture(scope='module')
def description():
    spec = importlib.util.spec_from_file_location('segment_launch', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.fixture
def start(description, monkeypatch):
    """Return a function of launch arguments that returns the started actions and the context."""
    for name in (PROFILE, 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_BUILTIN_TRANSPORTS',
                 'ROS_DISTRO'):
        monkeypatch.delenv(name, raising=False)

    def start(**arguments):
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        actions = []
        for entity in description.entities:
            started = entity.execute(context)
            if isinstance(entity, OpaqueFunction):
                actions += started
        return actions, context

    return start


def node_parameters(node, context) -> dict:
    """Return the parameters in the files that are passed to the node; later files win."""
    node._perform_substitutions(context)
    parameters = {}
    for source, is_file in node._Node__expanded_parameter_arguments:
        assert is_file
        for block in yaml.safe_load(Path(source).read_text()).values():
            parameters.update(block['ros__parameters'])
    return parameters


def environment(node, context) -> dict:
    """Return the variables that the process gets in addition to launch's own environment."""
    return {
        perform_substitutions(context, name): perform_substitutions(context, value)
        for name, value in node.additional_env or []}


def test_every_argument_of_the_documented_interface_is_described(description):
    declared = [entity for entity in description.entities
                if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in declared} == {
        'params_file', 'image_topic', 'camera_info_topic', 'weights', 'device', 'namespace',
        'use_sim_time', 'autostart', 'large_images', 'rviz', 'log_level'}
    for argument in declared:
        described, _, _ = argument.description.partition('. Empty: as in params_file')
        described, _, _ = described.partition(' Valid choices are')
        assert len(described) > 10, argument.name


def test_without_arguments_the_params_file_alone_counts(start):
    (node, _), context = start()
    shipped = yaml.safe_load((LAUNCH_FILE.parents[1] / 'config' / 'segment.yaml').read_text())
    assert node_parameters(node, context) == shipped['/**']['ros__parameters']


def test_a_parameter_file_that_is_not_there_is_refused(start, tmp_path):
    """launch_ros by itself would start the node with its defaults."""
    for params_file in str(tmp_path / 'mistyped.yaml'), '~nobody_of_this_name/mistyped.yaml':
        with pytest.raises(RuntimeError, match='mistyped.yaml: there is no such file'):
            start(params_file=params_file)


def test_a_parameter_file_may_lie_in_the_home_folder(start, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.yaml').write_text('/**: {ros__parameters: {weights: mine}}')
    (node, _), context = start(params_file='~/mine.yaml')
    assert node_parameters(node, context) == {'weights': 'mine'}


def test_a_killed_node_comes_again(start):
    (node, _), _ = start()
    assert node._ExecuteLocal__respawn and node._ExecuteLocal__respawn_delay > 0


def test_rviz_takes_the_same_time(start):
    (_, rviz), context = start(rviz='true', use_sim_time='true', weights='mine')
    assert node_parameters(rviz, context) == {'use_sim_time': True}


def test_given_arguments_override_the_params_file_and_no_others(start, tmp_path):
    params_file = tmp_path / 'mine.yaml'
    params_file.write_text(yaml.safe_dump({'/**': {'ros__parameters': {
        'weights': 'mine', 'device': 'cpu', 'autostart': True}}}))
    (node, _), context = start(
        params_file=str(params_file), weights='2024', autostart='false', image_topic='/front')
    assert node_parameters(node, context) == {
        'weights': '2024', 'device': 'cpu', 'autostart': False, 'image_topic': '/front'}


def test_a_word_that_is_no_boolean_is_refused(start):
    (node, _), context = start(autostart='perhaps')
    with pytest.raises(ValueError, match='perhaps'):
        node_parameters(node, context)


def test_name_and_namespace(start):
    (node, _), context = start(namespace='robot1')
    node._perform_substitutions(context)
    assert node.node_name == '/robot1/segmentation'


def test_large_images_names_a_profile_that_exists(start):
    (node, rviz), context = start()
    profile = environment(node, context)[PROFILE]
    assert '<segment_size>67108864</segment_size>' in Path(profile).read_text()
    assert environment(rviz, context) == environment(node, context)


def test_ros_distributions_with_fast_dds_2_get_its_variable(start, monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    (node, _), context = start()
    assert list(environment(node, context)) == ['FASTRTPS_DEFAULT_PROFILES_FILE']


@pytest.mark.parametrize('chosen', [PROFILE, 'FASTDDS_BUILTIN_TRANSPORTS'])
def test_a_transport_the_user_chose_stands(start, monkeypatch, chosen):
    monkeypatch.setenv(chosen, 'LARGE_DATA')
    (node, _), context = start()
    assert environment(node, context) == {}


def test_large_images_can_be_turned_off(start):
    (node, _), context = start(large_images='false')
    assert environment(node, context) == {}


@pytest.mark.parametrize('wanted', ['true', 'false'])
def test_rviz_only_on_request(start, wanted):
    (_, rviz), context = start(rviz=wanted)
    assert rviz.condition.evaluate(context) == (wanted == 'true')
