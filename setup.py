"""Install config/ where bisenet_ros.resources looks for it; the rest is pyproject.toml's."""

from pathlib import Path

from setuptools import setup

folders = [Path('config'), *(path for path in sorted(Path('config').rglob('*')) if path.is_dir())]
setup(data_files=[
    (f'share/bisenet_ros/{folder}', [str(path) for path in folder.iterdir() if path.is_file()])
    for folder in folders])
