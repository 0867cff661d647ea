"""Images are square, and so is the grid of their patches; what asks for another shape is refused, and told why."""

from __future__ import annotations

import pytest

import tiny
from aurora_export.errors import EXIT_INCOMPATIBLE, EXIT_INTEGRITY, AuroraError
from aurora_export.model.checkpoint import CheckpointSource, plan_checkpoint
from sparse_checkpoint import rwkv7_shapes, siglip_shapes, write_folder, write_preprocessor, write_sparse

LANGUAGE = rwkv7_shapes(1, 128, ranks={"w": 8, "a": 8, "v": 8, "g": 8})
TOWER = siglip_shapes(2, 1152, 64, patch=14, n_patches=729)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of a 27 x 27 tower, without configuration files."""
    return write_folder(tmp_path, language=LANGUAGE, vision=TOWER)


def refusal(folder):
    with pytest.raises(AuroraError) as caught:
        plan_checkpoint(CheckpointSource(folder))
    return caught.value


def assert_refused_because(folder, message, hint):
    error = refusal(folder)
    assert (error.message, error.exit_code) == (message, EXIT_INCOMPATIBLE)
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("name", "shape", "message", "hint"),
    [
        (
            "embeddings.position_embedding.weight",
            (24 * 27, 1152),
            "vision.embeddings.position_embedding.weight has 648 rows, which is no square",
            "square grid",
        ),
        (
            "embeddings.position_embedding.weight",
            (730, 1152),
            "vision.embeddings.position_embedding.weight has 730 rows, which is no square",
            "729 patches and a class token are another tower's, such as CLIP's",
        ),
        (
            "embeddings.patch_embedding.weight",
            (1152, 3, 14, 16),
            (
                "vision.embeddings.patch_embedding.weight takes patches of 3 x 14 x 16; "
                "square patches of 3 channels are supported"
            ),
            "square grid",
        ),
        (
            "embeddings.patch_embedding.weight",
            (1152, 588),
            (
                "vision.embeddings.patch_embedding.weight is a matrix, as in SigLIP 2 NaFlex, "
                "which takes images of any shape"
            ),
            "give a tower of a fixed resolution",
        ),
    ],
)
def test_a_tower_for_other_images_is_refused(folder, name, shape, message, hint):
    shapes = TOWER | {f"vision_model.{name}": shape}
    write_sparse(folder / "visual_encoder/model.safetensors", shapes)
    assert_refused_because(folder, message, hint)


@pytest.mark.parametrize("name", ["image_size", "patch_size"])
@pytest.mark.parametrize("value", [[384, 640], {"height": 384, "width": 640}, [384], [[384, 384]]])
def test_a_config_of_images_that_are_no_squares_is_refused(folder, name, value):
    path = tiny.write_json(folder / "visual_encoder/config.json", {name: value})
    hint = "the vision graph takes square frames cut into square patches; it has no other shape of image"
    assert_refused_because(folder, f"{path}: {name} is {value}, which is no square", hint)


@pytest.mark.parametrize("value", [384, [384, 384], {"height": 384, "width": 384}])
def test_squares_may_be_written_in_any_way(folder, value):
    tiny.write_json(folder / "visual_encoder/config.json", {"image_size": value, "patch_size": [14, 14]})
    assert plan_checkpoint(CheckpointSource(folder)).config.vision.image_size == 384


@pytest.mark.parametrize("value", ["384", True, 0, 3.5])
def test_an_image_size_that_is_no_count_is_refused(folder, value):
    path = tiny.write_json(folder / "visual_encoder/config.json", {"image_size": value})
    error = refusal(folder)
    assert error.message == f"{path}: image_size is {value}, but the tensors say 27 x 27 patches of 14"
    assert error.exit_code == EXIT_INTEGRITY


def test_a_processor_for_images_that_are_no_squares_is_refused(folder):
    size = {"height": 384, "width": 640}
    path = write_preprocessor(folder, size)
    assert_refused_because(folder, f"{path}: size is {size}, which cannot be reproduced here", "resize to a square")
