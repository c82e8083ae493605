"""The whole segmenter, with both engines, compared with the network used the plain way."""

import dataclasses
import subprocess
import sys
import weakref

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import needs_gpu
from torch.nn import functional

from bisenet_ros.network import load_weights, save_weights
from bisenet_ros.resources import config_path
from bisenet_ros.segmentation import (
    NO_DECISION,
    Segmenter,
    engine_choice,
    load_label_set,
    shipped_weights,
)
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.device_pipeline import DevicePipeline
from bisenet_ros.segmentation.engine_choice import choose_engine
from bisenet_ros.segmentation.frame import SegmentationRequest
from bisenet_ros.segmentation.onnx_model import OnnxModel
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.tools.street import StreetDrive


@pytest.fixture(scope='module', params=['torch', 'onnxruntime'])
def segmenter(request, camvid_weights):
    if request.param == 'onnxruntime':
        pytest.importorskip('onnxruntime')
    return Segmenter(camvid_weights, device='cpu', engine=request.param)


def device_pipeline(weights, dtype=torch.float32):
    """Make the pipeline that runs on GPUs, here on the CPU's tensors."""
    return DevicePipeline(DeployedNetwork(weights, dtype), torch.device('cpu'),
                          np.arange(11, dtype=np.uint8), captures=True)


def plain_probabilities(weights_path, pixels, size):
    """
    Normalise, run the unfused network, enlarge all logits, softmax.

    :param pixels: (h, w, 3) of 0 to 255 at the network's size.
    :param size: (width, height) of the mask.
    :returns: (11, height, width).
    """
    weights = load_weights(weights_path)
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (weights.mean, weights.std))
    with torch.no_grad():
        logits = weights.network.low_resolution_logits((pixels - mean) / std)
    return functional.interpolate(
        logits, size=size[::-1], mode='bilinear', align_corners=False).softmax(1)[0].numpy()


