"""How `make` handles names with characters that are special to a shell or to make."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / 'Makefile'

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='needs make')


def dry_run(folder, *arguments):
    """Copy the Makefile to a folder and run `make -n` there, as if not started by `make test`."""
    shutil.copy(MAKEFILE, folder)
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL')}
    return subprocess.run(['make', '-n', *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True)


def test_a_checkout_in_a_folder_with_a_space_is_refused(tmp_path):
    folder = tmp_path / 'my robot'
    folder.mkdir()
    done = dry_run(folder, 'help')
    assert done.returncode == 2
    assert f'a space, as here: {folder}. Move the checkout' in done.stderr


@pytest.mark.parametrize('source', ["Ann's drive.mp4", '3'])
def test_the_source_reaches_the_demo_as_it_is(tmp_path, source):
    for name in ('requirements.txt', 'requirements-ros.txt', 'CMakeLists.txt', 'package.xml'):
        (tmp_path / name).touch()
    done = dry_run(tmp_path, 'demo', f'SOURCE={source}', 'ARGS=')
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout.splitlines()[-1])[1:] == ['-m', 'bisenet_ros', 'demo', source]
