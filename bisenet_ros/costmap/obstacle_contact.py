"""Where obstacles touch the ground, and which ground is really seen, along rays on the ground."""

import math
from collections.abc import Callable

import numpy as np

from bisenet_ros.costmap.ground_projection import RayGeometry

# What kind of class a sample shows: bits.
GROUND, OBSTACLE = 1, 2
# In samples, half a pixel apart where pixels are coarse. Shorter runs are stray pixels of the
# mask: in a wall's face they must free no ground behind it, and on a road they are no obstacle.
# Free ground takes a longer run than an obstacle. Where a sample spans several pixels, a low thing
# may be shorter than _MIN_RUN, so find_contacts calls are_stray.
_MIN_RUN = 3
_MIN_FREE_RUN = 5
# The same for ground seen over an obstacle. It takes more, as a wall's face has more stray pixels
# than the road, and freeing ground behind a wall is the worse mistake.
_MIN_FREE_RUN_BEHIND = 7
# Stray samples allowed between the last ground and the obstacle that stands on it.
_MAX_GAP = 4
# Contacts on neighbouring rays this near, in samples, belong together.
_OUTLINE_SAMPLES = 4
# Metres. A wall whose line passes the point below the camera nearer than this looks like an
# outline, and only its nearer contacts count.
_PASSING_DISTANCE = 0.5
# Largest gap between contacts of one wall. In rays, because a contact in between may have been
# taken for an outline; and in metres, because far away it may be two things, and once the camera
# is nearer there will be more contacts.
_GAP_RAYS = 2
_LONGEST_GAP = 0.25
# Longest gap, in samples, between the last ground and an obstacle that is taken to stand there. In
# the gap its lowest part may have been mistaken for something that hangs, or got no class.
_MAX_UNDECIDED = 12
# How many samples beyond a sample find_contacts needs to judge it.
LOOK_AHEAD = _MIN_FREE_RUN_BEHIND


