"""The lens models of sensor_msgs/CameraInfo, written out: the truth for the tests here."""

import math


def lens(model, d, x, y):
    """Return where a ray through (x, y, 1) meets the plane z = 1 behind the lens."""
    r = math.hypot(x, y)
    if model == 'equidistant':
        t = math.atan(r)
        scale = t * (1 + d[0] * t**2 + d[1] * t**4 + d[2] * t**6 + d[3] * t**8) / r
        return x * scale, y * scale
    k1, k2, p1, p2, k3, k4, k5, k6 = (*d, 0, 0, 0)[:8]
    radial = ((1 + k1 * r**2 + k2 * r**4 + k3 * r**6)
              / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6))
    return (x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
            y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y)
