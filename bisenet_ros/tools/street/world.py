"""The street: what stands where at which time, and the truth about every ground point."""

from functools import lru_cache

import numpy as np

from bisenet_ros.tools.street import things
from bisenet_ros.tools.street.render import render

BLOCK = 24.0  # m; the street is laid out block by block along x, without end.
ROAD_HALF_WIDTH = 5.5  # m
SIDE_ROAD_SPACING = 3 * BLOCK  # m
SIDE_ROAD_HALF_WIDTH = 3.5  # m
FRONT = 9.0  # m; |y| of the building line.
VIEW_DISTANCE = 90.0  # m; nothing that stands further away along x is drawn.

# Traffic: (thing, y, speed along x in m/s, spacing in m, share of the places taken)
_STREAMS = (
    (things.car, 1.6, -7.0, 16.0, 0.45),
    (things.bicyclist, 3.05, -4.0, 22.0, 0.4),
    (things.bicyclist, -0.1, 4.5, 30.0, 0.5),
    (things.pedestrian, 7.0, -1.2, 9.0, 0.6),
    (things.pedestrian, 7.9, 1.3, 11.0, 0.5),
    (things.pedestrian, -7.0, 1.1, 8.0, 0.6),
    (things.pedestrian, -7.9, -1.3, 10.0, 0.5),
)


