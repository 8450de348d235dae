"""A further training process: python -m wsseg.train.worker, with its task on standard input."""

import logging
import os
import sys
import threading

from wsseg.imaging.errors import WssegError


def main() -> None:
    """Train as one of several processes; end when the first process ends, however it ends."""
    from wsseg.train.launch import READY, Task
    from wsseg.train.trainer import train

    task = Task.model_validate_json(sys.stdin.readline())
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    threading.Thread(target=_leave_with_first, daemon=True).start()
    logging.getLogger("wsseg").setLevel(logging.ERROR)  # the first process says it already
    try:
        train(task.cases, task.out, task.config, resume=task.resume)
    except WssegError as error:
        # The first process may not meet this error, such as a file in this process's share.
        sys.exit(f"process {os.environ.get('RANK')}: {str(error).splitlines()[0]}")


def _leave_with_first() -> None:
    sys.stdin.read()  # returns when the pipe breaks: no process waits for one that was killed
    os._exit(1)


if __name__ == "__main__":
    main()
