"""The private gRPC proxy's own process: `python -m kit.techniques.tuning.workers.proxy LIFELINE PORT`."""

import sys

from kit.measure.lifeline import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))

    from optuna.storages import run_grpc_proxy_server

    from kit.techniques.tuning.workers.storages import opened

    run_grpc_proxy_server(opened("sqlite:///searches.db"), host="127.0.0.1", port=int(sys.argv[2]))
