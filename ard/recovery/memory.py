"""What recoveries of a run have in common: images of the dense generator, and known scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable

from torch import Tensor, nn

from nas_gan.networks.memory import bytes_to_keep
from nas_gan.training.draws import Batch

# The most memory for images. Of 32 x 32 pixels these are 1,300 batches of 16.
MAX_BYTES = 2**28


class RememberedImages:
    """Images by a key that determines them, made once; once the memory is full, each time.

    The latents of an update depend on a seed and the update's index alone, so that every recovery
    of a run asks for the same images of the dense generator.

    Args:
        max_bytes: the most memory for them; less where memory is short.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.left = bytes_to_keep(max_bytes)
        self.known: dict[Hashable, Tensor] = {}

    def __call__(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The images of this key; `make()` makes them."""
        if (known := self.known.get(key)) is not None:
            return known
        images = make()
        if images.nbytes <= self.left:
            self.left -= images.nbytes
            self.known[key] = images
        return images


def remembered_batches(
    batches: Callable[[int], Batch], images: RememberedImages
) -> Callable[[int], Batch]:
    """Batches of images without labels that are made once; with labels they stay as they are."""

    def batch(index: int) -> Batch:
        if (known := images.known.get(("real", index))) is not None:
            return known
        made = batches(index)
        return images(("real", index), lambda: made) if isinstance(made, Tensor) else made

    return batch


class RememberedScores:
    """A score that looks at the same weights once.

    Fine-tuning starts from the network that distillation has just scored and chosen.
    """

    def __init__(self, score: Callable[[nn.Module], float]) -> None:
        self.score = score
        self.known: dict[str, float] = {}

    def __call__(self, network: nn.Module) -> float:
        """The score of a network."""
        key = _digest(network)
        if key not in self.known:
            self.known[key] = self.score(network)
        return self.known[key]


def _digest(network: nn.Module) -> str:
    """A digest of the modules' classes and of all weights and buffers."""
    digest = hashlib.sha256(str(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().numpy().tobytes())
    return digest.hexdigest()
