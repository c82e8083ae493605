"""The cost of a cell, from what was seen in it."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

UNKNOWN = -1
FREE = 0
INSCRIBED = 99
# Less than any evidence.
_NO_EVIDENCE = np.finfo(np.float32).tiny


class CostRule:
    """
    The cost of a cell, by Nav2's conventions, and whether an obstacle stands there.

    It is the cost of the most probable class, or of obstacle classes that together have reached
    obstacle_probability, whichever is worse.

    :param labels: one for each class, in the grid's order: each has cost, obstacle and ground.
        Classes that are neither obstacle nor ground are never observed in a cell.
    :param obstacle_probability: above 0, up to 1.
    :ivar are_obstacles: whether each class is an obstacle, (classes,) bool.
    """

    def __init__(self, labels: Sequence[Any], obstacle_probability: float) -> None:
        self.class_count = len(labels)
        self.are_obstacles = np.array([label.obstacle for label in labels])
        self._obstacle_probability = obstacle_probability
        self._groups: dict[tuple[int, bool], list[int]] = {}
        for index, label in enumerate(labels):
            if label.ground or label.obstacle:
                self._groups.setdefault((label.cost, label.obstacle), []).append(index)

    def decide(self, evidence: np.ndarray, total: np.ndarray,
               prior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Decide some cells.

        :param evidence: of each class in each cell, (classes, N) float32, in any unit.
        :param total: of all classes together, (N,) float32, in the same unit.
        :param prior: weight of the Dirichlet prior, over all classes, (N,) float32, in that unit.
        :returns: costs, (N,) int8: UNKNOWN, 0-98 graded, 99 inscribed, 100 lethal; and whether an
            obstacle stands there, (N,) bool.
        """
        strongest = {group: _over_classes(np.maximum, evidence, indices)
                     for group, indices in self._groups.items()}
        obstacles = {cost: _over_classes(np.add, evidence, indices)
                     for (cost, is_obstacle), indices in self._groups.items() if is_obstacle}
        most = reduce(np.maximum, strongest.values(), _NO_EVIDENCE)
        required = self._required_evidence(total, prior)
        above_unknown = np.zeros(len(total), np.int8)
        holds_obstacle = np.zeros(len(total), bool)
        for (cost, is_obstacle), of_group in strongest.items():
            decided = of_group == most
            if is_obstacle:
                # Networks mix up obstacles: a wall may be part building, part fence.
                decided |= obstacles[cost] >= required
                holds_obstacle |= decided
            # A product takes a tenth of the time of np.where.
            np.maximum(above_unknown, decided * np.int8(cost - UNKNOWN), out=above_unknown)
        # Obstacles of several costs, only together probable enough, have at least the lowest.
        if len(obstacles) > 1:
            decided = sum(obstacles.values()) >= required
            holds_obstacle |= decided
            least = np.int8(min(obstacles) - UNKNOWN)
            np.maximum(above_unknown, decided * least, out=above_unknown)
        return above_unknown + np.int8(UNKNOWN), holds_obstacle

    def _required_evidence(self, total, prior):
        """Return the evidence that makes a probability of obstacle_probability, (N,) float32."""
        probability = self._obstacle_probability
        required = total * np.float32(probability)
        # The prior's own share is no evidence of an obstacle, however little is required.
        required += prior * np.float32(max(probability - 1 / self.class_count, 0))
        # Where there is no evidence at all, none is not enough.
        return np.maximum(required, _NO_EVIDENCE, out=required)


def _over_classes(operation, evidence, indices):
    """Return sum or maximum over some classes; for a single one, its evidence, not a copy."""
    return reduce(operation, (evidence[index] for index in indices))
