"""The data sets that can be prepared, by the name the command knows them under."""

from pipelines.readers.camvid import CamVid
from pipelines.readers.reader import Reader
from pipelines.readers.streets import Streets

READERS: dict[str, type[Reader]] = {reader.name: reader for reader in (Streets, CamVid)}

__all__ = ["READERS", "Reader"]
