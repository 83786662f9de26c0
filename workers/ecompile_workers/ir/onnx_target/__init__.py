"""How each of our operators is written in ONNX, by family."""
