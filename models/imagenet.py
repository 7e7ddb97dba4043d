"""Statistics of the ImageNet training images in [0, 1]; imports no torch."""

#: Mean of red, green and blue. Most published weights were trained on images normalized with these
#: statistics.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
#: Standard deviation of red, green and blue.
IMAGENET_STD = (0.229, 0.224, 0.225)
