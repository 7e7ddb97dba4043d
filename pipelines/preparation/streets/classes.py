"""The classes of the embedded data set, with their Cityscapes colors."""

from pipelines.data.manifest import ClassInfo

ROAD, SIDEWALK, BUILDING, FENCE, POLE, SIGN, VEGETATION, SKY, PERSON, CAR = range(10)

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sidewalk", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("fence", (190, 153, 153)),
    ClassInfo("pole", (153, 153, 153)),
    ClassInfo("traffic sign", (220, 220, 0)),
    ClassInfo("vegetation", (107, 142, 35)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("person", (220, 20, 60)),
    ClassInfo("car", (0, 0, 142)),
)
