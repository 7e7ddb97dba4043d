"""Label images of a source: stored values and colors to class indices, and wrong forms of labels.

Within `preparation` it imports `images`; it knows no reader.
"""

IGNORE = 255  # the class index of pixels without a class
