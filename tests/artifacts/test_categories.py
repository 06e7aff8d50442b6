"""CategoryMap for dense and sparse ids."""

from types import SimpleNamespace

import pytest

from weaksam_d2.artifacts import CategoryMap


def test_dense_ids_are_the_class_plus_one() -> None:
    categories = CategoryMap.from_metadata(SimpleNamespace(thing_classes=["duck", "swan"]))
    assert len(categories) == 2 and categories.names == ["duck", "swan"]
    assert [categories.to_dataset(c) for c in range(2)] == [1, 2]
    assert [categories.to_contiguous(d) for d in (1, 2)] == [0, 1]
    assert categories.categories() == [{"id": 1, "name": "duck"}, {"id": 2, "name": "swan"}]


def test_sparse_ids_follow_the_metadata() -> None:
    metadata = SimpleNamespace(
        thing_classes=["a", "b", "c"], thing_dataset_id_to_contiguous_id={90: 2, 13: 1, 1: 0}
    )
    categories = CategoryMap.from_metadata(metadata)
    assert [categories.to_dataset(c) for c in range(3)] == [1, 13, 90]
    assert [categories.to_contiguous(d) for d in (1, 13, 90)] == [0, 1, 2]
    assert CategoryMap.from_categories(categories.categories()[::-1]).dataset_ids == [1, 13, 90]


def test_no_class_at_all_is_legal() -> None:
    assert CategoryMap.from_metadata(SimpleNamespace(thing_classes=[])).categories() == []


@pytest.mark.parametrize("value", [-1, 2])
def test_class_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"class {value} is not in \[0, 2\)"):
        CategoryMap(["a", "b"]).to_dataset(value)


def test_unknown_id_is_refused() -> None:
    with pytest.raises(ValueError, match="category id 0 is not one"):
        CategoryMap(["a", "b"]).to_contiguous(0)


@pytest.mark.parametrize("mapping", [{1: 0}, {1: 0, 2: 2}, {1: 0, 2: 0}, {1: 0, 2: 1, 3: 1}])
def test_mapping_that_misses_a_class_is_refused(mapping: dict[int, int]) -> None:
    metadata = SimpleNamespace(thing_classes=["a", "b"], thing_dataset_id_to_contiguous_id=mapping)
    with pytest.raises(ValueError, match="must map one id to each class"):
        CategoryMap.from_metadata(metadata)


def test_metadata_without_classes_is_named() -> None:
    with pytest.raises(ValueError, match="'birds' has no thing_classes"):
        CategoryMap.from_metadata(SimpleNamespace(name="birds"))


@pytest.mark.parametrize("ids", [[1], [1, 1]])
def test_ids_that_do_not_fit_the_names_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="ids"):
        CategoryMap(["a", "b"], ids)
