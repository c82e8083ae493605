"""The stages of a DevicePipeline, by the device's own clock."""

import os
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bisenet_ros.segmentation import Segmenter
from bisenet_ros.segmentation.cudnn_fusion import Conv2dReLU
from bisenet_ros.segmentation.device_pipeline import DevicePipeline, capture, resize
from bisenet_ros.segmentation.frame import SegmentationRequest
from bisenet_ros.tools.benchmark.memory import Sample, device_memory, report_growth
from bisenet_ros.tools.benchmark.process_usage import usage_of
from bisenet_ros.tools.benchmark.report import beside_network
from bisenet_ros.tools.benchmark.timing import WARM_UPS, take_turns

NETWORK, WHOLE = 'network', 'image to ids and confidence'
FRAMES_IN_FLIGHT = 6  # with fewer, a GPU waits for the host where the network is small
MEMORY_SAMPLES = 20
_CYCLES_ASLEEP = 1_000_000


def measure_device(segmenter: Segmenter, image: np.ndarray, repeats: int, frames: int) -> dict:
    """Measure and print; return the figures. Rate and memory are measured over `frames` frames."""
    size = image.shape[1::-1]
    frame = SegmentationRequest(image, segmenter.network_size_for(*size), size)
    pipeline = segmenter.pipeline
    if pipeline.device.type == 'cuda':
        torch.cuda.set_device(pipeline.device)  # whose events and streams are meant below
    times = {name: device_milliseconds(stage, pipeline.device, repeats)
             for name, stage in device_stages(pipeline, frame).items()}
    has_graph = pipeline.captures  # False as soon as what follows cannot be captured
    times[WHOLE] = take_turns(
        {WHOLE: lambda: pipeline.segment([frame], True, True)}, repeats)[WHOLE]
    # Stages do not take turns here: each is compared with the network's median.
    report = beside_network(times, np.median(times[NETWORK]))
    # ONNX Runtime has a stream of its own, and the host waits for it.
    report[NETWORK]['clock'] = 'device' if has_graph else 'host'
    if not has_graph:
        print(f"without a CUDA graph, '{NETWORK}' has the host's time in it, too")
    samples = run_pipelined(pipeline, frame, frames, segmenter.device)
    rate = frames / samples[-1].seconds
    print(f'{rate:.0f} frames/s with {FRAMES_IN_FLIGHT} in flight')
    report['pipelined'] = {'frames': frames, 'frames_per_second': rate, **report_growth(samples)}
    return report


def fast_ways(pipeline: DevicePipeline) -> dict[str, bool]:
    """Return which of the faster ways are taken on a GPU; the pipeline logs why one is not."""
    network = pipeline.engine.modules() if isinstance(pipeline.engine, nn.Module) else ()
    return {'cuda_graphs': pipeline.captures,
            'fused_convolutions': any(isinstance(module, Conv2dReLU) for module in network),
            'classify_kernel': pipeline.has_classify_kernel}


def device_stages(pipeline: DevicePipeline,
                  frame: SegmentationRequest) -> dict[str, Callable[[], object]]:
    """Return what to measure by name: each stage of the pipeline for one BGR image."""
    device = pipeline.device
    on_gpu = device.type == 'cuda'
    host = torch.from_numpy(frame.image)[None]
    host = host.pin_memory() if on_gpu else host
    pixels = host.to(device)
    with torch.inference_mode():
        prepared = resize(pixels, frame.network_size).flip(3)
        masks = pipeline.classify(pipeline.engine(prepared), frame.mask_size)
    masks_on_host = torch.empty_like(masks, device='cpu', pin_memory=on_gpu)
    run_network = captured(lambda: pipeline.engine(prepared), device, pipeline.captures)
    logits = run_network()
    return {
        'upload': lambda: pixels.copy_(host, non_blocking=True),
        'pre-process': captured(
            lambda: resize(pixels, frame.network_size).flip(3), device, on_gpu),
        NETWORK: run_network,
        'post-process': captured(
            lambda: pipeline.classify(logits, frame.mask_size), device, on_gpu),
        'download': lambda: masks_on_host.copy_(masks, non_blocking=True),
    }


def captured(function: Callable[[], torch.Tensor], device: torch.device,
             captures: bool) -> Callable[[], torch.Tensor]:
    """Return the function, as one CUDA graph if it can be captured."""
    def run() -> torch.Tensor:
        with torch.inference_mode():
            return function()

    if not captures:
        return run
    results = []
    graph = capture(lambda: results.append(run()), torch.cuda.Stream(device))

    @torch.inference_mode()
    def replay() -> torch.Tensor:
        graph.replay()
        return results[-1]  # of the capture; replays write to it

    return replay


def device_milliseconds(stage: Callable[[], object], device: torch.device,
                        repeats: int) -> np.ndarray:
    """Return the times (ms) a stage takes on the device, (repeats,)."""
    if device.type == 'cpu':
        return take_turns({'': stage}, repeats)['']
    times = []
    for repeat in range(-WARM_UPS, repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Keep the device busy until all is in its queue: the time in which the host starts the
        # work is not the stage's.
        torch.cuda._sleep(_CYCLES_ASLEEP)
        start.record()
        stage()
        end.record()
        end.synchronize()
        if repeat >= 0:
            times.append(start.elapsed_time(end))
    return np.array(times)


def run_pipelined(pipeline: DevicePipeline, frame: SegmentationRequest, frames: int,
                  device: str) -> list[Sample]:
    """
    Take frames from images to class ids, both in host memory, with several always in flight.

    :param device: as device_memory takes it.
    :returns: samples of the memory, the last one after the last frame.
    """
    waiting = deque(pipeline.submit([frame], bgr=True) for _ in range(FRAMES_IN_FLIGHT))
    samples, start = [], time.perf_counter()
    for done in range(1, frames + 1):
        waiting.popleft()()
        waiting.append(pipeline.submit([frame], bgr=True))
        if done * MEMORY_SAMPLES % frames < MEMORY_SAMPLES:
            samples.append(Sample(time.perf_counter() - start, done, usage_of(os.getpid()).rss,
                                  device_memory(device)))
    for result in waiting:  # Not counted: as many were in flight when the clock started.
        result()
    return samples
