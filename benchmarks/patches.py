"""Question: why do some samples of `zoo:fashion_mnist` have blown-out white or violet patches?

The data are grey clothes on black with two more black pixels around them. So a sample counts as
blown out if such a pixel is lighter than half of white, or more than 1 % of its pixels are coloured
(channels a quarter of the range apart); no image of the data is. Four questions are asked:

- Do the patches go away, and does the FD fall, with new batch-norm statistics or betas of 1? Are
  the latents of blown-out samples longer?
- Where in the network do activations leave the range that they have in other samples?
- Does the discriminator that trained the network take blown-out samples for worse ones, and how
  much gradient do they get, at the image and before the tanh that made it?
- The same after it alone was trained on, on samples of this generator, with its own and two other
  losses.

    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/patches.py           # ten minutes on one core
    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/patches.py --quick   # does it run?

An interrupted run goes on where it stopped. The FD is a Fréchet distance in EfficientNet-Lite0
features and compares with nothing published.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from nas_gan.checkpoint import build_generator, build_saved_discriminator, load_checkpoint
from nas_gan.cli import progress
from nas_gan.data.batches import ShuffledBatches, to_float
from nas_gan.data.images import Images
from nas_gan.data.loading import load_dataset
from nas_gan.files import write_json
from nas_gan.losses import AdversarialLoss, make_loss
from nas_gan.losses.kernels import gaussian, squared_distances
from nas_gan.metrics.features import make_extractor
from nas_gan.metrics.frechet import FrechetReference, PairedFid
from nas_gan.metrics.onnx_generator import onnx_images
from nas_gan.metrics.protocol import to_uint8
from nas_gan.metrics.reference import find_reference
from nas_gan.networks.activations import PMish
from nas_gan.networks.hooks import hooked, run_batches
from nas_gan.networks.latents import latent_bank
from nas_gan.networks.standing import with_standing_statistics
from nas_gan.reading import read_json
from nas_gan.zoo import local_path

RESULT = Path(__file__).parent / "results" / "patches.json"
NET, OTHER = "zoo:fashion_mnist", "zoo:adversarial_nas"
PADDING = 2  # black pixels around every image of the data
LIGHT = 0.5  # of white, in the padding
APART, COLOURED = 0.25, 0.01  # channels, in parts of the range; pixels, in parts of the image
LOSSES = ("latest", "mmd", "hinge")
OWN = "latest"
BATCH = 64
CALIBRATION_SEED, D_SEED, JUDGE_SEED = 99, 5, 6
UPPER = 10.0  # bound of the loss at step 4,000 of the run of the card
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How much is drawn and trained."""

    samples: int = 2048
    judged: int = 512
    calibrated: int = 1024
    updates: int = 40
    seed: int = 777


QUICK = Settings(samples=64, judged=128, calibrated=64, updates=2)


def blown_out(images: Tensor) -> Tensor:
    """Which of the images `(n, 3, h, w)` in [-1, 1] are blown out, `(n,)` booleans."""
    unit = images / 2 + 0.5
    inside = torch.zeros(images.shape[-2:], dtype=torch.bool)
    inside[PADDING:-PADDING, PADDING:-PADDING] = True
    light = unit.mean(dim=1)[:, ~inside].amax(dim=1) > LIGHT  # (n,)
    apart = unit.amax(dim=1) - unit.amin(dim=1) > APART  # (n, h, w)
    return light | (apart.float().mean(dim=(1, 2)) > COLOURED)


@torch.inference_mode()
def draw(generator: nn.Module, latents: Tensor) -> Tensor:
    """Images `(n, 3, h, w)`, from ONNX Runtime where it makes the same ones faster."""
    made = onnx_images(generator, latents) or generator
    return torch.cat([made(batch) for batch in latents.split(BATCH)])


def probability_above(a: Tensor, b: Tensor) -> float:
    """That a value of `a` is above one of `b`, ties halved: the area under the ROC curve."""
    above = (a[:, None] > b[None, :]).double() + 0.5 * (a[:, None] == b[None, :]).double()
    return float(above.mean())


def share(flags: Tensor) -> Row:
    """A share and its standard error."""
    p = flags.double().mean().item()
    return {"share": p, "se": (p * (1 - p) / len(flags)) ** 0.5}


def share_rise(flags: Tensor, base: Tensor) -> Row:
    """Rise of the share on the same latents, and its standard error."""
    difference = flags.double() - base.double()
    return {
        "value": difference.mean().item(),
        "se": difference.std().item() / len(difference) ** 0.5,
    }


def with_betas_of_one(generator: nn.Module) -> nn.Module:
    """A copy whose PMish is Mish."""
    copied = copy.deepcopy(generator)
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, PMish):
                module.beta.fill_(1.0)
    return copied


