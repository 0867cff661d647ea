// Frames in the memory of a GPU, over the stand-in for CUDA: the same state as from the host, and what is refused.
#include "gpu_bundle.h"

namespace aurora::tests {
namespace {

// Memory of a GPU with some bytes in it.
class OnGpu {
public:
    OnGpu(GpuStandIn& gpu, const std::vector<std::uint8_t>& bytes, int device = 40) : gpu_(gpu), address_(gpu.allocate(bytes.size(), device)) {
        std::copy(bytes.begin(), bytes.end(), gpu.memory(address_));
    }
    ~OnGpu() { gpu_.free(address_); }
    OnGpu(const OnGpu&) = delete;
    OnGpu& operator=(const OnGpu&) = delete;
    const std::uint8_t* at(std::size_t offset = 0) const { return reinterpret_cast<const std::uint8_t*>(address_ + offset); }

private:
    GpuStandIn& gpu_;
    std::uint64_t address_;
};

class CudaFrames : public OnStandIn {
protected:
    void SetUp() override {
        OnStandIn::SetUp();
        write_engines();
        model = std::make_unique<aurora::Model>(open());
    }
    void TearDown() override {
        model.reset();
        OnStandIn::TearDown();
    }
    std::vector<std::uint8_t> state_after(const aurora_frame& frame) const {
        aurora::Session session(*model);
        session.watch(frame);
        return session.save();
    }
    Exception refused_frame(const aurora_frame& frame) const {
        aurora::Session session(*model);
        try {
            session.watch(frame);
        } catch (const Exception& error) {
            EXPECT_NE(session.info().find("\"phase\":\"empty\""), std::string::npos);
            return error;
        }
        return {AURORA_OK, ""};
    }
    std::unique_ptr<aurora::Model> model;
};

aurora_frame on_gpu(aurora_frame frame) { return in_cuda_memory(frame); }

TEST_F(CudaFrames, GiveTheStateThatFramesOfTheHostGive) {
    const std::vector<std::uint8_t> pixels = picture(5);
    const OnGpu memory(*gpu, pixels);
    const std::vector<std::uint8_t> expected = state_after(frame_of(pixels));
    EXPECT_EQ(state_after(on_gpu(rgb(memory.at(), SIDE, SIDE))), expected);
    EXPECT_EQ(n_calls("copy frame"), 1u);

    constexpr std::size_t STRIDE = SIDE * 3 + 20;  // the last row without its gap
    std::vector<std::uint8_t> wide(STRIDE * (SIDE - 1) + SIDE * 3), upside_down = wide;
    for (std::size_t row = 0; row < SIDE; ++row) {
        std::copy_n(&pixels[row * SIDE * 3], SIDE * 3, &wide[row * STRIDE]);
        std::copy_n(&pixels[row * SIDE * 3], SIDE * 3, &upside_down[(SIDE - 1 - row) * STRIDE]);
    }
    const OnGpu with_gaps(*gpu, wide), turned(*gpu, upside_down);
    EXPECT_EQ(state_after(on_gpu(rgb(with_gaps.at(), SIDE, SIDE, STRIDE))), expected);
    EXPECT_EQ(state_after(on_gpu(rgb(turned.at(STRIDE * (SIDE - 1)), SIDE, SIDE, -static_cast<std::ptrdiff_t>(STRIDE)))), expected);
}

TEST_F(CudaFrames, OfNv12Too) {
    std::vector<std::uint8_t> y(31 * 21), uv(32 * 11);  // odd sides
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<std::uint8_t>(16 + i * 7 % 220);
    for (std::size_t i = 0; i < uv.size(); ++i) uv[i] = static_cast<std::uint8_t>(16 + i * 11 % 220);
    const OnGpu luma(*gpu, y), chroma(*gpu, uv);
    EXPECT_EQ(state_after(on_gpu(nv12(luma.at(), 31, chroma.at(), 32, 31, 21, AURORA_BT601_FULL))),
              state_after(nv12(y.data(), 31, uv.data(), 32, 31, 21, AURORA_BT601_FULL)));
    EXPECT_EQ(n_calls("copy frame"), 2u);
    const aurora_frame short_chroma = on_gpu(nv12(luma.at(), 31, chroma.at(32), 32, 31, 21));
    EXPECT_NE(std::string(refused_frame(short_chroma).what()).find("frame.data[1]: 11 rows by a stride of 32 do not lie in the 352 bytes"), std::string::npos);
}

TEST_F(CudaFrames, ThatCannotBeAreRefused) {
    const std::vector<std::uint8_t> pixels = picture(5);
    const OnGpu memory(*gpu, pixels), elsewhere(*gpu, pixels, 41);
    const std::ptrdiff_t row = SIDE * 3, huge = std::ptrdiff_t{1} << 40;
    const std::vector<std::pair<aurora_frame, std::string>> cases = {
        {rgb(pixels.data(), SIDE, SIDE), "frame.data[0] is no address that CUDA knows"},
        {rgb(elsewhere.at(), SIDE, SIDE), "frame.data[0] is memory of another GPU than the model's, which is GPU 0 (Orin)"},
        {rgb(memory.at(), SIDE, SIDE + 1), "frame.data[0]: 97 rows by a stride of 288 do not lie in the 27648 bytes"},
        {rgb(memory.at(1), SIDE, SIDE), "do not lie in the 27648 bytes"},
        {rgb(memory.at(), SIDE, SIDE, row + 1), "do not lie in the 27648 bytes"},
        {rgb(memory.at(), SIDE, SIDE, -row), "do not lie in the 27648 bytes"},
        {rgb(memory.at(), SIDE, SIDE, row - 1), "have 288 bytes, and the stride is 287"},
        {rgb(memory.at(), SIDE, SIDE, huge), "at most 2147483647 is possible"},
        {rgb(memory.at(), 0, SIDE), "0 x 96 pixels"},
        {rgb(nullptr, SIDE, SIDE), "frame.data[0] is NULL"},
    };
    for (const auto& [frame, words] : cases) {
        const Exception error = refused_frame(on_gpu(frame));
        EXPECT_EQ(error.status(), AURORA_ERROR_USAGE) << words;
        EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
    EXPECT_EQ(n_calls("copy frame"), 0u) << "nothing was copied";
    aurora_frame with_stream = rgb(pixels.data(), SIDE, SIDE);
    with_stream.cuda_stream = gpu;
    EXPECT_EQ(refused_frame(with_stream).status(), AURORA_ERROR_USAGE);
}

TEST_F(CudaFrames, OfOneCallAreCheckedBeforeAnyIsCopied) {
    const std::vector<std::uint8_t> pixels = picture(5);
    const OnGpu memory(*gpu, pixels), elsewhere(*gpu, pixels, 41);
    const aurora_frame good = on_gpu(rgb(memory.at(), SIDE, SIDE));
    std::vector<aurora_frame> frames{good, frame_of(pixels), on_gpu(rgb(elsewhere.at(), SIDE, SIDE))};
    aurora::Session session(*model), alone(*model);
    try {
        session.watch_frames({frames.data(), frames.size()});
        ADD_FAILURE() << "they were read";
    } catch (const Exception& error) {
        EXPECT_EQ(error.status(), AURORA_ERROR_USAGE);
        EXPECT_EQ(std::string(error.what()).rfind("frames[2]: frame.data[0] is memory of another GPU", 0), 0u) << error.what();
    }
    EXPECT_EQ(n_calls("copy frame"), 0u);
    frames[2] = good;
    session.watch_frames({frames.data(), frames.size()});
    for (const aurora_frame& frame : frames) alone.watch(frame);
    EXPECT_EQ(session.save(), alone.save());
}

TEST_F(CudaFrames, OfAModelOnTheCpuAreRefused) {
    const OnGpu memory(*gpu, picture(5));
    const aurora::Model on_cpu = open("cpu");
    aurora::Session session(on_cpu);
    try {
        session.watch(on_gpu(rgb(memory.at(), SIDE, SIDE)));
        ADD_FAILURE() << "it was read";
    } catch (const Exception& error) {
        EXPECT_EQ(error.status(), AURORA_ERROR_UNSUPPORTED);
        EXPECT_NE(std::string(error.what()).find("the model was opened on onnxruntime-cpu"), std::string::npos);
    }
}

}  // namespace
}  // namespace aurora::tests
