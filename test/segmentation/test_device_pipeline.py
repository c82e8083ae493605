"""The pipeline for GPUs, run on the CPU, and on a GPU if there is one."""

import copy
import gc
import warnings

import cv2
import numpy as np
import pytest
import torch
from helpers import needs_gpu
from torch.nn import functional

from bisenet_ros.network import load_weights
from bisenet_ros.segmentation import (
    NO_DECISION,
    device_pipeline,
    engine_choice,
    engines,
    shipped_weights,
)
from bisenet_ros.segmentation.cudnn_fusion import Conv2dReLU
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.device_pipeline import (
    DevicePipeline,
    capture,
    classify,
    resize,
)
from bisenet_ros.segmentation.engines import OnnxRuntimeDeviceEngine
from bisenet_ros.segmentation.frame import SegmentationRequest
from bisenet_ros.segmentation.onnx_model import export_onnx
from bisenet_ros.tools.benchmark.random_weights import save_random_weights

IDS = torch.tensor([5, 1, 9, 7, 3, 2, 100, 4, 6, 8, 10], dtype=torch.uint8)


# Faults between CUDA streams can show only on a GPU.
on_each_device = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda:0', marks=needs_gpu)])


def make_pipeline(network, device='cpu', captures=True):
    if device != 'cpu' and isinstance(network, DeployedNetwork):
        network = copy.deepcopy(network).to(device)
    return DevicePipeline(network, torch.device(device), np.arange(11, dtype=np.uint8), captures)


@pytest.fixture(scope='module')
def network(camvid_weights):
    return DeployedNetwork(load_weights(camvid_weights))


def assert_same(segmentations, others):
    for one, other in zip(segmentations, others, strict=True):
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_array_equal(one.confidence, other.confidence)


def check_classify(function, device, spread, size):
    """Compare with the plain way: enlarge all logits, softmax, argmax."""
    generator = torch.Generator().manual_seed(1)
    # In the memory layout of a channels_last network.
    logits = (torch.randn(2, 12, 20, 11, generator=generator) * spread).permute(0, 3, 1, 2)
    probabilities = functional.interpolate(
        logits.double(), size[::-1], mode='bilinear', align_corners=False).softmax(1)
    best = probabilities.amax(1)
    masks = function(logits.to(device), size, IDS.to(device))
    class_ids, confidence = masks.cpu().unbind(1)
    channel = (IDS.view(-1, 1, 1, 1) == class_ids).int().argmax(0)
    chosen = probabilities.gather(1, channel[:, None])[:, 0]
    torch.testing.assert_close(chosen, best, rtol=2e-5, atol=0)
    assert (confidence - 255 * best).abs().max() <= 0.51


@pytest.mark.parametrize('spread', [1, 10])
@pytest.mark.parametrize('size', [(160, 96), (213, 121), (7, 5)])
def test_classify(spread, size):
    check_classify(classify, 'cpu', spread, size)


def kernel_classify():
    pytest.importorskip('triton', reason='the kernel is written in Triton')
    from bisenet_ros.segmentation import classify_kernel
    return classify_kernel.classify


@needs_gpu
@pytest.mark.parametrize('spread', [1, 10, 60])
@pytest.mark.parametrize('size', [(160, 96), (213, 121), (7, 5)])
def test_the_kernel_does_what_classify_does(spread, size):
    check_classify(kernel_classify(), 'cuda', spread, size)


def check_broken_logits(function, device, broken):
    logits = torch.zeros(1, 11, 4, 4, device=device)
    logits[0, 2] = 1
    logits[0, 3, 0, 0] = broken
    masks = function(logits, (4, 4), IDS.to(device))
    class_ids, confidence = masks[0].cpu()
    assert (class_ids[0, 0], confidence[0, 0]) == (NO_DECISION, 0)
    assert (class_ids[2:, 2:] == IDS[2]).all()


@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_pixels_with_logits_that_are_no_numbers_decide_nothing(broken):
    check_broken_logits(classify, 'cpu', broken)


