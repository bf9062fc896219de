import os
import resource
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas_gan.checkpoint import (
    Checkpoint,
    build_generator,
    build_saved_discriminator,
    load_checkpoint,
    save_checkpoint,
)
from nas_gan.errors import CheckpointError
from nas_gan.networks.genotype import MMD_NAS, Genotype
from nas_gan.networks.searched import DiscriminatorConfig, build_discriminator
from nas_gan.networks.structure import layer_spec

SUFFIXES = (".pt", ".safetensors")


@pytest.fixture
def checkpoint(tiny_generator, rng):
    discriminator = build_discriminator(DiscriminatorConfig(df_dim=8, n_classes=0), rng=rng)
    return Checkpoint(
        architecture={"kind": "mmd-nas", **tiny_generator.config.to_dict()},
        generator=tiny_generator.state_dict(),
        discriminator=discriminator.state_dict(),
        discriminator_config={"df_dim": 8},
        provenance={"dataset": "synthetic", "resolution": 32, "steps": 3},
    )


@pytest.fixture
def small():
    return Checkpoint({"kind": "external"}, {"weight": torch.eye(2), "bias": torch.zeros(2)})


class Affine(nn.Linear):
    """A generator of somebody else's, 2 latents to 2 numbers."""

    latent_dim = 2

    def __init__(self):
        super().__init__(2, 2)


def images(generator, rng, n=3):
    with torch.no_grad():
        return generator(torch.randn(n, generator.latent_dim, generator=rng))


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_checkpoint_survives_its_file(checkpoint, tiny_generator, rng, suffix, tmp_path):
    path = tmp_path / f"ckpt{suffix}"
    save_checkpoint(checkpoint, path)
    loaded = load_checkpoint(path)
    assert loaded.provenance == checkpoint.provenance
    for name in ("generator", "discriminator"):
        before, after = getattr(checkpoint, name), getattr(loaded, name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    rebuilt: Any = build_generator(loaded)
    assert not rebuilt.training
    assert (rebuilt.latent_dim, rebuilt.image_shape) == (120, (3, 32, 32))
    z = torch.randn(3, 120, generator=rng)
    with torch.no_grad():
        assert torch.equal(rebuilt(z), tiny_generator(z))


def test_the_native_file_is_plain_data(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert content["format"] == "ard-gan checkpoint 1"
    assert content["architecture"]["genotype"]["table"] == "mmd-nas"


def test_the_discriminator_comes_back_with_its_scores(checkpoint, tmp_path, rng):
    save_checkpoint(checkpoint, tmp_path / "ckpt.pt")
    loaded = load_checkpoint(tmp_path / "ckpt.pt")
    x = torch.randn(2, 3, 32, 32, generator=rng)
    first, second = build_saved_discriminator(checkpoint), build_saved_discriminator(loaded)
    assert first is not None
    assert second is not None
    assert torch.equal(first(x), second(x))
    assert build_saved_discriminator(replace(loaded, discriminator=None)) is None


@pytest.mark.parametrize("changes", [{"df_dim": 16}, {"df_dim": 8, "depth": 3}, {"df_dim": 0}])
def test_a_discriminator_that_does_not_fit_is_refused(checkpoint, changes):
    with pytest.raises(CheckpointError):
        build_saved_discriminator(replace(checkpoint, discriminator_config=changes))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_any_precision_load_as_float32(checkpoint, suffix, dtype, tmp_path):
    def cast(state):
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}

    stored = replace(
        checkpoint,
        generator=cast(checkpoint.generator),
        discriminator=cast(checkpoint.discriminator),
    )
    save_checkpoint(stored, tmp_path / f"a{suffix}")
    loaded = load_checkpoint(tmp_path / f"a{suffix}")
    assert loaded.discriminator is not None
    tensors = (*loaded.generator.values(), *loaded.discriminator.values())
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float32}
    assert torch.equal(
        loaded.generator["l1.weight"], checkpoint.generator["l1.weight"].to(dtype).float()
    )
    assert build_generator(loaded).get_parameter("l1.weight").dtype == torch.float32


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_compressed_generator_is_rebuilt_from_its_structure(
    checkpoint, tiny_generator, rng, suffix, tmp_path
):
    factors = nn.Sequential(nn.Conv2d(8, 3, 1, bias=False), nn.Conv2d(3, 8, 5, padding=2))
    name = "cell3.c4.ops.0.op.1"
    tiny_generator.cell3.c4.ops[0].op[1] = factors
    compressed = replace(
        checkpoint,
        generator=tiny_generator.state_dict(),
        structure={name: [layer_spec(layer) for layer in factors]},
    )
    save_checkpoint(compressed, tmp_path / f"a{suffix}")
    rebuilt = build_generator(load_checkpoint(tmp_path / f"a{suffix}"))
    assert repr(rebuilt.get_submodule(name)) == repr(factors)
    z = torch.randn(2, 120, generator=rng)
    with torch.no_grad():
        assert torch.equal(rebuilt(z), tiny_generator(z))


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_holds_code_does_not_run(tmp_path, zipped):
    ran, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"weight": Payload(ran)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "objects that could run code, and is not loaded")
    assert not ran.exists()


