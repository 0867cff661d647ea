// State files of Python open here, and the other way round; damaged and hostile ones.
#include "state_file.h"

#include <cmath>
#include <cstring>

#include "atomic_file.h"
#include "golden.h"
#include "manifest.h"
#include "packing.h"

namespace aurora::tests {
namespace {

const json& recorded() {
    static const json content = golden("states.json");
    return content;
}

const AuroraConfig& config() {
    static const AuroraConfig config = manifest_from_text(recorded()["manifest"].dump(), "M").config;
    return config;
}

std::string model() { return recorded()["fingerprint"]; }
std::string state_path(const std::string& name) { return root() + "/tests/golden/states/" + name + ".aurstate"; }

// arrays() of tests/golden/golden_states.py.
State state_of(const std::string& name) {
    State state = zero_state(config(), model(), "fp32", "onnxruntime-cpu");
    SplitMix64 random(recorded()["seed"]);
    for (std::vector<float>& array : state.arrays) {
        for (float& value : array) value = static_cast<float>(random.next_float() - 0.5);
        for (std::size_t i = 0; i < recorded()["special"].size(); ++i)
            array[i] = std::strtof(recorded()["special"][i].get<std::string>().c_str(), nullptr);
    }
    const json& given = recorded()["headers"][name];
    StateHeader& h = state.header;
    h.phase = given["phase"], h.tokens_seen = given["tokens_seen"], h.frames_seen = given["frames_seen"];
    if (given.contains("position_s")) h.position_s = given["position_s"].get<double>();
    const auto text = [&](const char* key) { return given.contains(key) ? std::optional(given[key].get<std::string>()) : std::nullopt; };
    h.video_digest = text("video_digest"), h.prompt_form = text("prompt_form"), h.primed_for = text("primed_for");
    h.sampling = text("sampling"), h.parent_digest = text("parent_digest");
    return state;
}

bool are_equal(const StateHeader& a, const StateHeader& b) {
    const auto all = [](const StateHeader& h) {
        return std::tie(h.fingerprint, h.precision, h.backend, h.phase, h.tokens_seen, h.frames_seen, h.position_s, h.video_digest, h.prompt_form,
                        h.primed_for, h.sampling, h.parent_digest);
    };
    return all(a) == all(b);
}

void expect_equal(const State& found, const State& expected) {
    EXPECT_TRUE(are_equal(found.header, expected.header));
    EXPECT_EQ(found.digest(), expected.digest());
    for (std::size_t i = 0; i < N_STATES; ++i) {
        ASSERT_EQ(found.arrays[i].size(), expected.arrays[i].size());
        EXPECT_EQ(std::memcmp(found.arrays[i].data(), expected.arrays[i].data(), found.arrays[i].size() * sizeof(float)), 0);
    }
}

TEST(StateFile, FilesOfPython) {
    EXPECT_EQ(state_of("bare").digest(), recorded()["digest"].get<std::string>());
    for (const std::string name : {"full_raw", "full_packed", "bare_raw", "version_1"}) {
        if (name == "full_packed" && !can_pack()) continue;
        expect_equal(load_state(state_path(name), config(), model()), state_of(name.substr(0, 4) == "full" ? "full" : "bare"));
    }
    EXPECT_EQ(read_state_header(state_path("version_1")).format_version, "1");
    EXPECT_EQ(read_state_header(state_path("full_packed")).encoding, "packed");
}

// tests/test_golden.py opens these files; AURORA_WRITE_GOLDEN=1 writes them.
TEST(StateFile, FilesForPython) {
    const State state = state_of("full");
    const std::string raw = bytes_from_state(state, config());
    if (std::getenv("AURORA_WRITE_GOLDEN")) {
        write_file(state_path("cpp_raw"), raw);
        write_file(state_path("cpp_packed"), bytes_from_state(state, config(), true));
    }
    EXPECT_EQ(raw, read_file(state_path("cpp_raw")));
    if (can_pack()) expect_equal(load_state(state_path("cpp_packed"), config(), model()), state);
}

TEST(StateFile, SavedAndLoadedBitForBit) {
    const Folder folder;
    for (const bool packed : {false, true}) {
        if (packed && !can_pack()) continue;
        const State state = state_of("full");
        const std::uint64_t n_bytes = save_state(folder / "s.aurstate", state, config(), packed);
        EXPECT_EQ(n_bytes, std::filesystem::file_size(folder / "s.aurstate"));
        expect_equal(load_state(folder / "s.aurstate", config(), model()), state);
        expect_equal(state_from_bytes(read_file(folder / "s.aurstate"), config(), model()), state);
        EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
    }
}

TEST(StateFile, PackedWithoutZlibIsSaid) {
    if (can_pack()) GTEST_SKIP() << "this build has zlib";
    EXPECT_EQ(refusal([] { load_state(state_path("full_packed"), config(), model()); }).status, Status::dependency);
    EXPECT_EQ(refusal([] { bytes_from_state(state_of("full"), config(), true); }).status, Status::dependency);
}

struct Pieces {
    json header;
    std::string body;
};

Pieces pieces(const std::string& bytes) {
    std::uint64_t n = 0;
    std::memcpy(&n, bytes.data(), sizeof n);
    return {json::parse(bytes.substr(8, n)), bytes.substr(8 + n)};
}

std::string joined(const std::string& header, const std::string& body) {
    const std::uint64_t n = header.size();
    return std::string(reinterpret_cast<const char*>(&n), sizeof n) + header + body;
}

Refusal refused(const std::string& bytes) {
    return refusal([&] { state_from_bytes(bytes, config(), model(), "S"); });
}

TEST(StateFile, ChangedHeadersAsPython) {
    const Pieces original = pieces(read_file(state_path("full_raw")));
    for (const json& entry : recorded()["changes"]) {
        json header = original.header;
        const json& change = entry["change"];
        if (change.contains("metadata")) header["__metadata__"].update(change["metadata"]);
        if (change.contains("metadata_without")) header["__metadata__"].erase(change["metadata_without"].get<std::string>());
        if (change.contains("rename")) {
            header[change["rename"][1].get<std::string>()] = header[change["rename"][0].get<std::string>()];
            header.erase(change["rename"][0].get<std::string>());
        }
        if (change.contains("tensor")) header[change["tensor"].get<std::string>()].update(change["entry"]);
        const Refusal found = refused(joined(header.dump(), original.body));
        EXPECT_EQ(found.message, entry["message"].get<std::string>()) << change;
        EXPECT_EQ(static_cast<int>(found.status), entry["status"].get<int>()) << change;
    }
}

TEST(StateFile, Truncated) {
    const std::string bytes = read_file(state_path("full_raw"));
    for (std::size_t n = 0; n < bytes.size(); ++n) EXPECT_EQ(refused(bytes.substr(0, n)).message.rfind("S: not a valid state file: ", 0), 0u) << n;
    EXPECT_EQ(refused(bytes + "more").message.rfind("S: not a valid state file: its tensors need ", 0), 0u);
}

TEST(StateFile, HugeDeclaredSizes) {
    std::string bytes = read_file(state_path("full_raw"));
    for (const std::uint64_t announced : {UINT64_MAX, std::uint64_t{1} << 40, std::uint64_t{65537}}) {
        std::memcpy(bytes.data(), &announced, sizeof announced);
        EXPECT_EQ(refused(bytes).message, "S: not a valid state file: it announces a header of " + std::to_string(announced) + " bytes; the file has " +
                                              std::to_string(bytes.size()) + " bytes and the limit is 65536");
    }
}

TEST(StateFile, HeadersThatAreNone) {
    for (const std::string& header : {std::string("[]"), std::string("{"), std::string(50'000, '['), std::string("\xff\xfe"), std::string("{\"a\": NaN}"),
                                     std::string("{\"wkv\": 1, \"wkv\": 2}")})
        EXPECT_EQ(refused(joined(header, "")).message.rfind("S: not a valid state file: its header is not ", 0), 0u) << header.substr(0, 20);
    EXPECT_EQ(refused(joined(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "abcd")).message, "S: a safetensors file, but not a state of aurora-export");
    EXPECT_EQ(refused("\x80\x04\x95" "cos\nsystem\n(S'false'\ntR.").status, Status::integrity);
}

TEST(StateFile, TensorsThatAreNone) {
    const Pieces original = pieces(read_file(state_path("full_raw")));
    const auto with = [&](const std::function<void(json&)>& change) {
        json header = original.header;
        change(header);
        return refused(joined(header.dump(), original.body)).message;
    };
    for (const json& shape : {json({-64}), json("many"), json({2.0}), json({UINT64_MAX}), json()})
        EXPECT_EQ(with([&](json& h) { h["wkv"]["shape"] = shape; }).rfind("S: wkv is {", 0), 0u) << shape;
    EXPECT_EQ(with([](json& h) { h["wkv"]["dtype"] = "F64"; }).rfind("S: wkv is {", 0), 0u);
    EXPECT_EQ(with([](json& h) { h["wkv"] = 3; }), "S: wkv is 3, expected F32");
    EXPECT_EQ(with([](json& h) { h["wkv"]["shape"] = {INT64_MAX, INT64_MAX}; }),
              "S: not a valid state file: its tensors need 18446744073709551615 bytes, the file has 384");
    for (const json& offsets : {json({0, 64}), json({0, 256}), json({64, std::uint64_t{1} << 40}), json({-5, 3}), json({64, 10}), json({UINT64_MAX, 63}),
                                json({0}), json("x"), json({0.0, 64.0})})
        EXPECT_EQ(with([&](json& h) { h["att_shift"]["data_offsets"] = h["ffn_shift"]["data_offsets"] = offsets; }).rfind("S: not a valid state file: ", 0), 0u)
            << offsets;
    EXPECT_EQ(with([](json& h) { h["wkv"]["more"] = 1; }).rfind("S: not a valid state file: wkv is {", 0), 0u);
}

TEST(StateFile, ValuesThatAreNotFinite) {
    for (const float value : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
        State state = state_of("bare");
        state.arrays[2][7] = value;
        EXPECT_EQ(refused(bytes_from_state(state, config())).message, "S: wkv holds values that are not finite");
    }
}

TEST(StateFile, DamagedPackedTensors) {
    if (!can_pack()) GTEST_SKIP() << "this build has no zlib";
    const Pieces original = pieces(read_file(state_path("full_packed")));
    std::string body = original.body;
    std::fill(body.end() - 9, body.end(), '\0');
    EXPECT_EQ(refused(joined(original.header.dump(), body)).message.rfind("S: a packed tensor is damaged: ", 0), 0u);
    // A bomb: 100 MB in 100 kB, announced as a tensor of the contract.
    const std::vector<float> zeros(25'000'000);
    const std::vector<std::uint8_t> bomb = pack(zeros.data(), zeros.size());
    json header = original.header;
    const auto begin = header["wkv"]["data_offsets"][0].get<std::size_t>();
    if (begin + header["wkv"]["shape"][0].get<std::size_t>() != original.body.size()) GTEST_SKIP() << "wkv is not the last tensor of the golden file";
    header["wkv"]["shape"] = {bomb.size()}, header["wkv"]["data_offsets"] = {begin, begin + bomb.size()};
    body = original.body.substr(0, begin) + std::string(bomb.begin(), bomb.end());
    EXPECT_EQ(refused(joined(header.dump(), body)).message,
              "S: a packed tensor is damaged: its content is not the 256 bytes of the shape (2, 1, 2, 4, 4)");
}

TEST(StateFile, SizesOfAModelThatCannotBe) {
    AuroraConfig huge = config();
    huge.language.n_layers = 1000, huge.language.width = huge.language.head_size = MAX_SIZE;
    const Refusal found = refusal([&] { zero_state(huge, "", "", ""); });
    EXPECT_EQ(found.status, Status::incompatible);
    EXPECT_EQ(found.message.rfind("a state of this model has ", 0), 0u);
}

TEST(StateFile, FilesThatAreNotThere) {
    const Folder folder;
    EXPECT_EQ(refusal([&] { load_state(folder / "s", config(), model()); }).message, (folder / "s") + ": no such state file");
    EXPECT_EQ(refusal([&] { load_state(folder.path(), config(), model()); }).status, Status::usage);
    EXPECT_EQ(refusal([&] { save_state(folder / "no/s", state_of("bare"), config()); }).message, (folder / "no/s") + ": cannot be written: No such file or directory");
    EXPECT_EQ(refusal([&] { write_atomically("/dev/full/x", "x", "it"); }).status, Status::usage);
    State other = state_of("bare");
    other.arrays[0].pop_back();
    EXPECT_EQ(refusal([&] { save_state(folder / "s", other, config()); }).message, "att_shift has 15 values, expected 16");
}

TEST(StateFile, AnExistingFileIsReplacedWhole) {
    const Folder folder;
    write_file(folder / "s", "old");
    std::filesystem::create_directory(folder / "taken");
    write_file(folder / "taken/x", "");
    // A folder that is not empty cannot be replaced by a file: nothing is left behind.
    EXPECT_EQ(refusal([&] { write_atomically(folder / "taken", "new", "it"); }).status, Status::usage);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
    write_atomically(folder / "s", "new", "it");
    EXPECT_EQ(read_file(folder / "s"), "new");
}

}  // namespace
}  // namespace aurora::tests
