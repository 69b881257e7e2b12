"""Few labels: what a probe knows that was shown n videos of each class.

Which ones is drawn several times; the error is the standard error of the mean over the draws. It
tells the luck of the draw, not that of the test videos.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from m3video.config import ProbeConfig
from m3video.train.linear import GridPoint, Probe
from m3video.train.progress import Counter
from m3video.train.splits import Split, draw_shots, hold_out_each


@dataclass
class FewShot:
    """Counts over the splits.

    Attributes:
        config: the shots, the draws and their seed.
        tested: test videos of all splits.
        hits: of each kind and number of shots, by draw.
    """

    config: ProbeConfig
    tested: int
    hits: dict[str, dict[int, list[int]]] = field(default_factory=dict)

    def add(self, kind: str, probe: Probe, labels: Tensor, split: Split, counter: Counter) -> None:
        """Fit to few of the training videos of a split, and test all its test videos."""
        train, test = split
        for shots in self.config.shots:
            hits = self.hits.setdefault(kind, {}).setdefault(shots, [0] * self.config.draws)
            for draw in range(self.config.draws):
                few = draw_shots(labels, train, shots, draw, self.config.seed)
                found = probe.predict(few, test, few_shot_point(probe, labels, few, shots))
                hits[draw] += int((found == labels[test]).sum())
                counter.advance()

    def result(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{kind: {shots: {mean, error, accuracies}}}, accuracies 0 to 1, one a draw."""
        return {
            name: {
                str(shots): _summary([hit / self.tested for hit in hits])
                for shots, hits in found.items()
            }
            for name, found in self.hits.items()
        }


def few_shot_point(probe: Probe, labels: Tensor, few: Tensor, shots: int) -> GridPoint | None:
    """The settings for few labels, chosen on none but these; None where there is no grid.

    A fifth of each class, at least one video, is held out. Of one video a class none can be: then
    it is the most cautious of the grid, the smallest rate with the largest decay.
    """
    if not probe.grid:
        return None
    if shots == 1:
        return min(probe.grid, key=lambda point: (point.lr, -point.weight_decay))
    return probe.choose(*hold_out_each(labels, few))


def _summary(accuracies: list[float]) -> dict[str, Any]:
    """Mean, and its standard error: the deviation over the root of how many there are."""
    error = stdev(accuracies) / len(accuracies) ** 0.5
    return {"mean": fmean(accuracies), "error": error, "accuracies": accuracies}
