"""Scenes are found, split by group, and cut into crops the codec would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from codec.bundle import untrained_bundle
from training.config import SceneSettings, Settings
from training.errors import ScenesError
from training.scenes import Crops, Split, condition, load_scenes, split_scenes


def test_a_group_stays_on_one_side(split: Split) -> None:
    """What overlaps is trained on or held back together."""
    assert [scene.name for scene in split.training] == ["north_1", "north_2"]
    assert [scene.group for scene in split.training] == ["north", "north"]
    assert [scene.name for scene in split.validation] == ["south"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        pytest.param(SceneSettings(validation=("sooth",)), "sooth, which is no", id="misspelt"),
        pytest.param(SceneSettings(), "0 held back", id="nothing held back"),
        pytest.param(
            SceneSettings(groups={"all": ("*",)}, validation=("all",)),
            "0 scenes to train on",
            id="nothing to train on",
        ),
    ],
)
def test_a_split_that_is_none_is_refused(
    folder: Path, settings: SceneSettings, complaint: str
) -> None:
    """Both sides hold something, and every name means something."""
    scenes = load_scenes(folder / "scenes", settings)

    with pytest.raises(ScenesError, match=complaint):
        split_scenes(scenes, settings)


def test_an_excluded_scene_is_left_out(folder: Path) -> None:
    """A scene that is there under two names counts once."""
    scenes = load_scenes(folder / "scenes", SceneSettings(exclude=("north_1.*",)))
    assert sorted(scene.name for scene in scenes) == ["north_2", "south"]


def test_a_scene_in_two_groups_is_refused(folder: Path) -> None:
    """Else it might be trained on and held back at once."""
    settings = SceneSettings(groups={"a": ("north_*",), "b": ("*_1.npz",)})

    with pytest.raises(ScenesError, match=r"north_1\.npz is in the groups a, b"):
        load_scenes(folder / "scenes", settings)


def test_no_scene_is_an_error_with_the_path(tmp_path: Path) -> None:
    """An empty folder is named."""
    with pytest.raises(ScenesError, match=tmp_path.name):
        load_scenes(tmp_path, SceneSettings())


def test_crops_say_which_components_are_there() -> None:
    """A tile with fewer components gives zeros, and says that they are none."""
    images = [np.ones((3, 16, 16), dtype=np.float32), np.ones((1, 16, 16), dtype=np.float32)]
    crops = Crops(images, components=2, crop_px=16)

    components, present = zip(*(crops[i] for i in range(len(crops))), strict=True)

    assert [p.tolist() for p in present] == [[1, 1], [1, 0]]
    assert [c.sum().item() for c in components] == [512, 256]


def test_small_scenes_are_reflected() -> None:
    """A scene smaller than a crop still gives one."""
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)

    components, _ = Crops([image], components=1, crop_px=8)[0]

    assert components.shape == (1, 8, 8)
    assert components[0, 3, 0] == components[0, 2, 0]


def test_random_crops_repeat_with_their_seed() -> None:
    """Equal seeds draw equal crops; their values are the scene's, up to sign."""
    image = np.random.default_rng(0).normal(size=(2, 24, 40)).astype(np.float32)
    first, again, other = (
        Crops([image], components=2, crop_px=16, count=4, seed=seed) for seed in (1, 1, 2)
    )

    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[1][0], other[0][0])
    assert set(first[2][0].abs().flatten().tolist()) <= set(np.abs(image).ravel().tolist())


def test_scenes_without_a_component_are_refused() -> None:
    """At a step above all there is, nothing can be learned."""
    with pytest.raises(ScenesError, match="a smaller step"):
        Crops([np.zeros((0, 16, 16), dtype=np.float32)], components=2, crop_px=16)


def test_conditioning_is_in_steps(settings: Settings, split: Split) -> None:
    """Half the step, twice the components' values."""
    bundle = untrained_bundle(
        settings.network.spec(), settings.network.conditioner(), default_step=64.0
    )
    tile = split.training[0].tile

    coarse, fine = condition(tile, bundle, 64.0), condition(tile, bundle, 32.0)

    assert coarse.shape[1:] == tile.samples.shape[1:]
    assert np.std(fine[0]) == pytest.approx(2 * np.std(coarse[0]), rel=0.05)
