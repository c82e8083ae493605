"""The commands `evaluate` and `export`, on weights trained briefly."""

import dataclasses
import io
import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torchmetrics', reason='scores are counted by torchmetrics')

from bisenet_ros.network import WeightsError, load_weights, save_weights  # noqa: E402
from bisenet_ros.resources import config_path  # noqa: E402
from bisenet_ros.segmentation import Segmenter, load_label_set  # noqa: E402
from bisenet_ros.segmentation.deployed_network import DeployedNetwork  # noqa: E402
from bisenet_ros.segmentation.onnx_model import export_onnx, with_metadata  # noqa: E402
from bisenet_ros.training import evaluate, export  # noqa: E402
from bisenet_ros.training.scores import Scores  # noqa: E402


@pytest.fixture(scope='module')
def onnxruntime():
    pytest.importorskip('onnx', reason='exported models are described by onnx')
    return pytest.importorskip('onnxruntime', reason='exported models are run by ONNX Runtime')


def export_to(folder, weights, *options):
    """Export with the images of the training; return the model's path and what was said."""
    images, model = Path(weights).parent / 'data' / 'train', folder / 'model.onnx'
    with redirect_stdout(io.StringIO()) as said:
        export.main([weights, str(images), str(model), *options])
    return model, said.getvalue()


@pytest.fixture(scope='module')
def float_model(onnxruntime, weights, tmp_path_factory):
    """Return the path of the weights as an ONNX model, and what `export` said of it."""
    return export_to(tmp_path_factory.mktemp('float'), weights)


@pytest.fixture(scope='module')
def int8_model(onnxruntime, weights, tmp_path_factory):
    """As float_model, in 8 bits."""
    return export_to(tmp_path_factory.mktemp('int8'), weights, '--int8')


needs_onnx = pytest.mark.usefixtures('onnxruntime')


def run_evaluate(weights, root, output, *options):
    evaluate.main([weights, str(root), '--output', str(output), *options])
    return json.loads((output / 'scores.json').read_text())


def test_an_exported_model_scores_the_same_in_evaluate(onnxruntime, weights, float_model,
                                                       camvid_like, tmp_path, capsys):
    model, said = float_model
    assert 'same class in 100.0000 %' in said
    scores = run_evaluate(weights, camvid_like, tmp_path / 'torch')
    assert 'mean IoU' in capsys.readouterr().out
    exported = run_evaluate(str(model), camvid_like, tmp_path / 'onnx', '--size', '96', '64')
    assert (tmp_path / 'onnx' / 'confusion.png').is_file()
    assert (tmp_path / 'onnx' / 'worst.png').is_file()
    assert scores['images'] == 2
    # Labelled pixels of both images: all but the ignored corner of each.
    assert np.sum(scores['confusion']) == np.sum(exported['confusion']) == 2 * (96 * 64 - 1)
    assert exported['mean_iou'] == pytest.approx(scores['mean_iou'], abs=1e-3)
    session = onnxruntime.InferenceSession(str(model))
    odd = np.zeros((2, 45, 77, 3), np.uint8)
    assert session.run(None, {'images': odd})[0].shape == (2, 11, 4 * 6, 4 * 10)


@pytest.mark.parametrize('model, least', [('float_model', 0.9999), ('int8_model', 0.95)])
def test_an_exported_model_can_be_used_as_weights(request, weights, camvid_like, model, least):
    model, _ = request.getfixturevalue(model)
    images = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
              for file in sorted((camvid_like / 'train').glob('*.png'))]
    original, exported = (Segmenter(path, device='cpu') for path in (weights, model))
    assert (exported.engine, exported.weights) == ('onnxruntime', 'model')
    assert exported.label_set == original.label_set
    assert exported.network_size_for(1280, 720) == original.network_size_for(1280, 720)
    same = [(one.class_ids == other.class_ids).mean() for one, other in zip(
        original.segment(images), exported.segment(images), strict=True)]
    assert np.mean(same) > least


def test_half_precision_is_half_the_size(weights, camvid_like, tmp_path, capsys):
    half = tmp_path / 'half.safetensors'
    export.main([weights, str(camvid_like / 'train'), str(half)])
    agreement = re.search(r'same class in ([\d.]+) %', capsys.readouterr().out)
    assert float(agreement.group(1)) > 99.92  # stricter than export itself
    assert half.stat().st_size < 0.6 * Path(weights).stat().st_size
    assert [path.name for path in tmp_path.glob('*.safetensors')] == ['half.safetensors']
    original, exported = load_weights(weights), load_weights(half)
    assert dataclasses.replace(exported, network=None) == dataclasses.replace(
        original, network=None)
    with pytest.raises(SystemExit, match='without --int8'):
        export.main([weights, str(camvid_like / 'train'), str(half), '--int8'])


