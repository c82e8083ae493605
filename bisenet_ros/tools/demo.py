"""
Show the segmentation node at work, and leave pictures and a report.

Starts the node and an image player as processes of their own, listens to their topics as anybody
on the graph can, and writes a video, a strip of pictures and a report.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.command_line import end_children_when_terminated, interrupted, make_folder
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.labels import LabelSet, load_label_set
from bisenet_ros.tools.listening import listening
from bisenet_ros.tools.live_line import LIVE_LINE_PERIOD, LiveLine
from bisenet_ros.tools.monitor import Monitor
from bisenet_ros.tools.node_process import (
    FIRST_MASK_TIMEOUT,
    costmap_parameters,
    failure,
    start_node,
    wait_until,
)
from bisenet_ros.tools.pictures import Costmap, Moment
from bisenet_ros.tools.play import add_source_arguments, open_source_arguments
from bisenet_ros.tools.processes import ModuleProcess
from bisenet_ros.tools.report import (
    REPORT_FILES,
    Recording,
    compare_costmaps,
    compare_masks,
    write_report,
)
from bisenet_ros.tools.sources import Source, StreetSource
from bisenet_ros.transport import IMAGE_TOPIC, large_image_environment, own_domain


def run(options: argparse.Namespace) -> None:
    """
    Run the demo.

    :raises RuntimeError, ValueError, OSError: saying what to check.
    """
    folder = options.output
    make_folder(folder)
    # A camera can be opened only once: by the player.
    source = None if options.source.isdecimal() else open_source_arguments(options)
    camera_pose = options.camera_pose or (source.camera_pose if source else None)
    require_calibration(options, source, camera_pose)
    choose_transport()
    for name in REPORT_FILES:  # Of an earlier run, should this one end before its report.
        (folder / name).unlink(missing_ok=True)
    with ExitStack() as stack:
        node = start_node(node_parameters(options, source, camera_pose), folder)
        stack.callback(node.stop)
        monitor = stack.enter_context(listening(
            lambda: Monitor(IMAGE_TOPIC, with_costmap=camera_pose is not None,
                            with_odometry=isinstance(source, StreetSource))))
        wait_until(monitor.node_subscribes, 'the node is loading', monitor, [node])
        player = ModuleProcess('player', 'bisenet_ros.tools.play', player_arguments(options),
                               folder)
        stack.callback(player.stop)
        processes = [node, player]
        wait_until(lambda: monitor.frames_out, 'waiting for the first mask', monitor, processes,
                   FIRST_MASK_TIMEOUT)
        recording = record(monitor, processes, folder, options.duration)
        figures = run_figures(monitor, options)
        if monitor.is_troubled:
            print(f'demo: the node says: {monitor.health}', file=sys.stderr)
    label_set = load_label_set(monitor.diagnostics['label_set'] if options.label_set == 'auto'
                               else options.label_set)
    if isinstance(source, StreetSource) and label_set.name == 'camvid':
        figures |= compare_with_truth(recording.moments, source, label_set)
    write_report(folder, figures, recording, label_set)
    print(f'see {folder}/: {recording.video.path.name}, strip.png, report.md')


def require_calibration(options: argparse.Namespace, source: Source | None,
                        camera_pose: Sequence[float] | None) -> None:
    """
    Print what is missing where a costmap seems to be wanted, but there will be none.

    :raises ValueError: if the camera's pose is given, and no calibration is.
    """
    is_calibrated = options.camera_info or (source and source.camera_info)
    if options.camera_pose and not is_calibrated:
        raise ValueError(f'--camera-pose is of no use without a calibration, and {options.source} '
                         'has none: give --camera-info, too')
    if is_calibrated and not camera_pose:
        print('no costmap: give --camera-pose, too')


def choose_transport() -> None:
    """
    Set up DDS for this process and its children.

    A domain of its own, unless the user chose one, so that nothing else on the network disturbs;
    and a transport that delivers camera images.
    """
    hiding = ''
    if 'ROS_DOMAIN_ID' not in os.environ:
        domain = own_domain()
        hiding = ' '.join(name for name in domain if os.environ.get(name))
        os.environ.update(domain)
    os.environ.update(large_image_environment(os.environ))
    print(f'to watch with ROS 2 tools: export ROS_DOMAIN_ID={os.environ["ROS_DOMAIN_ID"]}'
          + (f'; unset {hiding}' if hiding else ''), flush=True)


def node_parameters(options: argparse.Namespace, source: Source | None,
                    camera_pose: Sequence[float] | None) -> dict[str, object]:
    """Return the node's parameters by dotted name."""
    parameters = {'image_topic': IMAGE_TOPIC, 'weights': options.weights,
                  'label_set': options.label_set, 'device': options.device,
                  # So long, so that a slow machine shows its costmap, too.
                  'stale_after': 5.0}
    if camera_pose is None:
        return {**parameters, 'costmap.enabled': False}
    odometry_topic = '/odom' if isinstance(source, StreetSource) else None
    return {**parameters, **costmap_parameters(camera_pose, odometry_topic),
            'costmap.size': [16.0, 16.0], 'costmap.resolution': 0.1, 'costmap.max_range': 10.0}


