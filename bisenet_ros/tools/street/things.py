"""Things that stand or move in the street, each a list of solids."""

import numpy as np

from bisenet_ros.tools.street.solids import Cone, Ellipsoid, Prism

# The class ids of config/labels/camvid.yaml.
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

_CAR_COLORS = [(.75, .76, .78), (.12, .12, .14), (.55, .08, .08), (.10, .18, .40), (.85, .85, .83),
               (.35, .37, .40), (.16, .28, .20), (.70, .62, .45)]
_CLOTH_COLORS = [(.15, .17, .30), (.55, .12, .12), (.10, .10, .11), (.65, .60, .52),
                 (.20, .36, .28), (.75, .72, .70), (.35, .22, .40), (.80, .55, .15)]
_TROUSERS_COLORS = [(.13, .15, .26), (.10, .10, .11), (.38, .35, .30), (.24, .27, .33)]


def _rectangle(x, y, length, width, heading=(1.0, 0.0)):
    along, across = np.array(heading), np.array([-heading[1], heading[0]])
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return np.array([x, y]) + [s * along * length / 2 + t * across * width / 2
                               for s, t in corners]


def box(class_id, paint, color, x, y, length, width, z0, z1, heading=(1.0, 0.0)):
    """Return an upright box with its middle at (x, y) and its length along heading, m."""
    outline = _rectangle(x, y, length, width, heading)
    return Prism(class_id, paint, color, heading, outline, outline, z0, z1)


def wall(x, y, length, width=0.2, height=2.0, heading=(1.0, 0.0)):
    """Return a brick wall."""
    return [box(BUILDING, 'brick', (.55, .33, .26), x, y, length, width, 0, height, heading)]


def fence(x, y, length, height=1.2, heading=(1.0, 0.0)):
    """Return a fence of boards, 8 cm thick."""
    return [box(FENCE, 'boards', (.50, .42, .34), x, y, length, 0.08, 0, height, heading)]


def building(x, y, length, width, height, rng):
    """Return a house with windows and a roof."""
    paint = rng.choice(['brick_house', 'plaster_house'])
    tint = rng.uniform(.75, 1.1)
    base = (.56, .34, .27) if paint == 'brick_house' else (.72, .68, .60)
    color = tuple(min(1.0, tint * channel * rng.uniform(.92, 1.08)) for channel in base)
    body = box(BUILDING, paint, color, x, y, length, width, 0, height)
    eaves, ridge = _rectangle(x, y, length, width + .5), _rectangle(x, y, length, .2)
    roof = Prism(BUILDING, 'roof', (.36, .26, .24), (1.0, 0.0), eaves, ridge,
                 height, height + rng.uniform(1.5, 3))
    return [body, roof]


def car(x, y, heading=(1.0, 0.0), look=0):
    """Return a car of 4.2 x 1.8 m; look picks its shape and colour."""
    color = _CAR_COLORS[look % len(_CAR_COLORS)]
    van = look // len(_CAR_COLORS) % 5 == 4
    belt, top = (1.0, 1.95) if van else (0.85, 1.45)
    shift, below, above = (0.0, 4.15, 3.3) if van else (-0.2, 3.0, 1.7)
    hx, hy = heading
    mx, my = x + shift * hx, y + shift * hy
    body = Prism(CAR, 'car_body', color, heading, _rectangle(x, y, 4.2, 1.8, heading),
                 _rectangle(x, y, 4.0, 1.66, heading), 0, belt)
    cabin = Prism(CAR, 'car_cabin', color, heading, _rectangle(mx, my, below, 1.6, heading),
                  _rectangle(mx, my, above, 1.3, heading), belt, top)
    return [body, cabin]


