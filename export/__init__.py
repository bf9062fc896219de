"""A generator as files that run without torch: ONNX, TensorRT engines, a manifest."""
