"""One real inference, for health checks: a server that is ready may still have a model that does not answer."""

from __future__ import annotations

import http.client
import json
import struct
from pathlib import Path
from urllib.parse import quote

from jpeg_serve.errors import ProbeError

# A gradient of 64 by 64 pixels, made for this.
PHOTO = Path(__file__).with_name("probe.jpg")


def probe(address: str, model: str, timeout_s: float) -> str:
    """Send a small JPEG to a model over HTTP; returns the best label.

    address: HOST:PORT. timeout_s: for each step, to connect and to answer. Raises ProbeError if there is no label.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    path = f"/v2/models/{quote(model, safe='')}/infer"
    # The whole body is the one input, as documented under "raw binary request" in Triton's HTTP extensions.
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
    try:
        connection.request("POST", path, PHOTO.read_bytes(), headers)
        answer = connection.getresponse()
        body = answer.read()
        header = answer.headers.get("Inference-Header-Content-Length")
    except TimeoutError as error:
        raise ProbeError(f"{model} on {address} did not answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise ProbeError(f"{address} cannot be asked: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise ProbeError(f"{model} on {address} answers {answer.status}: {body[:300].decode(errors='replace')}")
    try:
        return _best_label(body, int(header or 0))
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ProbeError(f"{model} on {address} answers something else than labels") from error


def _best_label(body: bytes, header: int) -> str:
    """The first string of the output LABEL: each is its length, 4 bytes, little-endian, and its bytes."""
    start = header
    for output in json.loads(body[:header])["outputs"]:
        size = int(output["parameters"]["binary_data_size"])
        if output["name"] == "LABEL":
            (length,) = struct.unpack_from("<I", body, start)
            label = body[start + 4 : start + 4 + length].decode()
            if label:
                return label
        start += size
    raise ValueError("no label")