def test_int8_is_smaller(float_model, int8_model):
    whole, small = (model.stat().st_size for model, _ in (float_model, int8_model))
    assert small < 0.5 * whole


@needs_onnx
def test_an_onnx_file_of_another_origin_is_refused(weights, tmp_path):
    foreign, broken = tmp_path / 'foreign.onnx', tmp_path / 'broken.onnx'
    foreign.write_bytes(export_onnx(DeployedNetwork(load_weights(weights))))
    broken.write_bytes(b'nothing')
    with pytest.raises(WeightsError, match='foreign.onnx: not written by this package'):
        Segmenter(foreign, device='cpu')
    with pytest.raises(WeightsError, match='broken.onnx: not an ONNX model'):
        Segmenter(broken, device='cpu')


@needs_onnx
def test_an_onnx_file_with_too_few_names_is_refused(weights, tmp_path):
    loaded = load_weights(weights)
    few = dataclasses.replace(loaded, class_names=('sky', 'road'))
    (tmp_path / 'few.onnx').write_bytes(with_metadata(export_onnx(DeployedNetwork(loaded)), few))
    with pytest.raises(WeightsError, match='few.onnx names 2 classes and tells 11 apart'):
        Segmenter(tmp_path / 'few.onnx', device='cpu')


def test_pytorch_does_not_run_an_onnx_file(float_model):
    model, _ = float_model
    with pytest.raises(ValueError, match="'torch' does not run ONNX"):
        Segmenter(model, device='cpu', engine='torch')


def test_a_label_set_of_ones_own_is_asked_for(weights, camvid_like, tmp_path):
    loaded = load_weights(weights)
    save_weights(tmp_path / 'mine.safetensors', dataclasses.replace(loaded, label_set='garden'))
    with pytest.raises(SystemExit, match="trained with the label set 'garden', which is not "
                                         'shipped: give its YAML file .*--label-set'):
        run_evaluate(str(tmp_path / 'mine.safetensors'), camvid_like, tmp_path / 'out')


def test_renamed_classes_are_told(weights, camvid_like, tmp_path, caplog):
    text = config_path('labels/camvid.yaml').read_text(encoding='utf-8')
    (tmp_path / 'mine.yaml').write_text(
        text.replace('name: road', 'name: tarmac').replace('name: sky', 'name: air'))
    run_evaluate(weights, camvid_like, tmp_path / 'out')
    assert 'classes renamed' not in caplog.text
    run_evaluate(weights, camvid_like, tmp_path / 'out', '--label-set', f'{tmp_path}/mine.yaml')
    assert "classes renamed by label set 'camvid': sky -> air, road -> tarmac\n" in caplog.text


def test_an_impossible_output_folder_is_refused_before_any_data_is_read(weights, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='evaluate: .*file/out'):
        run_evaluate(weights, tmp_path / 'nowhere', tmp_path / 'file' / 'out')


@pytest.mark.parametrize('name', ['scores.json', 'confusion.png', 'worst.png'])
def test_a_full_disk_leaves_earlier_scores(weights, camvid_like, tmp_path, name):
    (tmp_path / name).write_text('earlier')
    (tmp_path / f'part.{name}').symlink_to('/dev/full')
    with pytest.raises(SystemExit, match=f'evaluate: .*No space left on device: .*{name}'):
        run_evaluate(weights, camvid_like, tmp_path)
    assert (tmp_path / name).read_text() == 'earlier'


