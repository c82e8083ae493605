"""Label sets: what is shipped, and that every mistake in one is named."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from bisenet_ros.segmentation import LabelSetError, load_label_set


def garden_as_dict():
    """Return the smallest valid label set, to be spoilt."""
    return {'name': 'garden', 'ignore_id': 255, 'classes': [
        {'id': 0, 'name': 'grass', 'color': [0, 255, 0], 'cost': 0,
         'obstacle': False, 'ground': True},
        {'id': 7, 'name': 'hedge', 'color': [9, 90, 9], 'cost': 100,
         'obstacle': True, 'ground': False}]}


def write(folder, content):
    path = folder / 'garden.yaml'
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize('name, classes, ignore_id', [('camvid', 11, 11), ('cityscapes', 19, 255)])
def test_shipped_label_sets_load(name, classes, ignore_id):
    label_set = load_label_set(name)
    assert label_set.name == name
    assert [label.id for label in label_set.labels] == list(range(classes))
    assert label_set.ignore_id == ignore_id


def test_cityscapes_has_the_data_sets_names_ids_and_colors():
    """Held against cityscapesScripts' labels.py, trainIds."""
    official = {
        'road': (0, (128, 64, 128)), 'traffic_light': (6, (250, 170, 30)),
        'vegetation': (8, (107, 142, 35)), 'sky': (10, (70, 130, 180)),
        'person': (11, (220, 20, 60)), 'car': (13, (0, 0, 142)), 'bicycle': (18, (119, 11, 32))}
    labels = load_label_set('cityscapes').labels
    shipped = {label.name: (label.id, label.color) for label in labels}
    assert {name: shipped[name] for name in official} == official


def test_own_file_and_palette(tmp_path):
    label_set = load_label_set(write(tmp_path, garden_as_dict()))
    assert label_set.class_names == ('grass', 'hedge')
    expected = np.zeros((256, 3), np.uint8)
    expected[0] = (0, 255, 0)
    expected[7] = (9, 90, 9)
    np.testing.assert_array_equal(label_set.palette, expected)


def spoilt(change):
    content = garden_as_dict()
    change(content)
    return content


@pytest.mark.parametrize('change, told', [
    (lambda c: c.pop('ignore_id'), ['ignore_id', 'lacks']),
    (lambda c: c.update(colour=3), ['colour', 'unknown']),
    (lambda c: c.update(name=''), ['name', "''"]),
    (lambda c: c.update(ignore_id=256), ['ignore_id', '256', '255']),
    (lambda c: c.update(ignore_id=7), ['ignore_id 7', "'hedge'"]),
    (lambda c: c.update(classes='grass'), ['classes', "'grass'"]),
    (lambda c: c.update(classes=[]), ['classes has 0 of them', 'at least two']),
    (lambda c: c.update(classes=c['classes'][:1]), ['classes has 1 of them', 'at least two']),
    (lambda c: c.update(classes=['grass', 'hedge']), ['class number 1', "'grass'"]),
    (lambda c: c['classes'][1].pop('ground'), ['class number 2', 'ground']),
    (lambda c: c['classes'][1].update(obstacel=True), ['class number 2', 'has unknown obstacel']),
    (lambda c: c['classes'][1].update(obstacel=c['classes'][1].pop('obstacle')),
     ['class number 2 lacks obstacle and has unknown obstacel']),
    (lambda c: c['classes'][1].update(id=255), ["'hedge'", 'id', '255', '254']),
    (lambda c: c['classes'][1].update(id=-1), ["'hedge'", '-1']),
    (lambda c: c['classes'][1].update(id=True), ["'hedge'", 'True']),
    (lambda c: c['classes'][1].update(id=0), ["'hedge'", "'grass'", 'id 0']),
    (lambda c: c['classes'][1].update(name='grass'), ["name 'grass'"]),
    (lambda c: c['classes'][1].update(name='box hedge'), ['class number 2', "'box hedge'"]),
    (lambda c: c['classes'][1].update(name='box__hedge'), ["'box__hedge'"]),
    (lambda c: c['classes'][1].update(color=[0, 0, 256]), ["'hedge'", 'color', '256']),
    (lambda c: c['classes'][1].update(color=[0, 0]), ["'hedge'", '[0, 0]']),
    (lambda c: c['classes'][1].update(color=[0, 0, .5]), ["'hedge'", '0.5']),
    (lambda c: c['classes'][1].update(cost=101), ["'hedge'", 'cost', '101', '-1 to 100']),
    (lambda c: c['classes'][1].update(cost=-2), ["'hedge'", '-2']),
    (lambda c: c['classes'][1].update(obstacle='no'), ["'hedge'", 'obstacle', "'no'"]),
    (lambda c: c['classes'][1].update(ground=True), ["'hedge'", 'obstacle and ground']),
    (lambda c: c['classes'][1].update(cost=-1), ["'hedge'", 'an obstacle needs a cost']),
    (lambda c: c['classes'][1].update(cost=0), ["'hedge'", 'it is 0', '1 to 100']),
    (lambda c: c['classes'][1].update(obstacle=False), ["'hedge'", 'cost is 100', 'hangs']),
])
def test_mistake_is_named(tmp_path, change, told):
    path = write(tmp_path, spoilt(change))
    with pytest.raises(LabelSetError) as caught:
        load_label_set(path)
    message = str(caught.value)
    assert '\n' not in message
    for part in [str(path), *told]:
        assert part in message


