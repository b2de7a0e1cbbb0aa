"""Adds up its input."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        sums = [tensor.sum(axis=1, keepdims=True, dtype=tensor.dtype) for tensor in tensors]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SUM", each)]) for each in sums]
