"""An ONNX model in 8 bits."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np


def quantised(model: bytes, images: list[np.ndarray]) -> bytes:
    """
    Return the model with its convolutions in 8 bits, faster on CPUs and smaller.

    :param images: each (H, W, 3) uint8 RGB; the activations they cause set the scales.
    """
    # Imported here because it takes long.
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {'images': image[np.newaxis]}

    with TemporaryDirectory() as folder:
        original, prepared, small = (
            Path(folder) / name for name in ('original.onnx', 'prepared.onnx', 'small.onnx'))
        original.write_bytes(model)
        quant_pre_process(original, prepared)
        # 7 bits for weights: with 8, products overflow on x86 CPUs without VNNI.
        quantize_static(
            prepared, small, Images(), op_types_to_quantize=['Conv'], per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        return small.read_bytes()
