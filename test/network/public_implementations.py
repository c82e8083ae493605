"""
What the public implementations compute, written out over our state dict: the truth for tests.

`coincheung` is github.com/CoinCheung/BiSeNet's `bisenetv1.py`, `paper` the author's own
github.com/ycszen/TorchSeg (`cityscapes.bisenet.R18.speed` and `.X39.speed`).
"""

import torch
import torch.nn.functional as F


def logits_of_all_heads(state, variant, x):
    """
    Return the logits before enlarging: of the main head and of the 1/8 and 1/16 contexts.

    :param state: the state dict of a network with auxiliary heads and output stride 8.
    :param x: (N, 3, H, W), H and W multiples of 32, as CoinCheung's needs them.
    """
    def conv(x, name, stride=1, **groups):
        kernel, bias = state[f'{name}.weight'], state.get(f'{name}.bias')
        return F.conv2d(x, kernel, bias, stride, padding=kernel.shape[-1] // 2, **groups)

    def norm(x, name):
        return F.batch_norm(x, *(state[f'{name}.{part}'] for part in (
            'running_mean', 'running_var', 'weight', 'bias')))

    def conv_norm_relu(x, name, stride=1):
        return norm(conv(x, f'{name}.conv', stride), f'{name}.bn').relu()

    def separable(x, name, stride=1):
        each = conv(x, f'{name}.depthwise', stride, groups=x.shape[1])
        return norm(conv(each, f'{name}.pointwise'), f'{name}.bn')

    def resnet_block(x, name, stride):
        inner = norm(conv(x, f'{name}.conv1', stride), f'{name}.bn1').relu()
        inner = norm(conv(inner, f'{name}.conv2'), f'{name}.bn2')
        if f'{name}.downsample.0.weight' in state:
            x = norm(conv(x, f'{name}.downsample.0', stride), f'{name}.downsample.1')
        return (x + inner).relu()

    def xception_block(x, name, stride):
        inner = separable(x, f'{name}.conv1', stride).relu()
        inner = separable(separable(inner, f'{name}.conv2').relu(), f'{name}.conv3')
        if stride == 2:
            x = separable(x, f'{name}.shortcut', stride)
        return (x + inner).relu()

    def features(x):
        """Return the backbone's features at 1/8, 1/16 and 1/32."""
        if 'cp.resnet.conv1.weight' in state:
            block, name, stages = resnet_block, 'cp.resnet', ((2, 1), (2, 2), (2, 2), (2, 2))
            x = norm(conv(x, f'{name}.conv1', 2), f'{name}.bn1').relu()
        else:
            block, name, stages = xception_block, 'cp.xception', ((4, 2), (8, 2), (4, 2))
            x = conv_norm_relu(x, f'{name}.conv1', 2)
        found = [F.max_pool2d(x, 3, 2, padding=1)]
        for stage, (blocks, stride) in enumerate(stages, 1):
            x = found[-1]
            for index in range(blocks):
                x = block(x, f'{name}.layer{stage}.{index}', stride if index == 0 else 1)
            found.append(x)
        return found[-3:]

    def mean(x):
        return F.adaptive_avg_pool2d(x, 1)

    def refined(x, name):
        x = conv_norm_relu(x, f'{name}.conv')
        return x * norm(conv(mean(x), f'{name}.conv_atten'), f'{name}.bn_atten').sigmoid()

    def doubled(x):
        how = {'mode': 'nearest'} if variant == 'coincheung' else {
            'mode': 'bilinear', 'align_corners': True}
        return F.interpolate(x, scale_factor=2, **how)

    def gate(x):
        if variant == 'coincheung':
            return norm(conv(mean(x), 'ffm.conv'), 'ffm.bn').sigmoid()
        return conv(conv(mean(x), 'ffm.conv1').relu(), 'ffm.conv2').sigmoid()

    def head(x, name):
        return conv(conv_norm_relu(x, f'{name}.conv'), f'{name}.conv_out')

    at8, at16, at32 = features(x)
    context = refined(at32, 'cp.arm32') + conv_norm_relu(mean(at32), 'cp.conv_avg')
    context16 = conv_norm_relu(doubled(context), 'cp.conv_head32')
    context = refined(at16, 'cp.arm16') + context16
    context8 = conv_norm_relu(doubled(context), 'cp.conv_head16')
    spatial = x
    for name, stride in ('conv1', 2), ('conv2', 2), ('conv3', 2), ('conv_out', 1):
        spatial = conv_norm_relu(spatial, f'sp.{name}', stride)
    fused = conv_norm_relu(torch.cat([spatial, context8], 1), 'ffm.convblk')
    return (head(fused + fused * gate(fused), 'conv_out'), head(context8, 'conv_out16'),
            head(context16, 'conv_out32'))
