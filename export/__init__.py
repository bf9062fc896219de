"""A generator as files that run without torch: ONNX, TensorRT engines and a manifest."""

import lazy_loader

from nas_gan.interrupts import end_quietly_on_interrupt

end_quietly_on_interrupt(__name__)

# The public names are those of __init__.pyi. `import` alone loads neither torch nor a command.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
