"""FastAPI and one ONNX Runtime session per process, no batching: what a competent person ships first.

KIT_MODEL=magika KIT_THREADS=2 uvicorn kit.techniques.serving.servers.plain:app
KIT_MODEL=magika KIT_THREADS=1 uvicorn kit.techniques.serving.servers.plain:app --workers 2
KIT_MODEL=magika KIT_THREADS=1 granian --interface asgi kit.techniques.serving.servers.plain:app --workers 2
"""

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from kit.techniques.serving.servers import protocol

app = protocol.application()
model, predict_batch = protocol.model()


@app.post("/predict")
async def predict(request: Request) -> dict:
    waiting = protocol.decode(model, await protocol.read(request))
    return (await run_in_threadpool(protocol.answers, predict_batch, [waiting]))[0]  # the event loop stays free
