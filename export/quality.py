"""What a conversion costs in image quality: the paired rise over the float32 graph.

The images come from ONNX Runtime, on the same latents on both sides. Metric, features and reference
are those of `ard`, so that a budget means what it means there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from ard.measuring.bank import DenseBank
from ard.measuring.evaluate import Candidate, Evaluator
from ard.measuring.metric import MetricEvaluator
from ard.measuring.score import Score
from ard.session.config import FRESH
from ard.session.setting import Setting
from export.sessions import OnnxGenerator
from nas_gan.networks.interface import Part, interface_of
from nas_gan.networks.latents import latents_of

if TYPE_CHECKING:
    import onnx

# Offsets from the seed, beyond those of `ard.session.config`: latents that calibrate a scale or
# choose nodes must not also judge them.
CALIBRATION, CHOOSING, JUDGING = 21, 22, 23
# Images that a rise is measured on if nobody set a budget for it.
WITHOUT_BUDGET = 512
# Images by which nodes are put in order, one graph per node.
PER_NODE = 128
# Share of the images of a judgement with which plans are compared while one is looked for.
SEARCH_SHARE = 4


@dataclass(frozen=True)
class Verdict:
    """What was measured of a converted graph on held-out latents.

    Attributes:
        rise: its score against the float32 graph.
        total: its score against the dense generator; None if that was not asked for.
        seed: seed of the latents.
    """

    rise: Score
    total: Score | None
    seed: int


@dataclass(frozen=True, eq=False)
class Measuring:
    """How the rise of any converted graph is measured.

    Attributes:
        setting: metric, features and reference.
        samples: images per judgement.
        seed: the latents of each purpose have seeds at fixed distances from it.
        dense: the generator before compression, if rises over it are of interest; its value is the
            one that a relative budget refers to.
        batch_size: images per batch.
    """

    setting: Setting
    samples: int
    seed: int = 0
    dense: nn.Module | None = None
    batch_size: int = 64

    def of(self, model: onnx.ModelProto, generator: nn.Module) -> Judge:
        """The judge of conversions of a float32 graph, which was exported from `generator`."""
        return Judge(self, model, generator)


class Judge:
    """Measures what conversions of one float32 graph cost.

    Args:
        measuring: How.
        model: The float32 graph.
        generator: The generator that it was exported from.
    """

    def __init__(self, measuring: Measuring, model: onnx.ModelProto, generator: nn.Module) -> None:
        self.measuring = measuring
        self.interface = interface_of(generator)
        self.fp32 = OnnxGenerator(model, self.interface, "the float32 graph")
        self._held_out: dict[tuple[int, bool], MetricEvaluator] = {}

    @cached_property
    def dense_value(self) -> float:
        """The distance that a relative budget refers to.

        It is that of the dense generator or, if there is none, of the float32 graph itself.
        """
        return self._evaluator(0, self.measuring.dense is not None).dense_value

    @cached_property
    def quickly(self) -> Evaluator:
        """Compares single nodes, on few images."""
        n = min(PER_NODE, self.measuring.samples)
        return self._make(self.fp32, n, CHOOSING, "search", reported=False)

    @cached_property
    def searching(self) -> Evaluator:
        """Compares whole plans while one is looked for."""
        n = max(self.measuring.samples // SEARCH_SHARE, min(PER_NODE, self.measuring.samples))
        return self._make(self.fp32, n, CHOOSING, "search", reported=False)

    def score(self, evaluator: Evaluator, model: onnx.ModelProto) -> Score:
        """What an evaluator says of a converted graph."""
        return evaluator(self._candidate(model))

    def verdict(self, model: onnx.ModelProto, *, total: bool, bank: int = 0) -> Verdict:
        """Judge a converted graph on the held-out latents of this number.

        Args:
            model: the converted graph.
            total: whether its rise over the dense generator is measured as well.
            bank: number of the held-out latents; a graph that failed is followed by the next.

        Raises:
            ExportError: the graph does not run in ONNX Runtime.
            DivergedError: an image holds a NaN or an infinity.
        """
        candidate = self._candidate(model)
        of_dense = total and self.measuring.dense is not None
        return Verdict(
            self._evaluator(bank, False)(candidate),
            self._evaluator(bank, True)(candidate) if of_dense else None,
            self._seed(JUDGING, bank),
        )

    def _candidate(self, model: onnx.ModelProto) -> Candidate:
        return Candidate.finished(OnnxGenerator(model, self.interface, "the converted graph"))

    def _evaluator(self, bank: int, over_dense: bool) -> MetricEvaluator:
        key = bank, over_dense
        if key not in self._held_out:
            dense = self.measuring.dense
            base = dense if over_dense and dense is not None else self.fp32
            n = self.measuring.samples
            self._held_out[key] = self._make(base, n, JUDGING, "held_out", True, bank)
        return self._held_out[key]

    def _make(
        self,
        base: nn.Module,
        n: int,
        purpose: int,
        part: Part,
        reported: bool,
        bank: int = 0,
    ) -> MetricEvaluator:
        measuring, setting = self.measuring, self.measuring.setting
        return setting.metric.evaluator(
            DenseBank(
                base,
                latents_of(self.interface, n, self._seed(purpose, bank), part),
                setting.extractor,
                setting.reference,
                measuring.seed,
                batch_size=measuring.batch_size,
            ),
            reported,
        )

    def _seed(self, purpose: int, bank: int = 0) -> int:
        return self.measuring.seed + purpose + FRESH * bank
