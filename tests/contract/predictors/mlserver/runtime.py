"""The models `double` and `other` of an MLServer predictor; it is started with this folder as its repository.

They double FP32 tensors and do what `behaviour` describes. A stream has as many events as the parameter `events` says,
or three: the input times 1, 2, 3 and so on. Only the last one waits for what `hold` names; `delay_s` comes before each.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from behaviour import BadInputError, Behaviour
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse


class Double(MLModel):
    """Answers with twice what it is sent."""

    async def load(self) -> bool:
        self._behaviour = Behaviour()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        await self._play(_wishes(payload))
        return self._times(payload, 2)

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            wishes = _wishes(payload)
            last = int(str(wishes.get("events", 3)))
            for factor in range(1, last):
                await asyncio.sleep(float(str(wishes.get("delay_s", 0))))
                yield self._times(payload, factor)
            await self._play(wishes)
            yield self._times(payload, last)

    async def _play(self, wishes: Mapping[str, object]) -> None:
        try:
            await self._behaviour.play(wishes)
        except BadInputError as error:
            raise InferenceError(str(error)) from error

    def _times(self, payload: InferenceRequest, factor: int) -> InferenceResponse:
        tensor = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("output-0", (factor * tensor).astype("float32"))
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])


def _wishes(payload: InferenceRequest) -> Mapping[str, object]:
    return payload.parameters.model_dump() if payload.parameters else {}
