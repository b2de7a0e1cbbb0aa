"""MLServer: a custom runtime with the V2 protocol; its batching merges requests before the workers."""

import asyncio
import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from peer_pipeline import ImageError, Pipeline, Setup


class Classifier(MLModel):
    async def load(self) -> bool:
        self.pipeline = Pipeline(Setup.read())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = Base64Codec.decode_input(payload.inputs[0])
        results = await asyncio.to_thread(self.pipeline.classify, images)
        for result in results:
            if isinstance(result, ImageError):
                raise InferenceError(str(result))
        output = StringCodec.encode_output("labels", [json.dumps(result) for result in results])
        return InferenceResponse(model_name=self.name, outputs=[output])
