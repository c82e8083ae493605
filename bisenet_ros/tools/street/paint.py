"""Colours: what the things of the street look like under one sun."""

import math
from functools import lru_cache

import cv2
import numpy as np

from bisenet_ros.tools.street.cast import GROUND, NOTHING
from bisenet_ros.tools.street.things import PAVEMENT

_HORIZON = np.array([.80, .83, .86], np.float32)
_PIXEL_ANGLE = 1 / 400  # rad; texture finer than about two pixels fades out.


def colors(street, solids, hits):
    """
    Return the colour of every ray, (N, 3) float32, 0 to 1, without the camera's blur and noise.

    hits (render.Hits) is what the rays hit.
    """
    _, points, directions, depth, index = hits
    painted = np.zeros(directions.shape, np.float32)
    sky = np.flatnonzero(index == NOTHING)
    painted[sky] = _sky(directions[sky], street.seed)
    ground = np.flatnonzero(index == GROUND)
    shadow = _contact_shadow([solids[number] for number in np.unique(index) if number >= 0],
                             points[ground], depth[ground])
    light = _light(np.array([[0, 0, 1]], np.float32), street.seed) * shadow
    painted[ground] = _hazy(_ground(street, points[ground], depth[ground]), light, depth[ground])

    order = np.argsort(index, kind='stable')
    starts = np.searchsorted(index[order], np.arange(len(solids) + 1))
    by_paint = {}
    for number, (start, end) in enumerate(zip(starts, starts[1:])):
        if end > start:
            by_paint.setdefault(solids[number].paint, []).append((number, order[start:end]))
    for name, pieces in by_paint.items():
        rays = np.concatenate([piece for _, piece in pieces])
        spot = _Spot(solids, pieces, points[rays], depth[rays])
        color = _PAINTS[name](spot.color, spot)
        painted[rays] = _hazy(color, _light(spot.normal, street.seed), spot.depth)
    return painted


def _hazy(color, light, depth):
    haze = np.exp(-depth / 220)[:, None]
    return color * (light[:, None] * haze) + _HORIZON * (1 - haze)


def expose(colors, seed, time):
    """Return linear-looking colours as the camera delivers them: blurred, noisy, uint8."""
    rng = np.random.default_rng([seed, int(time * 1000) % 2 ** 32])
    gain = 255 * np.random.default_rng(seed).uniform(.85, 1.1)
    colors = cv2.GaussianBlur(colors, (3, 3), 0.6)
    grain = np.roll(_grain(), rng.integers(0, 256, 2), (0, 1))
    rows, columns = (math.ceil(size / 256) for size in colors.shape[:2])
    grain = np.tile(grain, (rows, columns, 1))[:colors.shape[0], :colors.shape[1]]
    return np.clip(colors * gain + grain, 0, 255).astype(np.uint8)


class _Spot:
    """Where rays hit solids of one paint: all arrays have one row per ray, lengths in m."""

    def __init__(self, solids, pieces, points, depth):
        counts = [len(rays) for _, rays in pieces]
        hit = [solids[number] for number, _ in pieces]

        def spread(values):
            return np.repeat(np.array(values, np.float32), counts, axis=0)

        ends = np.cumsum(counts)[:-1]
        self.normal = np.concatenate([
            solid.normals(part) for solid, part in zip(hit, np.split(points, ends))]
        ).astype(np.float32)
        self.point, self.depth, self.z = points, depth, points[:, 2]
        self.color = spread([solid.color for solid in hit])
        self.local = points - spread([solid.bounds[0] for solid in hit])
        # Tells solids apart; by place, as the order of the list changes with the view.
        self.key = spread([int(abs(solid.bounds[0][:2]).sum() * 10) for solid in hit])
        hx, hy = spread([solid.heading for solid in hit]).T
        self.ahead = self.local[:, 0] * hx + self.local[:, 1] * hy
        self.aside = self.local[:, 1] * hx - self.local[:, 0] * hy
        self.faces = self.normal[:, 0] * hx + self.normal[:, 1] * hy
        # Along the surface, horizontally.
        self.u = points[:, 1] * self.normal[:, 0] - points[:, 0] * self.normal[:, 1]
        self.up = self.normal[:, 2] > .9


