"""Ask a server of this project for the labels of images.

from jpeg_client import Client

with Client("grpc://localhost:8001") as client:
    for prediction in client.classify(["photo.jpg"], k=3):
        print(prediction.labels, prediction.scores)
"""

from jpeg_client.client import Client, Image
from jpeg_client.errors import JpegClientError, RequestRefused, ServerTimeout, ServerUnavailable
from jpeg_client.prediction import Prediction

__all__ = [
    "Client",
    "Image",
    "JpegClientError",
    "Prediction",
    "RequestRefused",
    "ServerTimeout",
    "ServerUnavailable",
]