def test_a_path_that_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    refused(tmp_path / "none.pt", "no such file")
    refused(tmp_path, "is a directory")
    for suffix in SUFFIXES:
        (tmp_path / f"empty{suffix}").touch()
        refused(tmp_path / f"empty{suffix}", "is empty")
        (tmp_path / f"text{suffix}").write_text("These are not weights.\n" * 99)
        refused(tmp_path / f"text{suffix}", "damaged or not a")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_short_anywhere_is_refused(small, tmp_path, kind):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    save_checkpoint(small, path)
    if kind == "legacy":
        torch.save(small.generator, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for keep in sorted({*range(1, 64, 7), *range(64, len(whole), 53), len(whole) - 1}):
        path.write_bytes(whole[:keep])
        # Cut inside the name of a class, a file asks for one that torch does not allow.
        refused(path, "damaged|cut short|could run code")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_with_a_wrong_byte_loads_or_is_refused(small, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(small, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017 - not every wrong byte is an error


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("part", "name"),
    [("generator", "cell2.c0.ops.0.op.1.weight"), ("discriminator", "linear.parametrizations")],
)
def test_weights_that_are_not_finite_are_refused_by_name(
    checkpoint, value, suffix, part, name, tmp_path
):
    state = {k: v.clone() for k, v in getattr(checkpoint, part).items()}
    tensor = next(t for k, t in state.items() if k.startswith(name))
    tensor.view(-1)[3] = value
    save_checkpoint(replace(checkpoint, **{part: state}), tmp_path / f"a{suffix}")
    refused(tmp_path / f"a{suffix}", f"{name}.* has 1 NaN or infinite values of {tensor.numel()}")


TO_RGB = {"to_rgb.0.weight": torch.ones(4), "to_rgb.2.weight": torch.eye(2)}


@pytest.mark.parametrize(
    "content",
    [
        torch.eye(2),
        [1, 2],
        {},
        {"weight": "text"},
        {1: torch.eye(2)},
        {"gen_state_dict": {"weight": 3}},
        {"avg_gen_state_dict": {}},
        {"format": "ard-gan checkpoint 1"},
        TO_RGB | {"l1.weight": torch.eye(2), "to_rgb.0.weight": torch.ones(0)},
        TO_RGB | {"l1.weight": torch.ones(2)},
        TO_RGB | {"l1.weight": torch.eye(2)},
    ],
)
def test_content_that_is_no_checkpoint_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "not a|neither|incomplete|shapes are not")


@pytest.mark.parametrize(
    "changes",
    [{"generator": None}, {"generator": {"a": 1}}, {"discriminator": [1]}, {"structure": None},
     {"architecture": "mmd-nas"}, {"provenance": 7}],
)  # fmt: skip
def test_native_fields_of_a_wrong_type_are_refused(checkpoint, changes, tmp_path):
    content = {"format": "ard-gan checkpoint 1", **vars(checkpoint), **changes}
    torch.save(content, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "should be a dict|neither")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gf_dim": 16}, r"l1\.weight is \(128, 40\), the network needs \(256, 40\).* more\)"),
        ({"bottom_width": 6}, r"l1\.weight is"),
        ({"latent_parts": 2}, r"l3\.weight is not in the network"),
        ({"activation": "relu"}, r"beta is not in the network"),
        ({"activation": "gelu"}, "cannot be built: activation 'gelu'"),
        ({"gf_dim": 0}, "cannot be built: gf_dim must be at least 1"),
        ({"gf_dim": "8"}, "cannot be built"),
        ({"genotype": {"rows": [[1]], "table": "mmd-nas"}}, "cannot be built: a genotype is 3 x 7"),
        ({"genotype": None}, "cannot be built"),
        ({"channels": 3}, "cannot be built"),
        ({"kind": "dcgan"}, "cannot be built: option of the dcgan generator 'genotype'"),
        ({"kind": None}, "model must say how to build the network, as package.module:build"),
    ],
)
def test_an_architecture_that_the_weights_do_not_fit_is_refused(checkpoint, changes, message):
    broken = replace(checkpoint, architecture=checkpoint.architecture | changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        build_generator(broken)
    assert "\n" not in str(caught.value)


def test_a_missing_weight_is_named(checkpoint):
    del checkpoint.generator["cell1.c0.ops.0.op.1.bias"]
    with pytest.raises(CheckpointError, match=r"cell1\.c0\.ops\.0\.op\.1\.bias is missing"):
        build_generator(checkpoint)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"cell9.c0": []}, "no layer 'cell9.c0'"),
        ({"l1": [{"type": "Module"}]}, "l1: a layer of the compressed structure"),
        ({"l1": [{"type": "Linear", "in_features": 40, "out_features": 2, "bias": True}]}, "l1"),
    ],
)
def test_a_structure_that_does_not_fit_names_the_layer(checkpoint, structure, message):
    with pytest.raises(CheckpointError, match=message):
        build_generator(replace(checkpoint, structure=structure))


