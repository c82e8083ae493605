"""Masks of one or several cameras in, one costmap around the robot out."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from bisenet_ros.costmap.camera_model import CameraModel
from bisenet_ros.costmap.geometry import PoseError, planar_pose
from bisenet_ros.costmap.ground_projection import GroundTable, PolarGrid
from bisenet_ros.costmap.obstacle_contact import find_contacts, on_outlines
from bisenet_ros.costmap.rolling_grid import GridInfo, RollingGrid

UNKNOWN = -1
FREE = 0
# Value in masks and observations where there is no class; segmentation.NO_DECISION.
_NOTHING = 255
# What kind of class a pixel shows.
_GROUND, _OBSTACLE = 1, 2
# Camera poses closer than this, metres or radians, share a table: TF rounds.
_SAME_POSE = 1e-6


@dataclass(frozen=True)
class CostmapSettings:
    """
    What a costmap covers and how it fuses; lengths in metres, decay_time in seconds.

    :ivar resolution: side of a cell.
    :ivar size: (x, y) of the window around the robot.
    :ivar min_range, max_range: ground this far from the point below a camera is used.
    :ivar decay_time: what was not seen for so long is unknown.
    :ivar obstacle_probability: an obstacle class this probable sets the cell's cost, even where
        another class is more probable.
    :ivar footprint_radius: this close to the base frame's origin the robot stands, no obstacle.
    :ivar ground_z: height of the ground plane in the base frame.
    :ivar max_pixel_footprint: ground of which one pixel covers more than this, along its ray, is
        unknown; 0 means two cells.
    :raises ValueError: naming the setting, its value and what is allowed.
    """

    resolution: float = 0.05
    size: tuple[float, float] = (10.0, 10.0)
    min_range: float = 0.0
    max_range: float = 8.0
    decay_time: float = 10.0
    obstacle_probability: float = 0.3
    footprint_radius: float = 0.0
    ground_z: float = 0.0
    max_pixel_footprint: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if len(self.size) != 2:
            raise ValueError(f'size is {self.size}: give two lengths, x and y')
        lengths = (*self.size, self.min_range, self.max_range, self.ground_z,
                   self.footprint_radius, self.max_pixel_footprint, self.resolution,
                   self.decay_time, self.obstacle_probability)
        if not np.isfinite(lengths).all():
            raise ValueError(f'{self}: every value must be finite')
        for name in ('resolution', 'max_range', 'decay_time'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name} is {getattr(self, name)}: it must be above 0')
        for name in ('min_range', 'footprint_radius', 'max_pixel_footprint'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}: it must not be below 0')
        if min(self.size) < self.resolution:
            raise ValueError(f'size is {self.size}: each must hold a cell of {self.resolution} m')
        if self.min_range >= self.max_range:
            raise ValueError(
                f'min_range is {self.min_range}: it must be below max_range, {self.max_range}')
        if not 0 < self.obstacle_probability <= 1:
            raise ValueError(
                f'obstacle_probability is {self.obstacle_probability}: give above 0, up to 1')

    @property
    def pixel_footprint_limit(self) -> float:
        """Ground one pixel may cover along its ray, metres."""
        return self.max_pixel_footprint or 2 * self.resolution


@dataclass(frozen=True)
class _Observation:
    """What one mask says about the cells of the grid at the time."""

    stamp: float
    cells: np.ndarray
    classes: np.ndarray
    weights: np.ndarray


class SemanticCostmap:
    """
    A costmap around the robot, made from class masks.

    With the robot's motion (update's T_odom_base) the grid lies axis-aligned in the odometry
    frame, follows the robot and accumulates. Without, it lies in the base frame and holds the
    latest mask of each camera only. Not safe for use from several threads at once.

    :param settings: CostmapSettings.
    :param label_set: LabelSet (anything whose labels have id, name, cost, obstacle and ground).
        Classes that are neither obstacle nor ground (sky, sign) hang: their pixels say nothing
        about the ground they hide.
    """

    def __init__(self, settings: CostmapSettings, label_set: Any) -> None:
        """Start all unknown."""
        self._settings = settings
        self._labels = label_set.labels
        self._polar = PolarGrid(settings.resolution, settings.max_range)
        self._grid = RollingGrid(
            settings.resolution, settings.size, len(self._labels), settings.decay_time)
        self._kinds = np.zeros(256, np.uint8)
        # The grid counts classes in the label set's order; ids may have gaps.
        self._index_of_id = np.zeros(256, np.intp)
        for index, label in enumerate(self._labels):
            self._kinds[label.id] = _GROUND * label.ground | _OBSTACLE * label.obstacle
            self._index_of_id[label.id] = index
        self._obstacles = [
            index for index, label in enumerate(self._labels) if label.obstacle]
        self._tables: dict[Hashable, GroundTable] = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was seen; lookup tables stay."""
        self._grid.clear()
        self._latest: dict[Hashable, _Observation] = {}
        self._stamps: dict[Hashable, float] = {}
        self._footprint = np.zeros((self.info.height, self.info.width), bool)
        self._has_odometry: bool | None = None
        self._ground_height = self._settings.ground_z

    @property
    def info(self) -> GridInfo:
        """Resolution, size and origin of the grid, which lies axis-aligned in its frame."""
        return self._grid.info

    def update(self, camera_key: Hashable, camera: CameraModel, T_base_camera: np.ndarray,
               T_odom_base: np.ndarray | None, class_ids: np.ndarray,
               confidence: np.ndarray | None, stamp: float) -> None:
        """
        Add one mask.

        The ground is the plane z = ground_z of the base frame: the robot stands on what it sees,
        so roll and pitch of the base in the odometry frame tilt the ground with it, and of
        T_odom_base only x, y and yaw place the observation (z the height of obstacle_points).
        A stamp before the same camera's last clears everything first: time jumped back.

        :param camera_key: any name of the camera; each has its own lookup table.
        :param camera: model of the mask's pixels, Calibration.for_image(...), resized where the
            mask is.
        :param T_base_camera: 4x4, optical frame in the base frame, at the stamp.
        :param T_odom_base: 4x4, base frame in the odometry frame, at the stamp, or None.
        :param class_ids: (H, W) uint8; ids without a label (255) say nothing.
        :param confidence: (H, W) uint8, 0-255 = probability of the class, or None: certain.
        :param stamp: seconds, of the image.
        :raises PoseError: where the camera is not above the ground, or a pose not finite.
        :raises ValueError: where camera, mask and confidence differ in size.
        """
        for image in (class_ids, class_ids if confidence is None else confidence):
            if image.shape != (camera.height, camera.width) or image.dtype != np.uint8:
                raise ValueError(
                    f'mask or confidence is {image.shape} {image.dtype}, the camera model is for '
                    f'({camera.height}, {camera.width}) uint8: use camera.resized(width, height)')
        if T_odom_base is not None and not np.isfinite(T_odom_base).all():
            raise PoseError(
                f'the robot is at x={T_odom_base[0, 3]} y={T_odom_base[1, 3]} in the odometry '
                'frame, a pose that is not finite: check the odometry')
        table = self._table(camera_key, camera, T_base_camera)
        has_odometry = T_odom_base is not None
        if stamp < self._stamps.get(camera_key, -np.inf) or (
                self._has_odometry not in (None, has_odometry)):
            self.clear()
        self._stamps[camera_key] = stamp
        self._has_odometry = has_odometry
        pose = np.eye(4) if T_odom_base is None else T_odom_base
        self._ground_height = float(pose[2, 3]) + self._settings.ground_z
        x, y, yaw = planar_pose(pose)
        self._grid.move_to(x, y)
        self._grid.advance(stamp)
        observation = self._observe(table, (x, y, yaw), class_ids, confidence, stamp)
        if has_odometry:
            self._add(observation)
        else:
            self._latest[camera_key] = observation
            self._replace_by_latest(stamp)
        self._clear_footprint(x, y)

    def _table(self, key, camera, pose) -> GroundTable:
        table = self._tables.get(key)
        # Not "> _SAME_POSE": a pose that is not finite must not pass for the old one.
        if table is None or camera != table.camera or not (
                np.abs(pose - table.pose).max() <= _SAME_POSE):
            settings = self._settings
            table = GroundTable(
                camera, np.asarray(pose, dtype=float), self._polar, settings.ground_z,
                settings.min_range, settings.max_range, settings.pixel_footprint_limit)
            self._tables[key] = table
        return table

    def _observe(self, table, base_pose, class_ids, confidence, stamp) -> _Observation:
        """Pull the ground's classes into the cells, then push obstacle contacts into theirs."""
        x, y, yaw = base_pose
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        foot = turn @ table.foot + (x, y)
        classes = table.sample(class_ids, _NOTHING)
        kinds = cv2.LUT(classes, self._kinds)
        ground, contacts = find_contacts(kinds & _GROUND, (kinds & _OBSTACLE) >> 1)
        cell_samples = table.samples_at(self._polar.points(*self._grid.centres(), (*foot, yaw)))
        # All bits set, which is _NOTHING, where there is no ground.
        observed = (classes | (ground - np.uint8(1))).reshape(-1)[cell_samples]

        samples, rays = np.divmod(np.flatnonzero(contacts), classes.shape[1])
        real = ~on_outlines(samples, rays, classes, table.ranges, table.angle_step,
                            table.pixel_angle)
        samples, rays = samples[real], rays[real]
        points, usable = table.borders(samples, rays)
        contact_cells, inside = self._grid.cells_of(points @ turn.T + foot, usable)
        observed[contact_cells] = classes[samples[inside], rays[inside]]
        cell_samples[contact_cells] = samples[inside] * classes.shape[1] + rays[inside]

        cells = np.flatnonzero(observed != _NOTHING)
        if confidence is None:
            weights = np.ones(len(cells), np.float32)
        else:
            weights = table.values(confidence, cell_samples[cells]) * np.float32(1 / 255)
        return _Observation(stamp, cells, self._index_of_id[observed[cells]], weights)

    def _add(self, observation) -> None:
        self._grid.add(
            observation.cells, observation.classes, observation.weights, observation.stamp)

    def _replace_by_latest(self, stamp) -> None:
        """Hold what each camera saw last, and nothing older."""
        self._grid.clear()
        self._grid.advance(stamp)
        for observation in self._latest.values():
            if observation.stamp >= stamp - self._settings.decay_time:
                self._add(observation)

    def _clear_footprint(self, x, y) -> None:
        columns, rows = self._grid.centres()
        radius = self._settings.footprint_radius
        self._footprint = np.add.outer((rows - y) ** 2, (columns - x) ** 2) <= radius ** 2
        self._grid.remove(self._footprint, self._obstacles)

    def combined(self) -> np.ndarray:
        """
        Return the cost of each cell, by Nav2's conventions.

        It is the cost of the most probable class, or of an obstacle class that has reached
        obstacle_probability, whichever is worse. Under the robot it is free where nothing was
        seen: the robot stands there.

        :returns: (height, width) int8: -1 unknown, 0-98 graded, 99 inscribed, 100 lethal; row 0
            at the origin, as in nav_msgs/OccupancyGrid.
        """
        evidence = self._grid.evidence
        most = evidence.max(axis=0)
        required = self._grid.required_evidence(self._settings.obstacle_probability)
        # Costs start at -1; one more than that fits a product with a truth value.
        worst = np.zeros(most.shape, np.uint8)
        for label, of_class in zip(self._labels, evidence):
            decides = of_class == most
            if label.obstacle:
                decides |= of_class >= required
            np.maximum(worst, decides.view(np.uint8) * np.uint8(label.cost + 1), out=worst)
        worst *= (most > 0).view(np.uint8)
        cost = worst.astype(np.int8) - np.int8(1)
        cost[self._footprint & (cost == UNKNOWN)] = FREE
        return cost

    def class_grid(self, name: str) -> np.ndarray:
        """
        Return how probable a class is in each cell.

        :param name: of the class.
        :returns: (height, width) int8: 0-100 percent, -1 unknown.
        :raises ValueError: where the label set has no class of this name.
        """
        for index, label in enumerate(self._labels):
            if label.name == name:
                percent = np.rint(100 * self._grid.probability(index)).astype(np.int8)
                return np.where(self._grid.known, percent, np.int8(UNKNOWN))
        raise ValueError(
            f"no class is named '{name}': there are "
            f"{', '.join(label.name for label in self._labels)}")

    def class_grids(self) -> np.ndarray:
        """Return every class's class_grid, in the label set's order, (classes, height, width)."""
        return np.stack([self.class_grid(label.name) for label in self._labels])

    def obstacle_points(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Return where obstacles touch the ground.

        :returns: centres of the cells in which an obstacle class is the most probable or has
            reached obstacle_probability, (N, 3) float32, metres in the grid's frame, z on the
            ground; and the most probable obstacle class of each, (N,) uint8.
        """
        evidence = self._grid.evidence
        of_obstacles = evidence[self._obstacles]
        most = of_obstacles.max(axis=0, initial=0)
        required = self._grid.required_evidence(self._settings.obstacle_probability)
        holds = (most > 0) & ((most == evidence.max(axis=0)) | (most >= required))
        rows, columns = np.nonzero(holds)
        x, y = self._grid.centres()
        points = np.stack([x[columns], y[rows], np.full(len(rows), self._ground_height)], -1)
        if len(rows) == 0:
            return points.astype(np.float32), np.zeros(0, np.uint8)
        ids = np.array([self._labels[index].id for index in self._obstacles], np.uint8)
        return points.astype(np.float32), ids[of_obstacles[:, rows, columns].argmax(axis=0)]
