import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepssl.errors import InputError
from sepssl.evaluation.retrieval import expected_random_ap, query_by_example


def one_hot(classes):
    return np.eye(max(classes) + 1, dtype=int)[classes]


def angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def reference(embeddings, labels):
    """Mean average precision of every query against all other clips, the slow way."""
    per_class = []
    for c in range(labels.shape[1]):
        precisions = []
        for q in np.flatnonzero(labels[:, c]):
            others = [i for i in range(len(labels)) if i != q]
            cosine = [
                embeddings[i]
                @ embeddings[q]
                / np.linalg.norm(embeddings[i])
                / np.linalg.norm(embeddings[q])
                for i in others
            ]
            hits, total = 0, 0.0
            ranked = [others[i] for i in np.argsort(cosine)[::-1]]
            for rank, i in enumerate(ranked, start=1):
                if labels[i, c]:
                    hits += 1
                    total += hits / rank
            precisions.append(total / hits)
        per_class.append(np.mean(precisions))
    return per_class


def test_by_hand():
    # Class 0 at 0, 10 and 50 degrees; class 1 at 20 and 90. Against the rest, by distance:
    #   query  0: 10 (same), 20, 50 (same), 90    -> (1 + 2/3) / 2
    #   query 10:  0, 20 at equal distance: one step of precision 1/2; 50 at rank 3 -> (1/2 + 2/3)/2
    #   query 50: 20, 10 and 90 at 40 degrees, 0  -> 1/3 at the tie, 2/4 at the end: (1/3 + 1/2)/2
    #   query 20: 10, 0, 50, 90 (same) at the end -> 1/4
    #   query 90: 50, 20 (same) at rank 2         -> 1/2
    result = query_by_example(angles(0, 10, 50, 20, 90), one_hot([0, 0, 0, 1, 1]))
    class_0 = np.mean([(1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, (1 / 3 + 1 / 2) / 2])
    class_1 = np.mean([1 / 4, 1 / 2])
    np.testing.assert_allclose(result.per_class, [class_0, class_1])
    assert result.map == pytest.approx((class_0 + class_1) / 2)
    np.testing.assert_array_equal(result.num_queries, [3, 2])


def test_perfect_and_reversed_ranking():
    labels = one_hot([0] * 5 + [1] * 5)
    perfect = np.repeat([[1.0, 0.0], [0.0, 1.0]], 5, axis=0)
    assert query_by_example(perfect, labels).map == 1
    # Each clip of the class at -1 of the others of its class, everything else nearer. Only class 0
    # can be that: 2 clips, opposed; the query's one relevant clip is last of 9.
    labels = one_hot([0, 0] + [1] * 8)
    embeddings = np.concatenate([[[1.0, 0.0], [-1.0, 0.0]], np.repeat([[0.0, 1.0]], 8, axis=0)])
    assert query_by_example(embeddings, labels).per_class[0] == pytest.approx(1 / 9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_equals_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((25, 3)) < 0.4).astype(int)
    labels[:2], labels[2] = 1, 0
    embeddings = rng.normal(size=(25, 6)) + labels @ rng.normal(size=(3, 6))
    result = query_by_example(embeddings, labels, num_queries=None)
    np.testing.assert_allclose(result.per_class, reference(embeddings, labels))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_does_not_depend_on_scale_or_order(seed, scale):
    rng = np.random.default_rng(seed)
    labels = one_hot(rng.permutation([0] * 10 + [1] * 10))
    embeddings = rng.normal(size=(20, 4)) + labels @ rng.normal(size=(2, 4))
    result = query_by_example(embeddings, labels)
    scaled = query_by_example(embeddings * scale * rng.uniform(0.5, 2, (20, 1)), labels)
    assert scaled.map == pytest.approx(result.map)
    order = rng.permutation(20)  # pools hold every clip here, so that nothing is drawn
    assert query_by_example(embeddings[order], labels[order]).map == pytest.approx(result.map)


def test_random_embeddings_score_the_stated_chance():
    rng = np.random.default_rng(0)
    labels = one_hot(np.arange(600) % 6)
    result = query_by_example(rng.normal(size=(600, 64)), labels)
    assert result.chance == pytest.approx(0.5211, abs=1e-4)
    assert result.map == pytest.approx(result.chance, abs=0.01)
    np.testing.assert_array_equal(result.num_queries, 100)


def test_chance_is_the_mean_over_random_orders():
    rng = np.random.default_rng(0)
    for relevant, total in [(1, 1), (1, 4), (3, 10), (50, 100)]:
        precisions = []
        for _ in range(4000):
            hits = rng.permutation(np.arange(total) < relevant)
            precisions.append((np.cumsum(hits) / np.arange(1, total + 1))[hits].mean())
        assert expected_random_ap(relevant, total) == pytest.approx(np.mean(precisions), abs=0.01)
    assert expected_random_ap(1, 2) == 0.75  # first (1) or second (1/2)


def test_chance_follows_small_classes():
    labels = one_hot([0] * 3 + [1] * 10)
    result = query_by_example(np.random.default_rng(0).normal(size=(13, 4)), labels)
    expected = (expected_random_ap(2, 2 + 10) + expected_random_ap(9, 9 + 3)) / 2
    assert result.chance == pytest.approx(expected)


def test_collapsed_embeddings_gain_nothing():
    labels = one_hot(np.arange(200) % 2)
    for collapsed in [np.zeros((200, 8)), np.ones((200, 8)) * np.linspace(1, 3, 8)]:
        assert query_by_example(collapsed, labels).map == pytest.approx(0.5)


def test_very_small_and_large_embeddings():
    labels = one_hot([0] * 5 + [1] * 5)
    perfect = np.repeat([[1.0, 0.0], [0.0, 1.0]], 5, axis=0)
    for scale in [1e-300, 1e300]:
        assert query_by_example(perfect * scale, labels).map == 1


def test_pools_are_limited_and_drawn_by_the_seed():
    rng = np.random.default_rng(0)
    labels = one_hot(np.arange(300) % 2)
    embeddings = rng.normal(size=(300, 8)) + labels @ rng.normal(size=(2, 8))
    kwargs = {"num_same": 5, "num_other": 20, "num_queries": 10}
    result = query_by_example(embeddings, labels, **kwargs)
    assert result.chance == pytest.approx(expected_random_ap(5, 25))
    np.testing.assert_array_equal(result.num_queries, 10)
    assert result.map == query_by_example(embeddings, labels, **kwargs).map
    assert result.map != query_by_example(embeddings, labels, seed=1, **kwargs).map


def test_classes_that_cannot_be_queried_are_left_out():
    labels = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]])
    result = query_by_example(angles(0, 10, 90), labels)
    assert result.left_out == (1, 2, 3)  # every clip has it, one has it, none has it
    assert result.map == 1
    assert np.isnan(result.per_class[1:]).all()
    with pytest.raises(InputError, match="none of 3 classes can be queried"):
        query_by_example(angles(0, 10, 90), labels[:, 1:])


