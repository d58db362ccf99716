"""Loading and saving models: the names that the rest of the package uses."""

from codi_patching.models.loading.files import CheckpointError, file_sha256
from codi_patching.models.loading.load import load_checkpoint
from codi_patching.models.loading.load_report import LoadReport
from codi_patching.models.loading.own import save_checkpoint

__all__ = [
    "CheckpointError",
    "LoadReport",
    "file_sha256",
    "load_checkpoint",
    "save_checkpoint",
]