@needs_gpu
@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_in_the_kernel_logits_that_are_no_numbers_decide_nothing_either(broken):
    check_broken_logits(kernel_classify(), 'cuda', broken)


def test_resize_is_opencvs(colorful_image):
    pixels = torch.from_numpy(colorful_image)[None]
    for size in (160, 96), (333, 250):
        expected = cv2.resize(colorful_image.astype(np.float32), size)
        np.testing.assert_allclose(resize(pixels, size)[0].numpy(), expected, atol=0.05)


@on_each_device
def test_results_of_submissions_that_overlap(network, colorful_image, device):
    """Each has its own pixels, though all have one shape and are fetched only at the end."""
    pipeline = make_pipeline(network, device)
    images = [np.roll(colorful_image, 31 * shift, axis=1) for shift in range(3)]
    frames = [SegmentationRequest(image, (160, 96), (200, 120)) for image in images]
    waiting = [pipeline.submit([frame], bgr=False) for frame in frames]
    overlapping = [result()[0] for result in waiting]
    alone = [pipeline.segment([frame], False, True)[0] for frame in frames]
    assert_same(overlapping, alone)
    assert (alone[0].class_ids != alone[1].class_ids).any()


@pytest.mark.parametrize('view', [
    lambda image: image[::-1], lambda image: image[:, ::-1, ::-1], lambda image: image[:, 3:-5]])
def test_images_lie_in_memory_as_they_like(network, colorful_image, view):
    pipeline, image = make_pipeline(network), view(colorful_image)
    frozen = image.copy()
    frozen.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # PyTorch may warn of read-only memory.
        results = [pipeline.segment([SegmentationRequest(each, (64, 64), (64, 64))], False,
                                    True) for each in (image, frozen)]
    assert_same(*results)


@on_each_device
def test_a_result_stays_when_its_buffers_are_used_again(network, colorful_image, device):
    pipeline = make_pipeline(network, device)
    upright, upside_down = (
        SegmentationRequest(image, (160, 96), (200, 120))
        for image in (colorful_image, colorful_image[::-1]))
    first, = pipeline.segment([upright], False, True)
    kept = first.class_ids.copy()
    pipeline.segment([upside_down], False, True)
    np.testing.assert_array_equal(first.class_ids, kept)


@on_each_device
def test_cameras_of_either_channel_order_share_buffers(network, colorful_image, device):
    pipeline = make_pipeline(network, device)
    rgb, bgr = (SegmentationRequest(image, (160, 96), (200, 120))
                for image in (colorful_image, colorful_image[..., ::-1]))
    expected = pipeline.segment([rgb], False, True)
    for is_bgr in (True, True, False, False, True):
        assert_same(pipeline.segment([bgr if is_bgr else rgb], is_bgr, True), expected)
    (batch,), = pipeline._batches.values()
    assert not batch.busy
    other, = pipeline.segment([bgr], False, True)
    assert (other.class_ids != pipeline.segment([rgb], False, True)[0].class_ids).any()


def pipeline_like_on_a_gpu(network, monkeypatch, check):
    """Return a pipeline that would capture graphs; it calls `check` before it makes a batch."""
    pipeline, make_batch = make_pipeline(network), device_pipeline._Batch

    def checked(shape, device, compute, stream, captures):
        check(pipeline, captures)
        return make_batch(shape, device, compute, stream, False)

    monkeypatch.setattr(device_pipeline, '_Batch', checked)
    pipeline.captures = True
    return pipeline


def segment_widths(pipeline, image, *widths):
    for width in widths:
        request = SegmentationRequest(image, (width, 96), (width, 96))
        segmentation, = pipeline.segment([request], False, True)
        assert segmentation.class_ids.shape == (96, width)