@pytest.mark.parametrize(
    ("embeddings", "labels", "kwargs", "reason"),
    [
        (np.full((4, 2), np.nan), one_hot([0, 0, 1, 1]), {}, "NaN"),
        (np.ones(4), one_hot([0, 0, 1, 1]), {}, r"\[clips, dim\]"),
        (np.ones((3, 2)), one_hot([0, 0, 1, 1]), {}, r"expected \[3, classes\]"),
        (np.ones((4, 2)), one_hot([0, 0, 1, 1]) * 2, {}, "other than 0 and 1"),
        (np.ones((4, 2)), one_hot([0, 0, 1, 1]), {"num_same": 0}, "num_same"),
    ],
)
def test_refused(embeddings, labels, kwargs, reason):
    with pytest.raises(InputError, match=reason):
        query_by_example(embeddings, labels, **kwargs)


def test_the_interval_holds_what_other_clips_give():
    rng = np.random.default_rng(0)

    def draw(clips):
        labels = np.eye(3, dtype=int)[rng.integers(0, 3, clips)]
        return labels + 0.8 * rng.normal(size=(clips, 3)), labels

    truth = query_by_example(*draw(3000), num_queries=300).map
    results = [query_by_example(*draw(150), num_queries=None) for _ in range(30)]
    inside = np.mean([r.low <= truth <= r.high for r in results])
    assert inside >= 0.8
    width = np.mean([r.high - r.low for r in results])
    assert width == pytest.approx(4 * np.std([r.map for r in results]), rel=0.5)


def test_equal_queries_leave_no_interval():
    labels = one_hot([0] * 5 + [1] * 5)
    result = query_by_example(labels.astype(float), labels)
    assert (result.low, result.map, result.high) == (1.0, 1.0, 1.0)