def assert_agrees(segmentation, probabilities):
    """Assert that the chosen class is the most probable one, or as probable to three digits."""
    class_ids, confidence = segmentation
    best = probabilities.max(0)
    assert class_ids.shape == confidence.shape == best.shape
    assert class_ids.flags.c_contiguous and confidence.flags.c_contiguous
    chosen = np.take_along_axis(probabilities, class_ids[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, best, rtol=1e-3)
    assert np.abs(confidence - 255 * best).max() <= 1.0


@pytest.mark.parametrize('size', [None, (64, 48), (333, 250)])
def test_against_the_plain_way(segmenter, camvid_weights, colorful_image, size):
    result, = segmenter.segment([colorful_image], size and [size])
    size = size or (200, 120)
    pixels = cv2.resize(colorful_image, (160, 96))
    probabilities = plain_probabilities(camvid_weights, pixels, size)
    assert len(np.unique(probabilities.argmax(0))) > 2, 'the test image must show some classes'
    assert_agrees(result, probabilities)


def test_bgr_is_rgb_with_the_channels_swapped(segmenter, colorful_image):
    rgb, = segmenter.segment([colorful_image])
    bgr, = segmenter.segment([np.ascontiguousarray(colorful_image[..., ::-1])],
                             channel_order='bgr')
    np.testing.assert_array_equal(rgb.class_ids, bgr.class_ids)
    swapped, = segmenter.segment([colorful_image], channel_order='bgr')
    assert (swapped.class_ids != rgb.class_ids).any()


def test_any_strides_and_read_only_memory(segmenter, colorful_image):
    expected, = segmenter.segment([colorful_image])
    padded = np.zeros((120, 256, 3), np.uint8)
    padded[:, :200] = colorful_image
    with_alpha = np.dstack([colorful_image, np.zeros((120, 200), np.uint8)])
    read_only = np.frombuffer(colorful_image.tobytes(), np.uint8).reshape(120, 200, 3)
    flipped = np.ascontiguousarray(colorful_image[..., ::-1])[..., ::-1]
    for image in padded[:, :200], with_alpha[..., :3], read_only, flipped:
        result, = segmenter.segment([image])
        np.testing.assert_array_equal(result.class_ids, expected.class_ids)
        np.testing.assert_array_equal(result.confidence, expected.confidence)


@pytest.mark.filterwarnings('error')
def test_read_only_image_of_the_networks_own_size(segmenter, colorful_image):
    image = np.ascontiguousarray(colorful_image[:96, :160])
    expected, = segmenter.segment([image])
    image.setflags(write=False)
    result, = segmenter.segment([image])
    np.testing.assert_array_equal(result.class_ids, expected.class_ids)


@pytest.mark.parametrize('sizes', [[], [(40, 30)], [(40, 30)] * 3, [(40, 30), (0, 30)]])
def test_each_image_needs_a_size(segmenter, colorful_image, sizes):
    with pytest.raises(ValueError, match='for 2 images; give a .width, height. of at least 1'):
        segmenter.segment([colorful_image] * 2, sizes)


def test_batch_of_different_sizes_is_the_images_one_by_one(segmenter, colorful_image):
    images = [colorful_image, colorful_image[:77, :131], colorful_image[20:, :90]]
    sizes = [(200, 120), (40, 30), (99, 99)]
    batch = segmenter.segment(images, sizes)
    for image, size, result in zip(images, sizes, batch, strict=True):
        alone, = segmenter.segment([image], [size])
        np.testing.assert_array_equal(result.class_ids, alone.class_ids)
        np.testing.assert_array_equal(result.confidence, alone.confidence)
    assert segmenter.segment([]) == []


def test_without_recommended_size_the_network_sees_the_images_own(sizeless_weights,
                                                                  colorful_image):
    segmenter = Segmenter(sizeless_weights, device='cpu', engine='torch')
    for width, height in (200, 120), (128, 64):
        image = colorful_image[:height, :width]
        result, = segmenter.segment([image])
        assert_agrees(result, plain_probabilities(sizeless_weights, image, (width, height)))
    odd, = segmenter.segment([colorful_image[:117, :197]])
    assert odd.class_ids.shape == (117, 197)
    tiny, = segmenter.segment([colorful_image[:3, :5]])
    assert tiny.class_ids.shape == (3, 5)


def test_without_confidence_the_classes_are_the_same(segmenter, colorful_image):
    full, = segmenter.segment([colorful_image])
    alone, = segmenter.segment([colorful_image], with_confidence=False)
    assert alone.confidence is None
    assert (alone.class_ids == full.class_ids).mean() > 0.9999


def test_channels_become_the_ids_of_the_label_set(camvid_weights, colorful_image, tmp_path):
    ids = [3, 1, 4, 15, 9, 2, 6, 5, 35, 8, 97]
    path = tmp_path / 'own.yaml'
    path.write_text(yaml.safe_dump({'name': 'own', 'ignore_id': 255, 'classes': [
        {'id': i, 'name': f'class{i}', 'color': [i, i, i], 'cost': 0, 'obstacle': False,
         'ground': True} for i in ids]}))
    plain, = Segmenter(camvid_weights, device='cpu', engine='torch').segment([colorful_image])
    own = Segmenter(camvid_weights, label_set=path, device='cpu', engine='torch')
    result, = own.segment([colorful_image])
    np.testing.assert_array_equal(result.class_ids, np.array(ids, np.uint8)[plain.class_ids])


def test_network_that_gives_no_numbers_decides_nothing(camvid_weights, colorful_image):
    weights = load_weights(camvid_weights)
    weights.network.conv_out.conv_out.bias.data.fill_(float('nan'))
    frame = SegmentationRequest(colorful_image, (160, 96), (200, 120))
    pipeline = device_pipeline(weights)
    result, = pipeline.segment([frame], bgr=False, with_confidence=True)
    assert (result.class_ids == NO_DECISION).all()
    assert (result.confidence == 0).all()


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_device_pipeline_against_the_plain_way(camvid_weights, colorful_image, order):
    """Three images of several sizes at once."""
    pipeline = device_pipeline(load_weights(camvid_weights))
    images = [colorful_image, colorful_image[:96, :160], colorful_image[::-1]]
    sizes = [(200, 120), (80, 48), (64, 99)]
    given = [image if order == 'rgb' else image[..., ::-1] for image in images]
    frames = [SegmentationRequest(image, (160, 96), size) for image, size in zip(given, sizes)]
    results = pipeline.segment(frames, bgr=order == 'bgr', with_confidence=True)
    for image, size, result in zip(images, sizes, results, strict=True):
        # OpenCV's resize in float32: the device does not round to uint8 in between.
        pixels = cv2.resize(image.astype(np.float32), (160, 96))
        assert_agrees(result, plain_probabilities(camvid_weights, pixels, size))


def test_shipped_weights_on_a_street(street_images):
    """With trained weights all ways agree on nearly every pixel of real images."""
    pytest.importorskip('onnxruntime')
    path = shipped_weights()['camvid_xception39']
    host = Segmenter(path, device='cpu', engine='torch')
    onnx = Segmenter(path, device='cpu', engine='onnxruntime')
    device = device_pipeline(load_weights(path))
    network_size = host.network_size_for(480, 360)
    frames = [SegmentationRequest(image, network_size, (480, 360)) for image in street_images]
    for image, by_host, by_onnx, by_device in zip(
            street_images, host.segment(street_images), onnx.segment(street_images),
            device.segment(frames, bgr=False, with_confidence=True), strict=True):
        probabilities = plain_probabilities(path, image, (480, 360))
        for class_ids, confidence in by_host, by_onnx, by_device:
            assert (class_ids == probabilities.argmax(0)).mean() > 0.9999
            assert np.abs(confidence - 255 * probabilities.max(0)).mean() < 0.3


def test_shipped_weights_in_8_bits_on_a_street(street_images):
    """99.1 to 99.5 % of the pixels get the class that the original weights give them."""
    pytest.importorskip('onnxruntime')
    full, small = (Segmenter(name, device='cpu').segment(street_images)
                   for name in ('camvid_xception39', 'camvid_xception39_int8'))
    for one, other in zip(full, small, strict=True):
        assert (one.class_ids == other.class_ids).mean() > 0.98
        assert np.abs(one.confidence.astype(int) - other.confidence).mean() < 5


@pytest.fixture(scope='module')
def rendered():
    """A frame of the demo's street, with its true classes."""
    return StreetDrive()[240]


@pytest.mark.parametrize('name', shipped_weights())
def test_each_shipped_file_knows_the_rendered_street(rendered, name):
    """98 % of the pixels are right; with red and blue swapped 90 to 94 % would be."""
    if shipped_weights()[name].suffix == '.onnx':
        pytest.importorskip('onnxruntime')
    segmentation, = Segmenter(name, device='cpu').segment([rendered.image])
    assert (segmentation.class_ids == rendered.class_ids).mean() > 0.97


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_on_a_street(street_images, dtype):
    """Issue 5 asks for 99.5 % of the pixels as in fp32; bfloat16 has three bits fewer."""
    weights = load_weights(shipped_weights()['camvid_xception39'])
    frames = [SegmentationRequest(street_images[0], (480, 360), (480, 360))]
    full, half = (
        device_pipeline(weights, of_type).segment(
            frames, bgr=False, with_confidence=True)[0]
        for of_type in (torch.float32, dtype))
    agreement = (half.class_ids == full.class_ids).mean()
    assert agreement > (0.995 if dtype == torch.float16 else 0.97)


def test_fusing_batch_norms_changes_nothing(camvid_weights):
    weights = load_weights(camvid_weights)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (weights.mean, weights.std))
    images = torch.randint(0, 256, (2, 90, 130, 3), dtype=torch.uint8)
    deployed = DeployedNetwork(weights)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in deployed.modules())
    with torch.no_grad():
        expected = weights.network.low_resolution_logits(
            (images.permute(0, 3, 1, 2) / 255 - mean) / std)
        logits = deployed(images)
    assert logits.shape == (2, 11, 12, 17)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


