"""How much a model computes and reads, from its configuration alone: what a time is held against.

Counted are matrix products, an addition and a multiplication as two operations; everything else is small beside them.
"""

from __future__ import annotations

from aurora_export.config import AuroraConfig, LanguageConfig
from aurora_export.manifest import Manifest


def vision_operations(config: AuroraConfig) -> int:
    """Operations on one frame: patches, blocks with the tokens that are left in each, projector; merging left out."""
    vision = config.vision
    n, width = vision.n_patches, vision.width
    products = n * 3 * vision.patch_size**2 * width
    for merged in config.merges_per_layer:
        products += 4 * n * width**2 + 2 * n**2 * width  # q, k, v, output; scores and their sums of values
        n -= merged
        products += 2 * n * width * vision.mlp_width
    hidden = config.projector.hidden_width
    return 2 * (products + config.tokens_per_frame * hidden * (width + config.language.width))


def language_operations(config: AuroraConfig, n_tokens: int, *, n_runs: int = 1) -> int:
    """Operations on tokens; the head is computed for the last token of a run of the graph only."""
    language = config.language
    head = language.width * language.vocabulary_size
    return 2 * (n_tokens * language.n_layers * _block_products(language) + n_runs * head)


def _block_products(language: LanguageConfig) -> int:
    """Weights of one block that are in matrices, low-rank ones included."""
    width, ffn, ranks = language.width, language.ffn_width, language.low_ranks
    if language.version == 6:
        mixes = 5 * 2 * ranks["mix"] + 2 * ranks["decay"]
        return 6 * width**2 + 2 * width * ffn + mixes * width
    # The first layer of RWKV-7 has no low-rank matrices for values: a fraction of a per cent.
    return 4 * width**2 + 2 * width * ffn + 2 * width * sum(ranks.values())


def language_weight_bytes(manifest: Manifest) -> int:
    """Bytes that a decoded token reads at least: the files of the language graph, once."""
    graph = manifest.files["language"]
    return sum(entry.size for path, entry in manifest.digests.items() if path == graph or path.startswith(f"{graph}."))
