"""The published sweep of one CIFAR-10 generator, 70 rows, and the five rank vectors from it."""

from __future__ import annotations

from ard.layers import LayerProfile
from ard.plan import Factorization

FID_DENSE = 4.97
CONV_RANKS = (128, 256, 512, 768)
FC_RANKS = (2, 4, 8, 16, 32, 40)
# number, kernel size, output side, FID at each of CONV_RANKS
CONVOLUTIONS = (
    ("1", 3, 8, (4.97, 5.06, 5.02, 5.04)),
    ("2", 5, 8, (4.96, 5.05, 5.02, 4.98)),
    ("3", 5, 8, (5.83, 5.21, 5.04, 4.95)),
    ("4", 5, 8, (4.96, 5.07, 5.03, 4.98)),
    ("5", 5, 16, (6.20, 5.54, 5.35, 5.21)),
    ("6", 3, 16, (4.95, 5.03, 5.01, 5.04)),
    ("7", 3, 16, (4.95, 5.01, 5.00, 5.00)),
    ("8", 3, 16, (5.44, 5.22, 5.13, 5.15)),
    ("9", 5, 32, (6.58, 5.82, 5.32, 5.24)),
    ("10", 3, 32, (5.27, 5.14, 5.07, 5.09)),
    ("11", 5, 32, (5.18, 5.18, 5.08, 5.00)),
    ("12", 5, 32, (5.18, 5.18, 5.11, 5.05)),
    ("13", 5, 32, (16.10, 9.48, 6.41, 5.55)),
)
# name, outputs, FID at each of FC_RANKS
LINEARS: tuple[tuple[str, int, tuple[float, ...]], ...] = (
    ("l1", 4096, (126.79, 65.87, 36.40, 26.31, 21.90, 21.14)),
    ("l2", 16384, (5.01, 5.05, 5.00, 5.05, 4.95, 4.96)),
    ("l3", 65536, (5.06, 5.05, 5.00, 5.07, 5.06, 4.99)),
)
LAYERS = (
    *(LayerProfile(n, "conv2d", (256, 256, k, k), positions=s * s) for n, k, s, _ in CONVOLUTIONS),
    *(LayerProfile(n, "linear", (c_out, 40)) for n, c_out, _ in LINEARS),
)
# What lies outside of LAYERS, which no plan changes.
FIXED_PARAMS = 20_185_879 - sum(layer.params() for layer in LAYERS)

FIDS: list[tuple[float, ...]] = [row[-1] for row in CONVOLUTIONS] + [row[-1] for row in LINEARS]
# layer, the factorization that was scored, FID
SCORES: tuple[tuple[LayerProfile, Factorization, float], ...] = tuple(
    (layer, Factorization("cp" if layer.kind == "conv2d" else "svd", (rank,)), fid)
    for layer, fids in zip(LAYERS, FIDS, strict=True)
    for rank, fid in zip(CONV_RANKS if layer.kind == "conv2d" else FC_RANKS, fids, strict=True)
)
# Penalty -> rank of layers 1 to 13, l1, l2, l3, None being dense. The published table has 2 for l3
# at 1/15 and 1/20, where the published formula and scores give 8.
VECTORS: dict[float, tuple[int | None, ...]] = {
    1.0: (128, 128, 256, 128, 256, 128, 128, 128, 512, 128, 128, 128, 768, None, 2, 2),
    1 / 5: (128, 128, 768, 128, 768, 128, 128, 256, 512, 256, 128, 128, 768, None, 2, 2),
    1 / 10: (128, 128, 768, 128, 768, 128, 128, 256, 768, 256, 768, 768, None, None, 2, 2),
    1 / 15: (128, 128, 768, 128, 768, 128, 128, 512, None, 256, 768, 768, None, None, 2, 8),
    1 / 20: (128, 128, 768, 128, None, 128, 128, None, None, 512, 768, 768, None, None, 2, 8),
}
# Penalty -> parameters of the whole generator, with rank 2 for l3 throughout.
SIZES = {1.0: 2_550_967, 1 / 5: 3_218_103, 1 / 10: 5_257_399, 1 / 15: 6_627_511, 1 / 20: 8_322_231}