@pytest.mark.parametrize('arguments, told', [
    ({'device': 'gpu'}, "'gpu'.*'cuda:N'"),
    ({'device': 'cuda:x'}, "'cuda:x'"),
    ({'device': 'cuda:99'}, "'cuda:99'.*sees"),
    ({'engine': 'tensorrt'}, "'tensorrt'.*'onnxruntime'"),
    ({'precision': 'int8'}, "'int8'.*'fp32'"),
    ({'precision': 'fp16'}, "'fp16' needs a GPU"),
    ({'network_size': (100, 100)}, '100x100.*multiples of 8'),
    ({'network_size': (16, 320)}, '16x320'),
    ({'network_size': (0, 320)}, '0x320'),
    ({'network_size': 640}, r'network_size is 640; give \(width, height\)'),
    ({'network_size': (1, 2, 3)}, 'network_size is .1, 2, 3.; give'),
    ({'network_size': (32.0, 32.0)}, 'network_size is .32.0, 32.0.; give'),
    ({'label_set': 'cityscapes'}, "11 classes.*'cityscapes' has 19"),
])
def test_wrong_settings_are_named(camvid_weights, arguments, told):
    with pytest.raises(ValueError, match=told):
        Segmenter(camvid_weights, **{'device': 'cpu', **arguments})


