from __future__ import annotations

import numpy as np
import pytest

from jaxtune.reports.confusion import confusion_matrix


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 5, 30, 80])
def test_any_number_of_classes_gives_a_picture(classes):
    counts = np.eye(classes, dtype=int) * 7
    counts[0, 0] = 0  # a class without an example
    labels = [f"a ${i}$ class with a long name 坏" for i in range(classes)]
    picture = confusion_matrix(counts, labels, title="test")
    assert picture.startswith(b"\x89PNG")
    assert picture == confusion_matrix(counts.tolist(), labels, title="test")


def test_labels_must_fit():
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 labels"):
        confusion_matrix([[1, 0], [0, 1]], ["a", "b", "c"])