def pedestrian(x, y, heading=(1.0, 0.0), look=0):
    """Return a person; all of it stays above the footprint of 0.28 x 0.48 m."""
    tall = 1.55 + 0.05 * (look % 7)
    cloth = _CLOTH_COLORS[look % len(_CLOTH_COLORS)]
    trousers = _TROUSERS_COLORS[look // 3 % 4]
    legs = Prism(PEDESTRIAN, 'trousers', trousers, heading,
                 _rectangle(x, y, 0.28, 0.48, heading), _rectangle(x, y, 0.22, 0.34, heading),
                 0, tall * .52)
    return [
        legs,
        Ellipsoid(PEDESTRIAN, 'cloth', cloth, heading, (x, y, tall * .65),
                  (*np.abs(np.array([.13 * heading[0] - .235 * heading[1],
                                     .13 * heading[1] + .235 * heading[0]])), tall * .21)),
        Ellipsoid(PEDESTRIAN, 'head', (.80, .60, .48), heading, (x, y, tall * .92),
                  (.09, .09, tall * .085)),
    ]


def bicyclist(x, y, heading=(1.0, 0.0), look=0):
    """Return a person on a bicycle; the footprint, 1.7 m long, bulges to the pedals' width."""
    along, across = np.array(heading), np.array([-heading[1], heading[0]])
    outline = np.array([x, y]) + [
        s * along + t * across for s, t in
        [(-.85, -.04), (-.25, -.24), (.35, -.24), (.85, -.04),
         (.85, .04), (.35, .24), (-.25, .24), (-.85, .04)]]
    cloth = _CLOTH_COLORS[look % len(_CLOTH_COLORS)]
    return [
        Prism(BICYCLIST, 'bicycle', (.2, .2, .22), heading, outline, outline, 0, 0.75),
        Ellipsoid(BICYCLIST, 'cloth', cloth, heading, (x, y, 1.12), (.25, .23, .42)),
        Ellipsoid(BICYCLIST, 'head', (.80, .60, .48), heading,
                  (x + .12 * heading[0], y + .12 * heading[1], 1.62), (.11, .10, .14)),
    ]


def tree(x, y, rng):
    """Return a tree whose crown hangs above 2.1 m."""
    green = tuple(np.array([.24, .36, .14]) * rng.uniform(.75, 1.15))
    radius = rng.uniform(.12, .2)
    trunk = Cone(TREE, 'bark', (.30, .24, .18), (1.0, 0.0), (x, y), radius, .08, 0, 4)
    spread = rng.uniform(1.1, 1.6)
    crown = []
    for dx, dy, z in [(0, 0, 4.6), (.7, .4, 3.9), (-.6, .3, 4.0), (.1, -.6, 3.8)]:
        radii = spread * rng.uniform(.8, 1.0, 3)
        z = max(z, 2.1 + radii[2])
        crown.append(Ellipsoid(TREE, 'leaves', green, (1.0, 0.0),
                               (x + dx * spread, y + dy * spread, z), tuple(radii)))
    return [trunk, *crown]


def hedge(x, y, length, height=1.1):
    """Return a hedge, 0.6 m deep."""
    return [box(TREE, 'leaves', (.18, .30, .12), x, y, length, 0.6, 0, height)]


def lamp(x, y, arm):
    """Return a lamp post of 6 m; arm (m along y) reaches over the road."""
    return [Cone(POLE, 'metal', (.42, .44, .44), (1.0, 0.0), (x, y), .09, .05, 0, 6),
            box(POLE, 'metal', (.42, .44, .44), x, y + arm / 2, .08, abs(arm), 5.9, 6)]


def sign(x, y, look=0):
    """Return a traffic sign of 0.6 m on a pole; the sign hangs above 2.1 m."""
    color = [(.75, .10, .10), (.10, .25, .65), (.85, .70, .10)][look % 3]
    return [Cone(POLE, 'metal', (.55, .56, .56), (1.0, 0.0), (x, y), .04, .04, 0, 2.8),
            box(SIGN, 'sign', color, x, y, .05, .6, 2.15, 2.75)]
