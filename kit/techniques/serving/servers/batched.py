"""FastAPI with micro-batching: requests that wait together are computed together.

KIT_MODEL=magika KIT_THREADS=2 KIT_BATCH=8 KIT_WAIT_MS=2 uvicorn kit.techniques.serving.servers.batched:app
"""

import asyncio
import os
from contextlib import asynccontextmanager, suppress
from time import perf_counter

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from kit.techniques.serving.servers import protocol

MOST, WAIT_S = int(os.environ.get("KIT_BATCH", "8")), float(os.environ.get("KIT_WAIT_MS", "2")) / 1000
model, predict_batch = protocol.model()


class Batcher:
    """Collects requests until there are `MOST`, or until the first has waited `WAIT_S`, and computes them together."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue = asyncio.Queue()

    async def __call__(self, waiting: protocol.Waiting) -> dict:
        future = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((waiting, future))
        return await future

    async def run(self) -> None:
        while True:
            batch = [await self.queue.get()]
            left_s = max(0.0, batch[0][0][2] + WAIT_S - perf_counter())
            with suppress(TimeoutError):  # what came while the last batch was computed is there without waiting
                async with asyncio.timeout(left_s):
                    while len(batch) < MOST:
                        batch.append(await self.queue.get())
            await self.compute(*zip(*batch, strict=True))

    async def compute(self, batch, futures) -> None:
        try:
            answers = await run_in_threadpool(protocol.answers, predict_batch, batch)
        except Exception as error:  # this batch fails, the server goes on
            answers = [error] * len(batch)
        for future, answer in zip(futures, answers, strict=True):
            if not future.done():  # else its client has gone
                (future.set_exception if isinstance(answer, Exception) else future.set_result)(answer)


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.batcher = Batcher()
    running = asyncio.create_task(app.state.batcher.run())
    yield
    running.cancel()


app = protocol.application(lifespan)


@app.post("/predict")
async def predict(request: Request) -> dict:
    return await request.app.state.batcher(protocol.decode(model, await protocol.read(request)))
