"""Convolutions that include their ReLU: the same network with fewer kernels."""

import pytest
import torch
from helpers import needs_gpu
from torch.nn import functional

from bisenet_ros.network import load_weights
from bisenet_ros.segmentation import engine_choice
from bisenet_ros.segmentation.cudnn_fusion import Conv2dAddReLU, Conv2dReLU, fuse_activations
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.tools.benchmark.random_weights import save_random_weights

NETWORKS = pytest.mark.parametrize('variant, backbone, with_relu, with_sum', [
    # Spatial path 4, refinement 2, context path 3, fusion 1, head 1: 11 beside the backbone's;
    # the paper's fusion has one more, in its gate.
    ('paper', 'resnet18', 12 + 9, 8), ('coincheung', 'resnet18', 11 + 9, 8),
    # A first convolution, and 16 blocks with two ReLUs after a convolution and one after a sum.
    ('paper', 'xception39', 12 + 1 + 32, 16)])


@pytest.fixture
def weights(variant, backbone, tmp_path):
    save_random_weights(tmp_path / 'random.safetensors', variant, backbone, 11, output_stride=2)
    return load_weights(tmp_path / 'random.safetensors')


def images():
    return torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(0))


def convolve(x, weight, bias, stride, padding, dilation, groups):
    return functional.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()


def convolve_and_add(x, weight, other, alpha, bias, *geometry):
    return (functional.conv2d(x, weight, bias, *geometry) + alpha * other).relu()


@NETWORKS
def test_every_relu_joins_its_convolution(weights, with_relu, with_sum, monkeypatch):
    """The CPU's kernels do what cuDNN's would; the network around them is the real one."""
    monkeypatch.setattr(torch, 'cudnn_convolution_relu', convolve)
    monkeypatch.setattr(torch, 'cudnn_convolution_add_relu', convolve_and_add)
    network = DeployedNetwork(weights)
    with torch.inference_mode():
        expected = network(images())
        fuse_activations(network.fused_network)
        got = network(images())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.std().item())
    kinds = [type(module) for module in network.modules()]
    assert (kinds.count(Conv2dReLU), kinds.count(Conv2dAddReLU)) == (with_relu, with_sum)
    assert all(node.target is not functional.relu for node in network.fused_network.graph.nodes)


@needs_gpu
@NETWORKS
def test_cudnn_computes_the_same(weights, with_relu, with_sum):
    network = DeployedNetwork(weights).to('cuda')
    with torch.inference_mode():
        expected = network(images().to('cuda'))
        fuse_activations(network.fused_network)
        got = network(images().to('cuda'))
    assert (got.argmax(1) == expected.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize('variant, backbone', [('paper', 'xception39')])
def test_without_these_kernels_the_network_runs_as_it_was(weights, caplog):
    """The CPU is a device on which cuDNN's kernels do not run."""
    device = torch.device('cpu')
    network = engine_choice._network_on_gpu(weights, torch.float32, device)
    assert 'run without their ReLU' in caplog.text
    with torch.inference_mode():
        assert torch.equal(network(images()), DeployedNetwork(weights)(images()))
