"""How the commands start and end."""

import subprocess
import sys

import pytest

from bisenet_ros.__main__ import COMMANDS, run
from bisenet_ros.command_line import make_folder


def test_a_missing_package_is_told_in_a_line(monkeypatch):
    monkeypatch.setitem(COMMANDS, 'train', 'no_such_library.training')
    told = run('train')
    assert told.startswith("train: No module named 'no_such_library': install it or")
    assert '\n' not in told


def test_ctrl_c_during_the_imports_is_told_in_a_word(tmp_path, monkeypatch, capsys):
    (tmp_path / 'long_import.py').write_text('raise KeyboardInterrupt')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, 'train', 'long_import')
    assert run('train') == 130
    assert capsys.readouterr().err == 'train: interrupted\n'


def run_package(*arguments):
    return subprocess.run([sys.executable, '-m', 'bisenet_ros', *arguments], capture_output=True,
                          text=True, timeout=120.0)


def test_the_package_runs_a_command_by_its_name():
    done = run_package('render_street', '--frames', 'many', 'folder')
    assert done.returncode == 2
    assert "render_street: error: argument --frames: invalid int value: 'many'" in done.stderr


@pytest.mark.parametrize('arguments', [[], ['fly']])
def test_the_package_lists_its_commands(arguments):
    done = run_package(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith('usage: python -m bisenet_ros {') and 'demo' in done.stderr


def test_a_file_is_no_folder_to_write_to(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file is a file: give a folder to write to$'):
        make_folder(tmp_path / 'file')
    make_folder(tmp_path)  # exists already
    make_folder(tmp_path / 'new' / 'folder')
    assert (tmp_path / 'new' / 'folder').is_dir()
