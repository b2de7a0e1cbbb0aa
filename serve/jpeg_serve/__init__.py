"""Finds a tritonserver, checks the model repository, runs the one on the other, and leaves nothing behind.

with TritonServer(ServerOptions(model_repository=Path("model_repository"))) as server:
    print(server.grpc_address)
"""

from jpeg_serve.check import Problem, check_repository
from jpeg_serve.errors import ServeError
from jpeg_serve.server import ServerOptions, TritonServer

__all__ = ["Problem", "ServeError", "ServerOptions", "TritonServer", "check_repository"]