@torch.inference_mode()
def activation_sites(generator: nn.Module, latents: Tensor, blown: Tensor) -> Row:
    """How far the output of every layer leaves its range in blown-out samples, in forward order.

    The root mean square of an output is one number for a sample. `z` is its mean
    over blown-out ones from the mean of the others, in deviations of the others; `above` is the
    probability that it is larger in a blown-out sample than in another.
    """
    sizes: dict[str, list[Tensor]] = {}

    def keeper(name: str) -> Callable[[tuple[Any, ...], Tensor], None]:
        def keep(_: tuple[Any, ...], output: Tensor) -> None:
            sizes.setdefault(name, []).append(output.flatten(1).square().mean(dim=1).sqrt())

        return keep

    sites = [
        (module, keeper(name))
        for name, module in generator.named_modules()
        if name and not list(module.children())
    ]
    with hooked(leaving=sites):
        run_batches(generator, latents, BATCH)
    rows = []
    for name, batches in sizes.items():
        size = torch.cat(batches)
        inside, other = size[blown], size[~blown]
        rows.append(
            {
                "site": name,
                "other": other.mean().item(),
                "blown_out": inside.mean().item(),
                "z": ((inside.mean() - other.mean()) / other.std()).item(),
                "above": probability_above(inside, other),
            }
        )
    length = latents.norm(dim=1)
    return {
        "latent_length_above": probability_above(length[blown], length[~blown]),
        "before_tanh": before_tanh(generator, latents, blown),
        "layers": rows,
    }


@torch.inference_mode()
def before_tanh(generator: nn.Module, latents: Tensor, blown: Tensor) -> Row:
    """The 99.9 % quantile over pixels of what the last tanh gets, for both kinds of samples."""
    entered: list[Tensor] = []
    tanh = next(m for m in reversed(list(generator.modules())) if isinstance(m, nn.Tanh))
    with hooked(entering=[(tanh, entered.append)]):
        run_batches(generator, latents, BATCH)
    x = torch.cat(entered).numpy()
    kinds = {"blown_out": blown.numpy(), "other": ~blown.numpy()}
    return {kind: float(np.quantile(x[rows], 0.999)) for kind, rows in kinds.items()}


def suspicion(name: str, scores: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """How far a discriminator takes images with these scores for generated ones, `(n,)`.

    For an MMD it is its witness, mean kernels to generated images less those to real ones.
    """
    if name == "hinge":
        return -scores.flatten(1).mean(dim=1)
    near = [gaussian(squared_distances(scores, others)).mean(dim=1) for others in (fake, real)]
    return near[0] - near[1]


def judged(name: str, discriminator: nn.Module, real: Tensor, fake: Tensor, blown: Tensor) -> Row:
    """What a discriminator makes of blown-out samples, beside the other ones and real images."""
    loss = make_loss(name)
    discriminator.eval().requires_grad_(False)
    at_image, scores, real_scores = [], [], []
    for images, others in zip(fake.split(BATCH), real.split(BATCH), strict=True):
        pixels = images.clone().requires_grad_()
        of_real, of_fake = discriminator(others), discriminator(pixels)
        (gradient,) = torch.autograd.grad(loss.generator(of_real, of_fake), pixels)
        at_image.append(gradient)
        scores.append(of_fake.detach())
        real_scores.append(of_real)
    gradients, s, r = torch.cat(at_image), torch.cat(scores), torch.cat(real_scores)
    of_fakes, of_reals = suspicion(name, s, r, s), suspicion(name, r, r, s)
    norms = {
        "image": gradients.flatten(1).norm(dim=1),
        "before_tanh": (gradients * (1 - fake.square())).flatten(1).norm(dim=1),
    }
    return {
        "generated_above_real": probability_above(of_fakes, of_reals),
        "blown_out_above_other": probability_above(of_fakes[blown], of_fakes[~blown]),
        "gradient_ratio": {
            place: (norm[blown].median() / norm[~blown].median()).item()
            for place, norm in norms.items()
        },
    }


def train_discriminator_(
    discriminator: nn.Module, loss: AdversarialLoss, real: ShuffledBatches, fake: Tensor, steps: int
) -> None:
    """Train it in place against generated images that stay as they are."""
    discriminator.train().requires_grad_(True)
    optimizer = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.0, 0.9))
    for index in range(steps):
        rows = torch.arange(index * BATCH, (index + 1) * BATCH) % len(fake)
        images = torch.cat([real(index), fake[rows]])
        with torch.autocast("cpu", torch.bfloat16):
            scores = discriminator(images)
        of_real, of_fake = scores.float().split(BATCH)
        optimizer.zero_grad()
        loss.discriminator(of_real, of_fake, upper=UPPER).backward()
        optimizer.step()


Variant = tuple[nn.Module, Tensor]


def variants_of(settings: Settings, generator: nn.Module, n: int) -> dict[str, Variant]:
    """Networks and `n` latents by name, the generator itself first."""
    width = cast(int, generator.latent_dim)
    latents = latent_bank(n, width, settings.seed)
    calibration = latent_bank(settings.calibrated, width, CALIBRATION_SEED)
    of_one = with_betas_of_one(generator)
    return {
        "shipped": (generator, latents),
        "new_statistics": (with_standing_statistics(generator, calibration), latents),
        "betas_of_one": (of_one, latents),
        "betas_of_one_new_statistics": (with_standing_statistics(of_one, calibration), latents),
    }


