import pytest

from bisenet_ros.tools.calibration import load_calibration

# As `ros2 run camera_calibration cameracalibrator` writes it.
CALIBRATION = """\
image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [438.78, 0., 305.59, 0., 437.35, 243.34, 0., 0., 1.]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.361976, 0.110510, 0.001014, 0.000505, 0.]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1., 0., 0., 0., 1., 0., 0., 0., 1.]
projection_matrix:
  rows: 3
  cols: 4
  data: [393.65, 0., 306.12, 0., 0., 411.85, 244.26, 0., 0., 0., 1., 0.]
"""


def test_a_file_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'calibration.yaml').write_text(CALIBRATION)
    assert load_calibration('~/calibration.yaml')['width'] == 640


def test_every_field(tmp_path):
    path = tmp_path / 'calibration.yaml'
    path.write_text(CALIBRATION)
    assert load_calibration(path) == {
        'width': 640, 'height': 480, 'distortion_model': 'plumb_bob',
        'd': [-0.361976, 0.110510, 0.001014, 0.000505, 0],
        'k': [438.78, 0, 305.59, 0, 437.35, 243.34, 0, 0, 1],
        'r': [1, 0, 0, 0, 1, 0, 0, 0, 1],
        'p': [393.65, 0, 306.12, 0, 0, 411.85, 244.26, 0, 0, 0, 1, 0]}


@pytest.mark.parametrize('text, complaint', [
    (CALIBRATION.replace('camera_matrix', 'matrix'), "'camera_matrix' is missing"),
    (CALIBRATION.replace('243.34, ', ''), 'camera_matrix has 8 values, not 9'),
    (CALIBRATION.replace('243.34', 'wide'), 'not a camera_calibration YAML.*wide'),
    (CALIBRATION.replace('width: 640', 'width: .inf'), 'not a camera_calibration YAML'),
    (CALIBRATION.replace('width: 640', 'width: -640'), 'YAML: no image has a side of -640'),
    ('[1, 2', 'not a camera_calibration YAML'),
    ('', 'not a camera_calibration YAML'),
])
def test_wrong_file_is_named(tmp_path, text, complaint):
    path = tmp_path / 'wrong.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'wrong.yaml.*{complaint}'):
        load_calibration(path)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.yaml'):
        load_calibration(tmp_path / 'nowhere.yaml')
