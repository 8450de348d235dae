"""A further training process: python -m wsseg.train.worker, with its task on standard input."""

import logging
import os
import sys
import threading

from wsseg.imaging.errors import WssegError


def main() -> None:
    """Train as one of several processes; exit when the process of rank 0 does, for any reason."""
    from wsseg.train.launch import READY, Task
    from wsseg.train.trainer import train

    task = Task.model_validate_json(sys.stdin.readline())
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    logging.getLogger("wsseg").setLevel(logging.ERROR)  # rank 0 logs the same
    try:
        train(task.cases, task.out, task.config, resume=task.resume)
    except WssegError as error:
        # Rank 0 may not see this error, for example of a file in this process's share.
        sys.exit(f"process {os.environ.get('RANK')}: {str(error).splitlines()[0]}")


def _exit_with_parent() -> None:
    sys.stdin.read()  # returns when the pipe closes, also if the parent was killed
    os._exit(1)


if __name__ == "__main__":
    main()
