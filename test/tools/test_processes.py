import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import is_running, wait_for

import bisenet_ros
from bisenet_ros.tools import processes
from bisenet_ros.tools.processes import ModuleProcess, ProcessEnded

ROOT = Path(__file__).parents[2]
TIMEOUT = 20.0


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that writes a text as a module, and returns its name."""
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))

    def write(text):
        (tmp_path / 'some_module.py').write_text(text)
        return 'some_module'
    return write


def ends(process):
    try:
        process.check()
    except ProcessEnded:
        return True
    return False


def test_early_end_tells_the_last_words(module, tmp_path):
    process = ModuleProcess(
        'node', module('import sys\nprint("no weights", sys.argv[1])\nsys.exit(3)'), ['here'],
        tmp_path)
    wait_for(lambda: ends(process))
    with pytest.raises(ProcessEnded, match=r'the node ended early \(exit code 3\)(.|\n)*'
                                           'no weights here'):
        process.check()


def test_stop_ends_a_process(module, tmp_path):
    process = ModuleProcess('node', module('import time\ntime.sleep(100)'), [], tmp_path)
    process.check()
    process.stop()
    assert ends(process)


def test_stop_ends_a_process_that_ignores_sigterm(module, tmp_path, monkeypatch):
    monkeypatch.setattr('bisenet_ros.tools.processes.STOP_TIMEOUT', 0.5)
    text = ('import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
            'print("deaf", flush=True)\ntime.sleep(100)')
    process = ModuleProcess('node', module(text), [], tmp_path)
    wait_for(lambda: 'deaf' in process.log.read_text())
    process.stop()
    assert ends(process)


def test_stop_lets_the_node_finish_its_frame():
    pytest.importorskip('rclpy', reason='needs ROS 2')
    from bisenet_ros.node.segmentation_node import RELEASE_TIMEOUT
    assert processes.STOP_TIMEOUT > RELEASE_TIMEOUT


def test_dies_with_a_killed_parent(module, tmp_path):
    name = module('import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)')
    package = Path(bisenet_ros.__file__).parent
    parent = subprocess.Popen([sys.executable, '-c', (
        'import pathlib, time\n'
        'from bisenet_ros.tools.processes import ModuleProcess\n'
        f'ModuleProcess("node", {name!r}, [], pathlib.Path({str(tmp_path)!r}))\n'
        'time.sleep(100)')], env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{package.parent}'})
    log = tmp_path / 'node.log'
    wait_for(lambda: log.is_file() and log.read_text().endswith('\n'))
    child = int(log.read_text())
    assert is_running(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not is_running(child))


SPAWNS = '''
from multiprocessing import get_context

def main():
    with get_context('spawn').Pool(1) as pool:
        print('main got', pool.map(abs, [-3]))
'''


def test_an_installed_executable_can_spawn(module, tmp_path):
    """The spawned process imports the script, which must not run main() again."""
    lines = re.findall(r'^    "(.*)"\)?$', (ROOT / 'CMakeLists.txt').read_text(), re.MULTILINE)
    text = ''.join(lines).replace('\\n', '\n').replace('${name}', 'spawns')
    starts = 'from bisenet_ros.__main__ import run\n'
    assert starts in text
    script = tmp_path / 'executable'
    script.write_text(text.replace(
        starts, f'from bisenet_ros.__main__ import COMMANDS, run\n'
                f'COMMANDS["spawns"] = {module(SPAWNS)!r}\n'))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True,
                          timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (0, 'main got [3]\n'), done.stderr
