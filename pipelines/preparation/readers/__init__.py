"""Readers of the data sets that can be prepared, by their names on the command line."""

from models.registry import Registry
from pipelines.preparation.readers.ade20k import ADE20K
from pipelines.preparation.readers.camvid import CamVid
from pipelines.preparation.readers.cityscapes import Cityscapes
from pipelines.preparation.readers.coco_stuff import COCOStuff
from pipelines.preparation.readers.folder import Folder
from pipelines.preparation.readers.loveda import LoveDA
from pipelines.preparation.readers.mapillary import Mapillary
from pipelines.preparation.readers.pascal_context import PascalContext
from pipelines.preparation.readers.reader import Reader
from pipelines.preparation.readers.streets import Streets
from pipelines.preparation.readers.voc import VOC

READERS: Registry[Reader] = Registry("reader", "pipelines.preparation.readers:Reader")
READERS.update(
    (reader.name, reader)
    for reader in (
        *(Streets, Cityscapes, ADE20K, PascalContext, CamVid, VOC, COCOStuff, Mapillary, LoveDA),
        Folder,
    )
)

__all__ = ["READERS", "Reader"]