def player_arguments(options: argparse.Namespace) -> list[str]:
    """Return the player's arguments for the demo's."""
    arguments = [options.source, '--loop', '--image-topic', IMAGE_TOPIC]
    for name in ('rate', 'camera_info', 'bag_topic'):
        if getattr(options, name) is not None:
            arguments += [f'--{name.replace("_", "-")}', str(getattr(options, name))]
    return arguments


def record(monitor: Monitor, processes: Sequence[ModuleProcess], folder: Path,
           duration: float) -> Recording:
    """Record for `duration` seconds, showing the live line."""
    recording, line, start = Recording(folder, duration), LiveLine(), time.monotonic()
    while (seconds := time.monotonic() - start) < duration:
        for process in processes:
            process.check()
        moment = monitor.next_moment(timeout=LIVE_LINE_PERIOD)
        if moment is not None:
            recording.add(moment)
        if line.is_due():
            line.show(f'{seconds:3.0f} of {duration:g} s   {_so_far(monitor)}')
    line.end()
    if not recording.moments:
        raise failure('masks came, but nothing complete: an image seen here with its overlay, '
                      'costmap and odometry', monitor, processes)
    return recording


def _so_far(monitor: Monitor) -> str:
    """Return the live line's figures; the longer the run, the longer they take to compute."""
    median, _ = monitor.latency_percentiles()
    return (f'in {monitor.frames_in}   out {monitor.frames_out}   '
            f'dropped {monitor.frames_dropped}   latency {1e3 * median:.0f} ms')


def run_figures(monitor: Monitor, options: argparse.Namespace) -> dict:
    """Return the figures of the run, for the report."""
    median, p99 = monitor.latency_percentiles()
    return {
        'source': options.source,
        'seconds': options.duration,
        'frames_in': monitor.frames_in,
        'frames_out': monitor.frames_out,
        'frames_dropped': monitor.frames_dropped,
        'rate_in_hz': monitor.rate_in,
        'rate_out_hz': monitor.rate_out,
        'latency_p50_ms': 1e3 * median,
        'latency_p99_ms': 1e3 * p99,
        'the_node_says': monitor.health,
        **{key: monitor.diagnostics.get(key, 'unknown')
           for key in ('weights', 'engine', 'device')},
    }


def compare_with_truth(moments: Sequence[Moment], street: StreetSource,
                       label_set: LabelSet) -> dict[str, float | int | None]:
    """Return how well masks and costmaps agree with the truth, which the street knows."""
    costs = np.full(256, -1, np.int8)
    for label in label_set.labels:
        costs[label.id] = label.cost
    costmaps = [moment.costmap for moment in moments]
    return {
        **compare_masks([moment.class_ids for moment in moments],
                        [street.class_ids(moment.base_pose) for moment in moments]),
        **compare_costmaps(
            [costmap.costs for costmap in costmaps],
            [costs[street.ground_truth(costmap.robot, *costmap.cell_centres(),
                                       clearance=costmap.resolution)] for costmap in costmaps],
            [_worst_costs(costmap, street, costs) for costmap in costmaps])}


def _worst_costs(costmap: Costmap, street: StreetSource, costs: np.ndarray) -> np.ndarray:
    """
    Return the highest true cost among nine points in each cell, (rows, columns) int8.

    :param costs: (256,) int8, of each class id.
    """
    x, y = costmap.cell_centres()
    # Nine are enough: in cells of 0.1 m, the street's thinnest pole (8 cm) fits between no points.
    across, along = np.meshgrid(*2 * [costmap.resolution / 3 * np.array([-1, 0, 1])])
    points = (np.add.outer(step.ravel(), each) for step, each in ((across, x), (along, y)))
    return costs[street.ground_truth(costmap.robot, *points, clearance=0.0)].max(axis=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog='demo', description=__doc__)
    add_source_arguments(parser)
    parser.add_argument('--duration', type=float, default=20.0, metavar='S',
                        help='seconds from the first mask on (default 20)')
    parser.add_argument('--camera-pose', type=float, nargs=6,
                        metavar=('X', 'Y', 'Z', 'ROLL', 'PITCH', 'YAW'),
                        help='where a calibrated camera sits on its robot (m, rad; pitch > 0 '
                        'looks down), for costmaps; the street knows its own')
    parser.add_argument('--weights', default='auto', help='shipped name, or a file')
    parser.add_argument('--label-set', default='auto', help='shipped name, or a YAML file')
    parser.add_argument('--device', default='auto', help='auto, cuda, cuda:N or cpu')
    parser.add_argument('--output', type=user_path, default=Path('demo_output'), metavar='FOLDER')
    options = parser.parse_args(argv)
    if not options.duration > 0:
        parser.error(f'--duration is {options.duration}; it must be above 0 s')

    keep_large_blocks()
    end_children_when_terminated()
    try:
        run(options)
    except (RuntimeError, ValueError, OSError) as error:
        print(f'\ndemo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()  # below the live line
        return interrupted('demo')
    return 0


if __name__ == '__main__':
    sys.exit(main())