def test_where_memory_runs_out_other_shapes_give_theirs_back(network, colorful_image, monkeypatch):
    def one_fits(pipeline, captures):
        if any(pipeline._batches.values()):
            raise torch.OutOfMemoryError('out of memory')

    pipeline = pipeline_like_on_a_gpu(network, monkeypatch, one_fits)
    for width in 64, 160, 64:
        segment_widths(pipeline, colorful_image, width)
        assert [shape.network_size for shape in pipeline._batches] == [(width, 96)]


def test_on_a_lost_gpu_nothing_is_freed(network, colorful_image, monkeypatch):
    """PyTorch ends the process where it frees pinned memory that a lost GPU has used."""
    def the_first_works(pipeline, captures):
        if any(pipeline._batches.values()):
            raise RuntimeError('CUDA error: unspecified launch failure')

    pipeline = pipeline_like_on_a_gpu(network, monkeypatch, the_first_works)
    segment_widths(pipeline, colorful_image, 64)
    first, = pipeline._batches.values()
    monkeypatch.setattr(device_pipeline, 'device_is_lost', lambda device: True)
    with pytest.raises(RuntimeError, match='unspecified launch failure'):
        segment_widths(pipeline, colorful_image, 160)
    assert first in pipeline._batches.values()


def test_where_graphs_do_not_fit_together_no_shape_keeps_one(network, colorful_image, monkeypatch,
                                                             caplog):
    """One shape's graph leaves another shape too little memory, even without a graph."""
    tries, graphs = [], []

    def one_graph_fits_and_nothing_beside_it(pipeline, captures):
        tries.append(captures)
        if not any(pipeline._batches.values()):
            graphs.clear()
        if graphs:
            raise torch.OutOfMemoryError('out of memory')
        graphs.extend([captures] * captures)

    pipeline = pipeline_like_on_a_gpu(network, monkeypatch, one_graph_fits_and_nothing_beside_it)
    segment_widths(pipeline, colorful_image, 64, 160, 64, 160, 64)
    assert tries == [True, True, False, False]
    assert len(pipeline._batches) == 2 and not graphs
    assert caplog.text.count('no CUDA graphs from now on') == 1


@pytest.mark.parametrize('reason', [
    'CUDA out of memory', 'operation not permitted when stream is capturing'])
def test_where_no_graph_can_be_captured_frames_go_without(network, colorful_image, monkeypatch,
                                                          caplog, reason):
    tries = []

    def none_can(pipeline, captures):
        tries.append(captures)
        if captures:
            raise RuntimeError(reason)

    pipeline = pipeline_like_on_a_gpu(network, monkeypatch, none_can)
    segment_widths(pipeline, colorful_image, 64, 160, 64)
    assert tries == [True, False, False]
    assert caplog.text.count(f'no CUDA graphs from now on, which is slower: {reason}') == 1


def test_images_that_do_not_fit_at_once_take_no_graph_from_one(network, colorful_image,
                                                               monkeypatch):
    captured = []

    def one_image_fits(pipeline, captures):
        if next(reversed(pipeline._batches)).count > 1:
            raise torch.OutOfMemoryError('out of memory')
        captured.append(captures)

    pipeline = pipeline_like_on_a_gpu(network, monkeypatch, one_image_fits)
    request = SegmentationRequest(colorful_image, (64, 96), (9, 9))
    pipeline.segment([request], False, True)
    with pytest.raises(torch.OutOfMemoryError):
        pipeline.segment([request] * 2, False, True)
    pipeline.segment([request], False, True)
    assert captured == [True, True]


def test_what_does_not_fit_without_a_graph_either_fails_when_its_batch_is_made(network,
                                                                               colorful_image):
    """So that other shapes keep their graphs."""
    def engine(images):
        if len(images) > 1:
            raise torch.OutOfMemoryError('out of memory')
        return network(images)

    pipeline = make_pipeline(engine)
    request = SegmentationRequest(colorful_image, (64, 96), (9, 9))
    with pytest.raises(torch.OutOfMemoryError):
        pipeline.segment([request] * 2, False, True)
    assert not any(pipeline._batches.values())


