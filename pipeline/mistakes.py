"""Which errors are a user's mistake or the machine's, and what to say of them: what is wrong, and what helps."""

import re
import sys
import traceback

from hydra.errors import InstantiationException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from common.errors import FILE_ERRORS, UserError, of_a_file

_SAMPLING = (
    "mode=fused, window_batch=1 (a batch of N takes about N times as much), latent_device=cpu (seven copies of the"
    " latent fewer), bf16=true (activations of half the size)"
)
# Which knob frees how much, by script; from benchmarks/results/memory_tally.json, to which a test holds it
SAVING_MEMORY = {
    "train_ddpm": "model.dim_mults=[1,2,4] (2.1 GB: 38 instead of 144 million parameters, 20 bytes each in training),"
    " model.graph=false (what a step's activations take while the optimizer steps; slower),"
    " model.checkpointing=true (6.0 of the 18.2 GB of a whole CT at batch 1, 0.9 of the 4.9 GB of patches at batch 8,"
    " next to nothing at batch 2), model.batch_size=1 (0.2 GB per sample of 128³), model.patch_size=[96,96,96]"
    " (0.42 of that per sample). The guide's network and patches take 3.6 GB at batch 2; nvidia-smi tells what else is"
    " on the GPU",
    "train_vqgan": "model.batch_size=1, model.patch_size=[96,96,96] (0.42 of the voxels). The guide's networks and"
    " patches take 7.1 GB at batch 2, most of it by the voxel; nvidia-smi tells what else is on the GPU",
    "sample_ddpm": f"{_SAMPLING}, decode_tile=16 (half of what a tile of 32 takes); dry_run=true tells how much",
    "evaluate_ddpm": _SAMPLING,
    "evaluate_task": f"{_SAMPLING}; of the classifier batch_size=2 and common_grid=64",
}


def explain(error: BaseException, config_name: str) -> str | None:
    """One message for a user's mistake: the rule, what was found, what to do. None for a fault of the program."""
    met = error
    while isinstance(error, InstantiationException | InterpolationResolutionError) and error.__cause__:
        error = error.__cause__
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory: {error}\nTo need less: {SAVING_MEMORY.get(config_name, SAVING_MEMORY['train_ddpm'])}"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    by_itself = str(error) if isinstance(error, UserError) or of_a_file(error) else None
    return _of_worker(error) or by_itself or _of_parts(met)


MISTAKES: list[type[Exception]] = [UserError, *UserError.__subclasses__(), *FILE_ERRORS]


def _of_worker(error: BaseException) -> str | None:
    """The message of a user's mistake that a process of torch's loader met: it arrives as text, with a traceback."""
    killed = re.match(r"DataLoader worker \(pid.*?\) (is killed by signal: [\w ]+|exited unexpectedly)", str(error))
    if killed or _worker_lost(error):
        return (
            f"a loader process {killed[1] if killed else 'is gone'}, as by a system that is out of memory; take fewer"
            " model.num_workers, or give the job more memory. The same command goes on from last.ckpt"
        )
    caught = re.match(r"Caught (\w+) in [^\n]*\nOriginal Traceback", str(error))
    if caught is None or caught[1] not in [mistake.__name__ for mistake in MISTAKES]:
        return None
    return re.split(rf"^(?:\w+\.)*{caught[1]}: ", str(error), flags=re.MULTILINE)[-1].strip()


def _worker_lost(error: BaseException) -> bool:
    """Whether a tensor could not be fetched from a loader process, which the system does not call gone as yet."""
    if str(error).startswith("Pin memory thread exited"):  # where that thread fetches them
        return True
    broken = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    return broken and "multiprocessing/resource_sharer.py" in "".join(traceback.format_exception(error))


_OF_PARTS = re.compile(r"~|\+*(module|trainer|callbacks)\.|[^=]*\._target_=")


def _of_parts(error: BaseException) -> str | None:
    """The message of an error in building, where what is built was given arguments by hand, or settings taken out."""
    given = [word for word in sys.argv[1:] if _OF_PARTS.match(word)]
    if not given or not isinstance(error, InstantiationException | OmegaConfBaseException):
        return None
    return f"{error}\nThis came of building what the settings describe; look at {' '.join(given)}"
