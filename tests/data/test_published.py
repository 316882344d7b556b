import re

import pytest

from robcal.data.published import PUBLISHED, where_to_find


@pytest.mark.parametrize("title", PUBLISHED)
def test_every_file_has_its_place_and_its_size(title):
    text = where_to_find(title)
    assert re.search(r"https?://\S+", text)
    for name in PUBLISHED[title].files:
        found = re.search(re.escape(name) + r" \(([0-9,]+) bytes\)", text)
        assert found
        assert int(found[1].replace(",", "")) > 5000
    assert len(set(PUBLISHED[title].files.values())) == len(PUBLISHED[title].files)


def test_no_data_set_is_left_out():
    wanted = {"CIFAR-10", "CIFAR-100", "SVHN", "Fashion-MNIST", "ImageNet", "CIFAR-10-C", "CIFAR-100-C", "ImageNet-C"}
    assert set(PUBLISHED) == wanted
