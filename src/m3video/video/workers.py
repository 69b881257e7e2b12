"""The processes that load clips: one thread each, and deaf to what is for their master."""

from __future__ import annotations

import os
import signal
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter


def one_thread(worker: int) -> None:
    """Workers are the parallelism: threads inside them would only wait for each other.

    A terminal's Ctrl-C is for the main process, which ends its workers when it is done with them.
    So is the SIGUSR1 that a scheduler sends to all processes before it ends them.
    """
    os.setpgrp()  # signals for all processes of a run are for its master, which ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class WorkerLoader(DataLoader[Any]):
    """A DataLoader whose workers do not inherit OpenCV's threads."""

    def __iter__(self) -> _BaseDataLoaderIter:
        # A forked worker gets OpenCV's pool without its threads, and would wait for them for ever.
        # With one thread there is no pool; this process makes a new one when it needs it.
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            return super().__iter__()
        finally:
            cv2.setNumThreads(threads)