@lru_cache(maxsize=1)
def _grain():
    return np.random.default_rng(7).normal(0, 2.5, (256, 256, 3)).astype(np.float32)


@lru_cache(maxsize=1)
def _clouds():
    """Return smooth noise of several octaves, (1024, 1024) float32, mean 0, deviation 1."""
    rng, size = np.random.default_rng(3), 1024
    total = np.zeros((size, size), np.float32)
    for octave in range(2, 9):
        cells = 2 ** octave
        noise = np.tile(rng.normal(size=(cells, cells)).astype(np.float32), (3, 3))
        smooth = cv2.resize(noise, (3 * size, 3 * size), interpolation=cv2.INTER_CUBIC)
        total += smooth[size:2 * size, size:2 * size] * 0.75 ** octave
    return (total - total.mean()) / total.std()


def _noise(a, b, size):
    """Return smooth noise, deviation 1, that repeats after `size` in a and b."""
    scale = 1024 / size
    return _clouds()[(b * scale).astype(np.int32) & 1023, (a * scale).astype(np.int32) & 1023]


def _hash(a, b):
    """Return one random number in [0, 1) for each pair of whole numbers."""
    mixed = (a.astype(np.int64) * 73856093 ^ b.astype(np.int64) * 19349663) & 0xffffffff
    mixed = (mixed ^ mixed >> 13) * 1274126177 & 0xffffffff
    return ((mixed ^ mixed >> 16) & 0xffff).astype(np.float32) / 65536


def _fade(depth, size):
    """Return how much of a texture with details of `size` a pixel at `depth` still shows."""
    return np.clip(size / (depth * _PIXEL_ANGLE) - .5, 0, 1)


def _light(normals, seed):
    rng = np.random.default_rng([seed, 1])
    turn, rise = rng.uniform(-np.pi, np.pi), rng.uniform(.6, 1.1)
    sun = np.array([np.cos(turn) * np.cos(rise), np.sin(turn) * np.cos(rise), np.sin(rise)],
                   np.float32)
    return .58 + .12 * normals[:, 2] + .40 * np.maximum(normals @ sun, 0)


def _sky(directions, seed):
    rise = np.clip(directions[:, 2], 0, 1)
    blue = np.random.default_rng([seed, 2]).uniform(.2, 1)
    zenith = np.array([.78, .80, .83], np.float32) * (1 - blue) + np.array(
        [.38, .56, .82], np.float32) * blue
    mix = np.sqrt(rise)[:, None]
    height = directions[:, 2] + .15
    cloud = _noise(directions[:, 0] / height, directions[:, 1] / height, 12)
    cover = np.clip(.35 * cloud + .2, 0, .8)[:, None] * mix
    return (_HORIZON * (1 - mix) + zenith * mix) * (1 - cover) + .93 * cover


