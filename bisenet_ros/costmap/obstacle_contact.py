"""Where obstacles touch the ground, and which ground is really seen, along rays on the ground."""

import math

import numpy as np

# What kind of class a sample shows: bits.
GROUND, OBSTACLE = 1, 2
# In samples, which are half a pixel apart where pixels are coarse. Masks have stray pixels: one in
# a wall's face must not make the ground behind the wall free, one on the road no obstacle. Free
# ground takes more evidence than an obstacle's contact.
_MIN_RUN = 3
_MIN_FREE_RUN = 5
# Stray samples allowed between the last ground and the obstacle that stands on it.
_MAX_GAP = 4
# Contacts on neighbouring rays this near, in samples, belong together.
_OUTLINE_SAMPLES = 4
# Metres. Walls that pass the point below the camera at this distance or more give contacts on
# every ray.
_PASSING_DISTANCE = 0.5
# How many samples farther out find_contacts must see to judge one.
LOOK_AHEAD = _MIN_FREE_RUN


def find_contacts(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Find the ground that is really seen and the obstacle contacts, not what obstacles hide.

    A ray on the ground is walked outwards from below the camera. An obstacle that begins right
    after ground touches the ground there. Its samples beyond that point are its face and what it
    hides, so they are neither; ground that comes after them is seen over the obstacle and real.
    An obstacle that begins anywhere else (at the image's border, over a sign that hangs in front
    of it) touches the ground where nobody sees it.

    :param kinds: (samples, rays) uint8, GROUND or OBSTACLE where a sample shows such a class;
        nearest samples first.
    :returns: seen ground, (samples, rays) bool; contacts, the first sample of each obstacle on the
        ground; and the first sample of each obstacle whose contact is not seen; both (N,) int,
        flat indices in ascending order.
    """
    # Steps go along the rays, so that eight of these fit into a byte.
    ground, obstacle = (np.packbits(kinds & kind, axis=1) for kind in (GROUND, OBSTACLE))
    obstacle = _drop_short_runs(obstacle, _MIN_RUN)
    ground_before = _any_of_last(_drop_short_runs(ground, _MIN_RUN), _MAX_GAP + 1)
    contacts = np.zeros_like(obstacle)
    contacts[1:] = obstacle[1:] & ~obstacle[:-1] & ground_before[:-1]
    without_contact = obstacle.copy()
    without_contact[1:] &= ~_any_of_last(obstacle, _MAX_GAP + 1)[:-1] & ~ground_before[:-1]
    without_contact[0] = 0  # below the camera, where its own robot is
    ground = _drop_short_runs(ground, _MIN_FREE_RUN)
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


def on_outlines(samples: np.ndarray, rays: np.ndarray, classes: np.ndarray, ranges: np.ndarray,
                angle_step: float, pixel_angle: float) -> np.ndarray:
    """
    Find the contacts that are only the outline of an obstacle on a neighbouring ray.

    The outline of an upright thing runs along a ray, and pixels near it fall to either side: a
    ray just beside the thing shows ground at its contact and the thing only beyond. On a ray a
    pixel away the same thing then touches the ground much nearer than even a wall seen at a slant
    would.

    :param samples, rays: (N,) int, indices of the contacts in classes.
    :param classes: (samples, rays) uint8, class ids.
    :param ranges: (samples,) float, metres.
    :param angle_step, pixel_angle: between rays, and that a pixel covers, radians.
    :returns: (N,) bool.
    """
    class_ids = classes[samples, rays]
    distance = ranges[samples]
    outline = np.zeros(len(samples), bool)
    # Several rays may lie within one pixel.
    for away in range(1, math.ceil(pixel_angle / angle_step) + 1):
        slant = distance ** 2 * ((away * angle_step + pixel_angle) / _PASSING_DISTANCE)
        nearer = np.searchsorted(ranges, distance - slant)
        nearer = np.maximum(np.minimum(nearer, samples - _OUTLINE_SAMPLES), 0)
        for side in (-away, away):
            neighbour = np.clip(rays + side, 0, classes.shape[1] - 1)
            outline |= ((classes[samples, neighbour] == class_ids)
                        & (classes[nearer, neighbour] == class_ids))
    return outline


def _indices(bits, ray_count):
    """Return the flat indices of the ones, which are few, in (samples, rays), ascending."""
    octets = np.flatnonzero(bits != 0)
    ones = np.flatnonzero(np.unpackbits(bits.reshape(-1)[octets]).view(bool))
    samples, rays = np.divmod(8 * octets[ones // 8] + ones % 8, 8 * bits.shape[1])
    return samples * ray_count + rays


def _drop_short_runs(bits, length):
    """Keep the runs of ones along a ray, the first axis, that are at least this long."""
    return _any_of_last(_all_of_next(bits, length), length)


def _all_of_next(bits, count):
    """Return whether a sample and the count - 1 beyond it are all ones."""
    result = bits.copy()
    for ahead in range(1, count):
        result[:-ahead] &= bits[ahead:]
    result[1 - count:] = 0
    return result


def _any_of_last(bits, count):
    """Return whether a sample or any of the count - 1 before it is a one."""
    result = bits.copy()
    for back in range(1, count):
        result[back:] |= bits[:-back]
    return result