def test_a_closed_segmenter_holds_no_network(camvid_weights):
    """Parts of a pipeline refer to each other: unless collected, they keep the memory."""
    segmenter = Segmenter(camvid_weights, device='cpu', network_size=(160, 96))
    segmenter.pipeline = device_pipeline(load_weights(camvid_weights))
    segmenter.segment([np.zeros((96, 160, 3), np.uint8)])
    network = weakref.ref(segmenter.pipeline.engine)
    segmenter.close()
    assert network() is None
    with pytest.raises(ValueError, match='this Segmenter is closed'):
        segmenter.segment([])


def test_onnx_runtime_has_no_bfloat16(camvid_weights):
    pytest.importorskip('onnxruntime')
    assert choose_engine('auto', load_weights(camvid_weights), torch.device('cpu'),
                         torch.bfloat16) == 'torch'
    with pytest.raises(ValueError, match="fp16: use precision 'auto'"):
        choose_engine('onnxruntime', load_weights(camvid_weights), torch.device('cuda'),
                      torch.bfloat16)
    with pytest.raises(ValueError, match="fp16: use precision 'auto'"):
        choose_engine('auto', OnnxModel(b'', 11, 'camvid', None, (), 8), torch.device('cuda'),
                      torch.bfloat16)


def test_where_the_export_fails_pytorch_runs_unless_onnx_runtime_was_asked_for(
        camvid_weights, monkeypatch, caplog):
    pytest.importorskip('onnxruntime')

    def fail(network):
        raise RuntimeError('no such operator')

    monkeypatch.setattr(engine_choice, 'export_onnx', fail)
    assert Segmenter(camvid_weights, device='cpu').engine == 'torch'
    assert 'PyTorch runs it: no such operator' in caplog.text
    with pytest.raises(RuntimeError, match='no such operator'):
        Segmenter(camvid_weights, device='cpu', engine='onnxruntime')


@pytest.mark.parametrize('device, name', [
    ('cpu', 'camvid_xception39'), ('cuda', 'camvid_resnet18')])
def test_a_cpu_takes_the_fast_weights_and_a_gpu_the_good_ones(device, name):
    assert weights_path('auto', torch.device(device)) == shipped_weights()[name]


def test_missing_weights_list_the_shipped_ones():
    with pytest.raises(FileNotFoundError) as caught:
        Segmenter('nowhere.safetensors', device='cpu')
    for part in 'nowhere.safetensors', *shipped_weights():
        assert part in str(caught.value)


def test_a_folder_is_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights '.*' are a folder: give a file in it"):
        Segmenter(tmp_path, device='cpu')


def test_weights_without_label_set_need_one(unlabelled_weights):
    with pytest.raises(ValueError, match="label_set 'auto'.*unlabelled.safetensors.*3 classes"):
        Segmenter(unlabelled_weights, device='cpu')


