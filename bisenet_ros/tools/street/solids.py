"""Solids a ray can hit, and the footprints they have on the ground."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Circle:
    """A round footprint: centre (2,) and radius, m."""

    center: np.ndarray
    radius: float

    def contains(self, x, y):
        """Return whether points (...) lie within, (...) bool."""
        return np.hypot(x - self.center[0], y - self.center[1]) <= self.radius

    def border_distance(self, x, y):
        """Return the distance of points (...) to the circle, m."""
        return np.abs(np.hypot(x - self.center[0], y - self.center[1]) - self.radius)


@dataclass(frozen=True)
class Polygon:
    """A convex footprint: corners (K, 2), m, counter-clockwise."""

    corners: np.ndarray

    def contains(self, x, y):
        """Return whether points (...) lie within, (...) bool."""
        inside = np.ones(np.shape(x), bool)
        for (ax, ay), (bx, by) in self._edges():
            inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
        return inside

    def border_distance(self, x, y):
        """Return the distance of points (...) to the nearest edge, m."""
        nearest = np.full(np.shape(x), np.inf)
        for (ax, ay), (bx, by) in self._edges():
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        return nearest

    def _edges(self):
        return zip(self.corners, np.roll(self.corners, -1, axis=0))


@dataclass(frozen=True)
class Solid:
    """
    What all solids share: class id, paint (a name in paint.py), colour (RGB, 0 to 1).

    heading is the direction (x, y) the thing faces. Solids that stand on the ground have a
    footprint, those that hang or are part of a larger thing have None.
    """

    class_id: int
    paint: str
    color: tuple
    heading: tuple = (1.0, 0.0)
    footprint = None


@dataclass(frozen=True)
class Prism(Solid):
    """A convex body between two convex polygons (K, 2) of parallel edges, at z0 and z1."""

    bottom: np.ndarray = None
    top: np.ndarray = None
    z0: float = 0.0
    z1: float = 1.0

    @cached_property
    def _planes(self):
        corners = np.hstack([self.bottom, np.full((len(self.bottom), 1), self.z0)])
        upper = np.hstack([self.top, np.full((len(self.top), 1), self.z1)])
        normals = np.cross(np.roll(corners, -1, axis=0) - corners, upper - corners)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        offsets = (normals * corners).sum(1)
        return (np.vstack([normals, [[0, 0, 1], [0, 0, -1]]]),
                np.append(offsets, [self.z1, -self.z0]))

    @cached_property
    def bounds(self):
        """Centre (3,) and radius of a ball around the solid."""
        center = np.append(self.bottom.mean(0), (self.z0 + self.z1) / 2)
        reach = max(np.linalg.norm(side - center[:2], axis=1).max()
                    for side in (self.bottom, self.top))
        return center, float(np.hypot(reach, (self.z1 - self.z0) / 2))

    @cached_property
    def footprint(self):
        """The polygon on the ground."""
        return Polygon(self.bottom) if self.z0 == 0 else None

    def intersect(self, origin, directions):
        """Return where rays (N, 3) from origin enter, as a multiple of them; inf for a miss."""
        normals, offsets = self._planes
        room = (offsets - normals @ origin).astype(directions.dtype)[:, None]
        speed = normals.astype(directions.dtype) @ directions.T
        speed[speed == 0] = 1e-12
        t = room / speed
        near = np.where(speed < 0, t, -np.inf).max(0)
        far = np.where(speed > 0, t, np.inf).min(0)
        return np.where((near <= far) & (near > 0), near, np.inf)

    def normals(self, points):
        """Return the outward normals at points (N, 3) of the surface."""
        normals, offsets = self._planes
        return normals[(normals @ points.T - offsets[:, None]).argmax(0)]


@dataclass(frozen=True)
class Cone(Solid):
    """An upright round body whose radius goes from r0 at z0 to r1 <= r0 at z1."""

    center: tuple = (0.0, 0.0)
    r0: float = 0.1
    r1: float = 0.1
    z0: float = 0.0
    z1: float = 1.0

    @cached_property
    def bounds(self):
        """Centre (3,) and radius of a ball around the solid."""
        middle = np.array([*self.center, (self.z0 + self.z1) / 2])
        return middle, float(np.hypot(self.r0, (self.z1 - self.z0) / 2))

    @cached_property
    def footprint(self):
        """The circle on the ground."""
        return Circle(np.array(self.center), self.r0) if self.z0 == 0 else None

    def intersect(self, origin, directions):
        """Return where rays (N, 3) from origin enter, as a multiple of them; inf for a miss."""
        px, py = (origin[:2] - self.center).tolist()
        radius = float(self.r0 + self._slope * (origin[2] - self.z0))
        dx, dy, dz = directions.T
        a = dx * dx + dy * dy - (self._slope * dz) ** 2
        b = px * dx + py * dy - radius * self._slope * dz
        root = b * b - a * (px * px + py * py - radius * radius)
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        z = float(origin[2]) + t * dz
        t = np.where((root >= 0) & (t > 0) & (z >= self.z0) & (z <= self.z1), t, np.inf)
        lid = float(self.z1 - origin[2]) / dz
        on_lid = np.hypot(px + lid * dx, py + lid * dy) <= self.r1
        return np.where(on_lid & (dz < 0) & (lid > 0) & (lid < t), lid, t)

    def normals(self, points):
        """Return the outward normals at points (N, 3) of the surface."""
        x, y = points[:, 0] - self.center[0], points[:, 1] - self.center[1]
        normals = np.stack([x, y, -self._slope * np.hypot(x, y)], 1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        normals[points[:, 2] > self.z1 - 1e-3] = 0, 0, 1
        return normals

    @property
    def _slope(self):
        return (self.r1 - self.r0) / (self.z1 - self.z0)


@dataclass(frozen=True)
class Ellipsoid(Solid):
    """An ellipsoid along the axes, above the ground: centre (3,), radii (3,)."""

    center: tuple = (0.0, 0.0, 0.0)
    radii: tuple = (1.0, 1.0, 1.0)

    @cached_property
    def bounds(self):
        """Centre (3,) and radius of a ball around the solid."""
        return np.array(self.center, float), float(max(self.radii))

    def intersect(self, origin, directions):
        """Return where rays (N, 3) from origin enter, as a multiple of them; inf for a miss."""
        start = ((origin - self.center) / self.radii).astype(directions.dtype)
        scaled = directions / np.asarray(self.radii, directions.dtype)
        a = np.einsum('nc,nc->n', scaled, scaled)
        b = scaled @ start
        root = b * b - a * (start @ start - 1)
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        return np.where((root >= 0) & (t > 0), t, np.inf)

    def normals(self, points):
        """Return the outward normals at points (N, 3) of the surface."""
        normals = (points - self.center) / np.square(self.radii)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)
