"""mosec: a front in Rust, and Python workers that receive requests over sockets.

KIT_MODEL=magika KIT_THREADS=1 KIT_WORKERS=2 python -m kit.techniques.serving.servers.with_mosec --port 8000
"""

import os

import msgspec
from mosec import Server, ValidationError, Worker

from kit.techniques.serving.servers import protocol


class Predict(Worker):
    """The steps of a request."""

    def __init__(self) -> None:
        self.model, self.predict_batch = protocol.model()

    def deserialize(self, data: bytes):
        try:
            return protocol.decode(self.model, data)
        except ValueError as error:
            raise ValidationError(str(error)) from None  # status 422

    def forward(self, data):
        return protocol.answers(self.predict_batch, [data])[0]

    def serialize(self, data) -> bytes:
        return msgspec.json.encode(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, num=int(os.environ["KIT_WORKERS"]), route="/predict")
    server.run()
