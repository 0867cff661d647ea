// The text around the frames, as token ids. Mirrors core/prompt.py, which says why the chunks are never joined first.
#pragma once

#include <optional>
#include <string_view>

#include "config.h"
#include "tokenizer.h"

namespace aurora {

// All throw Error(usage) for an empty text or one that is not UTF-8.

// Ids before the first frame. `duplicate` wants the question here; none, not known yet, gives the instruction.
Ids prefix_ids(const PromptConfig& config, const Tokenizer& tokenizer, std::optional<std::string_view> question = {},
               std::optional<std::string_view> instruction = {});

// Ids between two frames; empty for the empty separator.
Ids separator_ids(const PromptConfig& config, const Tokenizer& tokenizer);

// Ids after the last frame: the question and the opening of the answer.
Ids suffix_ids(const PromptConfig& config, const Tokenizer& tokenizer, std::string_view question);

// Ids of a further question after an answer, with no frames between.
Ids turn_ids(const PromptConfig& config, const Tokenizer& tokenizer, std::string_view question);

}  // namespace aurora
