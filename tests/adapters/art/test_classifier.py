"""What is asked of ART's classifier, and what is refused."""

import pytest
from adapters.art.helpers import classify
from art.defences.preprocessor import FeatureSqueezing

from part_plugin import (
    PixelProjectedGradientDescent,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: classify(net, clip_values=None), "clip_values=None leaves the range of the images open"),
        (lambda net: classify(net, channels_first=False), "channels_first=False is not supported"),
        (
            lambda net: classify(net, preprocessing_defences=FeatureSqueezing(clip_values=(0, 1))),
            "preprocessing defence FeatureSqueezing is not supported",
        ),
    ],
)
def test_classifiers_that_are_refused(digits_net, make, message):
    with pytest.raises(ValueError, match=message):
        PixelProjectedGradientDescent(make(digits_net))
