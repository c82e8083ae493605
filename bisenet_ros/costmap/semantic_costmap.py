"""Masks of one or several cameras in, one costmap around the robot out."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from bisenet_ros.costmap.camera_model import CameraModel
from bisenet_ros.costmap.cost_rule import FREE, UNKNOWN, CostRule
from bisenet_ros.costmap.geometry import PoseError, is_jump, planar_pose
from bisenet_ros.costmap.ground_projection import GroundTable, PolarGrid
from bisenet_ros.costmap.obstacle_contact import (
    GROUND,
    LOOK_AHEAD,
    OBSTACLE,
    after_last_ground,
    find_contacts,
    gaps_in_walls,
    hidden_samples,
    on_outlines,
    start_at_near_edge,
)
from bisenet_ros.costmap.rolling_grid import GridInfo, RollingGrid
from bisenet_ros.costmap.settings import CostmapSettings

# Seconds. A stamp up to this much before the previous one is only out of order; more means that
# time jumped back.
JUMP_BACK = 1.0
# Metres. Beyond it, obstacle points, which are float32, would be more than a centimetre off.
_FARTHEST = 1e5
# Camera poses closer than this, metres or radians, share a table: TF rounds.
_SAME_POSE = 1e-6


@dataclass(frozen=True)
class _Observation:
    """
    What one mask says about the cells of the grid, flat indices into its window at the time.

    :ivar cells: (N,) int, none twice.
    :ivar classes: (N,) int, indices into the label set's labels.
    :ivar weights: (N,) float32, 0 to 1.
    :ivar hidden: (M,) int, cells passable so far that a newly seen obstacle hides or stands on.
    """

    stamp: float
    cells: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    hidden: np.ndarray


def _check_input(camera, class_ids, confidence, T_odom_base) -> None:
    """Raise update's errors for a mask that does not fit its camera, and for absurd odometry."""
    for image in (class_ids, confidence):
        if image.shape != (camera.height, camera.width) or image.dtype != np.uint8:
            raise ValueError(
                f'mask or confidence is {image.shape} {image.dtype}, the camera model is for '
                f'({camera.height}, {camera.width}) uint8: use camera.resized(width, height)')
    if T_odom_base is not None and not (np.abs(T_odom_base) < _FARTHEST).all():
        raise PoseError(
            f'the robot is at x, y, z = {", ".join(map(str, T_odom_base[:3, 3]))} in the odometry '
            f'frame, at most {_FARTHEST:.0f} m are exact enough: check the odometry, which must '
            'begin near the robot')


