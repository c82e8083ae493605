"""What a costmap covers and how it fuses."""

import math
from dataclasses import dataclass, fields

import numpy as np

# In cells. The grid's memory grows with their number, that of the lookup tables with the square of
# the range; Nav2's StaticLayer takes no longer sides.
_MOST_CELLS, _LONGEST_RANGE, _LONGEST_SIDE = 4_000_000, 1000, 32767
# Metres. The farther rays reach, the narrower they are, and the larger the lookup tables.
_FARTHEST_GROUND = 100.0


@dataclass(frozen=True)
class CostmapSettings:
    """
    What a costmap covers and how it fuses; lengths in metres, decay_time in seconds.

    :ivar resolution: side of a cell.
    :ivar size: (x, y) of the window around the robot.
    :ivar min_range, max_range: ground between these distances from the point below a camera is
        used.
    :ivar decay_time: a cell that was not seen for so long is unknown.
    :ivar obstacle_probability: obstacle classes of one cost, together this probable, set the
        cell's cost, even where another class is more probable.
    :ivar footprint_radius: what is this close to the base frame's origin is the robot, not an
        obstacle.
    :ivar ground_z: height of the ground plane in the base frame.
    :ivar max_pixel_footprint: ground is unknown where one pixel covers more than this along its
        ray; 0 means two cells.
    :raises ValueError: naming the setting, its value and what is allowed.
    """

    resolution: float = 0.05
    size: tuple[float, float] = (10.0, 10.0)
    min_range: float = 0.0
    max_range: float = 8.0
    decay_time: float = 10.0
    obstacle_probability: float = 0.3
    footprint_radius: float = 0.25
    ground_z: float = 0.0
    max_pixel_footprint: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if len(self.size) != 2:
            raise ValueError(f'size is {self.size}: give two lengths, x and y')
        for field in fields(self):
            if not np.isfinite(getattr(self, field.name)).all():
                raise ValueError(f'{field.name} is {getattr(self, field.name)}: it must be finite')
        for name in ('resolution', 'max_range', 'decay_time'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name} is {getattr(self, name)}: it must be above 0')
        for name in ('min_range', 'footprint_radius', 'max_pixel_footprint'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}: it must not be below 0')
        if min(self.size) < self.resolution:
            raise ValueError(f'size is {self.size}: each must hold a cell of {self.resolution} m')
        cells = tuple(round(side / self.resolution) for side in self.size)
        if math.prod(cells) > _MOST_CELLS or max(cells) > _LONGEST_SIDE:
            raise ValueError(
                f'size is {self.size}: that is {cells[0]}x{cells[1]} cells of {self.resolution} '
                f'm, at most {_MOST_CELLS}, and {_LONGEST_SIDE} a side: make size smaller or '
                'resolution coarser')
        if self.max_range > _FARTHEST_GROUND:
            raise ValueError(f'max_range is {self.max_range}: at most {_FARTHEST_GROUND}')
        if self.max_range > _LONGEST_RANGE * self.resolution:
            raise ValueError(f'max_range is {self.max_range}: that is more than {_LONGEST_RANGE} '
                             f'cells of {self.resolution} m: make it shorter or resolution '
                             'coarser')
        if self.min_range >= self.max_range:
            raise ValueError(
                f'min_range is {self.min_range}: it must be below max_range, {self.max_range}')
        if self.footprint_radius >= min(self.size) / 2:
            raise ValueError(
                f'footprint_radius is {self.footprint_radius}: it must be below half of size, '
                f'{min(self.size) / 2}: within it no obstacle is marked')
        if not 0 < self.obstacle_probability <= 1:
            raise ValueError(
                f'obstacle_probability is {self.obstacle_probability}: give above 0, up to 1')

    @property
    def pixel_footprint_limit(self) -> float:
        """Ground one pixel may cover along its ray, metres."""
        return self.max_pixel_footprint or 2 * self.resolution
