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
 * a call that meets another one still at work returns AURORA_ERROR_BUSY, and changes nothing, the text of the last error
 * included. That holds for calls from inside a callback of the same session too. Sessions may move between threads.
 * ONNX Runtime has threads for each model; the library itself starts one while files are verified and, unless n_threads is
 * 1, one while the graphs are opened, which calls nothing of the caller's; and none after that.
 *
 * LIFE. A handle must not be used after it was closed. Builds with assertions (CMake's Debug) know all open handles, and
 * answer a use after close with AURORA_ERROR_USAGE or NULL. NULL for a handle is an error in every build, and no crash.
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
#define AURORA_ABI_VERSION 3

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

/* --- versions ----------------------------------------------------------------------------------------------------- */

/* AURORA_ABI_VERSION of the library that is loaded; compare it with the header's. */
AURORA_API uint32_t aurora_abi_version(void);

/* Version of the library, as "0.1.0". Valid for good. */
AURORA_API const char* aurora_version(void);

/* Name of a status, as "AURORA_ERROR_USAGE"; "unknown" for a number that is none. Valid for good. */
AURORA_API const char* aurora_status_name(aurora_status status);

/* --- model -------------------------------------------------------------------------------------------------------- */

typedef struct aurora_model aurora_model;

typedef enum aurora_backend {
    AURORA_BACKEND_AUTO = 0,        /* ONNX Runtime */
    AURORA_BACKEND_ONNXRUNTIME = 1, /* runs every bundle; libonnxruntime is loaded when a model is opened */
    AURORA_BACKEND_TENSORRT = 2     /* engines of the bundle, on GPU 0 unless device_name says otherwise; it is compiled
                                       where TensorRT's headers are, else AURORA_ERROR_UNSUPPORTED. Never run on a GPU */
} aurora_backend;

typedef enum aurora_device {
    AURORA_DEVICE_CPU = 0,
    AURORA_DEVICE_CUDA = 1 /* ONNX Runtime's CUDA provider. Never run on a GPU by its authors */
} aurora_device;

typedef enum aurora_log_level { AURORA_LOG_DEBUG = 0, AURORA_LOG_WARNING = 1 } aurora_log_level;

/* One line without a newline; called on the thread that called the library. `text` is valid during the call. */
typedef void (*aurora_log_callback)(void* user, aurora_log_level level, const char* text);

/* While files are verified: `path` in the bundle, bytes of it that were read since the last call, and bytes of all files
 * together. It may be called on another thread than the caller's, by one at a time, and never after aurora_model_open
 * returned. Not 0 asks for an end: aurora_model_open returns AURORA_CANCELLED. */
typedef int (*aurora_progress_callback)(void* user, const char* path, uint64_t n_bytes, uint64_t n_bytes_total);

typedef struct aurora_model_options {
    size_t size;                     /* sizeof(aurora_model_options) */
    int32_t backend;                 /* an aurora_backend */
    int32_t device;                  /* an aurora_device */
    int32_t n_threads;               /* of one operator; 0: one for each core that this process is given time on */
    int32_t skip_verification;       /* not 0: digests are not compared; only where that was done before */
    const char* onnxruntime_library; /* path of libonnxruntime.so; NULL: $AURORA_ONNXRUNTIME, then the loader's search */
    int32_t no_native_operators;     /* not 0: the graphs' own functions run, slower and the same */
    int32_t reserved;                /* 0 */
    aurora_log_callback log;         /* NULL: no log */
    void* log_user;
    aurora_progress_callback progress; /* NULL: none */
    void* progress_user;
    /* since version 2 */
    const char* device_name;      /* as the command line's --device: "cpu", "cuda", "cuda:1", "tensorrt", "tensorrt:1";
                                     then backend and device are 0. NULL: they decide */
    const char* tensorrt_library; /* path of libnvinfer.so; NULL: $AURORA_TENSORRT, then the loader's search */
} aurora_model_options;

/* Opens a bundle: reads the manifest, verifies size and SHA-256 of every file, then opens the files.
 *
 * options may be NULL. *model is set whatever the status is, but to NULL if even a handle could not be allocated: after
 * an error it only answers aurora_model_last_error, and must be closed. Nothing of a bundle is run before it was verified.
 * A stranger's bundle is safe to refuse; one that passes is what its maker made, and its graphs are run by the engine. */
AURORA_API aurora_status aurora_model_open(const char* bundle, const aurora_model_options* options,
                                           aurora_model** model);

/* Gives the handle back; NULL is allowed. Sessions keep what they need: models and sessions close in any order. */
AURORA_API void aurora_model_close(aurora_model* model);

/* Why aurora_model_open failed; "" if it did not. Valid until the model is closed; any thread may ask. */
AURORA_API const char* aurora_model_last_error(const aurora_model* model);

/* What was opened, as a JSON object: name, precision, backend, fingerprint, image_size, tokens_per_frame, state_bytes,
 * n_threads, native_operators and the versions of library and engine. NULL if it is not open. Valid until it is closed. */
AURORA_API const char* aurora_model_info(const aurora_model* model);

/* --- session ------------------------------------------------------------------------------------------------------ */

typedef struct aurora_session aurora_session;

/* A new session that has seen nothing. It allocates two states and the buffers of one run: about 2 * state_bytes and
 * 1024 * width bytes. As with a model, *session is set even after an error, and must be closed then too. */
AURORA_API aurora_status aurora_session_new(const aurora_model* model, aurora_session** session);

/* Another session that continues from where this one stands, apart from it. *other is set as by aurora_session_new. */
AURORA_API aurora_status aurora_session_clone(aurora_session* session, aurora_session** other);

/* Gives the handle back; NULL is allowed. AURORA_ERROR_BUSY, and nothing is closed, while another call is at work. */
AURORA_API aurora_status aurora_session_close(aurora_session* session);

/* Text of the last call on this session that returned an error, or "". Not while another thread is in a call. */
AURORA_API const char* aurora_session_last_error(const aurora_session* session);

typedef enum aurora_pixel_format {
    AURORA_RGB24 = 0, /* data[0]: rows of 3 bytes a pixel, R G B */
    AURORA_NV12 = 1   /* data[0]: height rows of Y; data[1]: (height + 1) / 2 rows of (width + 1) / 2 pairs U, V */
} aurora_pixel_format;

/* How NV12 was made from RGB; the same formulas on every machine, in integers. */
typedef enum aurora_colour {
    AURORA_BT709_LIMITED = 0, /* HD video */
    AURORA_BT709_FULL = 1,
    AURORA_BT601_LIMITED = 2, /* SD video */
    AURORA_BT601_FULL = 3     /* JPEG, many webcams */
} aurora_colour;

typedef enum aurora_memory {
    AURORA_MEMORY_HOST = 0,
    AURORA_MEMORY_CUDA = 1 /* data[] are addresses of the GPU that the model is on, AURORA_ERROR_UNSUPPORTED if it is on
                              the CPU. The library copies the frame to the host, and resizes it there as any other:
                              no faster than a copy of your own. Never run on a GPU by its authors */
} aurora_memory;

/* One picture. The library reads it during the call and keeps no pointer to it. */
typedef struct aurora_frame {
    size_t size;            /* sizeof(aurora_frame) */
    const uint8_t* data[2]; /* planes, of `format` */
    ptrdiff_t stride[2];    /* bytes from one row to the next, at least the row; negative: data is the last row in
                               memory, rows go up; 0: rows without gaps */
    uint32_t width, height; /* pixels, 1 to 16384 */
    int32_t format;         /* an aurora_pixel_format */
    int32_t colour;         /* an aurora_colour, of NV12 */
    int32_t memory;         /* an aurora_memory */
    int32_t has_time;       /* not 0: time_s is kept in the state */
    double time_s;          /* when it is shown, since the first frame ever watched */
    /* since version 2 */
    void* cuda_stream;      /* of AURORA_MEMORY_CUDA: the CUstream (cudaStream_t) whose work makes the frame; the copy is put
                               behind it and waited for. NULL: CUDA's default stream */
} aurora_frame;

typedef struct aurora_watch_options {
    size_t size; /* sizeof(aurora_watch_options) */
    /* The question, if it is known before the first frame of a video: the answer profits from knowing what to look for.
     * NULL: a general instruction, and any question may follow. AURORA_ERROR_USAGE at a later frame of the same video. */
    const char* prompt;
    const char* sampling; /* how frames are chosen, as "1 fps"; kept in the state. NULL: "as given". At most 40 bytes */
} aurora_watch_options;

/* Reads one frame into the state: resize, vision, prefill. After the first frame nothing is allocated here. After an
 * answer, a frame begins a new video in a new turn. options may be NULL.
 * A status other than AURORA_OK before the engine ran leaves the session as it was; a failure of the engine itself
 * (AURORA_ERROR_RESOURCES, AURORA_ERROR_UNEXPECTED) leaves the state where it was, or at a part of the frame. */
AURORA_API aurora_status aurora_session_watch(aurora_session* session, const aurora_frame* frame,
                                              const aurora_watch_options* options);

/* Since version 3. Reads frames into the state, in order: the same state, to the bit, as one call of aurora_session_watch
 * for each, with the prompt of options at the first. It takes less time where the tokens of several frames go through the
 * language graph in one run: at 8 and 4 bits on a CPU, with the library's own operators, as many as fit into 256 tokens. In
 * all other cases a frame is a run. All frames must stay in memory during the call; a live source calls aurora_session_watch.
 *
 * frames: an array of n_frames structs. Each has the same size, which is not 0 and leads to the next. Nothing is allocated
 * here once there was a call with as many frames.
 * All frames are checked before anything runs: AURORA_ERROR_USAGE and AURORA_ERROR_UNSUPPORTED leave the session as it was,
 * and the text says which frame is meant. A failure of the engine itself (AURORA_ERROR_RESOURCES, AURORA_ERROR_UNEXPECTED)
 * leaves the state behind some of the frames, or at a part of one: frames_seen of aurora_session_info counts them. */
AURORA_API aurora_status aurora_session_watch_frames(aurora_session* session, const aurora_frame* frames, size_t n_frames,
                                                     const aurora_watch_options* options);

/* Visual tokens of the last frame watched, (n_tokens, width) float32; AURORA_ERROR_USAGE if there is none. */
AURORA_API aurora_status aurora_session_visual_tokens(aurora_session* session, const float** tokens, size_t* n_tokens,
                                                      size_t* width);

/* Logits after what was read last, (vocabulary_size) float32; AURORA_ERROR_USAGE if nothing was read. */
AURORA_API aurora_status aurora_session_logits(aurora_session* session, const float** logits, size_t* vocabulary_size);

/* A piece of the answer, as it comes: n_bytes of whole UTF-8 characters, a 0 after them, never empty. Valid during the
 * call. Not 0 asks for an end. It runs on the calling thread; calls on the same session return AURORA_ERROR_BUSY. */
typedef int (*aurora_text_callback)(void* user, const char* text, size_t n_bytes);

typedef struct aurora_ask_options {
    size_t size;              /* sizeof(aurora_ask_options) */
    uint32_t max_tokens;      /* 0: 256 */
    uint32_t top_k;           /* 0: all */
    double temperature;       /* 0: always the most likely token; 1: as the model says */
    double top_p;             /* 0: 1, all */
    double presence_penalty;  /* -100 to 100 */
    double frequency_penalty; /* -100 to 100 */
    double penalty_decay;     /* of counts, at each token; 0: 0.996 */
    uint64_t seed;
    const char* const* stop; /* texts that end the answer and are not part of it, beside the model's own */
    size_t n_stop;
} aurora_ask_options;

typedef enum aurora_answer_end {
    AURORA_END_UNFINISHED = 0, /* cancelled, or an error */
    AURORA_END_STOP = 1,       /* a stop id or stop text */
    AURORA_END_LENGTH = 2      /* max_tokens */
} aurora_answer_end;

typedef struct aurora_answer {
    size_t size; /* sizeof(aurora_answer), set by the caller */
    int32_t end; /* an aurora_answer_end */
    uint32_t n_tokens;
    double question_s; /* time until the question was read */
    double answer_s;   /* time of all tokens, callbacks not counted */
} aurora_answer;

/* Asks about what was watched, and streams the answer. The session has then seen question and answer; to ask many
 * questions about one video, ask clones. options, on_text and answer may be NULL.
 * AURORA_CANCELLED if on_text asked for it: what was made until then is in the state, and a further question may follow.
 * AURORA_ERROR_USAGE if nothing was watched, the question is empty or an option is out of range; nothing has changed. */
AURORA_API aurora_status aurora_session_ask(aurora_session* session, const char* question,
                                            const aurora_ask_options* options, aurora_text_callback on_text, void* user,
                                            aurora_answer* answer);

/* Forgets everything that was watched and said. */
AURORA_API aurora_status aurora_session_reset(aurora_session* session);

/* --- state -------------------------------------------------------------------------------------------------------- */

/* Writes the state to a file that Python and C++ open alike (docs/STATES.md): whole or not at all.
 * packed: not 0 compresses it without loss. n_bytes, the size of the file, may be NULL. */
AURORA_API aurora_status aurora_session_save(aurora_session* session, const char* path, int packed, uint64_t* n_bytes);

/* Continues from a file that a session of the same model saved. The session is as it was after any error. */
AURORA_API aurora_status aurora_session_load(aurora_session* session, const char* path);

/* The same in memory. With buffer NULL, *n_bytes is set to the size that is needed now; otherwise *n_bytes is the size of
 * the buffer on the way in, and what was written on the way out. AURORA_ERROR_USAGE if it is too small. */
AURORA_API aurora_status aurora_session_save_to(aurora_session* session, void* buffer, size_t* n_bytes);
AURORA_API aurora_status aurora_session_load_from(aurora_session* session, const void* buffer, size_t n_bytes);

/* Where the session stands, as a JSON object: the header of the state file (phase, tokens_seen, frames_seen, position_s,
 * ...), counts and seconds by stage. NULL after an error. */
AURORA_API const char* aurora_session_info(aurora_session* session);

#ifdef __cplusplus
}
#endif
#endif