def test_images_of_one_size_are_one_batch(network, colorful_image):
    counts = []

    def counting(images):
        counts.append(len(images))
        return network(images)

    small = colorful_image[:96, :160]
    frames = [SegmentationRequest(colorful_image, (160, 96), (200, 120)),
              SegmentationRequest(small, (160, 96), (160, 96)),
              SegmentationRequest(colorful_image[::-1], (160, 96), (200, 120))]
    pipeline = make_pipeline(counting)
    pipeline.segment(frames, False, True)
    counts.clear()  # The first time each batch computes twice.
    together = pipeline.segment(frames, False, True)
    assert counts == [2, 1]
    for frame, result in zip(frames, together, strict=True):
        alone, = pipeline.segment([frame], False, True)
        # Convolutions of a batch round differently.
        assert (result.class_ids == alone.class_ids).mean() > 0.999
        assert np.abs(result.confidence.astype(int) - alone.confidence).max() <= 1


def test_a_size_that_fails_leaves_the_others_free(network, colorful_image):
    widths = []

    def failing(images):
        widths.append(images.shape[2])
        if widths.count(96) > 1:  # not when its batch is made
            raise RuntimeError('out of memory')
        return network(images)

    pipeline = make_pipeline(failing)
    good, bad = (
        SegmentationRequest(colorful_image, (width, 96), (160, 96)) for width in (160, 96))
    for _ in range(3):
        with pytest.raises(RuntimeError, match='out of memory'):
            pipeline.segment([good, bad], False, True)
    assert not any(batch.busy for batches in pipeline._batches.values() for batch in batches)
    assert [len(batches) for batches in pipeline._batches.values()] == [1, 1]


def test_a_result_that_fails_leaves_all_free(network, colorful_image, monkeypatch):
    pipeline = make_pipeline(network)
    frames = [SegmentationRequest(colorful_image, (width, 96), (160, 96)) for width in (160, 96)]
    result = pipeline.submit(frames, False)
    batches = [batch for batches in pipeline._batches.values() for batch in batches]
    assert all(batch.busy for batch in batches)
    finish = batches[0].finish

    def finish_badly():
        finish()
        raise RuntimeError('CUDA error')

    monkeypatch.setattr(batches[0], 'finish', finish_badly)
    with pytest.raises(RuntimeError, match='CUDA error'):
        result()
    assert not any(batch.busy for batch in batches)


def test_only_the_shapes_used_last_keep_their_buffers(network):
    pipeline = make_pipeline(network)
    image = np.zeros((64, 977, 3), np.uint8)

    def sizes_kept(*widths):
        for width in widths:
            frame = SegmentationRequest(image[:, :width], (32, 32), (32, 32))
            pipeline.segment([frame], False, True)
        return {each.shape[2] for each in gc.get_objects()
                if type(each) is torch.Tensor and each.dtype == torch.uint8
                and each.ndim == 4 and each.shape[:2] == (1, 64)}

    assert sizes_kept(*range(970, 977), 970, 977) == set(range(970, 978))
    assert sizes_kept(969) == {*range(972, 978), 970, 969}