class SemanticCostmap:
    """
    A costmap around the robot, made from class masks.

    With the robot's motion (update's T_odom_base) the grid lies axis-aligned in the odometry
    frame, follows the robot and accumulates. Without, it lies in the base frame and holds the
    latest mask of each camera only. Not safe for use from several threads at once; see `prepare`.

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
            settings.resolution, settings.size, settings.decay_time,
            CostRule(self._labels, settings.obstacle_probability))
        self._kinds = np.zeros(256, np.uint8)
        # The grid counts classes in the label set's order; ids may have gaps.
        self._index_of_id = np.zeros(256, np.intp)
        for index, label in enumerate(self._labels):
            self._kinds[label.id] = GROUND * label.ground | OBSTACLE * label.obstacle
            self._index_of_id[label.id] = index
        self._obstacles = [
            index for index, label in enumerate(self._labels) if label.obstacle]
        self._ground = [index for index, label in enumerate(self._labels) if label.ground]
        self._tables: dict[Hashable, GroundTable] = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was seen; lookup tables stay."""
        self._grid.clear()
        self._latest: dict[Hashable, _Observation] = {}
        self._stamps: dict[Hashable, float] = {}
        self._heard: set[Hashable] = set()
        self._robot = 0.0, 0.0
        self._footprint = np.zeros(0, np.intp)
        self._has_odometry: bool | None = None
        self._last_stamped_pose: tuple[float, float, float, float] | None = None
        self._ground_height = self._settings.ground_z

    def forget(self, camera_key: Hashable) -> None:
        """
        Stop expecting masks of a camera.

        Without odometry its latest mask is dropped; with odometry that was fused, and fades.
        """
        self._heard.discard(camera_key)
        if self._latest.pop(camera_key, None) is not None:
            self._replace_by_latest()
            self._clear_footprint()

    @property
    def info(self) -> GridInfo:
        """Resolution, size and origin of the grid, which lies axis-aligned in its frame."""
        return self._grid.info

    def update(self, camera_key: Hashable, camera: CameraModel, T_base_camera: np.ndarray,
               T_odom_base: np.ndarray | None, class_ids: np.ndarray,
               confidence: np.ndarray | None, stamp: float,
               confidence_threshold: float = 0.0) -> bool:
        """
        Add one mask; return whether it was used.

        The ground is the plane z = ground_z of the base frame: the robot stands on the ground it
        sees, which tilts with it. So of T_odom_base, x, y and yaw place the observation, z the
        height of obstacle_points, and roll and pitch have no effect.

        Everything is cleared first where the stamp is more than JUMP_BACK before the same camera's
        last (time jumped back), where it is more than decay_time before that of a camera forgotten
        since, where T_odom_base begins or ceases to be given, or where it jumps farther than a
        robot drives. A mask that is late by up to JUMP_BACK only came out of order, and is not
        used.

        :param camera_key: any name of the camera; each has its own lookup table.
        :param camera: model of the mask's pixels, Calibration.for_image(...), resized where the
            mask is.
        :param T_base_camera: 4x4, optical frame in the base frame, at the stamp.
        :param T_odom_base: 4x4, base frame in the odometry frame, at the stamp, or None.
        :param class_ids: (H, W) uint8; ids without a label (255) say nothing.
        :param confidence: (H, W) uint8, 0-255 = probability of the class, or None: certain.
        :param stamp: seconds, of the image.
        :param confidence_threshold: 0 to 1; ground of lower confidence is ignored. Obstacles
            always count: networks are least confident where these touch the ground, and none may
            vanish because of that.
        :raises PoseError: where the camera is not above the ground or sees none of it, or a pose
            is not finite.
        :raises ValueError: where camera, mask and confidence differ in size, where a camera's
            stamp is that of its last mask (but for 0, which means no stamp), or so far behind
            another camera's that what it sees is forgotten already.
        """
        if confidence is None:
            confidence = np.full_like(class_ids, 255)
        _check_input(camera, class_ids, confidence, T_odom_base)
        table = self.prepare(camera_key, camera, T_base_camera)
        last_stamp = self._stamps.get(camera_key, -math.inf)
        self._check_stamp(stamp, last_stamp)
        if last_stamp - JUMP_BACK <= stamp < last_stamp:
            return False
        has_odometry = T_odom_base is not None
        pose = T_odom_base if has_odometry else np.eye(4)
        x, y, yaw = planar_pose(pose)
        # The newest may be that of a camera that is gone; the grid would take nothing older.
        time_jumped_back = stamp < max(last_stamp, self.newest_stamp - self._settings.decay_time)
        if time_jumped_back or self._robot_jumped(x, y, yaw, stamp) or (
                self._has_odometry not in (None, has_odometry)):
            self.clear()
        self._stamps[camera_key] = stamp
        self._heard.add(camera_key)
        self._has_odometry = has_odometry
        self._last_stamped_pose = stamp, x, y, yaw
        self._ground_height = float(pose[2, 3]) + self._settings.ground_z
        if stamp >= self.newest_stamp:  # No move back for a camera that lags behind another.
            self._robot = x, y
            self._grid.move_to(x, y)
        self._grid.advance(stamp)
        observation = self._observe(
            table, (x, y, yaw), class_ids, confidence, stamp, confidence_threshold)
        if has_odometry:
            self._add(self._without_what_is_newer(observation))
        else:
            self._latest[camera_key] = observation
            self._replace_by_latest()
        self._clear_footprint()
        return True

    @property
    def newest_stamp(self) -> float:
        """Stamp of the newest mask since the last reset, seconds; -inf if there is none."""
        return max(self._stamps.values(), default=-math.inf)

    def _check_stamp(self, stamp, last_stamp) -> None:
        """Raise update's errors for stamps."""
        if stamp and stamp == last_stamp:
            raise ValueError('the image has the stamp of the one before: the camera driver sends '
                             'the same again, or does not stamp its images')
        newest = max((self._stamps[heard] for heard in self._heard), default=stamp)
        if last_stamp <= stamp < newest - self._settings.decay_time:
            raise ValueError(f'the image is stamped {newest - stamp:.1f} s before that of another '
                             'camera: synchronise the clocks of the cameras')

    def _robot_jumped(self, x, y, yaw, stamp) -> bool:
        """Return whether no robot could drive here from the last pose: odometry has jumped."""
        if self._last_stamped_pose is None:
            return False
        last_stamp, last_x, last_y, last_yaw = self._last_stamped_pose
        turn = abs((yaw - last_yaw + math.pi) % (2 * math.pi) - math.pi)
        return is_jump(math.hypot(x - last_x, y - last_y), turn, abs(stamp - last_stamp))

    def prepare(self, camera_key: Hashable, camera: CameraModel,
                T_base_camera: np.ndarray) -> GroundTable:
        """
        Build a camera's lookup table, as `update` does if it was not built before.

        That takes many times as long as the rest of an update. Other threads may call other
        methods meanwhile, but not for the same camera.

        :raises PoseError: as update does.
        """
        table = self._tables.get(camera_key)
        # Not "> _SAME_POSE": a pose that is not finite must not pass for the old one.
        if table is None or camera != table.camera or not (
                np.abs(T_base_camera - table.pose).max() <= _SAME_POSE):
            settings = self._settings
            table = GroundTable(
                camera, np.asarray(T_base_camera, dtype=float), self._polar, settings.ground_z,
                settings.min_range, settings.max_range, settings.pixel_footprint_limit)
            self._tables[camera_key] = table
        if not table.sees_ground:
            raise PoseError(
                'the camera sees no ground within max_range: its pose must be that of the optical '
                'frame (z forward, x right), and look at the ground')
        return table

    def _observe(self, table, base_pose, class_ids, confidence, stamp,
                 confidence_threshold) -> _Observation:
        """Look up each cell's ground, then mark the cells where obstacles touch the ground."""
        *base_xy, yaw = base_pose
        rotation = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        camera_xy = rotation @ table.camera_xy + base_xy
        box, reach = self._view(table, rotation, camera_xy)
        classes, ground, contacts, without_contact = self._walk_rays(table, class_ids, reach)
        if confidence_threshold:
            ground &= (table.sample(confidence, reach, LOOK_AHEAD)
                       >= np.ceil(255 * confidence_threshold))
        x, y = (centres[part] for centres, part in zip(self._grid.centres, box[::-1]))
        samples_of_box = table.samples_of_cells(
            (x[0], y[0]) - camera_xy, self._settings.resolution, yaw, (len(y), len(x)))
        observed = self._in_window(ground.reshape(-1).take(samples_of_box), box)
        contact_cells, contact_samples, new_starts = self._place_obstacles(
            table, classes, contacts, without_contact, rotation, camera_xy)
        observed[contact_cells] = True
        hidden = self._hidden_cells(new_starts, ground, samples_of_box, box, observed)
        nearest_sample = self._in_window(samples_of_box, box)
        nearest_sample[contact_cells] = contact_samples
        cells = np.flatnonzero(observed)
        samples = nearest_sample[cells]
        weights = table.values(confidence, samples) * np.float32(1 / 255)
        indices = self._index_of_id.take(classes.reshape(-1).take(samples))
        return _Observation(stamp, cells, indices, weights, hidden)

    def _place_obstacles(self, table, classes, contacts, without_contact, rotation, camera_xy):
        """
        Return the cells that obstacles touch, a contact for each, and where new obstacles start.

        :param contacts, without_contact: as _walk_rays returns them.
        :returns: cells and contacts' samples, both (N,) int; and samples, (M,) int, where an
            obstacle starts that was not there before: it may also stand on what it hides.
        """
        starts = np.concatenate([contacts, without_contact])
        points, usable = table.borders(starts)
        points = points @ rotation.T + camera_xy
        start_cells, inside = self._grid.cells_of(points, usable)
        # Without odometry the grid holds nothing that could be hidden.
        are_new = np.full(len(starts), self._has_odometry)
        are_new[inside] &= ~self._grid.hold_obstacle(start_cells)

        are_usable, are_inside = (each[:len(contacts)] for each in (usable, inside))
        between, contacts_nearby = self._cells_between(
            points[:len(contacts)][are_usable], contacts[are_usable], classes, table)
        cells = np.concatenate([between, start_cells[:np.count_nonzero(are_inside)]])
        samples = np.concatenate([contacts_nearby, contacts[are_inside]])
        return cells, samples, starts[are_new]

    def _walk_rays(self, table, class_ids, reach):
        """
        Return the classes along the rays, and what find_contacts finds there, corrected.

        Obstacles whose contact is not seen begin after the last ground. Where that is near, they
        stand there: it is a contact, of their class unless another obstacle is seen there.

        :param reach: as GroundTable.sample takes it.
        :returns: classes, (samples, rays) uint8 ids; seen ground, (samples, rays) bool; contacts
            without outlines, and the first sample of each obstacle without a contact, or with one
            too near to be seen; both (N,) int, flat indices.
        """
        classes = table.sample(class_ids, reach, LOOK_AHEAD)
        kinds = cv2.LUT(classes, self._kinds)
        ground, contacts, starts = find_contacts(
            kinds, lambda samples: self._are_stray(table.surroundings(class_ids, samples)))
        # The picture cuts off the foot of what is too near, which is marked at the picture's edge.
        are_near = start_at_near_edge(starts, table.first_seen)
        too_near, starts = starts[are_near], starts[~are_near]
        feet, stand = after_last_ground(starts, ground)
        kinds_of_feet = kinds.reshape(-1).take(feet)
        stand &= kinds_of_feet != GROUND
        mistaken = stand & (kinds_of_feet != OBSTACLE)
        classes.reshape(-1)[feet[mistaken]] = classes.reshape(-1)[starts[mistaken]]
        without_contact = np.concatenate([too_near, feet[~stand]])
        contacts = np.sort(np.concatenate([contacts, too_near, feet[stand]]))
        contacts = contacts[~on_outlines(contacts, classes, table.geometry)]
        return classes, ground, contacts, without_contact

    def _are_stray(self, surroundings) -> np.ndarray:
        """Return whether pixels, given by the (9, N) class ids around them, lie in no obstacle."""
        are_obstacle = self._kinds.take(surroundings) & OBSTACLE != 0
        # Beside a straight outline six of the nine are.
        return are_obstacle.sum(axis=0) < 7

    def _cells_between(self, points, contacts, classes, table):
        """
        Return the cells of walls between contacts on neighbouring rays, and a contact for each.

        :param points: (N, 2) of the contacts, metres in the grid's frame.
        :param contacts: (N,) int, flat indices of samples.
        """
        before, after = gaps_in_walls(contacts, classes, table.geometry)
        way = points[after] - points[before]
        count = (np.hypot(*way.T) / self._settings.resolution).astype(np.intp)
        which = np.repeat(np.arange(len(before)), count)
        step = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 1
        between = points[before[which]] + way[which] * (step / (count[which] + 1))[:, None]
        cells, inside = self._grid.cells_of(between, np.ones(len(between), bool))
        return cells, contacts[before[which[inside]]]

    def _hidden_cells(self, starts, ground, samples_of_box, box, observed):
        """
        Return the passable cells, not observed now, that the obstacles at starts hide, (N,) int.

        What costs too much to be passed stays known: Nav2 may take unknown for free.
        """
        if not len(starts):
            return np.zeros(0, np.intp)
        hidden = hidden_samples(starts, ground).reshape(-1).take(samples_of_box)
        cells = np.flatnonzero(self._in_window(hidden, box) & ~observed)
        return cells[self._grid.are_passable(cells) & ~self._grid.hold_obstacle(cells)]

    def _in_window(self, of_box, box):
        """Return a grid, (cells,), with a box's values, (rows, columns), and zero elsewhere."""
        of_cells = np.zeros((self.info.height, self.info.width), of_box.dtype)
        of_cells[box] = of_box
        return of_cells.reshape(-1)

    def _view(self, table, rotation, camera_xy):
        """Return the rows and columns that hold all a camera sees, and their farthest point, m."""
        ends = rotation @ table.ray_ends
        rows, columns = self._grid.box_of(
            camera_xy + np.minimum(ends.min(axis=1), 0),
            camera_xy + np.maximum(ends.max(axis=1), 0))
        x, y = self._grid.centres
        reach = math.hypot(
            max(camera_xy[0] - x[columns.start], x[columns.stop - 1] - camera_xy[0]),
            max(camera_xy[1] - y[rows.start], y[rows.stop - 1] - camera_xy[1]))
        return (rows, columns), reach + self._settings.resolution

    def _without_what_is_newer(self, observation) -> _Observation:
        """Leave out cells that another camera has seen since, unless they show an obstacle."""
        if observation.stamp >= self.newest_stamp:
            return observation
        is_newest, still_hidden = (
            ~self._grid.seen_after(observation.stamp, cells)
            for cells in (observation.cells, observation.hidden))
        is_newest |= np.isin(observation.classes, self._obstacles)
        return replace(
            observation, cells=observation.cells[is_newest],
            classes=observation.classes[is_newest], weights=observation.weights[is_newest],
            hidden=observation.hidden[still_hidden])

    def _add(self, observation) -> None:
        self._grid.hide(observation.hidden, self._ground, observation.stamp)
        self._grid.add(
            observation.cells, observation.classes, observation.weights, observation.stamp)

    def _replace_by_latest(self) -> None:
        """Hold what each camera saw last, and nothing older."""
        self._grid.clear()
        self._grid.advance(max((seen.stamp for seen in self._latest.values()), default=-math.inf))
        # In the order of time: what is added makes what was seen before fade.
        for observation in sorted(self._latest.values(), key=lambda seen: seen.stamp):
            self._add(observation)

    def _clear_footprint(self) -> None:
        self._footprint = self._grid.cells_within(*self._robot, self._settings.footprint_radius)
        self._grid.remove(self._footprint, self._obstacles)

    def combined(self) -> np.ndarray:
        """
        Return the cost of each cell, by Nav2's conventions.

        It is what CostRule decides. Where nothing was seen under the robot, it is free: the robot
        stands there.

        :returns: (height, width) int8: -1 unknown, 0-98 graded, 99 inscribed, 100 lethal; row 0
            at the origin, as in nav_msgs/OccupancyGrid.
        """
        costs = self._grid.costs()
        under_robot = costs.reshape(-1)[self._footprint]
        under_robot[under_robot == UNKNOWN] = FREE
        costs.reshape(-1)[self._footprint] = under_robot
        return costs

    def class_grids(self, classes: Sequence[int] | None = None) -> np.ndarray:
        """
        Return how probable classes are in each cell.

        :param classes: indices into the label set's labels; None: all, in their order.
        :returns: (classes, height, width) int8: 0-100 percent, -1 unknown.
        """
        return self._grid.percent(classes)

    def obstacle_points(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Return where obstacles touch the ground.

        :returns: centres of the cells in which an obstacle class is the most probable or obstacles
            have reached obstacle_probability, (N, 3) float32, metres in the grid's frame, z on the
            ground; and the most probable obstacle class of each, (N,) uint8.
        """
        cells = self._grid.obstacles()
        rows, columns = np.divmod(cells, self.info.width)
        x, y = self._grid.centres
        points = np.stack([x[columns], y[rows], np.full(len(cells), self._ground_height)], -1)
        if not self._obstacles:
            return points.astype(np.float32), np.zeros(0, np.uint8)
        ids = np.array([self._labels[index].id for index in self._obstacles], np.uint8)
        return points.astype(np.float32), ids[self._grid.strongest(cells, self._obstacles)]
