/* The broker's clock, by the timestamps of a retry topic: no record is due early for what the clock
 * once showed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/pipeline/broker_clock.h"

#define HOUR ((int64_t)3600000)
#define T ((int64_t)1800000000000) /* a time of the broker's, when ours is 1,000 */

static void test_it_goes_on(void **state) {
    struct broker_clock c;
    (void)state;
    broker_clock_begin(&c);
    assert_int_equal(broker_clock_hear(&c, T, 1000), T);
    /* Read at once, later: the clock shows more than the record's time. */
    assert_int_equal(broker_clock_hear(&c, T + 10, 5000), T + 4000);
    /* The same for a leader whose clock is a little behind. */
    assert_int_equal(broker_clock_hear(&c, T - 2000, 6000), T + 5000);
    /* A backlog: the newest tells most. */
    assert_int_equal(broker_clock_hear(&c, T + 60000, 7000), T + 60000);
}

/* As when the broker's clock was an hour ahead for a while: nothing after that is an hour early. */
static void test_it_goes_back(void **state) {
    struct broker_clock c;
    (void)state;
    broker_clock_begin(&c);
    broker_clock_hear(&c, T, 1000);
    assert_int_equal(broker_clock_hear(&c, T + HOUR, 2000), T + HOUR);
    assert_int_equal(broker_clock_hear(&c, T + 2000, 3000), T + 2000);
    assert_int_equal(broker_clock_hear(&c, T + 2500, 4000), T + 3000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_goes_on),
        cmocka_unit_test(test_it_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
