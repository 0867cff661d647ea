"""Opens a bundle and runs it; needs neither torch nor onnx."""
