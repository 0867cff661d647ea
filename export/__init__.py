"""From a checkpoint to a bundle: torch.export, ONNX, verification."""
