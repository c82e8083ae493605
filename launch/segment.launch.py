"""Start the segmentation node; `--show-args` lists the arguments."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from bisenet_ros.resources import user_path
from bisenet_ros.transport import large_image_environment

CONFIG = Path(get_package_share_directory('bisenet_ros'), 'config')

BOOLEANS = ['true', 'false', 'True', 'False']
# Arguments that set the node parameter of the same name, if they are given; with its type.
NODE_PARAMETERS = {
    'image_topic': str,
    'camera_info_topic': str,
    'weights': str,
    'device': str,
    'use_sim_time': bool,
    'autostart': bool,
}


def generate_launch_description():
    """Return the node with its launch arguments, and RViz if asked for."""
    return LaunchDescription([
        argument(
            'params_file', 'YAML file with the parameters of the node',
            str(CONFIG / 'segment.yaml')),
        argument(
            'image_topic', 'topic of the camera images; several cameras are set in params_file'),
        argument(
            'camera_info_topic',
            "topic of the camera's calibration; several are set in params_file"),
        argument('weights', 'name of shipped weights, or a .safetensors, .pth or .onnx file'),
        argument('device', 'auto, cuda, cuda:N or cpu'),
        argument('namespace', 'namespace of the node and what it publishes', ''),
        argument('use_sim_time', 'true: take the time from /clock'),
        argument(
            'autostart',
            'true: configure and activate at once; false: wait for a lifecycle manager'),
        argument(
            'large_images', 'true: use a transport that delivers camera images at full rate; '
            'give the camera driver config/fastdds_large_images.xml as well',
            'true', BOOLEANS),
        argument('rviz', 'true: open RViz', 'false', BOOLEANS),
        argument(
            'log_level', 'least severe messages to log', 'info',
            ['debug', 'info', 'warn', 'error', 'fatal']),
        OpaqueFunction(function=start),
    ])


def argument(name, description, default=None, choices=None):
    """Declare a launch argument; without a default, it has an effect only if it is given."""
    if default is None:
        default, description = '', f'{description}. Empty: as in params_file'
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=choices)


def start(context):
    """Return the nodes to start for the arguments' values in `context`."""
    # Checked here, because launch_ros starts a node without its parameters if there is no file.
    params_file = user_path(LaunchConfiguration('params_file').perform(context))
    if not params_file.is_file():
        raise RuntimeError(f'params_file is {params_file}: there is no such file')
    wants_large_images = LaunchConfiguration('large_images').perform(context).lower() == 'true'
    environment = large_image_environment(context.environment) if wants_large_images else {}
    return [
        LifecycleNode(
            package='bisenet_ros', executable='segmentation_node', name='segmentation',
            namespace=LaunchConfiguration('namespace'), output='screen', emulate_tty=True,
            parameters=[str(params_file), given_parameters(context, NODE_PARAMETERS)],
            ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            additional_env=environment,
            # A node that was killed leaves its last costmap in Nav2; the new one makes it unknown.
            respawn=True, respawn_delay=2.0),
        Node(
            package='rviz2', executable='rviz2', namespace=LaunchConfiguration('namespace'),
            arguments=['-d', str(CONFIG / 'segment.rviz')],
            parameters=[given_parameters(context, ['use_sim_time'])],
            additional_env=environment, condition=IfCondition(LaunchConfiguration('rviz'))),
    ]


def given_parameters(context, names):
    """Return those of the named node parameters that were given as launch arguments."""
    return {
        name: ParameterValue(LaunchConfiguration(name), value_type=NODE_PARAMETERS[name])
        for name in names if LaunchConfiguration(name).perform(context)}
