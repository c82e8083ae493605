"""Converts sensor_msgs/CameraInfo from and to plain values, and scales it to a mask."""

import numpy as np
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from bisenet_ros.costmap.camera_model import resized_pixel, view_size


def camera_info_message(fields: dict) -> CameraInfo:
    """
    Return the message made of plain fields, which tools.calibration describes.

    `roi` may be missing.
    """
    return CameraInfo(**{**fields, 'roi': RegionOfInterest(**fields.get('roi', {}))})


def calibration_values(info: CameraInfo) -> tuple:
    """Return the positional arguments of costmap.camera_model.Calibration."""
    roi = info.roi
    return (info.width, info.height, info.distortion_model, tuple(info.d), tuple(info.k),
            tuple(info.r), tuple(info.p), info.binning_x, info.binning_y,
            (roi.x_offset, roi.y_offset, roi.width, roi.height))


def scaled_camera_info(info: CameraInfo, header: Header, image_size: tuple[int, int],
                       mask_size: tuple[int, int], rectified: bool) -> CameraInfo:
    """
    Return the calibration of a mask, given that of the image it was made from.

    CameraInfo describes the full sensor; binning and region of interest say which of its pixels
    the image has (sensor_msgs/CameraInfo). The result describes the mask itself, without binning
    or region. Distortion acts on rays, not on pixels, so it stays as it is; a rectified image has
    none, and K becomes the left part of P. R stays as well: the mask is in the camera's frame.

    :param image_size: (width, height) of the image as it came, in pixels.
    :param mask_size: (width, height) of the mask.
    :param rectified: whether info's P describes the image, not its K and D.
    :raises CalibrationError: if the image's aspect differs from that of the calibrated view, or
        the region is not within the full size.
    """
    roi = info.roi
    full = info.width or image_size[0], info.height or image_size[1]
    view = view_size(image_size, full, (info.binning_x, info.binning_y),
                     (roi.x_offset, roi.y_offset, roi.width, roi.height))
    scale = np.divide(mask_size, view)
    offset = np.array([roi.x_offset, roi.y_offset])
    k, p = (_scaled(matrix, offset, scale)
            for matrix in (np.reshape(info.k, (3, 3)), np.reshape(info.p, (3, 4))))
    model, d = info.distortion_model, info.d
    if rectified:  # A pinhole camera, whatever the lens.
        k, model, d = p[:, :3], 'plumb_bob', [0.0] * 5
    return CameraInfo(
        header=header, width=mask_size[0], height=mask_size[1],
        distortion_model=model, d=d, r=info.r, k=k.ravel(), p=p.ravel())


def _scaled(matrix: np.ndarray, offset: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return a camera matrix (K or P) for the region at `offset`, resized by `scale`."""
    scaled = matrix.copy()
    scaled[:2, 2] = resized_pixel(scaled[:2, 2] - offset, scale)
    scaled[0, 0] *= scale[0]
    scaled[1, 1] *= scale[1]
    scaled[:2, 3:] *= scale[:, np.newaxis]
    return scaled
