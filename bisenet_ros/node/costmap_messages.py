"""Turns costmaps into ROS messages that their consumers accept."""

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from nav_msgs.msg import MapMetaData, OccupancyGrid
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from bisenet_ros.costmap.rolling_grid import GridInfo
from bisenet_ros.msg import ClassCostmaps
from bisenet_ros.node.image_conversion import fill
from bisenet_ros.segmentation import LabelSet

POINT = np.dtype({'names': ['x', 'y', 'z', 'class_id'], 'formats': ['<f4', '<f4', '<f4', 'u1'],
                  'offsets': [0, 4, 8, 12], 'itemsize': 16})


def occupancy_grid(header: Header, info: GridInfo, cells: np.ndarray) -> OccupancyGrid:
    """
    Return `cells`, (height, width) int8, as a grid that Nav2's StaticLayer accepts.

    The grid is axis-aligned: StaticLayer ignores the origin's orientation, but requires a unit
    quaternion.
    """
    grid = OccupancyGrid(header=header, info=_map_metadata(info, header.stamp))
    fill(grid.data, cells)
    return grid


def class_costmaps(header: Header, info: GridInfo, label_set: LabelSet,
                   cells: np.ndarray) -> ClassCostmaps:
    """Return the grids of all classes, (classes, height, width) int8, as one message."""
    labels = label_set.labels
    costmaps = ClassCostmaps(
        header=header, info=_map_metadata(info, header.stamp),
        class_ids=array('H', [label.id for label in labels]),
        class_names=list(label_set.class_names),
        costs=array('b', [label.cost for label in labels]))
    fill(costmaps.data, cells)
    return costmaps


def obstacle_cloud(header: Header, points: np.ndarray, class_ids: np.ndarray) -> PointCloud2:
    """Return points (N, 3), metres in the header's frame, and their classes (N,) as a cloud."""
    cloud = np.zeros(len(points), POINT)
    cloud['x'], cloud['y'], cloud['z'] = points.T
    cloud['class_id'] = class_ids
    formats = {'<f4': PointField.FLOAT32, '|u1': PointField.UINT8}
    message = PointCloud2(
        header=header, height=1, width=len(cloud), point_step=POINT.itemsize,
        row_step=POINT.itemsize * len(cloud), is_dense=True,
        fields=[PointField(name=name, offset=offset, datatype=formats[kind.str], count=1)
                for name, (kind, offset) in POINT.fields.items()])
    fill(message.data, cloud)
    return message


def _map_metadata(info: GridInfo, stamp: Time) -> MapMetaData:
    metadata = MapMetaData(map_load_time=stamp, resolution=info.resolution, width=info.width,
                           height=info.height)
    metadata.origin.position.x, metadata.origin.position.y = info.origin_x, info.origin_y
    metadata.origin.orientation.w = 1.0
    return metadata