def shares(settings: Settings, generator: nn.Module, data: Images) -> Row:
    """Share of blown-out samples of all variants, of the data and of the other shipped net."""
    drawn = {
        name: blown_out(draw(net, latents))
        for name, (net, latents) in variants_of(settings, generator, settings.judged).items()
    }
    first = next(iter(drawn.values()))
    rows: Row = {
        name: {**share(flags), "rise": share_rise(flags, first)} for name, flags in drawn.items()
    }
    other = build_generator(load_checkpoint(local_path(Path(OTHER)))).eval()
    latents = latent_bank(settings.judged, cast(int, other.latent_dim), JUDGE_SEED)
    rows[OTHER] = share(blown_out(draw(other, latents)))
    rows["data"] = share(blown_out(to_float(data[torch.arange(settings.samples)])))
    return rows


def distances(settings: Settings, generator: nn.Module) -> Row:
    """Rise of the FD of all variants over the generator itself."""
    extractor = make_extractor("efficientnet-lite0", threads=torch.get_num_threads())
    statistics, source = find_reference(
        "auto",
        extractor,
        dataset="fashion_mnist",
        data_sha256=load_checkpoint(local_path(Path(NET))).provenance["data_sha256"],
        resolution=32,
    )
    variants = variants_of(settings, generator, settings.samples)
    features = {}
    with progress("variants", len(variants)) as advance:
        for name, (net, latents) in variants.items():
            pixels = to_uint8(draw(net, latents))
            features[name] = np.concatenate([extractor(batch) for batch in pixels.split(BATCH)])
            advance(1)
    first, *others = features
    paired = PairedFid(FrechetReference(statistics), features[first])
    rows: Row = {first: {"fid_in_limit": paired.fid_dense}}
    for name in others:
        rise = paired.compare(features[name])
        rows[name] = {"rise": rise.delta, "low": rise.ci_low, "high": rise.ci_high}
    return {"reference": source, "extractor": extractor.name, "rows": rows}


def judgements(settings: Settings, generator: nn.Module, shipped: nn.Module, data: Images) -> Row:
    """What the discriminator makes of samples: as shipped, and trained on with each loss."""
    width = cast(int, generator.latent_dim)
    fake, seen = (
        draw(generator, latent_bank(settings.judged, width, seed)) for seed in (JUDGE_SEED, D_SEED)
    )
    blown = blown_out(fake)
    real = to_float(data[torch.arange(settings.judged)])
    batches = ShuffledBatches(data, BATCH, D_SEED)
    rows: Row = {"shipped": judged(OWN, copy.deepcopy(shipped), real, fake, blown)}
    with progress("discriminators", len(LOSSES)) as advance:
        for name in LOSSES:
            discriminator = copy.deepcopy(shipped)
            train_discriminator_(discriminator, make_loss(name), batches, seen, settings.updates)
            rows[name] = judged(name, discriminator, real, fake, blown)
            advance(1)
    return {"blown_out": share(blown), "updates": settings.updates, "rows": rows}


def questions(settings: Settings) -> dict[str, Callable[[], Row]]:
    """The parts of the result, cheap ones first."""
    checkpoint = load_checkpoint(local_path(Path(NET)))
    generator = build_generator(checkpoint).eval()
    discriminator = build_saved_discriminator(checkpoint)
    assert discriminator is not None
    data = load_dataset("fashion_mnist", size=32)
    latents = latent_bank(settings.judged, cast(int, generator.latent_dim), JUDGE_SEED)
    return {
        "sites": lambda: activation_sites(generator, latents, blown_out(draw(generator, latents))),
        "shares": lambda: shares(settings, generator, data),
        "judgements": lambda: judgements(settings, generator, discriminator, data),
        "distances": lambda: distances(settings, generator),
    }


def answer(questions: dict[str, Callable[[], Row]], head: Row, path: Path) -> Row:
    """Measure what the file does not hold yet, and write it after each part.

    Raises:
        SystemExit: The file holds parts with other settings.
    """
    result: Row = {**head, "seconds": {}}
    if path.exists():
        found = dict(read_json(path))
        if found["settings"] != head["settings"]:
            raise SystemExit(f"{path}: measured with other settings; remove it, or choose --out")
        result = found
    for part, measure in questions.items():
        if part in result:
            continue
        wall, processor = time.perf_counter(), time.process_time()
        result[part] = measure()
        result["seconds"][part] = {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
        }
        write_json(path, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few samples and updates")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = QUICK if options.quick else Settings()
    out = options.out or (Path("runs/patches_quick.json") if options.quick else RESULT)
    out.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "torch": str(torch.__version__),
        "settings": asdict(settings),
    }
    result = answer(questions(settings), head, out)
    sys.stdout.write(f"{json.dumps(result, indent=1)}\n")


if __name__ == "__main__":
    main()
