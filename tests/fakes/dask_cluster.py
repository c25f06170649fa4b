"""A cluster of two worker processes, or as many as are asked for, until its standard input ends.

Run as a module; prints the scheduler's address, then the workers' process ids whenever it is asked.
"""

from __future__ import annotations

import logging
import sys

import dask
from distributed import LocalCluster


def main() -> None:
    """Serve; each line of input is answered by the ids of the workers' processes."""
    dask.config.set({"distributed.worker.daemon": False})
    with LocalCluster(
        n_workers=int(sys.argv[1]) if len(sys.argv) > 1 else 2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        for _ in sys.stdin:
            print(*(nanny.pid for nanny in cluster.workers.values()), flush=True)


if __name__ == "__main__":
    main()
