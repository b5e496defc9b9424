"""One training at a time: what it writes to and listens on is its own."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omegaconf import DictConfig

from common.atomic import remove_abandoned
from common.errors import UserError
from common.launcher import rank_and_world
from common.locks import claimed

LOCK = ".training.lock"
OTHERS = "another training. Wait for it or stop it, or give this one folders of its own with model.name=NEW"


@contextmanager
def own_folders(cfg: DictConfig) -> Iterator[None]:
    """Hold run and checkpoint folder for the training of all ranks; UserError as `check_free`.

    What a killed training left half written among the checkpoints is removed.
    """
    with ExitStack() as held:
        if rank_and_world()[0] == 0:
            _check_writable(cfg)
            for folder in _folders(cfg):
                held.enter_context(claimed(folder / LOCK, OTHERS))
            remove_abandoned(Path(cfg.checkpoint_dir), older_than_s=0, nested=False)
        yield


def check_free(cfg: DictConfig) -> None:
    """UserError if the folders cannot be written or another training has them, or anything else the launcher's port."""
    _check_writable(cfg)
    for folder in _folders(cfg):
        if (folder / LOCK).is_file():
            with claimed(folder / LOCK, OTHERS):
                pass
    port = os.environ.get("MASTER_PORT", "")
    if not port.isdigit() or os.environ.get("NODE_RANK", "0") != "0":
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just left is free
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise UserError(
                f"port {port} of this machine is in use, perhaps by another training; take another: MASTER_PORT=NUMBER"
            ) from None


def _check_writable(cfg: DictConfig) -> None:
    for folder in _folders(cfg):
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        what = "may not be written" if there.is_dir() else "is no folder"
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"the training writes to {folder}, but {there} {what}; set run_dir and checkpoint_dir")


def _folders(cfg: DictConfig) -> list[Path]:
    return sorted({Path(cfg.run_dir).resolve(), Path(cfg.checkpoint_dir).resolve()})
