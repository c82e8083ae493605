"""How images travel: topic names, a DDS domain without strangers, a transport for large ones."""

import random
import socket
from collections.abc import Mapping

from bisenet_ros.resources import config_path

IMAGE_TOPIC = '/camera/image_raw'  # where nothing else is chosen
# With any of these the user has chosen how Fast DDS transports data.
FAST_DDS_CHOICES = (
    'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE',
    'FASTDDS_BUILTIN_TRANSPORTS')


def large_image_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Return the variables with which Fast DDS delivers images of several megabytes.

    With its own 512 KiB of shared memory it loses most of them. Other DDS implementations ignore
    these variables.

    :param environment: of the process to start; a transport chosen there stands: {} is returned.
    """
    if any(name in environment for name in FAST_DDS_CHOICES):
        return {}
    # Fast DDS 3 renamed the variable, and warns of the old name.
    has_fast_dds_2 = environment.get('ROS_DISTRO') == 'jazzy'
    prefix = 'FASTRTPS' if has_fast_dds_2 else 'FASTDDS'
    return {f'{prefix}_DEFAULT_PROFILES_FILE': str(config_path('fastdds_large_images.xml'))}


def own_domain() -> dict[str, str]:
    """Return the variables that give a process and its children a DDS domain of their own."""
    # Empty: by a discovery server that is set for the robot, these processes might not find each
    # other.
    return {'ROS_DOMAIN_ID': str(free_domain_id()), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'ROS_DISCOVERY_SERVER': ''}


def free_domain_id() -> int:
    """
    Return a DDS domain that no participant on this machine uses, as far as ports tell.

    :raises RuntimeError: when there is none.
    """
    for domain_id in random.sample(range(1, 102), 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # DDSI-RTPS 9.6.2.3: where a domain's first participant listens.
                probe.bind(('', 7410 + 250 * domain_id))
            except OSError:
                continue
            return domain_id
    raise RuntimeError('every DDS domain of this machine is in use: set ROS_DOMAIN_ID')


def camera_info_topic(image_topic: str) -> str:
    """Return the image topic's sibling that holds its calibration (image_transport's rule)."""
    namespace, separator, _ = image_topic.removesuffix('/compressed').rpartition('/')
    return f'{namespace}{separator}camera_info'
