"""
Measure this package on this machine: what a frame costs, and what a whole graph delivers.

Every measurement prints a table, and writes its figures with hardware and versions as JSON, and a
plot where there is something to plot. Stages that are compared take turns within one run: on a
busy machine compare ratios, not times.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.command_line import end_children_when_terminated, interrupted, make_folder
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.device import naming_full_memory
from bisenet_ros.tools.benchmark.machine import machine
from bisenet_ros.tools.benchmark.report import write_json

# Each in a module of this name, imported only when it is asked for: some need ROS.
MEASUREMENTS = {
    'pipeline': 'from an image in memory to class ids, stage by stage',
    'costmap': 'the costmap beside the network',
    'scale': 'cost against image size, classes, cells and cameras',
    'graph': 'player, node and monitor: highest rate, latency, CPU time, memory (needs ROS 2)',
    'transport': 'image in, mask out without a network: what transport costs (needs ROS 2)',
    'soak': 'whether the memory of the node stays flat over many frames (needs ROS 2)',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='benchmark', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join(f'{name:12}{what}' for name, what in MEASUREMENTS.items()))
    parser.add_argument('measurement', choices=MEASUREMENTS)
    arguments = parser.add_argument('arguments', nargs=argparse.REMAINDER,
                                    help='benchmark <measurement> --help lists them')
    arguments.required = False  # which argparse knows by itself from Python 3.12 on
    chosen = parser.parse_args(argv)
    end_children_when_terminated()
    try:
        measure(chosen.measurement, chosen.arguments)
    except (RuntimeError, ValueError, OSError) as error:
        print(f'benchmark: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()  # below the live line
        return interrupted('benchmark')
    return 0


def measure(measurement: str, arguments: Sequence[str]) -> None:
    """
    Run a measurement with its arguments, and write its report.

    :raises ImportError, RuntimeError, ValueError, OSError: saying what is missing or wrong.
    """
    module = import_module(f'bisenet_ros.tools.benchmark.{measurement}')
    parser = argparse.ArgumentParser(
        prog=f'benchmark {measurement}', description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    parser.add_argument('--output', type=user_path, default=Path('benchmark_output'),
                        metavar='FOLDER')
    options = parser.parse_args(arguments)
    make_folder(options.output)
    keep_large_blocks()
    before = machine()  # The load afterwards is our own.
    with naming_full_memory('give smaller sizes'):
        report = module.run(options)
    command = ' '.join(['benchmark', measurement, *arguments])
    path = options.output / f'{measurement}.json'
    write_json(path, {'command': command, 'machine': before, **report})
    print(f'written to {path}')


if __name__ == '__main__':
    sys.exit(main())
