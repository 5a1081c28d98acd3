"""What all servers share: the request's body, the answer as JSON, and the model, which the environment names.

A body is the request's number, 8 bytes, and the model's own input. An answer repeats the number, so that no answer can
pass for another's, and shows how it was made: process, batch, seconds in the queue and of computation.
"""

import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from kit.techniques.serving import models

NUMBER = struct.Struct("<Q")
LARGEST_BODY = 2**20
"""Bytes of a body that a server reads; above it the answer is 413."""

Waiting = tuple[int, np.ndarray, float]
"""A request that is decoded: its number, its sample, and when that was, by `time.perf_counter`."""


def wrap(number: int, content: bytes) -> bytes:
    """Return the body of a request."""
    return NUMBER.pack(number) + content


def model() -> tuple[models.Model, models.Predict]:
    """Return the model that `KIT_MODEL` names, on `KIT_THREADS` threads. With `KIT_DECODED` its requests are samples
    that another service has decoded."""
    served = models.opened(os.environ["KIT_MODEL"])
    if os.environ.get("KIT_DECODED"):
        served = replace(served, decode=partial(models.tensor, like=served.decode(served.bodies(1)[0])))
    return served, served.load(int(os.environ["KIT_THREADS"]))


def decode(served: models.Model, body: bytes) -> Waiting:
    """Return the request in a body. Raise ValueError for a malformed one."""
    if len(body) < NUMBER.size:
        raise ValueError(f"a body begins with the request's number, {NUMBER.size} bytes; got {len(body)}")
    return NUMBER.unpack_from(body)[0], served.decode(body[NUMBER.size :]), time.perf_counter()


def answers(predict_batch: models.Predict, waiting: Sequence[Waiting]) -> list[dict]:
    """Compute several requests together, and return the answer to each."""
    started = time.perf_counter()
    outputs = predict_batch(np.stack([sample for _, sample, _ in waiting]))
    made = {"replica": os.getpid(), "image": os.environ.get("KIT_IMAGE", ""), "batch": len(waiting)}
    made["compute_s"] = time.perf_counter() - started
    return [
        {"number": number, "output": models.top(output), "queue_s": started - arrived, **made}
        for (number, _, arrived), output in zip(waiting, outputs, strict=True)
    ]


async def read(request: Request) -> bytes:
    """Return the body of a request. Raise ValueError with (status, reason) for one that is too large."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise ValueError(413, f"a body has at most {LARGEST_BODY:,} bytes")
    return bytes(body)


async def refuse(_: Request, error: ValueError) -> JSONResponse:
    """Answer 413 to a body that is too large and 400 to a malformed one, with the reason."""
    status, reason = error.args if len(error.args) == 2 else (400, str(error))
    return JSONResponse({"error": reason}, status)


def application(lifespan: Callable | None = None) -> FastAPI:
    """Return an application that refuses malformed bodies, and whose health can be asked."""
    app = FastAPI(lifespan=lifespan)
    app.add_exception_handler(ValueError, refuse)
    app.get("/health")(lambda: {"ready": True})
    return app
