"""The plain round of benchmarks/reference is the oracle of the fast one."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference import rest, training
from benchmarks.reference.network import ReferenceNetwork
from hvsa_cvat.config import PAPER, TrainingConfig
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.pairs import TrainingData
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection import diversity
from hvsa_cvat.selection.diversity import cluster_members, nearest_members
from hvsa_cvat.types import IGNORE
from hvsa_cvat.video.flow import FlowStore, compute_flow
from hvsa_cvat.video.flow_estimators import DisFlow
from hvsa_cvat.video.segments import Rectangles

CPU = torch.device("cpu")
SIZE = (48, 64)
CLASSES = 4


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Six frames of a picture that moves two pixels to the right a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 24, 3)).astype(np.uint8)
    picture = np.kron(noise, np.ones((4, 4, 1), np.uint8))
    return np.stack([picture[:, 20 - 2 * t : 84 - 2 * t] for t in range(6)])


@pytest.fixture(scope="module")
def flow(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> FlowStore:
    return compute_flow(frames, DisFlow(), tmp_path_factory.mktemp("flow") / "flow")


def targets() -> dict[int, np.ndarray]:
    labels = np.random.default_rng(1).integers(0, CLASSES, (2, *SIZE)).astype(np.uint8)
    labels[1, :, :30] = IGNORE
    return {1: labels[0], 4: labels[1]}


def test_flow_and_valid_masks_agree(frames: np.ndarray, flow: FlowStore) -> None:
    plain = rest.compute_flow(frames, rest.dis)

    assert len(plain) == 2 * (5 + 4)
    for (source, target), (there, valid) in plain.items():
        found = flow.get(source, target)
        assert found is not None
        assert np.allclose(found.flow, there, atol=0.02)
        assert (found.valid == valid).mean() > 0.999


@pytest.mark.parametrize(
    "config",
    [
        PAPER.model_copy(update={"epochs": 2, "batch_pairs": 2}),
        TrainingConfig(epochs=2, batch_pairs=3, learning_rate=0.02),
    ],
)
def test_the_losses_of_a_training_agree(
    config: TrainingConfig, frames: np.ndarray, flow: FlowStore
) -> None:
    network = new_network("hrnet_w18_small", CLASSES, seed=1)
    plain = ReferenceNetwork(copy.deepcopy(network))
    kept = {(t, o): flow.get(t, o) for t in range(6) for o in range(6)}
    pairs = {key: (one.flow.astype(np.float32), one.valid) for key, one in kept.items() if one}

    run = finetune(network, TrainingData(frames, targets(), flow), config, seed=(0, 1), device=CPU)
    losses = training.finetune(plain, training.Pairs(frames, targets(), pairs), config, (0, 1))

    each = np.reshape(losses, (config.epochs, -1)).mean(axis=1)
    # the first epoch to rounding; later ones drift apart as rounding is amplified
    assert run.losses[0] == pytest.approx(each[0], rel=1e-3)
    assert run.losses[1] == pytest.approx(each[1], rel=2e-2)


def test_predictions_and_pooled_features_agree(frames: np.ndarray) -> None:
    network = new_network("hrnet_w18_small", CLASSES, seed=1)
    with torch.no_grad():
        network.last_layer[3].weight *= 100
    segments = Rectangles(6, (60, 80), 8, 8)

    plain = list(rest.predict(ReferenceNetwork(network), frames, (60, 80), lambda t: segments[t]))
    dense = list(predict(network, frames, (60, 80), device=CPU))

    for one, found in zip(plain, dense, strict=True):
        scored = score_segments(found, segments[found.frame], segments.count(found.frame))
        assert (scored.label_map == one.label_map).mean() > 0.999
        assert np.allclose(scored.uncertainty, one.uncertainty, atol=1e-2)
        assert np.allclose(scored.features, one.features, rtol=1e-3, atol=1e-4)


def heaps(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Overlapping Gaussians of unlike spread that lie near a subspace."""
    rng = np.random.default_rng(seed)
    middles = 3 * rng.normal(size=(40, 12))
    which = rng.integers(40, size=count)
    inner = middles[which] + rng.normal(size=(count, 12)) * rng.uniform(0.3, 2, (40, 1))[which]
    outer = inner @ rng.normal(size=(12, width)) + 0.5 * rng.normal(size=(count, width))
    return outer.astype(np.float32)


