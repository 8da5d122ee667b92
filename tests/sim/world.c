#undef _FORTIFY_SOURCE /* its longjmp() takes another stack for a mistake */

#include "tests/sim/world.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "tests/sim/scheduler.h"
#include "worker/base/buf.h"

#define STACK_BYTES ((size_t)512 << 10)
#define SWITCHES_MAX                                                                               \
    ((uint64_t)20 * 1000 * 1000) /* a world that goes on for longer gets nowhere                   \
                                  */
#define TURN_LEAST_US 10         /* what a thread does between two waits takes so long */
#define TURN_MOST_US 60

struct happening {
    int64_t at_us;
    uint64_t serial; /* what is due at the same time happens in the order it was asked for */
    void (*fn)(void *arg);
    void *arg;
    uint64_t wait; /* with fn NULL: arg is a thread, and this the wait that ends */
};

struct process {
    bool alive;
    int64_t frozen_until_us; /* 0: it is not */
    struct clocks clocks;
};

struct thread {
    uint64_t process;
    void (*fn)(void *arg);
    void *arg;
    int wake_fd;
    ucontext_t context; /* for its beginning; from then on it goes on where it gave way */
    jmp_buf where;
    bool begun;
    void *stack;
    uint64_t waits; /* so far: the end of an earlier one means nothing */
    bool waiting, may_wake, woken;
    struct thread *next;
};

static struct {
    uint64_t seed, chance, product_chance;
    bool trace, ended;
    const char *broken;
    int64_t now_us;
    uint64_t serial, digest, switches;
    struct happening *heap;
    size_t n, cap;
    struct process *processes; /* by id; 0 is the scheduler */
    size_t n_processes;
    struct thread *threads, *current;
    jmp_buf scheduler;
    void (*on_wait)(uint64_t process);
} world;

/* ---- chance ---- */

/* Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014). */
static uint64_t splitmix(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t world_draw(uint64_t n) {
    return splitmix(&world.chance) % n;
}

int64_t world_between(int64_t least, int64_t most) {
    return least + (int64_t)world_draw((uint64_t)(most - least) + 1);
}

bool world_chance(unsigned permille) {
    return permille && world_draw(1000) < permille;
}

uint64_t world_product_draw(void) {
    return splitmix(&world.product_chance);
}

/* ---- what happened ---- */

static void say(const char *line) {
    uint64_t h = world.digest; /* FNV-1a */
    for (const char *c = line; *c; c++) h = (h ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    world.digest = h;
    if (world.trace) puts(line);
}

static void say_list(const char *format, va_list ap) {
    char line[1024];
    int n = snprintf(line, sizeof line, "%4" PRId64 ".%06" PRId64 " ", world.now_us / WORLD_S,
                     world.now_us % WORLD_S);
    if (world.current)
        n += snprintf(line + n, sizeof line - (size_t)n, "p%" PRIu64 " ", world.current->process);
    vsnprintf(line + n, sizeof line - (size_t)n, format, ap);
    say(line);
}

void world_say(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    say_list(format, ap);
    va_end(ap);
}

void world_fail(const char *format, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    printf("seed %" PRIu64 " fails at %" PRId64 ".%06" PRId64 " s: %s\n", world.seed,
           world.now_us / WORLD_S, world.now_us % WORLD_S, text);
    fflush(stdout);
    _Exit(1);
}

bool world_breaks(const char *rule) {
    return world.broken && strcmp(world.broken, rule) == 0;
}

uint64_t world_seed(void) {
    return world.seed;
}

bool world_traces(void) {
    return world.trace;
}

uint64_t world_digest(void) {
    return world.digest;
}

uint64_t world_switches(void) {
    return world.switches;
}

/* ---- time: a heap of what is to happen ---- */

int64_t world_us(void) {
    return world.now_us;
}

static bool is_sooner(const struct happening *a, const struct happening *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->serial < b->serial;
}

static void swap(size_t i, size_t j) {
    struct happening h = world.heap[i];
    world.heap[i] = world.heap[j];
    world.heap[j] = h;
}

static void push(struct happening h) {
    if (world.n == world.cap) {
        world.cap = world.cap ? 2 * world.cap : 1024;
        world.heap = xrealloc(world.heap, world.cap * sizeof h);
    }
    h.serial = ++world.serial;
    size_t i = world.n++;
    world.heap[i] = h;
    for (; i && is_sooner(&world.heap[i], &world.heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(i, (i - 1) / 2);
}

static struct happening pop(void) {
    struct happening first = world.heap[0];
    world.heap[0] = world.heap[--world.n];
    for (size_t i = 0;;) {
        size_t least = i;
        for (size_t c = 2 * i + 1; c <= 2 * i + 2 && c < world.n; c++)
            if (is_sooner(&world.heap[c], &world.heap[least])) least = c;
        if (least == i) return first;
        swap(i, least);
        i = least;
    }
}

void world_after(int64_t us, void (*fn)(void *arg), void *arg) {
    push((struct happening){.at_us = world.now_us + us, .fn = fn, .arg = arg});
}

static void end_wait_at(struct thread *t, int64_t at_us) {
    push((struct happening){.at_us = at_us, .arg = t, .wait = t->waits});
}

/* ---- threads ---- */

/* Not given back: what goes on may still point into the stack of a thread that was killed. */
static void *stack_new(void) {
    void *p = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) out_of_memory();
    mprotect(p, 4096, PROT_NONE);
    return p;
}

static int64_t turn_us(void) {
    return world_between(TURN_LEAST_US, TURN_MOST_US);
}

static void run_thread(void) {
    struct thread *t = world.current;
    t->fn(t->arg);
    t->fn = NULL;
    _longjmp(world.scheduler, 1);
}

/* Until it gives way, or ends. Two jumps, since swapcontext() asks the kernel for the signal mask
 * each time. */
static void run(struct thread *t) {
    if (_setjmp(world.scheduler)) return;
    if (t->begun) _longjmp(t->where, 1);
    t->begun = true;
    setcontext(&t->context);
}

static void thread_start(uint64_t process, void (*fn)(void *), void *arg, int wake_fd) {
    struct thread *t = xcalloc(1, sizeof *t);
    *t = (struct thread){.process = process, .fn = fn, .arg = arg, .wake_fd = wake_fd};
    t->stack = stack_new();
    getcontext(&t->context);
    t->context.uc_stack.ss_sp = t->stack;
    t->context.uc_stack.ss_size = STACK_BYTES;
    t->context.uc_link = NULL;
    makecontext(&t->context, run_thread, 0);
    struct thread **at = &world.threads;
    while (*at) at = &(*at)->next;
    *at = t;
    t->waiting = true;
    end_wait_at(t, world.now_us + turn_us());
}

/* It is not freed: what is still to happen may name it. */
static void thread_remove(struct thread *t) {
    struct thread **at = &world.threads;
    while (*at != t) at = &(*at)->next;
    *at = t->next;
    t->process = UINT64_MAX;
}

static struct process *process_of(uint64_t id) {
    return id < world.n_processes ? &world.processes[id] : NULL;
}

static void resume(struct thread *t, uint64_t wait) {
    struct process *p = process_of(t->process);
    if (!p || !p->alive || !t->waiting || t->waits != wait) return;
    if (p->frozen_until_us > world.now_us) {
        end_wait_at(t, p->frozen_until_us);
        return;
    }
    t->waiting = false;
    if (++world.switches > SWITCHES_MAX) world_fail("the world goes round and round");
    world.current = t;
    run(t);
    t = world.current;
    world.current = NULL;
    if (!t->fn) thread_remove(t);
}

/* Back to the scheduler, for the time being or for ever. */
static void give_way(void) {
    if (!_setjmp(world.current->where)) _longjmp(world.scheduler, 1);
}

static void wait_for(int64_t us, bool may_wake) {
    struct thread *t = world.current;
    if (world.on_wait) world.on_wait(t->process);
    t->waits++;
    t->waiting = true;
    t->may_wake = may_wake;
    int64_t least_us = turn_us();
    if (us < least_us || (may_wake && t->woken)) us = least_us;
    end_wait_at(t, world.now_us + us);
    give_way();
    if (may_wake) t->woken = false;
}

void process_wait(int64_t us) {
    wait_for(us, true);
}

void world_block(int64_t us) {
    if (world.current)
        wait_for(us, false);
    else
        world_fail("a call that blocks was made outside of all threads");
}

void world_wake(int wake_fd) {
    for (struct thread *t = world.threads; t; t = t->next) {
        if (t->wake_fd != wake_fd) continue;
        if (!t->woken && t->waiting && t->may_wake) end_wait_at(t, world.now_us + turn_us());
        t->woken = true;
    }
}

/* ---- processes ---- */

uint64_t world_process(void) {
    return world.current ? world.current->process : 0;
}

bool world_is_alive(uint64_t process) {
    const struct process *p = process_of(process);
    return p && p->alive;
}

bool world_is_frozen(uint64_t process) {
    const struct process *p = process_of(process);
    return p && p->frozen_until_us > world.now_us;
}

static uint64_t process_add(void) {
    world.processes = xrealloc(world.processes, (world.n_processes + 1) * sizeof *world.processes);
    world.processes[world.n_processes] =
        (struct process){.alive = true, .clocks = {.since_us = world.now_us}};
    return world.n_processes++;
}

uint64_t process_start(void (*main)(void *arg), void *arg) {
    uint64_t id = process_add();
    world.processes[id].clocks.monotonic_us = 100 * WORLD_S + world_between(0, 1000 * WORLD_S);
    thread_start(id, main, arg, -1);
    return id;
}

void process_spawn(void (*fn)(void *arg), void *arg, int wake_fd) {
    thread_start(world.current->process, fn, arg, wake_fd);
}

void process_kill(uint64_t process) {
    process_of(process)->alive = false;
    struct thread *next;
    for (struct thread *t = world.threads; t; t = next) {
        next = t->next;
        if (t->process == process && t != world.current) thread_remove(t);
    }
    if (!world.current || world.current->process != process) return;
    thread_remove(world.current);
    give_way();
}

void process_freeze(uint64_t process, int64_t us) {
    process_of(process)->frozen_until_us = world.now_us + us;
}

struct clocks *process_clocks(uint64_t process) {
    return &process_of(process)->clocks;
}

static int64_t passed_us(const struct clocks *c) {
    int64_t true_us = world.now_us - c->since_us;
    return true_us + true_us * c->drift_ppm / 1000000;
}

int64_t process_wall_us(void) {
    const struct clocks *c = process_clocks(world_process());
    return WORLD_EPOCH_MS * 1000 + c->since_us + c->wall_ahead_us + passed_us(c);
}

int64_t process_monotonic_us(void) {
    const struct clocks *c = process_clocks(world_process());
    return c->monotonic_us + passed_us(c);
}

void process_on_wait(void (*fn)(uint64_t process)) {
    world.on_wait = fn;
}

/* ---- the run ---- */

void world_begin(uint64_t seed, bool trace, const char *broken) {
    memset(&world, 0, sizeof world);
    world.seed = seed;
    world.trace = trace;
    world.broken = broken;
    world.chance = seed * 2 + 1;
    world.product_chance = ~seed;
    world.digest = UINT64_C(0xcbf29ce484222325);
    process_add();
}

void world_end(void) {
    world.ended = true;
}

void world_run(void) {
    while (world.n && !world.ended) {
        struct happening h = pop();
        if (h.at_us > world.now_us) world.now_us = h.at_us;
        if (h.fn)
            h.fn(h.arg);
        else
            resume(h.arg, h.wait);
    }
}
