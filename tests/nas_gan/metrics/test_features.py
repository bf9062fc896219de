from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.features import EfficientNetLite0, make_extractor
from nas_gan.metrics.inception import INCEPTION_FILE, InceptionV3, inception_cache
from nas_gan.metrics.protocol import CLEAN


def random_images(n: int, size: int = 32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=rng)


@pytest.fixture(scope="module")
def efficientnet() -> EfficientNetLite0:
    return EfficientNetLite0(64, threads=1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub of our own; returns where the Inception weights would be."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / INCEPTION_FILE


@pytest.mark.weights
@pytest.mark.onnx
def test_onnx_runtime_and_torch_give_the_same_efficientnet_features(
    efficientnet: EfficientNetLite0,
):
    images = random_images(3)
    features = efficientnet(images)
    with torch.inference_mode():
        expected = efficientnet._network(images).numpy()
    assert features.shape == (3, efficientnet.dim)
    np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.weights
@pytest.mark.onnx
def test_an_extractor_that_was_used_travels_to_a_worker(efficientnet: EfficientNetLite0):
    images = random_images(2)
    here = efficientnet(images)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(efficientnet))(images), here)


@pytest.mark.weights
@pytest.mark.onnx
def test_efficientnet_features_do_not_depend_on_the_batch(efficientnet: EfficientNetLite0):
    images = random_images(11, size=40)
    rows = np.concatenate([efficientnet(image[None]) for image in images])
    np.testing.assert_allclose(efficientnet(images.numpy()), rows, atol=1e-4)


@pytest.mark.weights
@pytest.mark.onnx
def test_the_efficientnet_weights_recognise_a_military_uniform():
    # The photograph that comes with matplotlib shows Grace Hopper in one: ImageNet class 652.
    matplotlib = pytest.importorskip("matplotlib")
    image_module = pytest.importorskip("PIL.Image")
    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not file.is_file():
        pytest.skip("this matplotlib comes without its sample photograph")
    with image_module.open(file) as photograph:
        pixels = np.array(photograph.convert("RGB").resize((224, 224)))
    extractor = EfficientNetLite0(224, threads=1)
    features = torch.from_numpy(extractor(pixels.transpose(2, 0, 1)[None]))
    assert extractor.logits(features.numpy()).argmax() == 652


def test_features_are_taken_of_bytes_only(efficientnet: EfficientNetLite0):
    with pytest.raises(InvalidValueError, match=r"torch\.float32"):
        efficientnet(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InvalidValueError, match=r"\(1, 1, 8, 8\)"):
        efficientnet(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InvalidValueError, match=r"^size must be at least 32.* got 16"):
        EfficientNetLite0(16)


def test_inception_features_are_those_of_pytorch_fid(hub: Path):
    inception = pytest.importorskip("pytorch_fid.inception")
    # Random weights in the file that pytorch-fid would otherwise download.
    torch.manual_seed(0)
    parts = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, block in {
        "Mixed_5b": inception.FIDInceptionA(192, pool_features=32),
        "Mixed_5c": inception.FIDInceptionA(256, pool_features=64),
        "Mixed_5d": inception.FIDInceptionA(288, pool_features=64),
        "Mixed_6b": inception.FIDInceptionC(768, channels_7x7=128),
        "Mixed_6c": inception.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6d": inception.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6e": inception.FIDInceptionC(768, channels_7x7=192),
        "Mixed_7b": inception.FIDInceptionE_1(1280),
        "Mixed_7c": inception.FIDInceptionE_2(2048),
    }.items():
        setattr(parts, name, block)
    for module in parts.modules():  # keeps the scale of what goes through, so that errors show
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(parts.state_dict(), hub)
    theirs = inception.InceptionV3().eval()
    images = random_images(1)
    with torch.no_grad():
        expected = theirs(images.float() / 255)[0].flatten(1).numpy()
    ours = make_extractor("auto", inception_weights=hub)
    assert (ours.name, ours.dim, ours.comparable) == ("inception-v3", 2048, True)
    features = ours(images)
    # Another order of a hundred layers' sums, in float32.
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4 * expected.max())
    logits = features @ parts.fc.weight.detach().numpy().T  # the Inception score has no bias
    np.testing.assert_allclose(ours.logits(features), logits, rtol=1e-5, atol=1e-4)
    clean = InceptionV3(hub, protocol=CLEAN)
    with torch.inference_mode():
        unresized = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)
        there = clean._network((unresized.float() - 128) / 128).flatten(1).numpy()
    assert clean.name == "inception-v3:clean"
    np.testing.assert_allclose(clean(unresized), there, rtol=1e-3, atol=1e-4 * there.max())


def test_auto_takes_efficientnet_where_inception_is_not_on_disk(hub: Path):
    extractor = make_extractor("auto")
    assert inception_cache() == hub
    assert (extractor.name, extractor.comparable) == ("efficientnet-lite0@96", False)


def test_unusable_inception_weights_are_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"^inception_weights must be .*: no such file"):
        InceptionV3(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(MissingDataError, match="damaged or not a PyTorch file"):
        InceptionV3(tmp_path / "text.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(MissingDataError, match="do not fit"):
        InceptionV3(tmp_path / "other.pth")


def test_a_failed_download_names_the_setting(hub: Path, monkeypatch: pytest.MonkeyPatch):
    inception = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(inception, "FID_WEIGHTS_URL", (hub.parent / "none.pth").as_uri())
    with pytest.raises(MissingDataError, match=r"^inception_weights must be given"):
        make_extractor("inception")


def test_an_unknown_extractor_is_refused():
    with pytest.raises(InvalidValueError, match="got 'clip'"):
        make_extractor("clip")  # type: ignore[arg-type]