# The published files. Their averaged weights are what counts; the raw ones are something else.


def published_file(path, averaged):
    raw = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    content = {"epoch": 385, "model": "arch_cifar10", "best_fid": np.float64(4.97)}
    weights = {"gen_state_dict": raw, "dis_state_dict": {}, "avg_gen_state_dict": averaged}
    torch.save({**content, **weights}, path)
    return path


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(("parts", "width"), [(3, 4), (2, 4), (2, 6)])
def test_a_published_checkpoint_gives_the_published_images(
    parts, width, shape, published_state, published_images, rng, tmp_path
):
    state = published_state(parts, width)
    stored = {k: v.reshape(shape) if k.endswith("beta") else v for k, v in state.items()}
    loaded = load_checkpoint(published_file(tmp_path / "checkpoint_best.pth", stored))
    generator = build_generator(loaded)
    assert generator.image_shape == (3, 8 * width, 8 * width)
    assert loaded.provenance == {
        "source": "checkpoint_best.pth", "averaged": True, "epoch": 385.0, "best_fid": 4.97,
    }  # fmt: skip
    z = torch.randn(4, 120, generator=rng)
    with torch.no_grad():
        # Float32 on both sides; only the order of sums and the form of the softplus differ.
        torch.testing.assert_close(generator(z), published_images(state, z), atol=1e-5, rtol=0)


