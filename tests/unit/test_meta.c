#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/kafka/meta.h"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define HEAD "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void assert_same(const struct meta *a, const struct meta *b) {
    assert_int_equal(a->seq, b->seq);
    assert_memory_equal(a->head, b->head, SHA256_LEN);
    assert_true(claim_same(&a->claim, &b->claim));
    assert_int_equal(a->claim.n_blamed, b->claim.n_blamed);
    for (uint32_t i = 0; i < a->claim.n_blamed; i++) {
        assert_int_equal(a->claim.blamed[i].alone, b->claim.blamed[i].alone);
        assert_int_equal(a->claim.blamed[i].first, b->claim.blamed[i].first);
        assert_int_equal(a->claim.blamed[i].next, b->claim.blamed[i].next);
    }
    assert_true(a->era == b->era);
    assert_int_equal(a->n_ends, b->n_ends);
    for (size_t i = 0; i < a->n_ends; i++) assert_int_equal(a->ends[i], b->ends[i]);
}

static void round_trip(const struct meta *m) {
    char text[META_MAX + 1];
    assert_true(meta_encode(m, text));
    assert_true(strlen(text) <= META_MAX);
    for (const char *c = text; *c; c++) assert_true(*c >= ' ' && *c <= '~');
    struct meta back;
    assert_true(meta_decode(str_c(text), &back));
    assert_same(m, &back);
}

static void test_the_text(void **state) {
    (void)state;
    char text[META_MAX + 1];
    struct meta m = {0};
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs1 0 " ZEROS);
    m = (struct meta){.seq = UINT64_MAX, .ends = {1000, 1001, 1500}, .n_ends = 3};
    assert_true(unhex(str_c(HEAD), m.head, SHA256_LEN));
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs1 18446744073709551615 " HEAD " 1000,1,499");
    round_trip(&m);
    m.era = 1;
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs1 18446744073709551615@1 " HEAD " 1000,1,499");
    m.era = UINT64_MAX;
    round_trip(&m);
}

static void test_the_text_while_somebody_reads(void **state) {
    (void)state;
    char text[META_MAX + 1];
    struct meta m = {.seq = 7, .claim = {.taken = 2, .reader = 0xabc}};
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs2 7 " ZEROS " 2:0000000000000abc");
    round_trip(&m);
    m.ends[m.n_ends++] = 1000;
    m.claim.alone = ALONE_RECORD;
    m.claim.first = 41;
    m.claim.next = 42;
    m.claim.tries = 1;
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs2 7 " ZEROS " 2:0000000000000abc:r41+1*1 1000");
    round_trip(&m);
    m.claim.alone = ALONE_WHOLE;
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs2 7 " ZEROS " 2:0000000000000abc:w41+1*1 1000");
    round_trip(&m);
    m.claim.alone = ALONE_DELIVERIES;
    m.claim.next = 44;
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs2 7 " ZEROS " 2:0000000000000abc:p41+3*1 1000");
    round_trip(&m);
    m.claim.blamed[m.claim.n_blamed++] = (struct blame){ALONE_RECORD, 39, 40};
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs2 7 " ZEROS " 2:0000000000000abc:p41+3*1 1000;r39+1");
    round_trip(&m);
    m.claim.blamed[m.claim.n_blamed++] = (struct blame){ALONE_WHOLE, 7, 9};
    m.n_ends = 0;
    assert_true(meta_encode(&m, text));
    assert_string_equal(text, "rs2 7 " ZEROS " 2:0000000000000abc:p41+3*1;r39+1,w7+2");
    round_trip(&m);
    m.claim.n_blamed = 0;
    m.claim.next = 41; /* names nothing */
    assert_false(meta_encode(&m, text));
    m.claim.next = 42;
    m.claim.n_blamed = BLAMED_MAX + 1;
    assert_false(meta_encode(&m, text));
    m.claim = (struct claim){.n_blamed = 1, .blamed = {{ALONE_RECORD, 1, 2}}};
    assert_false(meta_encode(&m, text));
    m.claim = (struct claim){.reader = 1}; /* a reader that has not taken it */
    assert_false(meta_encode(&m, text));
}

