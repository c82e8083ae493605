"""What is installed runs, wherever the checkout is."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0
AT_ONCE = 2  # each loads torch


def test_installed_executables_answer(tmp_path):
    ament = pytest.importorskip('ament_index_python', reason='needs ROS 2')
    folder = Path(ament.get_package_prefix('bisenet_ros')) / 'lib' / 'bisenet_ros'
    cmake_lists = (ROOT / 'CMakeLists.txt').read_text()
    names = re.search(r'^foreach\(name (.+)\)$', cmake_lists, re.MULTILINE)[1].split()
    names.remove('segmentation_node')  # takes ROS's arguments: it would start

    def ask(name):
        # Not from the checkout, where its modules would be found first.
        return subprocess.run([folder / name, '--help'], cwd=tmp_path, capture_output=True,
                              text=True, timeout=TIMEOUT)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, done in zip(names, pool.map(ask, names)):
            assert done.returncode == 0, f'{name}: {done.stderr}'
            assert done.stdout.startswith('usage: '), name


def test_commands_of_the_python_package_answer(monkeypatch, capsys):
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 reads no TOML')
    pytest.importorskip('torchmetrics', reason='scores are counted by torchmetrics')
    scripts = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['scripts']
    for name, target in scripts.items():
        monkeypatch.setattr(sys, 'argv', [name, '--help'])
        with pytest.raises(SystemExit, match='^0$'):
            EntryPoint(name, target, 'console_scripts').load()()
        assert capsys.readouterr().out.startswith(f'usage: {name.removeprefix("bisenet_ros_")} ')
