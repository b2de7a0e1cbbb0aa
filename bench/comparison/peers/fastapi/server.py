"""FastAPI under uvicorn: several processes, no batching, which FastAPI does not offer."""

from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, HTTPException
from peer_pipeline import ImageError, Pipeline, Setup

app = FastAPI()
setup = Setup.read()
pipeline = Pipeline(setup)


# Not async: FastAPI runs blocking functions in its thread pool, as its documentation recommends.
@app.post("/classify")
def classify(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
    try:
        return pipeline.classify_one(image)
    except ImageError as error:
        raise HTTPException(400, str(error)) from error


if __name__ == "__main__":
    # extra: further options of uvicorn.
    uvicorn.run(
        "server:app", host=setup.host, port=setup.port, workers=setup.workers, log_level="warning", **setup.extra
    )
