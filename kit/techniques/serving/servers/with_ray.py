"""Ray Serve: a proxy, and replicas of the application of `plain.py` that are actors of a cluster of this machine.

KIT_MODEL=magika KIT_THREADS=1 KIT_WORKERS=2 python -m kit.techniques.serving.servers.with_ray 8000
"""

import os
import sys
from signal import pause

import ray
from ray import serve

from kit.techniques.serving.servers import plain

WORKERS = int(os.environ["KIT_WORKERS"])


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 0})
@serve.ingress(plain.app)
class Model:
    """The application has one session per replica."""


if __name__ == "__main__":
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, object_store_memory=2**27)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Model.bind())
    pause()
