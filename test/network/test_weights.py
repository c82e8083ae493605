"""Weights saved and loaded: what is inferred, what is refused, and with which message."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from bisenet_ros.network import Weights, WeightsError, build_network, load_weights, save_weights


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return build_network('paper', 'xception39', 11).eval()


def save_pth(path, state):
    torch.save(state, path)
    return path


def described(network):
    return Weights(network, 'paper', 'xception39', 11, (.1, .2, .3), (.4, .5, .6), 'camvid',
                   (480, 360), tuple('abcdefghijk'))


def test_round_trip(network, tmp_path):
    path = tmp_path / 'a.safetensors'
    save_weights(path, described(network))
    loaded = load_weights(path)
    assert (loaded.variant, loaded.backbone, loaded.classes) == ('paper', 'xception39', 11)
    assert (loaded.mean, loaded.std) == ((.1, .2, .3), (.4, .5, .6))
    assert (loaded.label_set, loaded.network_size) == ('camvid', (480, 360))
    assert loaded.class_names == tuple('abcdefghijk')
    assert not loaded.network.training
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), network(x))


@pytest.mark.parametrize('output_stride', [8, 4, 2])
def test_the_output_stride_is_kept(output_stride, tmp_path):
    network = build_network('paper', 'xception39', 11, output_stride=output_stride).eval()
    path = tmp_path / 'a.safetensors'
    save_weights(path, described(network))
    loaded = load_weights(path)
    assert (loaded.output_stride, loaded.network.output_stride) == (output_stride,) * 2
    assert loaded.classes == 11
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), network(x))


def test_an_output_stride_that_does_not_fit_is_refused(network, tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file(network.state_dict(), path, {'output_stride': '2'})
    with pytest.raises(WeightsError, match='output_stride 2 .* 11 channels'):
        load_weights(path)


def test_half_precision_is_half_the_size_and_nearly_the_same(network, tmp_path):
    full, half = tmp_path / 'full.safetensors', tmp_path / 'half.safetensors'
    save_weights(full, described(network))
    save_weights(half, described(network), half=True)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, got = network(x), load_weights(half).network(x)
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, atol=0.01 * expected.abs().max())


@pytest.mark.parametrize('variant, backbone, classes', [
    ('coincheung', 'resnet18', 19), ('paper', 'resnet18', 2), ('paper', 'xception39', 7)])
def test_variant_backbone_and_classes_are_inferred(variant, backbone, classes, tmp_path):
    state = build_network(variant, backbone, classes, auxiliary_heads=True).state_dict()
    path = save_pth(tmp_path / 'a.pth', {f'module.{key}': v for key, v in state.items()})
    loaded = load_weights(path)
    assert (loaded.variant, loaded.backbone, loaded.classes) == (variant, backbone, classes)
    assert set(loaded.network.state_dict()) == {
        key for key in state if not key.startswith(('conv_out16.', 'conv_out32.'))}


def test_a_19_class_checkpoint_is_taken_for_cityscapes(tmp_path):
    state = build_network('coincheung', 'resnet18', 19).state_dict()
    loaded = load_weights(save_pth(tmp_path / 'a.pth', {'state_dict': state}))
    assert loaded.label_set == 'cityscapes'
    assert loaded.mean == (.3257, .3690, .3223)
    assert loaded.std == (.2112, .2148, .2115)


def test_every_problem_is_named(network, tmp_path):
    state = dict(network.state_dict())
    del state['sp.conv1.bn.weight']
    state['ffm.surplus'] = torch.zeros(1)
    state['cp.conv_avg.conv.weight'] = torch.zeros(128, 99, 1, 1)
    with pytest.raises(WeightsError) as error:
        load_weights(save_pth(tmp_path / 'a.pth', state))
    message = str(error.value)
    assert 'a.pth' in message
    assert 'missing sp.conv1.bn.weight' in message
    assert 'unexpected ffm.surplus' in message
    assert 'misshapen cp.conv_avg.conv.weight: (128, 99, 1, 1) instead of (128, 256, 1, 1)' \
        in message
    assert len(message.splitlines()) == 4


def test_many_problems_are_told_in_part(network, tmp_path):
    state = {**network.state_dict(), **{f'surplus{index}': torch.zeros(1) for index in range(12)}}
    with pytest.raises(WeightsError) as error:
        load_weights(save_pth(tmp_path / 'a.pth', state))
    first, *problems = str(error.value).splitlines()
    assert first.endswith('a.pth does not fit the network:')
    assert problems == [f'  unexpected surplus{index}' for index in range(10)] + ['  and 2 more']


@pytest.mark.parametrize('key, value, complaint', [
    ('sp.conv1.conv.weight', float('nan'), 'sp.conv1.conv.weight has values that are no finite'),
    ('sp.conv1.bn.running_var', float('inf'), 'sp.conv1.bn.running_var has values that are no'),
    ('sp.conv1.bn.running_var', -1.0, 'sp.conv1.bn.running_var has a variance below 0')])
def test_weights_that_decide_nothing_are_refused(network, key, value, complaint, tmp_path):
    state = dict(network.state_dict())
    state[key] = state[key].clone()
    state[key].view(-1)[3] = value
    with pytest.raises(WeightsError, match=f'a.pth: {complaint}'):
        load_weights(save_pth(tmp_path / 'a.pth', state))


@pytest.mark.parametrize('dtype', [torch.int32, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(network, dtype, tmp_path):
    state = {key: value.to(dtype) for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=f'a.pth: .* is of type {dtype}'):
        load_weights(save_pth(tmp_path / 'a.pth', state))


@pytest.mark.parametrize('name, value', [
    ('mean', [0.1, 0.2]), ('mean', 'grey'), ('std', [0.0, 0.2, 0.2]), ('std', [0.1, 0.2, None]),
    ('network_size', [480]), ('network_size', [-480, 360]), ('network_size', [480.5, 360]),
    ('class_names', None), ('class_names', [1, 2]), ('label_set', 5),
    ('output_stride', 3), ('output_stride', '2')])
def test_a_description_that_cannot_be_is_refused(network, name, value, tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file(network.state_dict(), path, {name: json.dumps(value)})
    with pytest.raises(WeightsError, match=f'a.safetensors: its {name} is .*; it must be '):
        load_weights(path)
    save_file(network.state_dict(), path, {name: 'no JSON'})
    with pytest.raises(WeightsError, match=f'a.safetensors: its {name} is not readable'):
        load_weights(path)


def test_a_name_for_each_class_or_none(network, tmp_path):
    path = tmp_path / 'a.safetensors'
    for names in 'abcdefghijk', '':
        save_file(network.state_dict(), path, {'class_names': json.dumps(list(names))})
        assert load_weights(path).class_names == tuple(names)
    save_file(network.state_dict(), path, {'class_names': json.dumps(['a', 'b'])})
    with pytest.raises(WeightsError, match='a.safetensors names 2 classes and tells 11 apart'):
        load_weights(path)


def test_names_that_are_no_texts_are_refused(tmp_path):
    with pytest.raises(WeightsError, match='no state dict'):
        load_weights(save_pth(tmp_path / 'a.pth', {1: torch.zeros(1)}))


def test_another_network_is_refused(tmp_path):
    path = save_pth(tmp_path / 'a.pth', {'fc.weight': torch.zeros(1000, 512)})
    with pytest.raises(WeightsError, match=r'not a BiSeNet.*fc\.weight'):
        load_weights(path)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_in_a_pickle_is_not_executed(tmp_path):
    marker = tmp_path / 'executed'
    path = save_pth(tmp_path / 'a.pth', {'conv_out.conv_out.weight': Malicious(marker)})
    with pytest.raises(WeightsError, match='could execute code'):
        load_weights(path)
    assert not marker.exists()
    with open(tmp_path / 'b.pth', 'wb') as file:
        pickle.dump(Malicious(marker), file)
    with pytest.raises(WeightsError):
        load_weights(tmp_path / 'b.pth')
    assert not marker.exists()


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize('content', [b'', b'no weights at all, just text', b'hello'])
def test_garbage_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_weights(tmp_path / name)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        load_weights(tmp_path / 'nowhere.pth')


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / 'a.onnx').write_bytes(b'x')
    with pytest.raises(WeightsError, match=r'\.safetensors, .* \.onnx, too'):
        load_weights(tmp_path / 'a.onnx')
