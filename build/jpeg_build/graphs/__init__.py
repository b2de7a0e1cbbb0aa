"""ONNX graphs: wrapped in normalisation, and written in the precision that is asked for."""
