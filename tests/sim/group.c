/* The group's coordinator, by the classic protocol. A rebalance waits until each member has joined
 * again, which a member does once its lane has given back what it has to (eager: all, before it
 * joins; cooperative: what is to go elsewhere, between two rounds). Then the generation changes,
 * the leader, one of the members, hands in who gets what, and each that asks is told. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"

#define HEARTBEAT_MOST_US (3 * WORLD_S)

struct member {
    uint64_t number, consumer, process;
    uint64_t rank; /* the order of member ids, which are random */
    char instance[160];
    bool joined, synced, eager;
    uint64_t joins; /* the number of its request */
    char **topics;
    size_t n_topics;
    struct journal **given, **next_given;
    size_t n_given, n_next;
    int64_t heard_us;
    struct member *next;
};

enum group_state { GROUP_STABLE, GROUP_JOINING, GROUP_LEADING };

static struct {
    enum group_state state;
    int64_t generation;
    struct member *members; /* by rank */
    int64_t since_us;       /* that the members have been joining */
    size_t partitions;      /* as many as were there when it was stable last */
} group;

/* ---- members ---- */

static struct member *find(uint64_t number) {
    struct member *m = group.members;
    while (m && m->number != number) m = m->next;
    return m;
}

static struct member *find_instance(const char *instance) {
    struct member *m = group.members;
    while (m && (!instance[0] || strcmp(m->instance, instance) != 0)) m = m->next;
    return m;
}

static void forget_topics(struct member *m) {
    for (size_t i = 0; i < m->n_topics; i++) free(m->topics[i]);
    free(m->topics);
    m->topics = NULL;
    m->n_topics = 0;
}

static bool reads(const struct member *m, const struct journal *j) {
    for (size_t i = 0; i < m->n_topics; i++)
        if (strcmp(m->topics[i], j->topic) == 0) return true;
    return false;
}

static bool same_topics(const struct member *m, const struct consumer *c) {
    bool same = m->n_topics == c->n_topics;
    for (size_t i = 0; same && i < c->n_topics; i++) same = strcmp(m->topics[i], c->topics[i]) == 0;
    return same;
}

static void note(struct member *m, const struct consumer *c) {
    m->consumer = c->number;
    m->process = c->process;
    m->joins = c->joins;
    m->eager = consumer_is_eager(c);
    m->heard_us = world_us();
    forget_topics(m);
    m->topics = xcalloc(c->n_topics + 1, sizeof *m->topics);
    m->n_topics = c->n_topics;
    for (size_t i = 0; i < c->n_topics; i++) m->topics[i] = xstrdup(c->topics[i]);
}

static struct member *add(const struct consumer *c) {
    struct member *m = xcalloc(1, sizeof *m), **at = &group.members;
    m->number = cluster_number();
    m->rank = cluster_chance(1000) ? world_draw(UINT32_MAX) : m->number;
    snprintf(m->instance, sizeof m->instance, "%s", c->instance);
    while (*at && (*at)->rank <= m->rank) at = &(*at)->next;
    m->next = *at;
    return *at = m;
}

static void member_free(struct member *m) {
    forget_topics(m);
    free(m->given);
    free(m->next_given);
    free(m);
}

static size_t count_partitions(void) {
    size_t n = 0;
    while (journal_at(n)) n++;
    return n;
}

/* ---- who gets what ---- */

static void give(struct member *m, struct journal *j) {
    m->next_given = xrealloc(m->next_given, (m->n_next + 1) * sizeof(struct journal *));
    m->next_given[m->n_next++] = j;
}

/* Of those that read it the one with the least. */
static struct member *idlest(const struct journal *j) {
    struct member *least = NULL;
    for (struct member *m = group.members; m; m = m->next)
        if (reads(m, j) && (!least || m->n_next < least->n_next)) least = m;
    return least;
}

/* The member that says that it has it. */
static struct member *claimant(const struct journal *j) {
    for (struct member *m = group.members; m; m = m->next) {
        const struct consumer *c = m->eager ? NULL : consumer_find(m->consumer);
        for (const struct feed *f = c ? c->feeds : NULL; f; f = f->next)
            if (f->journal == j) return reads(m, j) ? m : NULL;
    }
    return NULL;
}

