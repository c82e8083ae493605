"""The command `render_street`: what it writes is a data set that `train` reads."""

import numpy as np
import pytest

from bisenet_ros.segmentation.labels import load_label_set
from bisenet_ros.tools import render_street
from bisenet_ros.tools.street import StreetDrive
from bisenet_ros.training.datasets import find_files, load_dataset


def test_written_pictures_are_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path.parent))
    render_street.main([f'~/{tmp_path.name}', '--frames', '2', '--size', '96', '72'])
    dataset = load_dataset([find_files('folders', tmp_path)], load_label_set('camvid'), (96, 72))
    assert [file.stem for file in dataset.files] == ['street0001', 'street0002']
    assert not np.array_equal(dataset.images[0], dataset.images[1])
    # With seed 1, the camera is the demo's: image and classes are those of a frame of its drive.
    index = int(np.random.default_rng(1).integers(600))
    frame = StreetDrive(1, (96, 72))[index]
    np.testing.assert_array_equal(dataset.images[0].permute(1, 2, 0), frame.image)
    np.testing.assert_array_equal(dataset.labels[0], frame.class_ids)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='render_street: .*file'):
        render_street.main([str(tmp_path / 'file'), '--frames', '1'])


@pytest.mark.parametrize('option', [('--frames', '0'), ('--frames', '-3'), ('--size', '0', '0')])
def test_what_would_give_no_picture_is_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        render_street.main([str(tmp_path), *option])
    assert f'argument {option[0]}: {option[1]} is not above 0' in capsys.readouterr().err


def test_a_size_beyond_the_memory_is_told(tmp_path):
    with pytest.raises(SystemExit, match='render_street: too little memory: give a smaller'):
        render_street.main([str(tmp_path), '--size', '100000000', '100000000'])