def test_an_input_layer_that_the_published_net_never_used_is_dropped(
    published_state, published_images, rng, tmp_path
):
    state = published_state(2)
    unused = {"module.l3.weight": torch.ones(16 * 16 * 8, 60), "module.l3.bias": torch.ones(2048)}
    path = published_file(tmp_path / "cifar100.pth", state | unused)
    generator = build_generator(load_checkpoint(path))
    z = torch.randn(2, 120, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(generator(z), published_images(state, z), atol=1e-5, rtol=0)


def test_without_an_average_the_raw_weights_are_taken(published_state, tmp_path):
    state = published_state()
    torch.save({"gen_state_dict": state}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert loaded.provenance["averaged"] is False
    assert torch.equal(loaded.generator["l2.bias"], state["module.l2.bias"])


def test_the_genotype_of_a_published_checkpoint_may_come_from_its_npy(published_state, tmp_path):
    np.save(tmp_path / "latest_G.npy", np.array(MMD_NAS.rows, np.uint8))
    path = published_file(tmp_path / "a.pth", published_state())
    genotype = Genotype.from_npy(tmp_path / "latest_G.npy")
    assert load_checkpoint(path, genotype=genotype).architecture["genotype"]["rows"] == MMD_NAS.rows
    other = Genotype(((0, 1, 3, 4, 6, 4, 2), *MMD_NAS.rows[1:]))
    with pytest.raises(CheckpointError, match=r"cell1\.c4\.ops\.0\.op.* is missing"):
        build_generator(load_checkpoint(path, genotype=other))


def test_a_published_relu_net_has_no_learned_activations(published_state, tmp_path):
    state = {k: v for k, v in published_state().items() if not k.endswith("beta")}
    path = published_file(tmp_path / "a.pth", state)
    assert load_checkpoint(path).architecture["activation"] == "relu"
    generator = build_generator(load_checkpoint(path, activation="mish"))
    assert isinstance(generator.get_submodule("to_rgb.1"), nn.Mish)


# State dicts of anybody's generator.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bare_state_dict_fills_the_network_of_its_builder(suffix, tmp_path):
    state = {"weight": torch.tensor([[2.0, 0.0], [0.0, 3.0]]).half(), "bias": torch.ones(2)}
    if suffix == ".pt":
        torch.save(state, tmp_path / "a.pt")
    else:
        pytest.importorskip("safetensors").torch.save_file(state, tmp_path / "a.safetensors")
    loaded = load_checkpoint(tmp_path / f"a{suffix}")
    assert loaded.architecture == {"kind": "external"}
    generator = build_generator(loaded, Affine)
    assert generator(torch.ones(1, 2)).tolist() == [[3, 4]]
    with pytest.raises(CheckpointError, match=r"model must say how .* package\.module:build"):
        build_generator(loaded)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(small, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(small, path)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond 20 kB: the write fails halfway, as on a disk that fills up.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(replace(small, generator={"w": torch.randn(100, 100)}), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# -- bits that flipped, and files that declare more than they hold


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bit_that_flipped_in_a_file_of_ours_never_changes_a_weight(small, suffix, tmp_path):
    """A flip is found, or hits what is not read, as the padding of an archive."""
    path = tmp_path / f"a{suffix}"
    save_checkpoint(small, path)
    whole = path.read_bytes()
    found = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            found += 1
            continue
        assert loaded.architecture == small.architecture
        assert all(torch.equal(loaded.generator[n], t) for n, t in small.generator.items())
    assert found > 20


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flip_in_the_values_is_said_to_be_one(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(Checkpoint({"kind": "external"}, {"w": torch.full((50, 50), 1.0)}), path)
    whole = path.read_bytes()
    place = whole.index(b"\x00\x00\x80\x3f" * 8) + 40
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(path, "its content is not what was written")


def test_a_file_of_ours_without_a_digest_loads_as_before(small, tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(small, path)
    content = torch.load(path, weights_only=True)
    del content["content_sha256"]
    torch.save(content, path)
    assert torch.equal(load_checkpoint(path).generator["weight"], torch.eye(2))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**33),
        torch.zeros(1, dtype=torch.float16).expand(2**20, 2**13),
    ],
    ids=["expanded", "half"],
)
def test_a_tensor_that_declares_more_than_its_file_holds_is_refused_unread(tensor, tmp_path):
    torch.save({"a.weight": tensor}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"declare [0-9,]+ bytes and the file has")


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_sparse_tensor_of_any_shape_is_refused_before_it_is_filled(tmp_path):
    tensor = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2**33,))
    torch.save({"a.weight": tensor}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"declare [0-9,]+ bytes and the file has")


def test_a_few_values_that_are_repeated_load_as_before(tmp_path):
    torch.save({"a.weight": torch.ones(1).expand(64, 3)}, tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").generator["a.weight"].shape == (64, 3)


def test_complex_weights_and_whole_ones_for_real_ones_are_refused(tmp_path):
    state = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    torch.save(state | {"weight": torch.eye(2, dtype=torch.complex64)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "weight holds complex numbers")
    torch.save(state | {"weight": torch.eye(2, dtype=torch.int64)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="weight holds int64, the network needs float32"):
        build_generator(load_checkpoint(tmp_path / "b.pt"), Affine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gf_dim": 1_000_000}, "gf_dim is 1000000; sizes are at most"),
        ({"gf_dim": 60_000}, "more than 67,108,864 parameters"),
        ({"gf_dim": True}, "gf_dim .* is a whole number"),
        ({"latent_dim": 1.5}, "latent_dim .* is a whole number"),
        ({"gf_dim": 10**300}, "sizes are at most"),
    ],
)
def test_an_architecture_beyond_the_limits_is_not_built(checkpoint, change, message):
    described = replace(checkpoint, architecture={**checkpoint.architecture, **change})
    with pytest.raises(CheckpointError, match=message):
        build_generator(described)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"type": "Identity"}] * 100_000, "over 10,000 layers"),
        ([{"type": "Linear", "in_features": 10**5, "out_features": 10**5}], "parameters"),
        ([{"type": "Linear", "in_features": 2**40, "out_features": 2**40}], "l1: Linear"),
        ("Linear", "a list of plain layers"),
    ],
)
def test_a_structure_beyond_the_limits_is_not_built(checkpoint, layers, message):
    with pytest.raises(CheckpointError, match=message):
        build_generator(replace(checkpoint, structure={"l1": layers}))


@pytest.mark.parametrize(
    "provenance", [{"dataset": 5}, {"resolution": "32"}, {"resolution": True}, {"loss": []}]
)
def test_a_provenance_of_another_kind_is_refused(small, provenance, tmp_path):
    save_checkpoint(replace(small, provenance=provenance), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", f"provenance {next(iter(provenance))}")
