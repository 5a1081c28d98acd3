"""The first of two services: makes features and asks the model's service for the prediction.

KIT_MODEL=magika KIT_NEXT=http://127.0.0.1:8001 uvicorn kit.techniques.serving.servers.features:app
KIT_MODEL=magika KIT_THREADS=1 KIT_DECODED=1 uvicorn kit.techniques.serving.servers.plain:app --port 8001
"""

import os
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request, Response

from kit.techniques.serving import models
from kit.techniques.serving.servers import protocol

model = models.opened(os.environ["KIT_MODEL"])


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with aiohttp.ClientSession(os.environ["KIT_NEXT"]) as app.state.next:
        yield


app = protocol.application(lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    number, sample, _ = protocol.decode(model, await protocol.read(request))
    features = protocol.wrap(number, sample.tobytes())
    async with request.app.state.next.post("/predict", data=features) as answered:
        return Response(await answered.read(), answered.status, media_type="application/json")
