"""The data sets that can be prepared, by the name the command knows them under."""

from pipelines.readers.ade20k import ADE20K
from pipelines.readers.camvid import CamVid
from pipelines.readers.cityscapes import Cityscapes
from pipelines.readers.folder import Folder
from pipelines.readers.pascal_context import PascalContext
from pipelines.readers.reader import Reader
from pipelines.readers.streets import Streets

READERS: dict[str, type[Reader]] = {
    reader.name: reader for reader in (Streets, Cityscapes, ADE20K, PascalContext, CamVid, Folder)
}

__all__ = ["READERS", "Reader"]