def test_onnx_runtime_that_knows_no_gpu_says_what_helps(network, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip(reason='needs an ONNX Runtime that knows no GPU')
    with pytest.raises(ValueError, match="device 'cpu' or, if the weights are no .onnx file"):
        OnnxRuntimeDeviceEngine(export_onnx(network), 8, torch.device('cuda', 0), half=True,
                                cache=tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


def test_onnx_runtime_whose_tensorrt_does_not_load_takes_the_next(network, monkeypatch, caplog):
    """onnxruntime-gpu lists TensorRT as available, whether its libraries are there or not."""
    onnxruntime = pytest.importorskip('onnxruntime')
    session_class = onnxruntime.InferenceSession

    def without_tensorrt(model, providers, **options):
        if providers[0][0] == 'TensorrtExecutionProvider':
            raise RuntimeError('Please install TensorRT libraries')
        return session_class(model, providers=providers, **options)

    monkeypatch.setattr(onnxruntime, 'InferenceSession', without_tensorrt)
    model, cpu = export_onnx(network), ('CPUExecutionProvider', {})
    session = engines._open_session(model, [('TensorrtExecutionProvider', {}), cpu])
    assert session.get_providers() == ['CPUExecutionProvider']
    assert 'Please install TensorRT' in caplog.text
    with pytest.raises(RuntimeError, match='Please install TensorRT'):
        engines._open_session(model, [('TensorrtExecutionProvider', {})])


def test_onnx_runtime_gets_images_at_aligned_addresses(network, tmp_path, monkeypatch):
    """TensorRT needs them aligned as CUDA's memory is, to 256 bytes; on the CPU it is 64."""
    pytest.importorskip('onnxruntime')
    engine = OnnxRuntimeDeviceEngine(
        export_onnx(network), 8, torch.device('cpu'), half=False, cache=tmp_path)
    addresses, run = [], engine._run
    monkeypatch.setattr(
        engine, '_run', lambda image: addresses.append(image.data_ptr()) or run(image))
    images = torch.zeros((3, 72, 90, 3), dtype=torch.uint8)
    assert images[0].nbytes % 64
    engine(images)
    assert [address % 64 for address in addresses] == [0, 0, 0]


@pytest.mark.parametrize('output_stride', [8, 2])
def test_onnx_runtime_on_a_devices_tensors(output_stride, tmp_path):
    """TensorRT and CUDA are reached by the same calls as the CPU here."""
    pytest.importorskip('onnxruntime')
    save_random_weights(tmp_path / 'random.safetensors', 'paper', 'xception39', 11, output_stride)
    network = DeployedNetwork(load_weights(tmp_path / 'random.safetensors'))
    engine = OnnxRuntimeDeviceEngine(
        export_onnx(network), output_stride, torch.device('cpu'), half=False, cache=tmp_path)
    images = torch.randint(0, 256, (2, 90, 130, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(images)
    logits = engine(images)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * expected.std().item())
    # Floats that need rounding, as resize() and flip() give them.
    torch.testing.assert_close(engine(images.flip(3).float().flip(3) + 0.3), logits)


@needs_gpu
@pytest.mark.parametrize('name', ['camvid_xception39', 'camvid_resnet18'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_on_a_gpu(street_images, name, dtype):
    """Issue 5: at least 99.5 % of the pixels as in fp32, on real images."""
    weights = load_weights(shipped_weights()[name])
    frames = [SegmentationRequest(image, (480, 360), (640, 480)) for image in street_images]
    expected = make_pipeline(DeployedNetwork(weights)).segment(frames, False, True)
    pipeline = engine_choice.make_pipeline(
        'torch', weights, torch.device('cuda', 0), dtype, np.arange(11, dtype=np.uint8))
    assert any(isinstance(module, Conv2dReLU) for module in pipeline.engine.modules())
    for _ in range(2):  # The second time the graph is only replayed.
        results = pipeline.segment(frames, False, True)
        for result, reference in zip(results, expected, strict=True):
            assert (result.class_ids == reference.class_ids).mean() >= 0.995


@needs_gpu
def test_a_graph_without_the_kernel(network, colorful_image):
    frame = SegmentationRequest(colorful_image, (160, 96), (200, 120))
    with_kernel, without = (make_pipeline(network, 'cuda:0') for _ in range(2))
    without._classify = classify  # as where there is no Triton
    (expected,), (result,) = (
        pipeline.segment([frame], False, True) for pipeline in (with_kernel, without))
    assert without.captures
    assert (result.class_ids == expected.class_ids).mean() > 0.999
    assert np.abs(result.confidence.astype(int) - expected.confidence).max() <= 1


@needs_gpu
def test_a_capture_records_what_cudnn_found_fastest():
    settings = []
    capture(lambda: settings.append(
        (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)), torch.cuda.Stream())
    assert set(settings) == {(True, True)}
