"""LitServe: a front process, and workers that receive samples by a queue.

KIT_MODEL=magika KIT_THREADS=1 KIT_WORKERS=2 python -m kit.techniques.serving.servers.with_litserve 8000
"""

import os
import sys
from typing import Annotated

import litserve
from fastapi import Body, HTTPException

from kit.techniques.serving.servers import protocol


class Api(litserve.LitAPI):
    """The steps of a request."""

    def setup(self, device) -> None:
        self.model, self.predict_batch = protocol.model()

    def decode_request(self, request: Annotated[bytes, Body()]):
        try:
            return protocol.decode(self.model, request)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

    def predict(self, waiting):
        return protocol.answers(self.predict_batch, [waiting])[0]

    def encode_response(self, answer):
        return answer


if __name__ == "__main__":
    options = {"workers_per_device": int(os.environ["KIT_WORKERS"]), "max_payload_size": protocol.LARGEST_BODY}
    server = litserve.LitServer(Api(), accelerator="cpu", **options)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
