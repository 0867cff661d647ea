// Up to a byte 0: a vocabulary file. Behind it: text, which is encoded, decoded again and streamed.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "error.h"
#include "stop_texts.h"
#include "tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view all(reinterpret_cast<const char*>(data), size);
    const std::size_t cut = std::min(all.find('\0'), size);
    try {
        const aurora::Tokenizer tokenizer = aurora::Tokenizer::from_bytes(all.substr(0, cut));
        const std::string_view text = all.substr(std::min(cut + 1, size));
        const aurora::Ids ids = tokenizer.encode_bytes(text);
        if (tokenizer.decode_bytes(ids) != text) __builtin_trap();
        aurora::StreamDecoder decoder(tokenizer);
        std::string streamed;
        for (const std::int32_t id : ids) streamed += decoder.push(id);
        if ((streamed += decoder.flush()) != tokenizer.decode(ids)) __builtin_trap();
        if (aurora::find_invalid_utf8(streamed) != streamed.npos) __builtin_trap();
        aurora::StopTexts stops({std::string(text.substr(0, 3))});
        stops.push(streamed);
    } catch (const aurora::Error&) {
    }
    return 0;
}