static void test_any_ends_fit(void **state) {
    (void)state;
    struct meta m = {.seq = UINT64_MAX, .n_ends = META_ENDS_MAX};
    m.claim = (struct claim){
        .taken = UINT32_MAX,
        .reader = UINT64_MAX,
        .alone = ALONE_RECORD,
        .first = 1L << 62,
        .next = INT64_MAX,
        .tries = UINT32_MAX,
    };
    memset(m.head, 0xff, sizeof m.head);
    /* Real ones: a partition near its last offset, windows of 100,000 records. */
    for (int i = 0; i < META_ENDS_MAX; i++) m.ends[i] = INT64_MAX - 100000L * (250 - i);
    for (int64_t i = 0; i < BLAMED_MAX; i++)
        m.claim.blamed[i] = (struct blame){ALONE_RECORD, INT64_MAX - 200000 * (i + 1), INT64_MAX};
    m.claim.n_blamed = BLAMED_MAX;
    round_trip(&m);
    m.claim.n_blamed = 0;
    /* Near the longest text there is: 80 differences of 18 digits, the rest of 17. */
    int64_t at = 0;
    for (int i = 0; i < META_ENDS_MAX; i++)
        m.ends[i] = at += i < 80 ? 100000000000000000 : 10000000000000000;
    round_trip(&m);
    /* There what is blamed has room no more: the ends are whole all the same. */
    char text[META_MAX + 1];
    struct meta back;
    m.claim.n_blamed = BLAMED_MAX;
    assert_true(meta_encode(&m, text));
    assert_true(meta_decode(str_c(text), &back));
    assert_in_range(back.claim.n_blamed, 1, BLAMED_MAX - 1);
    m.claim.n_blamed = back.claim.n_blamed;
    assert_same(&m, &back);
    m.claim.n_blamed = 0;
    m.n_ends = META_ENDS_MAX + 1;
    strcpy(text, "untouched");
    assert_false(meta_encode(&m, text));
    assert_string_equal(text, "untouched");
}

static void test_encode_refuses_what_is_not_ascending(void **state) {
    (void)state;
    char text[META_MAX + 1] = "untouched";
    assert_false(meta_encode(&(struct meta){.ends = {5, 5}, .n_ends = 2}, text));
    assert_false(meta_encode(&(struct meta){.ends = {5, 4}, .n_ends = 2}, text));
    assert_false(meta_encode(&(struct meta){.ends = {0}, .n_ends = 1}, text));
    assert_false(meta_encode(&(struct meta){.ends = {-1}, .n_ends = 1}, text));
    assert_string_equal(text, "untouched");
}

static void test_random_round_trips(void **state) {
    (void)state;
    srand(7);
    for (int i = 0; i < 500; i++) {
        struct meta m = {.seq = (uint64_t)rand()};
        if (rand() % 2)
            m.claim = (struct claim){.taken = 1 + (uint32_t)rand(), .reader = (uint64_t)rand()};
        if (m.claim.taken && rand() % 2) {
            m.claim.alone = (enum alone)(ALONE_RECORD + rand() % 3);
            m.claim.first = rand();
            m.claim.next = m.claim.first + 1 + rand();
            m.claim.tries = 1 + (uint32_t)rand();
        }
        if (m.claim.taken) m.claim.n_blamed = (uint32_t)rand() % (BLAMED_MAX + 1);
        for (uint32_t k = 0; k < m.claim.n_blamed; k++) {
            struct blame *b = &m.claim.blamed[k];
            b->alone = rand() % 2 ? ALONE_RECORD : ALONE_WHOLE;
            b->first = rand();
            b->next = b->first + 1 + rand() % 1000;
        }
        for (size_t b = 0; b < SHA256_LEN; b++) m.head[b] = (uint8_t)rand();
        m.n_ends = (size_t)rand() % (META_ENDS_MAX + 1);
        int64_t at = (int64_t)rand() * rand();
        for (size_t e = 0; e < m.n_ends; e++) m.ends[e] = at += 1 + rand() % 1000000;
        round_trip(&m);
    }
}

