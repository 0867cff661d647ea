/* aurora.h: ask a video language model about videos, from C or C++.
 *
 *     aurora_model* model;
 *     if (aurora_model_open("my.aurora", NULL, &model) != AURORA_OK)       // check digests, open the graphs
 *         fprintf(stderr, "%s\n", aurora_model_last_error(model));
 *     aurora_session* session;
 *     aurora_session_new(model, &session);
 *     for each frame: aurora_session_watch(session, &frame, NULL);         // one frame into the state
 *     aurora_session_ask(session, "What happened?", NULL, print_piece, NULL, NULL);
 *     aurora_session_close(session), aurora_model_close(model);
 *
 * A model is what a bundle holds: graphs, embedding table, tokenizer. It never changes. A session is one conversation:
 * a recurrent state of fixed size, however long the video is, and the buffers to move it on.
 *
 * OWNERSHIP. What the library returns as `const char*` or `const float*` belongs to the handle it was asked from, and is
 * valid until the next call on that handle unless its function says otherwise. What is passed in is copied, or not used
 * any more when the call returns. Handles are given back by their close function only. Text is UTF-8 and ends in 0.
 *
 * THREADS. One model may be used by any number of threads and sessions at once. A session is for one thread at a time;
 * a call that meets another one still at work returns AURORA_ERROR_BUSY, and changes nothing. That holds for calls from
 * inside a callback of the same session too. Sessions may move between threads. The library starts no threads itself;
 * ONNX Runtime starts some for each model.
 *
 * ERRORS. Every function that can fail returns an aurora_status; nothing is thrown, nothing ends the process, and
 * nothing is printed. The text of the last error of a handle says what was given, what was expected and what to do.
 *
 * STRUCTS of options start with their own size and may be zeroed: every field then has its default, and a size of 0 says
 * that the struct is that of ABI version 1. A program that was compiled with a newer header than the library gets
 * AURORA_ERROR_USAGE if it sets a field that the library does not know, and is served otherwise.
 */
#ifndef AURORA_H
#define AURORA_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(AURORA_STATIC)
#define AURORA_API __attribute__((visibility("default")))
#else
#define AURORA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. Functions and fields are only ever added; then it grows by one. */
#define AURORA_ABI_VERSION 1

/* What a call came to. Numbers are those of the command line's exit codes where both have one. */
typedef enum aurora_status {
    AURORA_OK = 0,
    AURORA_ERROR_UNEXPECTED = 1,   /* a fault of the library or the engine below it: please report it */
    AURORA_ERROR_USAGE = 2,        /* an argument is wrong, or the call does not fit what the session did before */
    AURORA_ERROR_INCOMPATIBLE = 3, /* the file is whole, but made for another version, model or machine */
    AURORA_ERROR_INTEGRITY = 4,    /* a bundle or state is damaged, incomplete or hostile */
    AURORA_ERROR_RESOURCES = 6,    /* memory or disk space ran out */
    AURORA_ERROR_DEPENDENCY = 7,   /* a library is not installed; the text says which */
    AURORA_ERROR_UNSUPPORTED = 9,  /* this backend or build cannot do that */
    AURORA_ERROR_BUSY = 10,        /* the session is at work in another call */
    AURORA_CANCELLED = 11          /* a callback asked for an end; no error, and the session can go on */
} aurora_status;

#ifdef __cplusplus
}
#endif
#endif
