"""FastAPI under uvicorn: no batching, since FastAPI has none; as many processes as it is told."""

from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, HTTPException
from jpeg_preprocess import ImageError
from peer_pipeline import Pipeline, Setup

app = FastAPI()
setup = Setup.read()
pipeline = Pipeline(setup)


# Not async: FastAPI runs it in its pool of threads, as its documentation has it for what blocks.
@app.post("/classify")
def classify(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
    try:
        return pipeline.classify_one(image)
    except ImageError as error:
        raise HTTPException(400, str(error)) from error


if __name__ == "__main__":
    # extra: more options of uvicorn.
    uvicorn.run(
        "server:app", host=setup.host, port=setup.port, workers=setup.workers, log_level="warning", **setup.extra
    )
