"""MLServer: a runtime of ours, asked in the V2 protocol; its batching merges requests before a worker gets them."""

import asyncio
import json

from jpeg_preprocess import ImageError
from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from peer_pipeline import Pipeline, Setup


class Classifier(MLModel):
    async def load(self) -> bool:
        self.pipeline = Pipeline(Setup.read())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = Base64Codec.decode_input(payload.inputs[0])
        answers = await asyncio.to_thread(self.pipeline.classify, images)
        for answer in answers:
            if isinstance(answer, ImageError):
                raise InferenceError(str(answer))
        output = StringCodec.encode_output("labels", [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])