def test_home_folders_are_found(weights, camvid_like, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    evaluate.main([weights, '~/camvid_like', '--output=~/scores'])
    export.main([weights, '~/camvid_like/val', '~/half.safetensors'])
    assert (tmp_path / 'scores' / 'scores.json').is_file()
    assert (tmp_path / 'half.safetensors').is_file()


def test_each_weights_have_a_folder_of_their_own(weights, camvid_like, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in 'ab':
        (tmp_path / run).mkdir()
        shutil.copy(weights, tmp_path / run / 'best.safetensors')
        evaluate.main([f'{run}/best.safetensors', str(camvid_like)])
        assert (tmp_path / 'runs/evaluation' / run / 'best/scores.json').is_file()


def test_an_impossible_size_is_refused(weights, camvid_like, tmp_path):
    with pytest.raises(SystemExit, match='--size is 0x0: give at least 32x32'):
        run_evaluate(weights, camvid_like, tmp_path / 'out', '--size', '0', '0')


@pytest.mark.parametrize('command, work, arguments', [
    (evaluate, '_evaluate', ['weights', 'root']), (export, '_export', ['weights', 'images', 'x'])])
def test_an_interruption_is_told_in_a_word(monkeypatch, capsys, command, work, arguments):
    def interrupt(_):
        raise KeyboardInterrupt
    monkeypatch.setattr(command, work, interrupt)
    with pytest.raises(SystemExit, match='130'):
        command.main(arguments)
    assert capsys.readouterr().err.endswith(': interrupted\n')


def test_the_worst_images_are_shown(weights, camvid_like, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(evaluate, 'save_pictures',
                        lambda path, columns, label_set: shown.update(columns))
    labels = cv2.imread(str(camvid_like / 'trainannot' / 'B_3.png'), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(camvid_like / 'trainannot' / 'B_3.png'), np.full_like(labels, 8))  # all cars
    run_evaluate(weights, camvid_like, tmp_path / 'out', '--split', 'train')
    assert [len(pictures) for pictures in shown.values()] == [evaluate.WORST_COUNT] * 3
    worst = cv2.imread(str(camvid_like / 'train' / 'B_3.png'))[..., ::-1]
    np.testing.assert_array_equal(shown['image'][0], worst)
    colors = {label.id: label.color for label in load_label_set('camvid').labels}
    assert (shown['labels'][0] == colors[8]).all()
    assert tuple(shown['prediction'][0][-1, 0]) == tuple(colors[3])  # The network knows the road.


def test_a_class_without_labels_has_no_score_even_where_it_is_predicted():
    camvid = load_label_set('camvid')
    confusion = np.zeros((11, 11), int)
    confusion[0, :3] = 80, 15, 5  # sky, of which some is taken for buildings and poles
    confusion[1, 1] = 85
    scores = Scores(confusion)
    lines = evaluate.table(scores, camvid).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ['sky', '80.0'], ['building', '85.0'], ['pole', '-'], ['road', '-']]
    assert len({len(line) for line in lines}) == 1
    written = json.loads(evaluate.as_json(scores, camvid))
    assert (written['class_iou']['building'], written['class_iou']['pole']) == (0.85, None)
    assert written['mean_iou'] == pytest.approx((0.8 + 0.85) / 2)


def test_what_a_confidence_threshold_costs_and_saves():
    camvid = load_label_set('camvid')
    names = camvid.class_names
    road, pavement, car, sky, sign = map(
        names.index, ('road', 'pavement', 'car', 'sky', 'sign'))
    confusion, confident = np.zeros((2, len(names), len(names)), int)
    # Road taken for pavement is found; a sign, which hangs, is neither ground nor obstacle.
    confusion[road, [road, pavement, car]] = 70, 20, 10
    confusion[car, [car, road, sky]] = 190, 8, 2
    confusion[sign, road] = confusion[sky, sky] = 50
    confident[road, [road, pavement]] = 60, 15
    confident[car, [car, road]] = 100, 1
    scores = Scores(confusion, confident={0.0: confusion, 0.6: confident})
    rows = evaluate.ground_by_confidence(scores, camvid)
    assert rows == [
        {'threshold': 0.0, 'ground_found': 0.9, 'obstacles_taken_for_ground': 0.04},
        {'threshold': 0.6, 'ground_found': 0.75, 'obstacles_taken_for_ground': 0.005}]
    lines = evaluate.ground_table(rows).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ['0.0', '90.0%', '4.00%'], ['0.6', '75.0%', '0.50%']]
    assert len({len(line) for line in lines}) == 1
    assert json.loads(evaluate.as_json(scores, camvid, ground_by_confidence=rows))[
        'ground_by_confidence'] == rows
    confusion[car] = 0
    assert evaluate.ground_by_confidence(scores, camvid) == [], 'no obstacle is labelled'


def test_multi_scale_flip_and_sequences(weights, camvid_like, tmp_path, capsys):
    output, some = tmp_path / 'out', ('--split', 'train', '--sequences', 'A')
    single = run_evaluate(weights, camvid_like, output, *some)
    said = capsys.readouterr().out
    assert '3 pictures, scored at 96x64, single scale (ss)\n' in said
    rows = single['ground_by_confidence']
    assert [row['threshold'] for row in rows] == list(evaluate.THRESHOLDS)
    assert f'\n{evaluate.ground_table(rows)}\n' in said
    found = [row['ground_found'] for row in rows]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]
    assert run_evaluate(weights, camvid_like, output, *some, '--mode', 'msf') == single, 'kept'
    assert 'scored at 96x64, multi-scale and flip (msf)\n' in capsys.readouterr().out
    scores = json.loads((output / 'scores_msf.json').read_text())
    assert (scores['mode'], scores['images']) == ('msf', 3)
    assert single['confusion'] != scores['confusion']
    assert (output / 'confusion_msf.png').is_file() and (output / 'worst_msf.png').is_file()