def test_other_classes_than_those_of_the_named_label_set_need_theirs(camvid_weights, tmp_path,
                                                                     caplog):
    """A robot would avoid the wrong things. A label set given explicitly may rename classes."""
    weights = load_weights(camvid_weights)
    names = load_label_set('camvid').class_names
    path = tmp_path / 'other.safetensors'
    save_weights(path, dataclasses.replace(weights, class_names=('water', *names[1:])))
    with pytest.raises(ValueError, match="other.safetensors.*'camvid'.*'sky'.*'water'; give the"):
        Segmenter(path, device='cpu')
    assert Segmenter(path, label_set='camvid', device='cpu').label_set.name == 'camvid'
    assert "renamed by label set 'camvid': water -> sky\n" in caplog.text
    caplog.clear()
    save_weights(path, dataclasses.replace(weights, class_names=tuple(names)))
    assert Segmenter(path, device='cpu').label_set.name == 'camvid'
    assert not caplog.text


def test_classes_of_one_colour_are_told(tmp_path, caplog):
    content = yaml.safe_load(config_path('labels/camvid.yaml').read_text())
    content['classes'][1]['color'] = content['classes'][0]['color']
    path = tmp_path / 'gaudy.yaml'
    path.write_text(yaml.safe_dump(content))
    Segmenter('camvid_xception39', label_set=path, device='cpu')
    assert "label set 'camvid' gives sky and building one colour, [" in caplog.text
    caplog.clear()
    Segmenter('camvid_xception39', device='cpu')
    assert not caplog.text


def test_a_label_set_without_one_class_of_the_weights_is_refused(camvid_weights, tmp_path):
    path = tmp_path / 'other.safetensors'
    names = tuple(f'plant_{index}' for index in range(11))
    save_weights(path, dataclasses.replace(load_weights(camvid_weights), class_names=names))
    with pytest.raises(ValueError, match="'camvid' has not one of .*other.safetensors, plant_0"):
        Segmenter(path, label_set='camvid', device='cpu')


def test_the_weights_classes_in_another_order_are_refused(tmp_path):
    """A label set that is given may rename classes; this one would swap sky and building."""
    content = yaml.safe_load(config_path('labels/camvid.yaml').read_text())
    content['classes'][:2] = reversed(content['classes'][:2])
    path = tmp_path / 'swapped.yaml'
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match='another order; .* weights do: sky, building, pole, '):
        Segmenter('camvid_xception39', label_set=path, device='cpu')
    content['classes'][4]['name'] = 'promenade'  # as wrong if one class is renamed, too
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match='another order'):
        Segmenter('camvid_xception39', label_set=path, device='cpu')


@pytest.mark.parametrize('image', [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
    np.zeros((0, 4, 3), np.uint8), None])
def test_wrong_images_are_named(segmenter, image):
    with pytest.raises(ValueError, match='give .height, width, 3. uint8'):
        segmenter.segment([image])


@pytest.mark.parametrize('image_size, expected', [
    ((320, 192), (160, 96)), ((640, 480), (144, 104)), ((1280, 720), (168, 96)),
    ((720, 1280), (96, 168)), ((4000, 40), (1240, 32))])
def test_without_a_network_size_the_images_aspect_is_kept(camvid_weights, image_size, expected):
    """About as many pixels as the weights were trained on, 160 x 96, in multiples of 8."""
    segmenter = Segmenter(camvid_weights, engine='torch')
    assert segmenter.network_size_for(*image_size) == expected


def test_weights_trained_at_any_size(camvid_weights, tmp_path):
    path = tmp_path / 'trained.safetensors'
    save_weights(path, dataclasses.replace(load_weights(camvid_weights), network_size=(480, 270)))
    assert Segmenter(path, device='cpu').network_size_for(1920, 1080) == (480, 272)


@needs_gpu
def test_a_gpu_is_lost_after_a_fault_of_a_kernel():
    """In its own process, because the fault makes the GPU unusable for it."""
    script = """
import torch
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.segmentation.device import device_is_lost
segmenter = Segmenter('camvid_xception39', device='cuda')
assert not device_is_lost('cuda') and not device_is_lost('auto')
torch.zeros(1, device='cuda')[torch.tensor([5], device='cuda')]
assert device_is_lost('cuda') and device_is_lost('auto')
assert not device_is_lost('cpu')
"""
    subprocess.run([sys.executable, '-c', script], check=True)
