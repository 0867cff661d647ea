// Ends an answer at a stop text, none of which ever reaches the output, however the pieces cut it.
// Mirrors runtime/stop_texts.py.
#pragma once

#include <string>
#include <vector>

namespace aurora {

// A filter over pieces of valid UTF-8; holds back what could still become a stop text, and nothing else.
class StopTexts {
public:
    // Any number; the one that starts first in the text wins. Throws Error(usage) for an empty one, or one not UTF-8.
    explicit StopTexts(std::vector<std::string> texts);

    struct Shown {
        std::string text;  // may be shown now
        bool stopped;      // the answer ends here
    };
    Shown push(const std::string& piece);

    // What was held back when the answer ended otherwise.
    std::string flush();

private:
    std::vector<std::string> texts_;
    std::string held_;
};

}  // namespace aurora
