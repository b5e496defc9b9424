"""How a training's checkpoints get to disk: whole or not at all."""

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins import TorchCheckpointIO

from common.atomic import replacing
from common.torch_file import save


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when it is on the disk.

    Lightning's own writes to `$TMPDIR`; where that is another file system, it copies the finished file over the old
    one: a kill then leaves neither, and a full disk is not told by the checkpoint's name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as temporary:
            save(checkpoint, temporary)
