"""The joint loss against sums written out by hand."""

import math

import pytest
import torch

from bisenet_ros.training.augmentation import IGNORED
from bisenet_ros.training.losses import JointLoss, log_class_weights


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    logits = tuple(torch.randn(2, 3, 8, 8, generator=random) * 2 for _ in range(3))
    labels = torch.randint(0, 3, (2, 8, 8), generator=random)
    labels[0, :2] = IGNORED
    return logits, labels


def pixel_losses(logits, labels):
    """Return -ln of each counted pixel's true class probability, pixel by pixel."""
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
    got = JointLoss(None, auxiliary_weight=0.5, ohem_threshold=0.0)(logits, labels)
    assert got.item() == pytest.approx(main + 0.5 * (first + second), rel=1e-5)


def test_ohem_counts_only_what_is_hard(batch):
    logits, labels = batch
    losses = pixel_losses(logits[0], labels)
    hard = [loss for loss in losses if math.exp(-loss) < 0.7]
    assert len(losses) / 16 < len(hard) < len(losses)
    got = JointLoss(None, 0.0, ohem_threshold=0.7)(logits, labels)
    assert got.item() == pytest.approx(mean(hard), rel=1e-5)


def test_ohem_counts_at_least_a_sixteenth(batch):
    _, labels = batch
    sure = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2) * 20.0
    sure[0, :, 4, 4] = torch.tensor([1.0, 2.0, 3.0])
    losses = sorted(pixel_losses(sure, labels), reverse=True)
    got = JointLoss(None, 0.0, ohem_threshold=0.7)((sure, sure, sure), labels)
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
    assert got.item() == pytest.approx((weights * losses)[hard].mean().item(), rel=1e-5)


@pytest.mark.parametrize('ohem_threshold', [0.0, 0.7])
@pytest.mark.parametrize('class_weights', [None, torch.tensor([0.1, 1.0, 10.0])])
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
    got = JointLoss(None, 0.0, ohem_threshold=0.7)(sure, labels)
    assert got.item() == pytest.approx(mean(pixel_losses(sure, labels)), rel=1e-4)


def test_log_class_weights():
    expected = [1 / math.log(1.02 + share) for share in (0.9, 0.1, 0.0)]
    assert log_class_weights(torch.tensor([90, 10, 0])).tolist() == pytest.approx(expected)