@pytest.mark.parametrize(("clusters", "width"), [(8, 64), (60, 64), (300, 64), (60, 16)])
def test_the_inertia_is_within_two_percent_of_scikit_learn(clusters: int, width: int) -> None:
    from sklearn.cluster import KMeans

    features = heaps(4000, width)

    distance, cluster = cluster_members(features, clusters, np.random.default_rng(0))
    plain = [KMeans(clusters, random_state=seed).fit(features).inertia_ for seed in range(2)]

    assert distance.sum(dtype=float) < 1.02 * np.mean(plain)
    assert len(np.unique(cluster)) == clusters


def test_inertia_of_more_members_than_the_start_takes() -> None:
    from sklearn.cluster import KMeans

    features = heaps(24_000, 40)

    distance, _ = cluster_members(features, 30, np.random.default_rng(0))

    plain = KMeans(30, random_state=0).fit(features).inertia_
    assert distance.sum(dtype=float) < 1.02 * plain


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_inertia_where_there_are_hardly_more_points_than_clusters(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.cluster import KMeans

    # eight members a cluster start, as among many clusters, without 20,000 members in the test
    monkeypatch.setattr(diversity, "START_MEMBERS", 0)
    rng = np.random.default_rng(0)
    points = heaps(300, 40)
    features = points[rng.integers(len(points), size=4000)]
    features += noise * rng.normal(size=features.shape).astype(np.float32)

    starts = [cluster_members(features, 200, np.random.default_rng(s))[0] for s in range(4)]

    plain = [KMeans(200, random_state=seed).fit(features).inertia_ for seed in range(4)]
    assert np.mean([start.sum(dtype=float) for start in starts]) < 1.02 * np.mean(plain)


def test_inertia_where_one_dimension_dominates() -> None:
    from sklearn.cluster import KMeans

    features = heaps(4000, 64)
    features[:, 5] *= 100

    distance, _ = cluster_members(features, 60, np.random.default_rng(0))

    plain = [KMeans(60, random_state=seed).fit(features).inertia_ for seed in range(2)]
    assert distance.sum(dtype=float) < 1.02 * np.mean(plain)


@pytest.mark.parametrize("distinct", [1, 90])
def test_nothing_is_left_where_points_are_fewer_than_clusters(
    distinct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diversity, "START_MEMBERS", 0)
    points = heaps(distinct, 64)
    features = np.repeat(points, -(-2000 // distinct), axis=0)

    distance, _ = cluster_members(features, 100, np.random.default_rng(0))
    members = nearest_members(features, 100, np.random.default_rng(0))

    assert distance.max() < 1e-3
    assert len(np.unique(features[members], axis=0)) == distinct
    assert len(np.unique(members)) == 100


def test_members_of_well_separated_heaps_agree() -> None:
    features = np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)
    features += 100 * np.eye(6, 40, dtype=np.float32)[np.arange(60) % 6]

    ours = nearest_members(features, 6, np.random.default_rng(0))

    assert ours.tolist() == rest.nearest_members(features, 6, 0).tolist()


def test_the_reference_takes_little_from_the_product() -> None:
    folder = Path(training.__file__).parent
    used = {line for path in folder.glob("*.py") for line in path.read_text().splitlines()}
    ours = {line.split()[1] for line in used if line.startswith("from hvsa_cvat")}
    assert ours == {"hvsa_cvat.config", "hvsa_cvat.types", "hvsa_cvat.segmentation.pairs"}