def find_contacts(kinds: np.ndarray, are_stray: Callable[[np.ndarray], np.ndarray]
                  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Find the ground that is really seen and the obstacle contacts, not what obstacles hide.

    A ray on the ground is walked outwards from below the camera. An obstacle that begins right
    after ground touches the ground there. Its samples beyond that point are its face and what it
    hides, so they are neither; ground that comes after them is seen over the obstacle and real.
    An obstacle that begins anywhere else (at the image's border, over a sign that hangs in front
    of it) touches the ground where nobody sees it.

    :param kinds: (samples, rays) uint8, GROUND or OBSTACLE where a sample shows such a class;
        nearest samples first.
    :param are_stray: called with the samples, (M,) int flat indices, of obstacles only one or two
        samples long; returns whether their pixels are stray, (M,) bool.
    :returns: seen ground, (samples, rays) bool; contacts, the first sample of each obstacle on the
        ground; and the first sample of each obstacle whose contact is not seen; both (N,) int,
        flat indices in ascending order.
    """
    # A byte holds a sample of eight rays: all steps below go along the rays.
    ground, obstacle = (np.packbits(kinds & kind, axis=1) for kind in (GROUND, OBSTACLE))
    obstacle = _drop_stray(obstacle, kinds.shape, are_stray)
    ground_before = _any_of_last(_all_of_next(ground, _MIN_RUN), _MIN_RUN + _MAX_GAP)
    contacts = np.zeros_like(obstacle)
    contacts[1:] = obstacle[1:] & ~obstacle[:-1] & ground_before[:-1]
    without_contact = obstacle.copy()
    without_contact[1:] &= ~_any_of_last(obstacle, _MAX_GAP + 1)[:-1] & ~ground_before[:-1]
    behind = np.bitwise_or.accumulate(obstacle, axis=0)
    ground = (_drop_short_runs(ground, _MIN_FREE_RUN) & ~behind
              | _drop_short_runs(ground, _MIN_FREE_RUN_BEHIND))
    # The last sample before an obstacle may lie beyond its contact: samples take the nearest
    # pixel.
    ground[:-1] &= ~obstacle[1:]
    ray_count = kinds.shape[1]
    return (np.unpackbits(ground, axis=1, count=ray_count).view(bool),
            _indices(contacts, ray_count), _indices(without_contact, ray_count))


def start_at_near_edge(starts: np.ndarray, first_seen: np.ndarray) -> np.ndarray:
    """
    Find obstacles at the picture's near edge, with too little ground before them for a contact.

    :param starts: (N,) int, flat indices of samples (samples, rays) where obstacles start.
    :param first_seen: (rays,) int, the first sample of each ray that a pixel sees.
    :returns: (N,) bool.
    """
    samples, rays = np.divmod(starts, len(first_seen))
    return samples < first_seen[rays] + _MIN_RUN + _MAX_GAP


def after_last_ground(starts: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Find where obstacles whose contact is not seen may begin: right after the last ground seen.

    :param starts: (N,) int, flat indices of samples where obstacles start.
    :param ground: (samples, rays) bool, as find_contacts returns it.
    :returns: the samples right after that ground, or the starts where there is no ground before,
        (N,) int, flat indices; and whether the gap between is so short that the obstacle stands
        there, (N,) bool.
    """
    samples, rays = np.divmod(starts, ground.shape[1])
    before = ground.take(rays, axis=1) & (np.arange(len(ground))[:, None] < samples)
    first = np.where(before.any(axis=0), len(ground) - before[::-1].argmax(axis=0), samples)
    gap = samples - first
    return first * ground.shape[1] + rays, (gap > 0) & (gap <= _MAX_UNDECIDED)


def on_outlines(contacts: np.ndarray, classes: np.ndarray, geometry: RayGeometry) -> np.ndarray:
    """
    Find the contacts that are only the outline of an obstacle on a neighbouring ray.

    The outline of an upright thing runs along a ray, and pixels near it may show either side: a
    ray just beside the thing shows ground where the thing stands, and the thing only farther out.
    On a ray a pixel away, the same thing then touches the ground much nearer than even a wall seen
    at a slant would.

    :param contacts: (N,) int, flat indices of samples.
    :param classes: (samples, rays) uint8, class ids.
    :param geometry: of the samples.
    :returns: (N,) bool.
    """
    samples, rays = np.divmod(contacts, classes.shape[1])
    class_ids = classes.take(contacts)
    distance = geometry.ranges[samples]
    outline = np.zeros(len(contacts), bool)
    # All rays within a pixel to either side, as rays may be narrower than pixels.
    for away in range(1, math.ceil(geometry.pixel_angle / geometry.angle_step) + 1):
        slant = _slant(distance, away, geometry)
        nearer = np.searchsorted(geometry.ranges, distance - slant)
        nearer = np.maximum(np.minimum(nearer, samples - _OUTLINE_SAMPLES), 0)
        for side in (-away, away):
            neighbour = (rays + side) % classes.shape[1]  # A view may be a full circle.
            outline |= ((classes[samples, neighbour] == class_ids)
                        & (classes[nearer, neighbour] == class_ids))
    return outline


def gaps_in_walls(contacts: np.ndarray, classes: np.ndarray,
                  geometry: RayGeometry) -> tuple[np.ndarray, np.ndarray]:
    """
    Find contacts of one class on neighbouring rays that may belong to one wall.

    A wall seen at a slant touches the ground at places far from each other on neighbouring rays,
    and all the way between these places.

    :param contacts: (N,) int, flat indices of samples in ascending order.
    :param classes, geometry: as on_outlines takes them.
    :returns: indices into contacts of those before and after the gaps, each (M,) int.
    """
    samples, rays = np.divmod(contacts, classes.shape[1])
    class_ids = classes.take(contacts)
    # By class, then ray. Where a class has several contacts on a ray, only the nearest is taken.
    _, order = np.unique(class_ids.astype(np.intp) * classes.shape[1] + rays, return_index=True)
    before, after = order[:-1], order[1:]
    distance = geometry.ranges[samples]
    away = rays[after] - rays[before]
    longest = np.minimum(2 * _slant(distance[after], away, geometry), _LONGEST_GAP)
    joined = ((class_ids[before] == class_ids[after]) & (away > 0) & (away <= _GAP_RAYS)
              & (np.abs(distance[after] - distance[before]) <= longest))
    return before[joined], after[joined]


def hidden_samples(starts: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """
    Return which samples obstacles hide: from where they start to the next ground seen on the ray.

    :param starts: (N,) int, flat indices of the obstacles' first samples, which are on few rays.
    :param ground: (samples, rays) bool, as find_contacts returns it.
    :returns: (samples, rays) bool.
    """
    start_samples, start_rays = np.divmod(starts, ground.shape[1])
    rays = np.unique(start_rays)
    # The last ground or start up to each sample: even numbers stand for ground, odd for starts.
    order = 2 * np.arange(1, len(ground) + 1, dtype=np.int32)
    last = ground.take(rays, axis=1) * order[:, None]
    last[start_samples, np.searchsorted(rays, start_rays)] = order[start_samples] + 1
    last = np.maximum.accumulate(last, axis=0)
    hidden = np.zeros(ground.shape, bool)
    hidden[:, rays] = last & 1
    return hidden


def _slant(distance, away, geometry):
    """
    Return how much farther away a wall may be `away` rays and a pixel to the side, metres.

    For a wall whose line passes the camera at p = _PASSING_DISTANCE, seen at a range r much larger
    than that, dr / d(angle) is r^2 / p.
    """
    angle = away * geometry.angle_step + geometry.pixel_angle
    return distance ** 2 * (angle / _PASSING_DISTANCE)


def _indices(bits, ray_count):
    """Return the flat indices in (samples, rays) of the bits set, which are few, ascending."""
    octets = np.flatnonzero(bits != 0)
    ones = np.flatnonzero(np.unpackbits(bits.reshape(-1)[octets]).view(bool))
    samples, rays = np.divmod(8 * octets[ones // 8] + ones % 8, 8 * bits.shape[1])
    return samples * ray_count + rays


def _drop_stray(bits, shape, are_stray):
    """Keep the long runs, and those samples of short ones that are not stray."""
    kept = _drop_short_runs(bits, _MIN_RUN)
    short = _indices(bits & ~kept, shape[1])
    short = short[~are_stray(short)]
    if len(short):
        things = np.zeros(shape, bool)
        things.reshape(-1)[short] = True
        kept |= np.packbits(things, axis=1)
    return kept


def _drop_short_runs(bits, length):
    """Keep the runs of ones along a ray, the first axis, that are at least this long."""
    return _any_of_last(_all_of_next(bits, length), length)


def _all_of_next(bits, count):
    """Return whether a sample and the count - 1 beyond it are all ones."""
    result = bits.copy()
    for step in _steps(count):
        result[:-step] &= result[step:]
    result[1 - count:] = 0
    return result


def _any_of_last(bits, count):
    """Return whether a sample or any of the count - 1 before it is a one."""
    result = bits.copy()
    for step in _steps(count):
        result[step:] |= result[:-step]
    return result


def _steps(count):
    """Yield the shifts that, each applied to what was gathered so far, make it span count."""
    seen = 1
    while seen < count:
        step = min(seen, count - seen)
        yield step
        seen += step
