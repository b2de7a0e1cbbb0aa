"""Triton's messages for configs and its gRPC client, imported in one place and in this order.

tritonclient takes a missing protobuf for an installation of its own without gRPC: asked for first, protobuf is named.
"""

from google.protobuf import json_format, text_format
from tritonclient import grpc as grpc_client
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

__all__ = ["ModelConfig", "ModelInstanceGroup", "grpc_client", "json_format", "model_config_pb2", "text_format"]
