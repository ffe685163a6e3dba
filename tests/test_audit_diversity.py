"""How varied texts are: against counting by hand, plain loops, and the packages that others use."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from time import perf_counter

import numpy as np
import pytest

from selftaught.audits import _diversity as diversity

Texts = list[list[int]]


def some_texts(seed: int, many: int = 20, longest: int = 12, types: int = 6) -> Texts:
    draw = random.Random(seed)
    return [[draw.randrange(types) * 1000 - 7 for _ in range(draw.randrange(longest + 1))] for _ in range(many)]


def ngrams(text: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


# ---------------------------------------------------------------- equally many tokens


def test_cut_takes_texts_in_order_and_cuts_the_last() -> None:
    texts = [[1, 2, 3], [], [4, 5], [6]]
    assert diversity.cut(texts, 4) == [(1, 2, 3), (), (4,)]
    assert diversity.cut(texts, 3) == [(1, 2, 3)], "nothing is taken that is not needed"
    assert diversity.cut(texts, 6) == [(1, 2, 3), (), (4, 5), (6,)]
    assert diversity.cut(texts, 0) == []


def test_cut_says_what_there_is_where_that_is_too_little() -> None:
    with pytest.raises(ValueError, match="7 tokens are needed, the texts hold 6"):
        diversity.cut([[1, 2, 3], [4, 5, 6]], 7)


# ---------------------------------------------------------------- n-grams


def test_ngrams_never_reach_into_the_next_text() -> None:
    texts = [[1, 2], [3], [], [1, 2, 3]]
    assert [diversity.unique_ngrams(texts, n) for n in (1, 2, 3, 4)] == [3, 2, 1, 0]
    assert diversity.distinct(texts, 2) == 2 / 3  # 12, 12, 23
    assert diversity.distinct(texts, 1) == 3 / 6


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_ngrams_are_those_of_a_plain_loop(seed: int, n: int) -> None:
    texts = some_texts(seed)
    every = [g for t in texts for g in ngrams(t, n)]
    assert diversity.unique_ngrams(texts, n) == len(set(every))
    assert diversity.distinct(texts, n) == (len(set(every)) / len(every) if every else 0.0)


def test_without_an_ngram_all_is_0() -> None:
    for texts in ([], [[]], [[1], [2]]):
        assert diversity.unique_ngrams(texts, 2) == 0 and diversity.distinct(texts, 2) == 0.0
        assert diversity.self_repetition(texts, 2) == 0.0
    with pytest.raises(ValueError, match="at least one token"):
        diversity.distinct([[1]], 0)


def test_large_ids_do_not_collide() -> None:
    ids = [0, 1, 2**31, 2**62, -(2**62), 2**62 + 1]
    assert diversity.unique_ngrams([[a, b, c] for a in ids for b in ids for c in ids], 3) == 216


# ---------------------------------------------------------------- single tokens


def test_entropy_of_known_distributions() -> None:
    assert diversity.entropy([[1, 2, 3, 4], [5, 6, 7, 8]]) == pytest.approx(3.0)
    assert diversity.entropy([[1, 1, 2], [3]]) == pytest.approx(1.5)
    assert diversity.entropy([[7] * 9]) == 0.0
    assert diversity.entropy([]) == diversity.entropy([[]]) == 0.0


def test_the_entropy_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(20):
        texts = some_texts(seed, types=40)
        counts = list(Counter(t for text in texts for t in text).values())
        assert diversity.entropy(texts) == pytest.approx(stats.entropy(counts, base=2))


def test_top_mass_is_the_share_of_the_most_frequent() -> None:
    texts = [[1] * 5, [2] * 3, [3, 4]]
    assert [diversity.top_mass(texts, k) for k in (1, 2, 3, 9)] == [0.5, 0.8, 0.9, 1.0]
    assert diversity.top_mass([], 3) == 0.0


def test_rare_takes_whole_classes_from_the_bottom() -> None:
    texts = [[1] * 80, [2] * 10, [3, 3, 3, 4, 4, 4], [5, 6, 7, 8]]  # of 100: four once, two thrice, one ten times
    assert diversity.rare(texts, 0.04) == {5, 6, 7, 8}
    assert diversity.rare(texts, 0.05) == {3, 4, 5, 6, 7, 8}, "both of count 3, though one would do"
    assert diversity.rare(texts, 0.1) == {3, 4, 5, 6, 7, 8}
    assert diversity.rare(texts, 0.11) == {2, 3, 4, 5, 6, 7, 8}
    assert diversity.rare(texts, 1.0) == set(range(1, 9))
    assert diversity.rare(texts, 0.0) == diversity.rare([], 0.1) == frozenset()


def test_rare_depends_on_counts_alone() -> None:
    texts = some_texts(3, many=40, types=50)
    shuffled = random.Random(0).sample([[t] for text in texts for t in text], sum(map(len, texts)))
    counts = Counter(t for text in texts for t in text)
    for mass in (0.01, 0.1, 0.5):
        found = diversity.rare(texts, mass)
        assert found == diversity.rare(shuffled, mass) and found
        assert max(counts[t] for t in found) < min(counts[t] for t in counts.keys() - found)
        assert sum(counts[t] for t in found) >= mass * sum(counts.values())


def test_even_counts_leave_nothing_out() -> None:
    assert diversity.rare([[1, 2], [3, 4]], 0.1) == {1, 2, 3, 4}


# ---------------------------------------------------------------- repetition


def test_compression_is_raw_by_compressed_bytes() -> None:
    raw = "ab\nü\n".encode()
    assert diversity.compression(["ab", "ü"]) == len(raw) / len(zlib.compress(raw, 9))
    assert diversity.compression([]) == 0.0
    assert diversity.compression(["\ud800"]) > 0, "half a surrogate pair is a text too"


def test_what_repeats_compresses_more() -> None:
    draw = random.Random(1)
    noise = ["".join(draw.choices("abcdefghijklmnop ", k=200)) for _ in range(20)]
    assert diversity.compression(noise[:1] * 20) > 5 * diversity.compression(noise) > 5


def test_a_template_is_found_by_the_texts_that_share_it() -> None:
    template = [[1, 2, 3, 4, 100 + i] for i in range(3)]
    others = [[200 + 10 * i + k for k in range(5)] for i in range(7)]
    assert diversity.self_repetition(template + others) == 0.3
    assert diversity.self_repetition(template + others, share=0.29) == 0.3
    assert diversity.self_repetition(template + others, share=0.3) == 0.0, "more than the share"
    assert diversity.self_repetition(template + others, n=5) == 0.0


def test_a_text_that_repeats_itself_alone_is_no_template() -> None:
    assert diversity.self_repetition([[1, 2, 1, 2, 1, 2, 1, 2], [3, 4, 5, 6]]) == 0.0
    assert diversity.self_repetition([[1, 2, 3, 4]]) == 0.0


@pytest.mark.parametrize("seed", range(30))
def test_self_repetition_is_that_of_a_plain_loop(seed: int) -> None:
    texts, n, share = some_texts(seed, types=4), 3, 0.15
    held = [set(ngrams(t, n)) for t in texts]
    holders = Counter(g for grams in held for g in grams)
    frequent = {g for g, count in holders.items() if count > max(1, share * len(texts))}
    assert diversity.self_repetition(texts, n, share) == sum(bool(g & frequent) for g in held) / len(texts)


# ---------------------------------------------------------------- Vendi score


def cosines(texts: Texts, n: int) -> np.ndarray:
    """By the definition, one pair after the other."""
    found = np.zeros((len(texts), len(texts)))
    counts = [Counter(ngrams(t, n)) for t in texts]
    for i, a in enumerate(counts):
        for j, b in enumerate(counts):
            norm = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
            found[i, j] = sum(a[g] * b[g] for g in a) / norm if norm else float(not a and not b)
    return found


def test_vendi_counts_what_is_different() -> None:
    apart = [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(5)]
    assert diversity.vendi(apart) == pytest.approx(5)
    assert diversity.vendi(apart * 8) == pytest.approx(5), "copies add nothing"
    assert diversity.vendi(apart[:1]) == pytest.approx(1) and diversity.vendi(apart[:1] * 50) == pytest.approx(1)
    assert diversity.vendi([]) == 0.0


def test_vendi_of_two_texts_by_hand() -> None:
    texts = [[1, 2, 3], [1, 2, 4]]  # bigrams 12 23 and 12 24: cosine 1/2, eigenvalues 3/4 and 1/4
    assert diversity.vendi(texts) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_texts_without_an_ngram_are_alike_and_like_no_other() -> None:
    assert diversity.vendi([[], [], [5]]) == pytest.approx(1)
    assert diversity.vendi([[1, 2], [1, 2], [], [7]]) == pytest.approx(2)


@pytest.mark.parametrize("pairs", [0, 3, 40])
@pytest.mark.parametrize("seed", range(8))
def test_similarities_are_those_of_the_definition(seed: int, pairs: int) -> None:
    """Whether n-grams are added pair by pair, by products of matrices in several blocks, or some so and some so."""
    texts = some_texts(seed, many=30)
    for n in (1, 2, 3):
        assert diversity._cosines(texts, n, pairs, columns=7) == pytest.approx(cosines(texts, n), abs=1e-12)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # theirs, of scipy
@pytest.mark.parametrize("seed", range(5))
def test_vendi_is_that_of_its_authors(seed: int) -> None:
    vendi = pytest.importorskip("vendi_score.vendi")
    texts = some_texts(seed, many=50, longest=20, types=30)
    for n in (1, 2, 3):
        assert diversity.vendi(texts, n) == pytest.approx(vendi.score_K(cosines(texts, n)), rel=1e-6)


def test_vendi_of_a_thousand_texts_takes_no_minute() -> None:
    draw = np.random.Generator(np.random.Philox(0))
    texts = (draw.zipf(1.3, (1000, 128)) % 5000).tolist()
    start = perf_counter()
    assert 1 < diversity.vendi(texts) < 1000
    assert perf_counter() - start < 60


# ---------------------------------------------------------------- lengths


def test_ks_by_hand() -> None:
    assert diversity.ks([1, 2, 3], [1, 2, 3]) == 0.0
    assert diversity.ks([1, 2], [3, 4, 5]) == 1.0
    assert diversity.ks([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert diversity.ks([5, 5, 5], [5]) == 0.0, "ties are one step"


def test_the_ks_statistic_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for _ in range(50):
        a, b = ([draw.randrange(15) for _ in range(draw.randrange(1, 40))] for _ in range(2))
        assert diversity.ks(a, b) == diversity.ks(b, a) == pytest.approx(stats.ks_2samp(a, b).statistic)


def test_ks_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        diversity.ks([], [1])
    with pytest.raises(ValueError, match="at least one value"):
        diversity.ks([1], [])
