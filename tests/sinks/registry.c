/* In place of sinks/registry.c: the program's kinds of sink, in its order, and those for tests. */
#include "sinks/sink.h"

extern const struct sink_type s3_sink, webhook_sink, file_sink, null_sink, scripted_sink;

const struct sink_type *const sink_types[] = {
    &s3_sink, &webhook_sink, &file_sink, &null_sink, &scripted_sink, NULL,
};

_Static_assert(sizeof sink_types / sizeof *sink_types - 1 <= SINK_TYPES_MAX,
               "more types than a lane has slots for: raise SINK_TYPES_MAX");