def _ground(street, points, depth):
    x, y = points[:, 0], points[:, 1]
    side = np.abs(y)
    pavement = street.ground_class(x, y) == PAVEMENT
    patch, grain = _noise(x, y, 43), _noise(x, y, 2.3)
    colors = np.empty((len(x), 3), np.float32)
    colors[:] = (.40, .40, .42)
    gravel = .07 * (_hash(x // .012, y // .012) - .5) * _fade(depth, .012)
    colors *= (1 + .04 * patch + .035 * grain + gravel)[:, None]
    from_side_road = street.side_road_distance(x)
    dashed = (side < .07) & (x % 6 < 3) & (from_side_road > 5)
    parking = (np.abs(side - 3.42) < .05) & (from_side_road > 5)
    zebra = (from_side_road > 1) & (from_side_road < 4) & (y % 1 < .5) & (side < 5)
    stop = (side > 5) & (side < 5.3) & (from_side_road < -.3)
    marked = (dashed | parking | zebra | stop) & ~pavement & (grain < 1.3)
    colors[marked] = .80 + .03 * patch[marked, None]

    x, y, depth = x[pavement], y[pavement], depth[pavement]
    tint = .06 * (_hash(x // .6, y // .6) - .5) * _fade(depth, .3)
    joint = ((x % .6 < .02) | (y % .6 < .02)) * _fade(depth, .02)
    shade = 1 + tint + .05 * patch[pavement] + .04 * grain[pavement] - .25 * joint
    slabs = np.array([.60, .57, .54], np.float32) * shade[:, None]
    kerb = np.minimum(street.road_distance(y), from_side_road[pavement]) < .15
    slabs[kerb] = np.array([.68, .68, .67], np.float32) * (1 + .05 * grain[pavement][kerb, None])
    colors[pavement] = slabs
    return colors


def _contact_shadow(solids, points, depth):
    """Return how dark things make the ground beside them: 1 for no shadow."""
    shade = np.ones(len(points), np.float32)
    close = np.flatnonzero(depth < 20)
    x, y = points[close, 0], points[close, 1]
    for solid in solids:
        if solid.footprint is None:
            continue
        (cx, cy, _), radius = solid.bounds
        reach = .5 if solid.paint == 'car_body' else .25
        near = np.flatnonzero(np.abs(x - cx) < radius + reach)
        near = near[np.abs(y[near] - cy) < radius + reach]
        if len(near):
            away = solid.footprint.border_distance(x[near], y[near])
            chosen = close[near]
            shade[chosen] = np.minimum(shade[chosen], .5 + .5 * np.minimum(away / reach, 1))
    return shade


def _plain(color, spot):
    return color * (1 + .03 * _noise(spot.u, spot.z, 3.1))[:, None]


def _brick(color, spot):
    row = spot.z // .075
    brick = spot.u + .11 * (row % 2)
    joint = ((spot.z % .075 < .012) | (brick % .22 < .012)) * _fade(spot.depth, .015)
    tint = (_hash(brick // .22, row) - .5) * .3 * _fade(spot.depth, .1)
    color = color * (1 + tint + .05 * _noise(spot.u, spot.z, 17))[:, None]
    return color + joint[:, None] * (.62 - color) * .6


def _plaster(color, spot):
    stain = .04 * _noise(spot.u, spot.z, 23) - .10 * np.exp(-spot.z / .4)
    return color * (1 + stain + .03 * _noise(spot.u, spot.z, 2))[:, None]


def _house(wall):
    def paint(color, spot):
        color = wall(color, spot)
        floor, bay = spot.z // 2.9, spot.u // 2.4
        across, above = spot.u % 2.4, spot.z % 2.9
        chance = _hash(bay + 31 * spot.key, floor)
        door = (floor == 0) & (chance < .25)
        opening = (across > .65) & (across < 1.75) & (above < 2.35)
        opening &= np.where(door, above > .0, above > .95) & (spot.normal[:, 2] < .5)
        frame = opening & ((across < .74) | (across > 1.66) | (above > 2.26) | (
            ~door & ((above < 1.04) | (np.abs(across - 1.2) < .03))))
        glass = np.array([.17, .21, .26], np.float32) * (.7 + .9 * chance + .12 * _noise(
            spot.u, spot.z, 9))[:, None]
        wood = np.array([.30, .20, .14], np.float32) * (.6 + 3 * chance)[:, None]
        color = np.where(opening[:, None], np.where(door[:, None], wood, glass), color)
        color[frame] = .82
        ledge = (above > .85) & (above < .95) & (across > .6) & (across < 1.8) & ~door
        color[ledge] = .66
        color[spot.z < .45] *= .8
        return color
    return paint


def _roof(color, spot):
    row = (spot.z % .3 < .05) * _fade(spot.depth, .08)
    return color * (1 - .25 * row + .08 * _noise(spot.u, spot.z, 5))[:, None]


def _boards(color, spot):
    gap = (spot.u % .14 < .02) * _fade(spot.depth, .02)
    tint = (_hash(spot.u // .14, spot.key) - .5) * .25 * _fade(spot.depth, .1)
    rail = np.abs(spot.z % .8 - .4) < .05
    return color * (1 + tint - .6 * gap + .12 * rail)[:, None]


def _car_body(color, spot):
    color = color * (1 + .25 * np.clip(spot.z - .45, -.3, .3))[:, None]
    flank = np.abs(spot.faces) < .5
    hub = np.minimum(np.abs(spot.ahead - 1.28), np.abs(spot.ahead + 1.28))
    wheel = np.hypot(hub, spot.z - .30)
    color[(spot.z < .2)] = (.06, .06, .07)
    color[flank & (wheel < .40) & (spot.z < .62)] = .05
    color[flank & (wheel < .31)] = .10
    color[flank & (wheel < .19)] = .50
    color[flank & (spot.z > .24) & (hub > .4) & (np.abs(np.abs(spot.ahead) - .35) < .012)] *= .5
    lamp = (np.abs(np.abs(spot.aside) - .66) < .17) & (np.abs(spot.z - .66) < .09)
    color[lamp & (spot.faces > .5)] = (.92, .92, .86)
    color[lamp & (spot.faces < -.5)] = (.65, .06, .05)
    plate = (np.abs(spot.faces) > .5) & (np.abs(spot.aside) < .26) & (np.abs(spot.z - .45) < .055)
    color[plate] = (.85, .84, .70)
    return color


def _car_cabin(color, spot):
    front = np.abs(spot.faces) > .35
    pillar = np.where(front, np.abs(spot.aside) > .62, np.abs(spot.ahead) < .04)
    glass = ~spot.up & ~pillar & (spot.local[:, 2] < .25) & (spot.local[:, 2] > -.42)
    shine = .10 + .10 * spot.local[:, 2:] + .05 * _noise(spot.u, spot.z, 6)[:, None]
    return np.where(glass[:, None], np.array([.9, 1.05, 1.2], np.float32) * (shine + .06), color)


def _trousers(color, spot):
    color = color * (1 + .12 * _noise(spot.u * 2, spot.z, .9))[:, None]
    color[np.abs(spot.aside) < .09 - .11 * spot.z] = (.36, .36, .37)  # Between the legs.
    color[np.abs(spot.aside) < .02] *= .5
    color[spot.z < .07] = (.07, .06, .05)
    return color


def _cloth(color, spot):
    fold = .12 * _noise(spot.aside * 2, spot.z, 1.1)
    arm = np.where(np.abs(np.abs(spot.aside) - .15) < .012, -.3, 0)
    return color * (1 + fold + arm)[:, None]


def _head(color, spot):
    hair = (spot.local[:, 2] > .03) | (spot.ahead < -.02)
    return np.where(hair[:, None], np.array([.16, .11, .08], np.float32), color)


def _bicycle(color, spot):
    color = np.full_like(color, .34)
    wheel = np.abs(np.hypot(np.abs(spot.ahead) - .52, spot.z - .34) - .31)
    leg = (np.abs(spot.ahead) < .14) & (spot.z > .12)
    color[leg] = (.14, .16, .26)
    color[wheel < .035] = .05
    color[np.abs(spot.z - .55 - .1 * spot.ahead) < .03] = (.55, .12, .10)
    return color


def _bark(color, spot):
    across = spot.local[:, 0] + spot.local[:, 1]
    return color * (1 + .22 * _noise(across, spot.z * .2, .8))[:, None]


def _leaves(color, spot):
    x, y, z = spot.point.T
    coarse, fine = _noise(x + y, z - .3 * y, 7), _noise(x - .7 * y, z + .6 * x, 2.1)
    shade = .9 + .22 * coarse + .28 * fine * _fade(spot.depth, .04) + .25 * spot.normal[:, 2]
    return color * np.clip(shade, .25, 1.7)[:, None]


def _sign(color, spot):
    y, z = spot.local[:, 1], spot.local[:, 2]
    round_off = np.hypot(y, z)
    inner = (np.maximum(np.abs(y), np.abs(z)) < .23) & (round_off < .26)
    color = np.where((inner & (spot.key % 2 == 0))[:, None], np.float32(.9), color)
    color[(np.abs(y) < .04) & (np.abs(z) < .14)] = .1
    color[np.abs(spot.normal[:, 0]) < .5] = .5
    return color


_PAINTS = {
    'brick': _brick, 'brick_house': _house(_brick), 'plaster_house': _house(_plaster),
    'roof': _roof, 'boards': _boards, 'car_body': _car_body, 'car_cabin': _car_cabin,
    'trousers': _trousers, 'cloth': _cloth, 'head': _head, 'bicycle': _bicycle, 'bark': _bark,
    'leaves': _leaves, 'metal': _plain, 'sign': _sign,
}
