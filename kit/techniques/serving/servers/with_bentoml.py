"""BentoML: its own workers and limits around the application of `plain.py`.

KIT_MODEL=magika KIT_THREADS=1 KIT_WORKERS=2 bentoml serve kit.techniques.serving.servers.with_bentoml:Model
"""

import ctypes
import os

import bentoml

from kit.techniques.serving.servers import plain

ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: workers, in sessions of their own, are killed with their parent


@bentoml.service(workers=int(os.environ["KIT_WORKERS"]), metrics={"enabled": False})
@bentoml.asgi_app(plain.app)
class Model:
    """The application has one session per worker."""
