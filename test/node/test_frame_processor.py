"""Preparations for frames and too little memory, with the pipeline for GPUs on the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('rclpy', reason='needs ROS 2')

from probe import image_message  # noqa: E402

from bisenet_ros.network import load_weights  # noqa: E402
from bisenet_ros.node import frame_processor  # noqa: E402
from bisenet_ros.node.faults import Faults  # noqa: E402
from bisenet_ros.node.frame_processor import FrameProcessor  # noqa: E402
from bisenet_ros.segmentation import Segmenter, device_pipeline, shipped_weights  # noqa: E402
from bisenet_ros.segmentation.deployed_network import DeployedNetwork  # noqa: E402
from bisenet_ros.segmentation.device_pipeline import DevicePipeline  # noqa: E402

WEIGHTS = 'camvid_xception39'


class SegmenterLikeOnAGpu(Segmenter):
    device = 'cuda:0 (none)'


def make_processor(mask_size=(0, 0), most_at_once=9):
    network = DeployedNetwork(load_weights(shipped_weights()[WEIGHTS]))

    def engine(images):
        if len(images) > most_at_once:
            raise torch.OutOfMemoryError('out of memory')
        return network(images)

    segmenter = SegmenterLikeOnAGpu(WEIGHTS, device='cpu', network_size=(64, 48))
    segmenter.pipeline = DevicePipeline(
        engine, torch.device('cpu'), np.arange(11, dtype=np.uint8), captures=False)
    cameras = dict.fromkeys(('front', 'rear'))
    settings = {'device': 'cpu', 'mask_size': mask_size, 'confidence_threshold': 0.01}
    processor = FrameProcessor(segmenter, cameras, None, settings, None, None)
    processor.start()
    return processor, lambda: {
        (shape.count, shape.image_size) for shape in segmenter.pipeline._batches}


def segment(processor, order, *images):
    """Process one image each of front and rear; return the cameras whose masks were made."""
    published = []
    processor.wanted = lambda camera: True
    processor._publish = lambda frame, *_: published.append(frame.camera)
    processor.process([
        SimpleNamespace(camera=camera, message=image_message(image, f'{order}8', stamp=1))
        for camera, image in zip(('front', 'rear'), images)])
    return published


@pytest.mark.parametrize('mask_size', [(0, 0), (320, 240)])
def test_after_warming_up_no_frame_waits_for_preparations(mask_size):
    processor, prepared = make_processor(mask_size)
    processor.warm_up()
    expected = {(1, (640, 480)), (2, (640, 480))}
    assert prepared() == expected
    image = np.zeros((480, 640, 3), np.uint8)
    for order in 'rgb', 'bgr':
        for count in 1, 2:
            assert len(segment(processor, order, *[image] * count)) == count
    assert len(processor._segmenter.pipeline._batches) == len(expected)


def test_cameras_that_share_another_size_are_prepared_for_at_once():
    processor, prepared = make_processor()
    small, large = (np.zeros((height, 160, 3), np.uint8) for height in (90, 120))
    segment(processor, 'bgr', small)
    assert prepared() == {(1, (160, 90))}
    segment(processor, 'bgr', small, small)
    assert prepared() == {(1, (160, 90)), (2, (160, 90))}
    # Images of different sizes never share a batch.
    processor, prepared = make_processor()
    segment(processor, 'bgr', small, large)
    assert prepared() == {(1, (160, 90)), (1, (160, 120))}


def test_a_camera_whose_images_do_not_fit_in_memory_does_not_disturb_others(monkeypatch):
    """The camera that failed is tried again later."""
    now = 100.0
    monkeypatch.setattr(frame_processor, 'time', SimpleNamespace(monotonic=lambda: now))
    processor, prepared = make_processor()
    failed, made, make_batch = [], [], device_pipeline._Batch

    def try_batch(shape, *arguments, **options):
        made.append(shape.image_size)
        if shape.image_size == (160, 120):
            raise torch.OutOfMemoryError('out of memory')
        return make_batch(shape, *arguments, **options)

    monkeypatch.setattr(device_pipeline, '_Batch', try_batch)
    processor._report = lambda frame, error: failed.append((frame.camera, error))
    small, large = (np.zeros((height, 160, 3), np.uint8) for height in (90, 120))
    assert segment(processor, 'rgb', small, large) == ['front']
    made.clear()
    for _ in range(3):
        assert segment(processor, 'rgb', small, large) == ['front']
    assert made == [] and (1, (160, 90)) in prepared()
    assert {camera for camera, _ in failed} == {'rear'}
    assert 'out of memory' in failed[-1][1] and 'tried every 10 s' in failed[-1][1]
    monkeypatch.setattr(device_pipeline, '_Batch', make_batch)
    now += frame_processor.RETRY_AFTER + 1
    assert segment(processor, 'rgb', small, large) == ['front', 'rear']


def test_where_memory_takes_one_image_only_all_are_segmented_and_after_a_pause_more_at_once():
    processor, prepared = make_processor(most_at_once=1)
    images = [np.zeros((90, 160, 3), np.uint8)] * 2
    assert segment(processor, 'rgb', *images) == ['front', 'rear']
    assert processor.most_at_once == 1
    processor.stop()
    processor.start()
    network, segmenter = load_weights(shipped_weights()[WEIGHTS]), processor._segmenter
    segmenter.pipeline.engine = DeployedNetwork(network)
    assert segment(processor, 'rgb', *images) == ['front', 'rear']
    assert (2, (160, 90)) in prepared() and processor.most_at_once == 2


@pytest.mark.parametrize('goes_on', [True, False])
def test_what_was_in_work_when_a_pause_began_is_not_published(monkeypatch, goes_on):
    processor, _ = make_processor()
    image = np.zeros((90, 160, 3), np.uint8)
    segment_honestly = processor._segmenter.segment

    def pause(*arguments, **options):
        processor.stop()
        if goes_on:
            processor.start()
        return segment_honestly(*arguments, **options)
    with monkeypatch.context() as patch:
        patch.setattr(processor._segmenter, 'segment', pause)
        assert segment(processor, 'rgb', image) == []
    processor.start()
    assert segment(processor, 'rgb', image) == ['front']


def test_the_fault_of_a_camera_that_nobody_wants_any_more_is_forgotten():
    processor, _ = make_processor()
    processor._faults = Faults(SimpleNamespace(error=lambda _: None))
    processor._faults.set_camera_fault('front', 'no mask')
    processor.wanted = lambda camera: False
    processor.process([SimpleNamespace(camera='front')])
    assert processor._faults.camera_fault('front') == ''


@pytest.mark.parametrize('costmap_wanted', [True, False])
def test_a_costmap_gets_confidence_even_if_no_other_output_needs_it(costmap_wanted):
    """A CPU skips the confidence if it can; without it every pixel would count as certain."""
    masks, offered = [], []
    costmap = SimpleNamespace(wanted=lambda: costmap_wanted, offer=offered.append)
    outputs = SimpleNamespace(
        wanted=lambda: True, confidence_wanted=lambda: False,
        publish=lambda frame, image, segmentation, alpha: masks.append(segmentation),
        publish_camera_info=lambda *_: None)
    settings = {'mask_size': (0, 0), 'confidence_threshold': 0.0, 'overlay_alpha': 0.5}
    processor = FrameProcessor(
        Segmenter(WEIGHTS, device='cpu', network_size=(64, 48)), {'front': outputs}, costmap,
        settings, Faults(None), None)
    processor.start()
    image = np.zeros((48, 64, 3), np.uint8)
    processor.process([SimpleNamespace(
        camera='front', message=image_message(image, 'rgb8'), received=0.0)])
    segmentation, = masks
    assert (segmentation.confidence is not None) is costmap_wanted
    assert [each.segmentation for each in offered] == [segmentation] * costmap_wanted


def test_where_memory_takes_one_image_only_the_node_comes_up(caplog):
    processor, prepared = make_processor(most_at_once=1)
    processor.warm_up()
    assert '2 images of 640x480 at once are too many' in caplog.text
    processor._segmenter.pipeline._batches.clear()
    images = [np.full((480, 640, 3), level, np.uint8) for level in (10, 200)]
    assert processor.most_at_once == 1  # Two are not tried again.
    for image in images:
        assert segment(processor, 'rgb', image) == ['front']
    assert prepared() == {(1, (640, 480))}
