import numpy as np
import torch
from tiny import PixelFeatures, SmallNet

from ard.measuring.bank import DenseBank, Reference
from nas_gan.networks.latents import latent_bank


class Counting(PixelFeatures):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return super().__call__(images)


def test_the_first_part_of_a_bank_has_its_features_without_drawing_them_again():
    extractor = Counting()
    bank = DenseBank(
        SmallNet(), latent_bank(20, 8, seed=0), extractor, Reference("", None, False), 3
    )
    unseen = bank.first(5)
    assert np.array_equal(unseen.features, bank.features[:5])
    assert extractor.seen == 5 + 20
    part = bank.first(7)
    assert np.array_equal(part.features, bank.features[:7])
    assert torch.equal(part.latents, bank.latents[:7])
    assert (part.seed, part.generator, extractor.seen) == (3, bank.generator, 25)