@needs_onnx
def test_a_model_that_differs_is_not_written(weights, camvid_like, tmp_path, monkeypatch):
    honest = export.export_onnx

    def broken(network):
        for parameter in network.parameters():
            parameter.data.mul_(0.5)
        model = honest(network)
        for parameter in network.parameters():
            parameter.data.mul_(2.0)
        return model

    monkeypatch.setattr(export, 'export_onnx', broken)
    with pytest.raises(SystemExit, match='not written'):
        export.main([weights, str(camvid_like / 'train'), str(tmp_path / 'model.onnx')])
    assert not (tmp_path / 'model.onnx').exists()


@needs_onnx
@pytest.mark.parametrize('options, scale, most', [
    ([], 0.5, '0.005$'), ([], 2, '0.005$'), (['--int8'], 0.5, '0.05: .* leave --int8')])
def test_a_model_of_other_probabilities_is_not_written(weights, camvid_like, tmp_path, monkeypatch,
                                                       options, scale, most):
    """Scaled logits choose the same classes, with other probabilities."""
    honest = export.OnnxRuntimeEngine

    def scaled(model):
        engine = honest(model)
        return lambda images: scale * engine(images)

    monkeypatch.setattr(export, 'OnnxRuntimeEngine', scaled)
    with pytest.raises(SystemExit, match=f'written: probabilities are off by more than {most}'):
        export.main([weights, str(camvid_like / 'train'), str(tmp_path / 'model.onnx'), *options])
    assert not (tmp_path / 'model.onnx').exists()


def renamed(weights, path, **described):
    save_weights(path, dataclasses.replace(load_weights(weights), **described))
    return str(path)


def test_classes_that_are_not_the_label_sets_are_not_scored(weights, camvid_like, tmp_path):
    names = load_weights(weights).class_names
    other = renamed(weights, tmp_path / 'other.safetensors', class_names=('water', *names[1:]))
    silent = renamed(weights, tmp_path / 'silent.safetensors', label_set=None)
    for arguments, told in (([weights, '--label-set', 'cityscapes'], '11 classes.*has 19'),
                            ([other], "'sky' where they have 'water'"),
                            ([silent], 'silent.* do not say.*give the label set'),
                            ([weights, '--device', 'gpu'], "device is 'gpu'"),
                            (['nowhere.onnx'], 'nowhere.onnx')):
        with pytest.raises(SystemExit, match=f'evaluate: .*{told}'):
            run_evaluate(arguments[0], camvid_like, tmp_path / 'out', *arguments[1:])
    assert not (tmp_path / 'out').exists()
    run_evaluate(silent, camvid_like, tmp_path / 'out', '--label-set', 'camvid')


@needs_onnx
def test_export_compares_at_the_size_the_network_sees(weights, camvid_like, tmp_path, monkeypatch):
    sizes = []

    def compare(engine, network, images):
        sizes.extend(image.shape for image in images)
        return honest(engine, network, images)

    honest = export.compare
    monkeypatch.setattr(export, 'compare', compare)
    for size in (60, 40), None:
        small = renamed(weights, tmp_path / 'small.safetensors', network_size=size)
        export.main([small, str(camvid_like / 'val'), str(tmp_path / 'new' / 'model.onnx')])
    assert sizes == [(40, 64, 3)] * 2 + [(64, 96, 3)] * 2
    assert (tmp_path / 'new' / 'model.onnx').is_file()


def test_export_compares_on_images_from_the_whole_folder(weights, camvid_like, monkeypatch):
    honest, read = export.read_image, []
    monkeypatch.setattr(export, 'read_image',
                        lambda path: read.append(path.stem) or honest(path))
    for count in 1, 4, 20:
        export._images_as_seen(camvid_like / 'train', count, load_weights(weights))
    every = ['A_0', 'A_2', 'A_4', 'B_1', 'B_3', 'B_5']
    assert read == ['A_0'] + ['A_0', 'A_2', 'B_1', 'B_3'] + every


def test_what_export_cannot_use_is_named(weights, camvid_like, tmp_path):
    images = camvid_like / 'val'
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SystemExit, match=r'export: .*model\.pt.*\*\.onnx'):
        export.main([weights, str(images), str(tmp_path / 'model.pt')])
    with pytest.raises(SystemExit, match=r'export: .*empty: no images \(\.png'):
        export.main([weights, str(tmp_path / 'empty'), str(tmp_path / 'model.onnx')])
    copy = shutil.copy(weights, tmp_path / 'copy.safetensors')
    with pytest.raises(SystemExit, match=r'copy\.safetensors is the file of the weights'):
        export.main([str(copy), str(images), str(copy)])
    (images / 'A_0.png').write_bytes(b'no image')
    with pytest.raises(SystemExit, match=r'export: .*A_0\.png cannot be read'):
        export.main([weights, str(images), str(tmp_path / 'model.onnx')])
    assert not (tmp_path / 'model.onnx').exists()
