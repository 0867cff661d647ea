/* The least that embeds libaurora: watch grey-level ramps, ask, print the answer as it comes.
 *     cc embed_min.c $(pkg-config --cflags --libs aurora) && ./a.out my.aurora "What is shown?" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aurora.h"

enum { SIDE = 96, N_FRAMES = 4 };

static int print(void* user, const char* text, size_t n_bytes) {
    fwrite(text, 1, n_bytes, (FILE*)user);
    return fflush((FILE*)user) != 0; /* not 0 ends the answer */
}

static int fail(const char* what, const char* why) { return fprintf(stderr, "%s: %s\n", what, why), 1; }

int main(int argc, char** argv) {
    static uint8_t pixels[SIDE * SIDE * 3];
    aurora_model* model = NULL;
    aurora_session* session = NULL;
    int failed = 0;
    setenv("ORT_DISABLE_TELEMETRY", "1", 0); /* ONNX Runtime reports to its maker unless this is set before it is loaded */
    if (argc != 3) return fail("usage", "embed_min BUNDLE QUESTION");
    if (aurora_model_open(argv[1], NULL, &model) != AURORA_OK)
        failed = fail("aurora_model_open", aurora_model_last_error(model));
    else if (aurora_session_new(model, &session) != AURORA_OK)
        failed = fail("aurora_session_new", aurora_session_last_error(session));
    for (int i = 0; i < N_FRAMES && !failed; ++i) {
        aurora_frame frame = {.size = sizeof frame, .data = {pixels}, .width = SIDE, .height = SIDE,
                              .format = AURORA_RGB24, .has_time = 1, .time_s = i};
        memset(pixels, 60 * i, sizeof pixels);
        if (aurora_session_watch(session, &frame, NULL) != AURORA_OK)
            failed = fail("aurora_session_watch", aurora_session_last_error(session));
    }
    if (!failed && aurora_session_ask(session, argv[2], NULL, print, stdout, NULL) != AURORA_OK)
        failed = fail("aurora_session_ask", aurora_session_last_error(session));
    if (!failed) puts("");
    aurora_session_close(session);
    aurora_model_close(model);
    return failed;
}
