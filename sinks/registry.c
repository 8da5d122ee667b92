/* The kinds of sink that events may name, a line each. A program of its own may bring another table
 * in place of this file, as tests do: tests/sinks/registry.c. */
#include "sinks/sink.h"

extern const struct sink_type s3_sink, webhook_sink, file_sink;

const struct sink_type *const sink_types[] = {
    &s3_sink,
    &webhook_sink,
    &file_sink,
    NULL,
};

_Static_assert(sizeof sink_types / sizeof *sink_types - 1 <= SINK_TYPES_MAX,
               "more types than a lane has slots for: raise SINK_TYPES_MAX");
