"""What tests of several folders use."""

import time


def wait_for(condition, timeout=60.0, meanwhile=lambda: time.sleep(0.05), state=lambda: ''):
    """
    Return what `condition()` gives as soon as it is true; fail after `timeout` seconds.

    :param meanwhile: called again and again until then.
    :param state: what it returns is told of a failure.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f'waited {timeout} s in vain; {state()}'
        meanwhile()
    return value


def with_exif_orientation(jpeg, orientation):
    """Return a JPEG file's bytes with an EXIF entry (APP1: TIFF, one tag, 0x0112)."""
    tiff = (b'II*\0' + (8).to_bytes(4, 'little') + (1).to_bytes(2, 'little')
            + (0x0112).to_bytes(2, 'little') + (3).to_bytes(2, 'little')
            + (1).to_bytes(4, 'little') + orientation.to_bytes(4, 'little') + bytes(4))
    body = b'Exif\0\0' + tiff
    return jpeg[:2] + b'\xff\xe1' + (len(body) + 2).to_bytes(2, 'big') + body + jpeg[2:]
