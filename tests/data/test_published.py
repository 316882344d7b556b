import re

import pytest

from robcal.data.published import PUBLISHED, where_to_find

#: As torchvision checks what it fetches.
CHECKSUMS = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_every_file_has_its_place_its_size_and_its_checksum(title):
    text = where_to_find(title)
    assert re.search(r"https?://\S+", text)
    for name in PUBLISHED[title].files:
        found = re.search(re.escape(name) + r" \(([0-9,]+) bytes, MD5 ([0-9a-f]{32})\)", text)
        assert found
        assert int(found[1].replace(",", "")) > 10**7
        assert found[2] == CHECKSUMS.get(name, found[2])
    assert len(set(PUBLISHED[title].files.values())) == len(PUBLISHED[title].files)


def test_no_data_set_is_left_out():
    wanted = {"CIFAR-10", "CIFAR-100", "SVHN", "ImageNet", "CIFAR-10-C", "CIFAR-100-C", "ImageNet-C"}
    assert set(PUBLISHED) == wanted
    assert CHECKSUMS.keys() <= {name for entry in PUBLISHED.values() for name in entry.files}
