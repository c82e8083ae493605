"""The network, compared with the paper (BiSeNet, ECCV 2018) and public implementations."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from public_implementations import logits_of_all_heads
from torch.utils.flop_counter import FlopCounterMode

from bisenet_ros.network import build_network

# Names and shapes of every tensor in CoinCheung's BiSeNetV1(19), read from its state_dict.
COINCHEUNG_KEYS = Path(__file__).with_name('coincheung_v1_keys.txt')

ALL = [('coincheung', 'resnet18'), ('paper', 'resnet18'), ('paper', 'xception39')]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize('variant, backbone, count', [
    ('coincheung', 'resnet18', 13_275_539),
    ('paper', 'resnet18', 12_894_163),
    ('paper', 'xception39', 1_541_963),
])
def test_parameter_counts(variant, backbone, count):
    assert parameters(build_network(variant, backbone, 19)) == count


def test_parameter_count_with_auxiliary_heads():
    assert parameters(build_network('coincheung', 'resnet18', 19, True)) == 13_425_721


@pytest.mark.parametrize('variant, backbone, size, giga_macs', [
    ('coincheung', 'resnet18', (360, 640), 13.19),
    ('coincheung', 'resnet18', (512, 1024), 29.59),
    ('coincheung', 'resnet18', (1024, 2048), 118.34),
    ('paper', 'resnet18', (360, 640), 11.58),
    ('paper', 'resnet18', (1024, 2048), 103.72),
    ('paper', 'xception39', (360, 640), 3.07),
    ('paper', 'xception39', (1024, 2048), 27.76),
])
def test_multiply_accumulates(variant, backbone, size, giga_macs):
    # On the meta device nothing is computed: only shapes count.
    network = build_network(variant, backbone, 19).eval().to('meta')
    with FlopCounterMode(display=False) as counter:
        network.low_resolution_logits(torch.empty(1, 3, *size, device='meta'))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=0.006)


@pytest.mark.parametrize('backbone, stages', [
    ('resnet18', {'layer1': (64, 4), 'layer2': (128, 8), 'layer3': (256, 16),
                  'layer4': (512, 32)}),
    ('xception39', {'conv1': (8, 2), 'maxpool': (8, 4), 'layer1': (64, 8), 'layer2': (128, 16),
                    'layer3': (256, 32)}),
])
def test_backbone_follows_the_layer_table(backbone, stages):
    path = build_network('paper', backbone, 11).eval().cp
    shapes = {}
    for name in stages:
        getattr(getattr(path, backbone.rstrip('0123456789')), name).register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: tuple(output.shape)}))
    with torch.inference_mode():
        path(torch.zeros(1, 3, 64, 96))
    assert shapes == {name: (1, channels, 64 // stride, 96 // stride)
                      for name, (channels, stride) in stages.items()}


def test_xception39_has_stages_of_4_8_and_4_blocks():
    xception = build_network('paper', 'xception39', 11).cp.xception
    assert [len(stage) for stage in (xception.layer1, xception.layer2, xception.layer3)] \
        == [4, 8, 4]


def test_paths_and_fusion_follow_the_layer_table():
    network = build_network('paper', 'resnet18', 11).eval()
    x = torch.zeros(1, 3, 64, 96)
    with torch.inference_mode():
        spatial = network.sp(x)
        context8, context16 = network.cp(x)
        fused = network.ffm(spatial, context8)
    assert spatial.shape == (1, 128, 8, 12)
    assert context8.shape == (1, 128, 8, 12)
    assert context16.shape == (1, 128, 4, 6)
    assert fused.shape == (1, 256, 8, 12)


def test_every_coincheung_key_matches():
    lines = [line.split() for line in COINCHEUNG_KEYS.read_text().splitlines()]
    expected = {name: tuple(map(int, shape)) for name, *shape in lines}
    network = build_network('coincheung', 'resnet18', 19, auxiliary_heads=True)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == expected


@pytest.mark.parametrize('variant, backbone', ALL)
def test_logits_are_those_of_the_public_implementations(variant, backbone):
    torch.manual_seed(0)
    network = build_network(variant, backbone, 5, auxiliary_heads=True).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for part in module.weight, module.running_var:
                torch.nn.init.uniform_(part, 0.5, 1.5)
            for part in module.bias, module.running_mean:
                torch.nn.init.normal_(part, std=0.2)
    # All heads answer, as in training, but batch norms use their running statistics.
    network.eval().training = True
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected = logits_of_all_heads(network.state_dict(), variant, x)
        for got, low, factor in zip(network(x), expected, (8, 8, 16), strict=True):
            full = F.interpolate(low, scale_factor=factor, mode='bilinear', align_corners=False)
            torch.testing.assert_close(got / low.std(), full / low.std(), rtol=0, atol=1e-9)


@pytest.mark.parametrize('variant, backbone', ALL)
@pytest.mark.parametrize('output_stride', [8, 4, 2])
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (90, 160), (100, 75), (135, 240)])
def test_any_size(variant, backbone, output_stride, size):
    network = build_network(variant, backbone, 11, output_stride=output_stride).eval()
    x = torch.randn(1, 3, *size)
    with torch.inference_mode():
        assert network(x).shape == (1, 11, *size)
        low = network.low_resolution_logits(x)
    block = 8 // output_stride
    assert low.shape == (1, 11, -(-size[0] // 8) * block, -(-size[1] // 8) * block)


@pytest.mark.parametrize('stride', [8, 4, 2])
def test_logits_are_the_low_resolution_ones_enlarged(stride):
    network = build_network('paper', 'xception39', 3, output_stride=stride).eval()
    x = torch.randn(1, 3, 45, 61)  # no multiples of 8: nothing may be stretched
    with torch.inference_mode():
        full, low = network(x)[0].numpy(), network.low_resolution_logits(x)[0].numpy()
    # Bilinear by hand: the centre of pixel i lies at (i + 0.5) / stride - 0.5 in cells.
    down, across = ((np.arange(side) + 0.5) / stride - 0.5 for side in (45, 61))
    rows = np.stack([[np.interp(down, np.arange(len(column)), column)
                      for column in channel.T] for channel in low])
    expected = np.stack([[np.interp(across, np.arange(len(row)), row)
                          for row in channel.T] for channel in rows])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(full / scale, expected / scale, atol=1e-5)


def test_sub_pixel_convolution_gives_each_cell_a_block_of_logits():
    """Shi et al. (CVPR 2016), equation 4: channel c r^2 + i r + j is row i, column j of c."""
    network = build_network('paper', 'xception39', 3, output_stride=2).eval()
    fused = torch.randn(1, 256, 5, 7)
    with torch.inference_mode():
        head = network.conv_out
        channels, logits = head.conv_out(head.conv(fused))[0], head(fused)[0]
    assert (channels.shape, logits.shape) == ((3 * 16, 5, 7), (3, 20, 28))
    for c, row, column in ((0, 0, 0), (1, 6, 9), (2, 19, 27), (2, 4, 3)):
        channel = c * 16 + row % 4 * 4 + column % 4
        assert logits[c, row, column] == channels[channel, row // 4, column // 4]


def test_auxiliary_heads_only_in_training():
    network = build_network('paper', 'xception39', 5, auxiliary_heads=True)
    x = torch.randn(2, 3, 64, 64)
    assert [tuple(logits.shape) for logits in network.train()(x)] == [(2, 5, 64, 64)] * 3
    assert network.eval()(x).shape == (2, 5, 64, 64)


@pytest.mark.parametrize('arguments, named', [
    (('v2', 'resnet18', 19), 'v2'),
    (('paper', 'resnet50', 19), 'resnet50'),
    (('coincheung', 'xception39', 19), 'xception39'),
    (('paper', 'resnet18', 0), '0'),
    (('paper', 'resnet18', 19, False, 3), 'output_stride 3'),
])
def test_unknown_names_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        build_network(*arguments)