/* One partition from whoever has the most to whoever has too few; false: all is even. */
static bool even_out(void) {
    for (struct member *most = group.members; most; most = most->next) {
        for (size_t i = most->n_next; i-- > 0;) {
            struct journal *j = most->next_given[i];
            struct member *least = idlest(j);
            if (least->n_next + 1 >= most->n_next) continue;
            memmove(&most->next_given[i], &most->next_given[i + 1],
                    (most->n_next - i - 1) * sizeof(struct journal *));
            most->n_next--;
            give(least, j);
            return true;
        }
    }
    return false;
}

/* What another one has still is nobody's in this round. */
static void hold_back(void) {
    for (struct member *m = group.members; m; m = m->next) {
        size_t kept = 0;
        for (size_t i = 0; i < m->n_next; i++) {
            const struct member *has_it = claimant(m->next_given[i]);
            if (!has_it || has_it == m) m->next_given[kept++] = m->next_given[i];
        }
        m->n_next = kept;
    }
}

static void settle_shares(void) {
    for (struct member *m = group.members; m; m = m->next) {
        free(m->given);
        m->given = m->next_given;
        m->n_given = m->n_next;
        m->next_given = NULL;
        m->n_next = 0;
        for (size_t i = 0; i < m->n_given; i++) m->given[i]->owner = m->number;
    }
}

/* Sticky where members are cooperative: who has one keeps it, as far as that is even. */
static void share_out(void) {
    struct journal *j;
    for (struct member *m = group.members; m; m = m->next) m->n_next = 0;
    for (size_t i = 0; (j = journal_at(i)); i++) {
        struct member *m = claimant(j);
        if (m) give(m, j);
    }
    for (size_t i = 0; (j = journal_at(i)); i++) {
        struct member *m = claimant(j) ? NULL : idlest(j);
        if (m) give(m, j);
    }
    while (even_out()) continue;
    hold_back();
    settle_shares();
}

/* ---- a rebalance ---- */

static void answer_join(const struct member *m) {
    struct about about = {m->consumer, m->number, (uint64_t)group.generation, m->joins};
    cluster_later(cluster_coordinator(), consumer_joined, about);
}

static void answer_sync(const struct member *m) {
    struct about about = {m->consumer, m->number, (uint64_t)group.generation, m->joins};
    cluster_later(cluster_coordinator(), consumer_assigned, about);
}

static void lead(void) {
    share_out();
    group.state = GROUP_STABLE;
    group.partitions = count_partitions();
    for (const struct member *m = group.members; m; m = m->next) {
        world_say("group: generation %lld gives member %llu of process %llu %zu partitions",
                  (long long)group.generation, (unsigned long long)m->number,
                  (unsigned long long)m->process, m->n_given);
        if (m->synced) answer_sync(m);
    }
}

/* The first member is the leader, whose request has the shares in it. While it is frozen the others
 * wait, until it is put out. */
void group_sync(struct about about) {
    struct member *m = find(about.a);
    if (!m || about.b != (uint64_t)group.generation || group.state == GROUP_JOINING) return;
    m->synced = true;
    if (group.state == GROUP_STABLE)
        answer_sync(m);
    else if (m == group.members)
        lead();
}

static void complete(void) {
    for (const struct member *m = group.members; m; m = m->next)
        if (!m->joined) return;
    group.generation++;
    group.state = group.members ? GROUP_LEADING : GROUP_STABLE;
    for (struct member *m = group.members; m; m = m->next) {
        m->synced = false;
        answer_join(m);
    }
}

static void rebalance(void) {
    if (group.state == GROUP_JOINING) return;
    group.state = GROUP_JOINING;
    group.since_us = world_us();
    for (struct member *m = group.members; m; m = m->next) m->joined = false;
}

static void take_out(struct member *m) {
    struct member **at = &group.members;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    member_free(m);
    rebalance();
    complete();
}

static void tell_out(const struct member *m, bool replaced) {
    struct about about = {m->consumer, m->number, replaced, m->joins};
    cluster_later(cluster_latency(), consumer_put_out, about);
}

static void put_out(struct member *m, const char *why) {
    world_say("group: member %llu of process %llu is put out: %s", (unsigned long long)m->number,
              (unsigned long long)m->process, why);
    tell_out(m, false);
    take_out(m);
}

/* ---- requests ---- */

