"""Print one segmentation mask received by Cyclone DDS, which knows nothing of ROS, as JSON."""

import json
import sys
import time
from dataclasses import dataclass

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import int32, sequence, uint8, uint32
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration


@dataclass
class Time(IdlStruct, typename='builtin_interfaces::msg::dds_::Time_'):
    """As in builtin_interfaces."""

    sec: int32
    nanosec: uint32


@dataclass
class Header(IdlStruct, typename='std_msgs::msg::dds_::Header_'):
    """As in std_msgs."""

    stamp: Time
    frame_id: str


@dataclass
class Image(IdlStruct, typename='sensor_msgs::msg::dds_::Image_'):
    """As in sensor_msgs."""

    header: Header
    height: uint32
    width: uint32
    encoding: str
    is_bigendian: uint8
    step: uint32
    data: sequence[uint8]


def main(domain_id: int, seconds: float) -> None:
    """Wait for a mask and print what it holds."""
    participant = DomainParticipant(domain_id)
    topic = Topic(participant, 'rt/segmentation/mask', Image)
    reader = DataReader(participant, topic, qos=Qos(
        Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(1)))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for mask in reader.take(1):
            print(json.dumps({
                'frame_id': mask.header.frame_id, 'width': mask.width, 'height': mask.height,
                'encoding': mask.encoding, 'step': mask.step, 'bytes': len(mask.data),
                'class_ids': sorted(set(mask.data))}))
            return
        time.sleep(0.1)
    sys.exit('no mask came')


if __name__ == '__main__':
    main(int(sys.argv[1]), float(sys.argv[2]))
