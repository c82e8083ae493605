"""
The commands: `python -m bisenet_ros <command> ...`, and what their executables start.

Each is imported only here, so that a package that is missing is told in a line, as is Ctrl-C.
"""

import sys
from functools import partial
from importlib import import_module

from bisenet_ros.command_line import interrupted

# Each with a function `main`, which returns what sys.exit takes.
COMMANDS = {
    'segmentation_node': 'bisenet_ros.node.segmentation_node',
    'play': 'bisenet_ros.tools.play',
    'demo': 'bisenet_ros.tools.demo',
    'benchmark': 'bisenet_ros.tools.benchmark.__main__',
    'train': 'bisenet_ros.training.train',
    'evaluate': 'bisenet_ros.training.evaluate',
    'export': 'bisenet_ros.training.export',
    'render_street': 'bisenet_ros.tools.render_street',
}


def run(command: str) -> int | str | None:
    """Run a command; return what sys.exit takes."""
    try:
        return import_module(COMMANDS[command]).main()
    except ImportError as error:
        return (f"{command}: {error}: install it or, if it is part of ROS 2, source ROS's "
                'setup.bash')
    except KeyboardInterrupt:
        return interrupted(command)


benchmark, evaluate, export, render_street, train = (
    partial(run, command)
    for command in ('benchmark', 'evaluate', 'export', 'render_street', 'train'))

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f'usage: python -m bisenet_ros {{{",".join(COMMANDS)}}} ...')
    sys.exit(run(sys.argv.pop(1)))