/* A restarted process takes over what its predecessor had: nobody else notices. */
static void replace(struct member *m, const struct consumer *c) {
    bool quiet = group.state == GROUP_STABLE && same_topics(m, c);
    uint64_t before = m->number;
    tell_out(m, true);
    m->number = cluster_number();
    world_say("group: %s is taken over by process %llu%s", m->instance,
              (unsigned long long)c->process, quiet ? "" : ", in a rebalance");
    for (size_t i = 0; i < m->n_given; i++)
        if (m->given[i]->owner == before) m->given[i]->owner = m->number;
    note(m, c);
    if (quiet) {
        answer_join(m);
        return;
    }
    rebalance();
    m->joined = true;
    complete();
}

/* It asked in the name of one that was put out. */
static void refuse(const struct consumer *c) {
    struct about about = {c->number, c->member, false, c->joins};
    cluster_later(cluster_latency(), consumer_put_out, about);
}

void group_join(struct consumer *c) {
    struct member *m = c->member ? find(c->member) : NULL;
    struct member *before = c->member ? NULL : find_instance(c->instance);
    if (c->member && !m) {
        refuse(c);
        return;
    }
    if (before) {
        replace(before, c);
        return;
    }
    rebalance();
    if (!m) m = add(c);
    note(m, c);
    m->joined = true;
    complete();
}

int64_t broker_generation(void) {
    return group.generation;
}

void group_leave(uint64_t number) {
    struct member *m = find(number);
    if (m) take_out(m);
}

/* Who says that it is nobody is not fenced at all. */
bool group_takes(uint64_t member, int64_t generation) {
    if (!member && generation < 0) return true;
    return find(member) && generation == group.generation;
}

struct journal *const *group_given(uint64_t member, int64_t generation, size_t *ret_n) {
    static struct journal *const nothing[1];
    const struct member *m = find(member);
    if (!m || generation != group.generation) return NULL;
    *ret_n = m->n_given;
    return m->n_given ? m->given : nothing;
}

/* ---- time ---- */

/* Its client's threads send heartbeats whatever its lane does; unless that forgets to poll. While
 * it waits for the others to join, it is not expected to. */
static void hear(struct member *m, const struct consumer *c) {
    bool it = c->member == m->number || (c->phase == MEMBER_JOINING && c->joins == m->joins);
    if (it && !c->fatal && !c->closing && cluster_runs(c->process)) m->heard_us = world_us();
}

static const char *is_gone(struct member *m) {
    const struct consumer *c = consumer_find(m->consumer);
    int64_t now = world_us();
    bool joining = group.state == GROUP_JOINING;
    if (c) hear(m, c);
    if (joining && m->joined) m->heard_us = now;
    if (c && cluster_runs(c->process) && now - c->polled_us > MAX_POLL_US)
        return "it does not poll";
    if (now - m->heard_us > cluster_faults()->session_us) return "it is not heard of";
    if (joining && !m->joined && now - group.since_us > MAX_POLL_US)
        return "it does not join again";
    return NULL;
}

/* The answers to heartbeats. */
static void tell(void) {
    if (group.state != GROUP_JOINING) return;
    for (const struct member *m = group.members; m; m = m->next) {
        struct consumer *c = m->joined ? NULL : consumer_find(m->consumer);
        if (c && c->member == m->number && cluster_runs(c->process)) consumer_told(c);
    }
}

/* A leader's client sees that there is more to share out. */
static void look_for_topics(void) {
    struct journal *j;
    if (group.state != GROUP_STABLE || group.partitions == count_partitions()) return;
    for (size_t i = group.partitions; (j = journal_at(i)); i++)
        if (idlest(j)) rebalance();
    group.partitions = count_partitions();
}

static void tick(struct about about) {
    for (struct member *m = group.members, *next; m; m = next) {
        const char *why = is_gone(m);
        next = m->next;
        if (why) put_out(m, why);
    }
    look_for_topics();
    tell();
    int64_t period = cluster_faults()->session_us / 6;
    cluster_later(period < HEARTBEAT_MOST_US ? period : HEARTBEAT_MOST_US, tick, about);
}

void group_open(void) {
    group.partitions = 0;
    group.generation = 0;
    group.state = GROUP_STABLE;
    cluster_later(WORLD_MS, tick, (struct about){0, 0, 0});
}

void group_close(void) {
    for (struct member *m = group.members, *next; m; m = next) {
        next = m->next;
        member_free(m);
    }
    group.members = NULL;
}
