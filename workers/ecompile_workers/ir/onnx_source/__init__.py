"""ONNX models: reading the file, folding constants, and what each operator means, by family."""