class Street:
    """
    A flat street along x without end: world frame x forward, y left, z up, ground at z = 0.

    The same seed gives the same street and traffic. extra are further solids (things.py) that
    stand there at all times, for tests that need one thing in a certain place.
    """

    def __init__(self, seed=0, extra=()):
        """Lay out the street of a seed (int >= 0)."""
        self.seed = seed
        self._extra = list(extra)
        self._block = lru_cache(maxsize=64)(self._build_block)

    def render(self, camera, camera_pose, time):
        """
        Return what a StreetCamera sees: image (H, W, 3) uint8 RGB, class ids (H, W) uint8.

        camera_pose is the optical frame's (4, 4) pose in the world, time in s. Pixels the lens
        maps no ray to are black, of class 255.
        """
        solids = self.solids(camera_pose[0, 3] - VIEW_DISTANCE, camera_pose[0, 3] + VIEW_DISTANCE,
                             time)
        return render(self, solids, camera, camera_pose, time)

    def ground_class(self, x, y):
        """Return road or pavement for world points (...), whatever stands on them, uint8."""
        outside = np.minimum(self.road_distance(y), self.side_road_distance(x))
        return np.where(outside > 0, things.PAVEMENT, things.ROAD).astype(np.uint8)

    def ground_truth(self, x, y, time):
        """Return the class of what stands on, or else is, the ground at world points, uint8."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        classes = self.ground_class(x, y)
        for class_id, footprint in self.footprints(x.min() - 1, x.max() + 1, time):
            classes[footprint.contains(x, y)] = class_id
        return classes

    def footprints(self, x_min, x_max, time):
        """Return (class id, Circle or Polygon) of all that stands on the ground, a list."""
        return [(solid.class_id, solid.footprint) for solid in self.solids(x_min, x_max, time)
                if solid.footprint is not None]

    def distance_to_class_border(self, x, y, time):
        """
        Return the distance of world points (...) to the nearest border between classes, m.

        Borders that something stands on count as well, as do those between touching things of
        one class: the distance is never too large. Above 10 m it may be cut to 10 m.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        across, along = -self.road_distance(y), -self.side_road_distance(x)
        distance = np.where((across < 0) & (along < 0), -np.maximum(across, along),
                            np.hypot(np.maximum(across, 0), np.maximum(along, 0)))
        distance = np.minimum(distance, 10.0)
        for _, footprint in self.footprints(x.min() - 10, x.max() + 10, time):
            distance = np.minimum(distance, footprint.border_distance(x, y))
        return distance

    def solids(self, x_min, x_max, time):
        """Return all solids, standing and moving, of the street between two x, a list."""
        found = list(self._extra)
        for block in range(int(x_min // BLOCK), int(x_max // BLOCK) + 1):
            found += self._block(block)
        for stream, (thing, y, speed, spacing, share) in enumerate(_STREAMS):
            first = int((x_min - 3 - speed * time) // spacing)
            last = int((x_max + 3 - speed * time) // spacing)
            for place in range(first, last + 1):
                taken, shift, look = _random(self.seed, stream + 1, place).uniform(size=3)
                x = (place + 0.5 * shift) * spacing + speed * time
                if taken < share and x_min - 3 <= x <= x_max + 3:
                    found += thing(x, y, (float(np.sign(speed)), 0.0), int(look * 1000))
        return found

    def road_distance(self, y):
        """Return the distance from the road's edge, negative within it, m."""
        return np.abs(y) - ROAD_HALF_WIDTH

    def side_road_distance(self, x):
        """Return the distance from the nearest side road's edge, negative within it, m."""
        middle = (self.seed % 3 + 0.5) * BLOCK
        off = (x - middle + SIDE_ROAD_SPACING / 2) % SIDE_ROAD_SPACING - SIDE_ROAD_SPACING / 2
        return np.abs(off) - SIDE_ROAD_HALF_WIDTH

    def _build_block(self, block):
        rng = _random(self.seed, 0, block)
        start = block * BLOCK
        crossing = block % 3 == self.seed % 3
        solids = []
        for side in (-1, 1):
            if crossing:
                middle = start + BLOCK / 2
                lots = [(start, middle - 5.5), (middle + 5.5, start + BLOCK)]
                solids += things.building(middle, side * 52, 24, 10, 9, rng)
            else:
                lots = [(start, start + BLOCK / 2), (start + BLOCK / 2, start + BLOCK)]
            for lot in lots:
                solids += _lot(side, *lot, rng)
            for x in start + np.array([3.0, 9.0, 15.0, 21.0]):
                if self.side_road_distance(x) > 6 and rng.uniform() < .6:
                    heading = (float(-side), 0.0)
                    solids += things.car(x + rng.uniform(-.5, .5), side * rng.uniform(4.5, 4.6),
                                         heading, int(rng.integers(1000)))
            for x in start + np.array([2.0, 10.0, 18.0]) + rng.uniform(-1, 1, 3):
                if self.side_road_distance(x) > 1:
                    solids += _kerbside(side, x, rng)
        return solids


def _random(*key):
    return np.random.default_rng([value % 2 ** 32 for value in key])


def _kerbside(side, x, rng):
    """Return what stands at the kerb: a tree, lamp, sign, person or nothing."""
    y = side * (ROAD_HALF_WIDTH + 0.5)
    kind = rng.choice(['tree', 'lamp', 'sign', 'person', 'nothing'], p=[.3, .2, .2, .15, .15])
    if kind == 'tree':
        return things.tree(x, y, rng)
    if kind == 'lamp':
        return things.lamp(x, y, -side * 1.5)
    if kind == 'sign':
        return things.sign(x, y, int(rng.integers(3)))
    if kind == 'person':
        return things.pedestrian(x, y, (0.0, float(-side)), int(rng.integers(1000)))
    return []


def _lot(side, start, end, rng):
    """Return a house at the pavement, or one behind a garden with something to close it off."""
    length, x = end - start, (start + end) / 2
    height = rng.uniform(5, 12)
    if rng.uniform() < .6:
        front = FRONT + rng.uniform(0, .6)
        return things.building(x, side * (front + 5), length, 10, height, rng)
    solids = things.building(x, side * (FRONT + 13), length, 10, height, rng)
    closing = rng.choice(['fence', 'hedge', 'wall'])
    if closing == 'fence':
        solids += things.fence(x, side * FRONT, length, rng.uniform(1.0, 1.7))
    elif closing == 'hedge':
        solids += things.hedge(x, side * (FRONT + .3), length, rng.uniform(.9, 1.5))
    else:
        solids += things.wall(x, side * FRONT, length, height=rng.uniform(.8, 1.8))
    if rng.uniform() < .7:
        solids += things.tree(x + rng.uniform(-2, 2), side * (FRONT + 4), rng)
    return solids
