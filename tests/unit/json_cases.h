/* Reads tests/data/json/cases.txt, whose head says what its lines mean. */
#ifndef RUNSINK_TESTS_JSON_CASES_H
#define RUNSINK_TESTS_JSON_CASES_H

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/hash.h"

/* Calls use for each case; text is valid during the call. Returns how many there were. */
static inline size_t json_cases(void (*use)(char mark, struct str text, int line)) {
    FILE *file = fopen(TEST_DATA "/json/cases.txt", "r");
    if (!file) return 0;
    char line[4096];
    size_t n = 0;
    for (int number = 1; fgets(line, sizeof line, file); number++) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#' || line[0] == '\0') continue;
        char *to = line + 1;
        for (const char *from = line[1] ? line + 2 : line + 1; *from;) {
            uint8_t byte;
            bool coded = *from == '~' && unhex((struct str){from + 1, 2}, &byte, 1);
            *to++ = coded ? (char)byte : *from;
            from += coded ? 3 : 1;
        }
        size_t len = (size_t)(to - (line + 1));
        char *text = xstrndup(line + 1, len); /* exactly as long: reading past the end shows */
        text = xrealloc(text, len ? len : 1);
        use(line[0], (struct str){text, len}, number);
        free(text);
        n++;
    }
    fclose(file);
    return n;
}

/* A repeatable source of numbers for property tests: xorshift64*, after Vigna (2016). */
static inline uint64_t test_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

#endif
