"""The README of a bundle."""

from __future__ import annotations

from export import build_engine
from export.engines import ANY
from export.manifest import Engine, Manifest, TensorSpec

WORKSPACE_MIB = 512


def readme(manifest: Manifest) -> str:
    """What a user of the bundle needs to know, as Markdown."""
    data = manifest.to_dict()
    batch = manifest.batch
    line = build_engine.trtexec_line(data, (batch.min, batch.opt, batch.max), WORKSPACE_MIB)
    images = manifest.outputs[0].name
    shape = ", ".join(str(size) for size in manifest.outputs[0].shape[1:])
    loaded = ", ".join(f'"{spec.name}": numpy.load("{spec.name}.npy")' for spec in manifest.inputs)
    engines = "".join(f"- {_engine(engine)}\n" for engine in manifest.engines)
    ahead = f"\n## Built ahead of time\n\n{engines}" if engines else ""
    inside = (
        f"`{manifest.dense}/` is a bundle of the generator before compression.\n"
        if manifest.dense
        else ""
    )
    first, *labels = manifest.inputs
    about_labels = (
        f"""
It is conditional: {_described(labels[0])} gives the class of each image, 0 to
{manifest.n_classes - 1}. `{labels[0].name}.npy` holds the labels that belong to `{first.name}.npy`.

"""
        if labels
        else ""
    )
    low, high = manifest.image_range
    return f"""# {manifest.name}: a generator, {manifest.precision}

`{manifest.onnx}` maps {_described(first)} to `{images}` (batch, {shape}) in
[{low:g}, {high:g}]. The images are float32, the batch is dynamic, the opset is {manifest.opset}.
{about_labels}`manifest.json` lists every file with its hash. `{first.name}.npy` holds
{manifest.latents["samples"]} inputs to try it with:
{inside}
```python
import numpy, onnxruntime

session = onnxruntime.InferenceSession("{manifest.onnx}", providers=["CPUExecutionProvider"])
[images] = session.run(["{images}"], {{{loaded}}})
```

## On a Jetson

An engine fits one TensorRT version and one kind of GPU, so copy this folder to the device and build
the engine there:

```sh
python3 build_engine.py            # --help: workspace, batch sizes, --dry-run
```

The script checks the files and the available memory, and writes `{manifest.name}.engine` and
`engine.json`. It does nothing if both exist and fit. NVIDIA's tool, which JetPack installs in
`/usr/src/tensorrt/bin`, builds the same engine:

```sh
{line}
```

`edge_bench` takes an engine that `engine.json` states; give it one by trtexec as a file.

The graph states its precision. Do not add `--fp16`, which contradicts `--stronglyTyped`. From
TensorRT 11 on, every network is strongly typed and `--stronglyTyped` may be omitted.
{ahead}"""


def _engine(engine: Engine) -> str:
    """A file that was built ahead of time, and what loads it."""
    if engine.compute_capability == ANY:
        return f"`{engine.file}`: for {engine.target}, by {engine.tool}"
    return (
        f"`{engine.file}`: compute capability {engine.compute_capability}; only {engine.tool} can "
        "load it"
    )


def _described(spec: TensorSpec) -> str:
    """Name, shape and element type of an input, as in `latents` (batch, 120), float32."""
    shape = ", ".join(str(size) for size in spec.shape)
    return f"`{spec.name}` ({shape}), {spec.dtype},"
