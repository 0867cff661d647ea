// Structs of aurora.h, of an older or newer header than this one, as the modules take them. All throw Error(usage).
#pragma once

#include <cstddef>

#include "aurora.h"
#include "model.h"
#include "session.h"

namespace aurora {

void check_given(const void* pointer, const char* name);

ModelOptions model_options(const aurora_model_options* given);
WatchOptions watch_options(const aurora_watch_options* given);
AskOptions ask_options(const aurora_ask_options* given);

Frame frame_of(const aurora_frame* given);

// Frame i of an array of the caller, whose structs may be larger or smaller than ours.
const aurora_frame* frame_at(const aurora_frame* frames, std::size_t i);

}  // namespace aurora
