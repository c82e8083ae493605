"""Where files lie: those shipped with the package, and those that people name."""

import os
from pathlib import Path


def config_path(relative: str) -> Path:
    """
    Return the path of a file shipped under `config/`.

    In a checkout that is the folder beside the package; installed (colcon, pip), it is
    `<prefix>/share/bisenet_ros/config`, `<prefix>` being some parent of the package.

    :param relative: for example `labels/camvid.yaml`.
    :raises FileNotFoundError: naming the file and the places looked in.
    """
    package = Path(__file__).parent
    folders = [package.parent / 'config']
    folders += [parent / 'share' / 'bisenet_ros' / 'config' for parent in package.parents]
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    looked_in = ', '.join(str(folder) for folder in folders)
    raise FileNotFoundError(f'config file {relative!r} not found in any of: {looked_in}')


def user_path(path: str | Path) -> Path:
    """Return a path that somebody gave, `~` and `~name` expanded where there is such a user."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises where there is none.
