"""Install config/ where bisenet_ros.resources looks for it; the rest is pyproject.toml's."""

from pathlib import Path

from setuptools import setup

folders = {file.parent for file in Path('config').rglob('*.yaml')}
setup(data_files=[
    (f'share/bisenet_ros/{folder}', [str(file) for file in sorted(folder.glob('*.yaml'))])
    for folder in sorted(folders)])