@pytest.mark.parametrize('text, told', [
    ('[1, 2', ' cannot be read: '), ('', ': the file is empty; '),
    ('name: 2000-13-45', ' cannot be read: month must be'),
    (f'ignore_id: {"9" * 5000}', ' cannot be read: Exceeds the limit'),
    ('[' * 3000, ' cannot be read: maximum recursion'),
    ('- a\n- b', ": the file is ['")])
def test_file_that_is_no_mapping_is_named(tmp_path, text, told):
    path = write(tmp_path, text)
    with pytest.raises(LabelSetError, match=re.escape(f'{path}{told}')):
        load_label_set(path)


def test_a_key_given_twice_is_named(tmp_path):
    """YAML takes the last, which would make a wall harmless."""
    text = (
        'name: garden\nignore_id: 255\nclasses:\n'
        '- {id: 0, name: grass, color: [0, 255, 0], cost: 0, obstacle: false, ground: true}\n'
        '- {id: 7, name: hedge, color: [9, 90, 9], cost: 100, obstacle: true, ground: false,\n'
        '   obstacle: false}\n')
    with pytest.raises(LabelSetError, match="'obstacle' is there twice, again in line 6"):
        load_label_set(write(tmp_path, text))


def test_entries_may_share_what_yaml_merges(tmp_path):
    path = write(tmp_path, (
        'name: garden\nignore_id: 255\nclasses:\n'
        '- &hedge {id: 7, name: hedge, color: [9, 90, 9], cost: 100, obstacle: true, '
        'ground: false}\n'
        '- {<<: *hedge, id: 8, name: fence}\n'))
    assert [(label.id, label.name, label.obstacle) for label in load_label_set(path).labels] == [
        (7, 'hedge', True), (8, 'fence', True)]


@pytest.mark.parametrize('text', ['!!map grass', '{[1, 2]: 3, [1, 2]: 4}'])
def test_what_is_no_mapping_of_names_is_refused(tmp_path, text):
    with pytest.raises(LabelSetError):
        load_label_set(write(tmp_path, text))


def test_missing_file_and_unknown_name():
    with pytest.raises(LabelSetError, match=f'label set {Path.cwd()}/nowhere/own.yaml does not'):
        load_label_set('nowhere/own.yaml')
    with pytest.raises(LabelSetError, match='~no_such_user/own.yaml does not exist'):
        load_label_set('~no_such_user/own.yaml')
    with pytest.raises(LabelSetError, match="'kitti' is not shipped.*camvid, cityscapes"):
        load_label_set('kitti')


def test_home_folder(tmp_path, monkeypatch):
    write(tmp_path, garden_as_dict())
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load_label_set('~/garden.yaml').name == 'garden'
