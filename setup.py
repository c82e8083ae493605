"""Lay the configuration files where bisenet_ros.resources finds them; all else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

folders = {file.parent for file in Path('config').rglob('*.yaml')}
setup(data_files=[
    (f'share/bisenet_ros/{folder}', [str(file) for file in sorted(folder.glob('*.yaml'))])
    for folder in sorted(folders)])
