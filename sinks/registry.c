#include <stdlib.h>

#include "sinks/sink.h"

extern const struct sink_type s3_sink, webhook_sink, file_sink, null_sink, scripted_sink;

const struct sink_type *const sink_types[] = {
    &s3_sink, &webhook_sink, &file_sink, &null_sink, &scripted_sink, NULL,
};

_Static_assert(sizeof sink_types / sizeof *sink_types - 1 <= SINK_TYPES_MAX,
               "more types than a lane has slots for: raise SINK_TYPES_MAX");

/* Internal types are for tests, never for events from outside. */
const struct sink_type *sink_type_named(const char *name) {
    for (size_t i = 0; sink_types[i]; i++)
        if (!sink_types[i]->internal && strcmp(sink_types[i]->name, name) == 0)
            return sink_types[i];
    return NULL;
}

size_t sink_type_index(const struct sink_type *type) {
    for (size_t i = 0; sink_types[i]; i++)
        if (sink_types[i] == type) return i;
    abort(); /* a type that nobody registered */
}