static void test_decode_refuses(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "r",
        "rs1",
        "rs1 ",
        "rs2 0 " ZEROS,
        "rs1 0@ " ZEROS,
        "rs1 0@0 " ZEROS,
        "rs1 0@01 " ZEROS,
        "rs1 0@18446744073709551616 " ZEROS,
        "rs1 @1 " ZEROS,
        "rs1 0@1@1 " ZEROS,
        "rs3 0 " ZEROS,
        "rs1 0 " ZEROS " 1:0000000000000001",
        "rs2 0 " ZEROS " 0:0000000000000001",
        "rs2 0 " ZEROS " 1",
        "rs2 0 " ZEROS " 1:",
        "rs2 0 " ZEROS " 01:0000000000000001",
        "rs2 0 " ZEROS " 4294967296:0000000000000001",
        "rs2 0 " ZEROS " 1:000000000000001",
        "rs2 0 " ZEROS " 1:000000000000000g",
        "rs2 0 " ZEROS " 1:0000000000000001 ",
        "rs2 0 " ZEROS " 1:0000000000000001,5",
        "rs2 0 " ZEROS " 1:0000000000000001:",
        "rs2 0 " ZEROS " 1:0000000000000001:x1+1*1",
        "rs2 0 " ZEROS " 1:0000000000000001:r1",
        "rs2 0 " ZEROS " 1:0000000000000001:r1+0*1",
        "rs2 0 " ZEROS " 1:0000000000000001:r1+1",
        "rs2 0 " ZEROS " 1:0000000000000001:r1+1*0",
        "rs2 0 " ZEROS " 1:0000000000000001:r-1+1*1",
        "rs2 0 " ZEROS " 1:0000000000000001:r9223372036854775807+1*1",
        "rs1 0 " ZEROS ";r1+1",
        "rs2 0 " ZEROS " 1:0000000000000001;",
        "rs2 0 " ZEROS " 1:0000000000000001;p1+1",
        "rs2 0 " ZEROS " 1:0000000000000001;r1",
        "rs2 0 " ZEROS " 1:0000000000000001;r1+0",
        "rs2 0 " ZEROS " 1:0000000000000001;r1+1,",
        "rs2 0 " ZEROS " 1:0000000000000001;r1+1;r2+1",
        "rs2 0 " ZEROS " 1:0000000000000001;r1+1 5",
        "rs1 0 " ZEROS " ",
        "rs1 0 " ZEROS "x",
        "rs1 0 " ZEROS ",5",
        "rs1 0 " ZEROS " 5,",
        "rs1 0 " ZEROS " ,5",
        "rs1 0 " ZEROS " 0",
        "rs1 0 " ZEROS " 5,0",
        "rs1 0 " ZEROS " 5,-1",
        "rs1 0 " ZEROS " 5 6",
        "rs1 0 " ZEROS " 05",
        "rs1 0 " ZEROS " 5,01",
        "rs1 0 " ZEROS " +5",
        "rs1 0 " ZEROS " 9223372036854775808",
        "rs1 0 " ZEROS " 9223372036854775807,1",
        "rs1 18446744073709551616 " ZEROS,
        "rs1 00 " ZEROS,
        "rs1 -1 " ZEROS,
        "rs1  " ZEROS,
        "rs1 0  " ZEROS,
        "rs1 0 g000000000000000000000000000000000000000000000000000000000000000",
        "rs1 0 00000000000000000000000000000000000000000000000000000000000000",
        "somebody else's metadata",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct meta m = {.seq = 4711};
        if (meta_decode(str_c(bad[i]), &m)) fail_msg("accepted: %s", bad[i]);
        assert_int_equal(m.seq, 4711);
    }
    struct meta m;
    assert_false(meta_decode((struct str){NULL, 0}, &m));
    /* A NUL inside is no end of the text. */
    assert_false(meta_decode(STR("rs1 0 " ZEROS "\0"), &m));
    assert_true(meta_decode(STR("rs1 0 " ZEROS " 9223372036854775806,1"), &m));
    assert_int_equal(m.ends[1], INT64_MAX);
}

static void test_decode_refuses_too_many_ends(void **state) {
    (void)state;
    char text[META_MAX + 1];
    size_t n = (size_t)snprintf(text, sizeof text, "rs1 0 " ZEROS " 1");
    struct meta m;
    for (int i = 1; i < META_ENDS_MAX; i++) n += (size_t)snprintf(text + n, 3, ",1");
    assert_true(meta_decode((struct str){text, n}, &m));
    n += (size_t)snprintf(text + n, 3, ",1");
    assert_false(meta_decode((struct str){text, n}, &m));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_text),
        cmocka_unit_test(test_the_text_while_somebody_reads),
        cmocka_unit_test(test_any_ends_fit),
        cmocka_unit_test(test_encode_refuses_what_is_not_ascending),
        cmocka_unit_test(test_random_round_trips),
        cmocka_unit_test(test_decode_refuses),
        cmocka_unit_test(test_decode_refuses_too_many_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
