"""The processes that a run is shared out to: torchrun's, or this one alone.

- A batch is that of all processes together, so their number changes nothing of what is learned:
  each takes an equal part of every batch, in rank order, and sums of losses and gradients are those
  of the whole batch.
- Rank 0 alone reads lists, writes files and talks; what it finds out, or fails at, all know.
- Two kinds of message: tensors on the device (sums), and small ones of the host, which never wait
  for a GPU (`agree`, `gather`) and have all the time that rank 0 needs to scan a large folder. A
  process that ends breaks the connections of the others, which end, too (`LostProcessError`).
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from m3video.errors import ConfigError, LostProcessError, M3VideoError, RunFailedError

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long sums wait for the others, which all do the same work."""
LONG = timedelta(days=7)
"""How long messages of the host do."""
_HANDSHAKE = timedelta(seconds=5)
_host: dist.ProcessGroup | None = None
"""The processes, for messages of the host."""


@dataclass(frozen=True)
class World:
    """Who takes part.

    Attributes:
        rank: number of this process, from 0.
        size: of how many.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def console(self) -> Console:
        """Where progress goes: stderr, of rank 0 alone."""
        return Console(stderr=True, quiet=not self.main)

    def share(self, batch: int, accumulate: int = 1, repeats: int = 1) -> slice:
        """The places of a batch that are this process's.

        Raises:
            ConfigError: they cannot be dealt out evenly, in `accumulate` parts each, and all
                `repeats` clips of a span to the same process.
        """
        unit = self.size * math.lcm(accumulate, repeats)
        if batch % unit:
            raise ConfigError(
                f"train.batch {batch} cannot be dealt out evenly to {self.size} processes with "
                f"train.accumulate {accumulate}: use a multiple of {unit}"
            )
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place, on the tensor's device."""
        if self.size > 1:
            with told():
                dist.all_reduce(tensor)
        return tensor

    def cat(self, tensor: Tensor) -> Tensor:
        """What every process gives, [n, …] of the same shape everywhere, in rank order."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with told():
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def agree(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has it; quick, and no GPU is waited for."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        with told():
            dist.all_reduce(raised, dist.ReduceOp.MAX, group=_host)
        return [bool(flag) for flag in raised.tolist()]

    def gather(self, value: T) -> list[T]:
        """What every process gives, by rank; anything that can be pickled, between processes."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with told():
            dist.all_gather_object(found, value, group=_host)
        return found

    def first(self, work: Callable[[], T]) -> T:
        """Have rank 0 do something, and all have the result.

        Raises:
            M3VideoError: what it raised there, everywhere.
            LostProcessError: on the others, where it raised anything else.
        """
        if self.size == 1:
            return work()
        message: list[Any] = [None, None]
        if self.main:
            try:
                message[0] = work()
            except Exception as error:
                message[1] = error
        with told():
            dist.broadcast_object_list(message, group=_host)
        if message[1] is not None:
            if self.main or isinstance(message[1], M3VideoError):
                raise message[1]
            raise LostProcessError(f"the first process has failed: {message[1]}")
        result: T = message[0]
        return result

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.agree(True)

    def next_part(self, tensor: Tensor) -> Tensor:
        """What the process after this one gives, round the end; of the same shape everywhere."""
        if self.size == 1:
            return tensor
        mine = tensor.contiguous()
        theirs = torch.empty_like(mine)
        before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        sent = [dist.P2POp(dist.isend, mine, before), dist.P2POp(dist.irecv, theirs, after)]
        with told():
            for request in dist.batch_isend_irecv(sent):
                request.wait()
        return theirs

    def send(self, tensor: Tensor, rank: int) -> None:
        """Have all receive, in place, the tensor that process `rank` has."""
        if self.size > 1:
            with told():
                dist.broadcast(tensor, rank, group=_host)

    def deal(self, items: range) -> range:
        """This process's part: even parts in rank order, the first ones longer by one."""
        part, more = divmod(len(items), self.size)
        start = self.rank * part + min(self.rank, more)
        return items[start : start + part + (self.rank < more)]


ALONE = World()


def started_by_torchrun() -> bool:
    """Whether this process is one of several of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def told() -> Iterator[None]:
    """Around what needs the other processes.

    Raises:
        LostProcessError: one of them has ended.
        RunFailedError: they cannot be connected, such as for want of shared memory.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo, or NCCL's, which is one
        if not started_by_torchrun():
            raise
        if is_lost(error):
            raise LostProcessError(f"another process of the run has ended: {error}") from error
        if not any(word in str(error) for word in ("gloo", "Gloo", "NCCL")):
            raise
        failed = RunFailedError(f"the processes of the run cannot work together: {error}")
        failed.said = False  # each has a reason of its own
        raise failed from error


def is_lost(error: BaseException) -> bool:
    """Whether it is what a process meets when another one has ended."""
    broken = ("onnection", "peer", "Broken pipe", "Timed out", "remote process exited", "aborted")
    return any(word in str(error) for word in broken)


def launch_id() -> str | None:
    """What tells this start of torchrun from others, the same after restarts; None without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name != "none":
        return name
    # No --rdzv-id was given: it is known by its process, which is the parent of this one.
    parent = os.getppid()
    facts = Path(f"/proc/{parent}/stat")
    began = facts.read_text().rpartition(")")[2].split()[19] if facts.exists() else ""
    return f"{socket.gethostname()} {parent} {began}".rstrip()


def local_device(name: str) -> str:
    """The device of this process where each has its own: `auto` and `cuda` are shared out."""
    if started_by_torchrun() and torch.cuda.is_available() and name in {"auto", "cuda"}:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


def join(device: torch.device) -> World:
    """The processes that torchrun started, connected until `leave`; else this one alone.

    Args:
        device: of this process; tensors of a GPU are summed by NCCL, all else by gloo.
    """
    global _host
    if not started_by_torchrun():
        return ALONE
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        store = PrefixStore(_generation(store, rank, size), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        _host = dist.new_group(backend="gloo", timeout=LONG)
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End the connections, when all have done their work; never after a failure of one alone,
    whose others would be waited for."""
    global _host
    if dist.is_initialized():
        dist.destroy_process_group()
        _host = None


def _generation(store: Store, rank: int, size: int) -> str:
    """A name for the processes that are there now.

    The launcher's store outlives them: those that take their place after a failure must not find
    the addresses of the dead there, and no count of restarts is the same on all machines. Rank 0
    makes a name, and answers those who have read it; a name that nobody answers for is of the dead.
    """
    place = "m3video"
    if rank == 0:
        name = uuid4().hex
        store.set(place, name)
        for other in range(1, size):
            who = store.get(f"{place}/{name}/{other}").decode()
            store.set(f"{place}/{name}/{other}/{who}", "")
        return name
    who, begin = uuid4().hex, time.monotonic()
    while True:
        name = store.get(place).decode()
        store.set(f"{place}/{name}/{rank}", who)
        try:
            store.wait([f"{place}/{name}/{rank}/{who}"], _HANDSHAKE)
            return name
        except RuntimeError:
            if time.monotonic() - begin > PATIENCE.total_seconds():
                raise
