"""The losses, compared with sums computed pixel by pixel."""

import math

import pytest
import torch

from bisenet_ros.network import Weights, build_network
from bisenet_ros.training.augmentation import IGNORED
from bisenet_ros.training.losses import DistillationLoss, JointLoss, log_class_weights


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    logits = tuple(torch.randn(2, 3, 8, 8, generator=random) * 2 for _ in range(3))
    labels = torch.randint(0, 3, (2, 8, 8), generator=random)
    labels[0, :2] = IGNORED
    return logits, labels


def pixel_losses(logits, labels):
    """Return -ln of the true class's probability, for each pixel that is not ignored."""
    losses = []
    for image, row, column in (labels != IGNORED).nonzero().tolist():
        scores = [math.exp(s) for s in logits[image, :, row, column].tolist()]
        losses.append(-math.log(scores[labels[image, row, column]] / sum(scores)))
    return losses


def mean(values):
    return sum(values) / len(values)


def test_principal_plus_weighted_auxiliary_losses(batch):
    logits, labels = batch
    main, first, second = (mean(pixel_losses(each, labels)) for each in logits)
    got = JointLoss(torch.ones(3), auxiliary_weight=0.5, ohem_threshold=0.0)(logits, labels)
    assert got.item() == pytest.approx(main + 0.5 * (first + second), rel=1e-5)


def test_ohem_counts_only_what_is_hard(batch):
    logits, labels = batch
    losses = pixel_losses(logits[0], labels)
    hard = [loss for loss in losses if math.exp(-loss) < 0.7]
    assert len(losses) / 16 < len(hard) < len(losses)
    got = JointLoss(torch.ones(3), 0.0, ohem_threshold=0.7)(logits, labels)
    assert got.item() == pytest.approx(mean(hard), rel=1e-5)


def test_ohem_counts_at_least_a_sixteenth(batch):
    _, labels = batch
    sure = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2) * 20.0
    sure[0, :, 4, 4] = torch.tensor([1.0, 2.0, 3.0])
    losses = sorted(pixel_losses(sure, labels), reverse=True)
    got = JointLoss(torch.ones(3), 0.0, ohem_threshold=0.7)((sure, sure, sure), labels)
    assert got.item() == pytest.approx(mean(losses[:len(losses) // 16]), rel=1e-4)


def test_rare_classes_count_more_but_are_not_harder(batch):
    logits, labels = batch
    class_weights = torch.tensor([0.1, 1.0, 10.0])
    losses = torch.tensor(pixel_losses(logits[0], labels))
    weights = class_weights[labels[labels != IGNORED]]
    got = JointLoss(class_weights, 0.0, ohem_threshold=0.0)(logits, labels)
    assert got.item() == pytest.approx(((weights * losses).sum() / weights.sum()).item(), rel=1e-5)
    hard = torch.exp(-losses) < 0.7
    got = JointLoss(class_weights, 0.0, ohem_threshold=0.7)(logits, labels)
    expected = (weights * losses)[hard].sum() / weights[hard].sum()
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('ohem_threshold', [0.0, 0.7])
@pytest.mark.parametrize('class_weights', [torch.ones(3), torch.tensor([0.1, 1.0, 10.0])])
def test_a_batch_without_labels_teaches_nothing(batch, ohem_threshold, class_weights):
    logits = batch[0][0].requires_grad_()
    labels = torch.full_like(batch[1], IGNORED)
    loss = JointLoss(class_weights, 1.0, ohem_threshold)(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_ohem_with_a_single_labelled_pixel(batch):
    logits, labels = batch
    labels = torch.full_like(labels, IGNORED)
    labels[0, 5, 5] = 2
    sure = torch.zeros_like(logits[0])
    sure[:, 2] = 5
    got = JointLoss(torch.ones(3), 0.0, ohem_threshold=0.7)(sure, labels)
    assert got.item() == pytest.approx(mean(pixel_losses(sure, labels)), rel=1e-4)


def softened(logits, temperature):
    """Return the probabilities of one pixel, a list."""
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    network = build_network('paper', 'xception39', 3).eval()
    with torch.no_grad():
        network.conv_out.conv_out.weight *= 2 / network(torch.rand(1, 3, 64, 64)).std()
    return Weights(network, 'paper', 'xception39', 3, (0.3, 0.4, 0.5), (0.2, 0.25, 0.3))


def test_distillation_is_the_divergence_from_what_the_teacher_sees(teacher):
    mean, std = (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)
    pixels = torch.rand(2, 3, 64, 64)
    normalised, as_the_teacher_knows_it = (
        (pixels - torch.tensor(m).view(3, 1, 1)) / torch.tensor(s).view(3, 1, 1)
        for m, s in ((mean, std), (teacher.mean, teacher.std)))
    with torch.no_grad():
        wanted = teacher.network(as_the_teacher_knows_it)
    logits = torch.randn(2, 3, 64, 64)
    divergences = []
    for image in range(2):
        for row in range(0, 64, 2):
            for column in range(0, 64, 2):
                true, got = (softened(each[image, :, row, column].tolist(), 3.0)
                             for each in (wanted, logits))
                divergences.append(sum(p * math.log(p / q) for p, q in zip(true, got)))
    loss = DistillationLoss(teacher, mean, std, weight=0.5, temperature=3.0)
    mean_divergence = sum(divergences) / len(divergences)
    assert loss(logits, normalised).item() == pytest.approx(0.5 * 9 * mean_divergence, rel=1e-4)
    assert loss(wanted, normalised).item() == pytest.approx(0, abs=1e-6)


def test_distillation_teaches_the_pupil_only(teacher):
    logits = torch.zeros(2, 3, 64, 64, requires_grad=True)
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    teacher.network.train()
    loss = DistillationLoss(teacher, teacher.mean, teacher.std, 1.0, 2.0)
    loss(logits, torch.rand(2, 3, 64, 64)).backward()
    assert logits.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in teacher.network.parameters())
    assert all(torch.equal(value, before[name])
               for name, value in teacher.network.state_dict().items())


def test_log_class_weights():
    expected = [1 / math.log(1.02 + share) for share in (0.9, 0.1, 0.0)]
    assert log_class_weights(torch.tensor([90, 10, 0])).tolist() == pytest.approx(expected)
