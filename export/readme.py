"""The README of a bundle."""

from __future__ import annotations

from export import build_engine
from export.interface import IMAGES, LABELS, LATENTS
from export.manifest import Manifest

WORKSPACE_MIB = 512


def readme(manifest: Manifest) -> str:
    """What a reader of the bundle needs to know, as Markdown."""
    data = manifest.to_dict()
    batch = manifest.batch
    line = build_engine.trtexec_line(data, (batch.min, batch.opt, batch.max), WORKSPACE_MIB)
    shape = ", ".join(str(size) for size in manifest.outputs[0].shape[1:])
    loaded = ", ".join(f'"{spec.name}": numpy.load("{spec.name}.npy")' for spec in manifest.inputs)
    engines = "".join(
        f"- `{engine.file}`: compute capability {engine.compute_capability}; it loads only in "
        f"{engine.tool}\n"
        for engine in manifest.engines
    )
    ahead = f"\n## Engines built ahead of time\n\n{engines}" if engines else ""
    inside = (
        f"`{manifest.dense}/` is a bundle like this one: the generator before compression.\n"
        if manifest.dense
        else ""
    )
    labels = (
        f"""
It is conditional: `{LABELS}` (batch), int64, says which class each image is to be of, 0 to
{manifest.n_classes - 1}. `{LABELS}.npy` holds the labels of `{LATENTS}.npy`.

"""
        if manifest.n_classes
        else ""
    )
    bank = f"`{LATENTS}.npy` holds {manifest.latents['samples']}"
    return f"""# {manifest.name}: a generator, {manifest.precision}

`{manifest.onnx}` maps `{LATENTS}` (batch, {manifest.inputs[0].shape[1]}), standard normal, to
`{IMAGES}` (batch, {shape}) in [-1, 1]. Both are float32, the batch is free; opset {manifest.opset}.
{labels}`manifest.json` lists every file with its hash. {bank}
latents to try it with:
{inside}
```python
import numpy, onnxruntime

session = onnxruntime.InferenceSession("{manifest.onnx}", providers=["CPUExecutionProvider"])
[images] = session.run(["{IMAGES}"], {{{loaded}}})
```

## On a Jetson

Copy this folder to the device and build there; an engine fits one TensorRT and one kind of GPU.

```sh
python3 build_engine.py            # --help: workspace, batch sizes, --dry-run
```

It checks the files and the free memory, writes `{manifest.name}.engine` and `engine.json`, and does
nothing when both are there and fit. The same by NVIDIA's tool, which JetPack puts into
`/usr/src/tensorrt/bin`:

```sh
{line}
```

Precision is in the graph. Do not add `--fp16`: it contradicts `--stronglyTyped`. From TensorRT 11
on every network is strongly typed and the flag may be left out.
{ahead}"""
