// Litmus tests of the x86 memory model (SDM 3A §8.2.3). Each thread of a test runs its few instructions on its own variables
// once a round; outcomes that the model forbids must never be seen. SB's relaxed outcome is allowed: seen, it shows that threads
// really run at the same time.
#include "stress.h"

enum { BATCH = 256, MOST = 4 };
// Each variable in a line of its own, each round with variables of its own.
struct cell {
    volatile uint64_t v;
    char apart[120];
};
static struct cell x[BATCH], y[BATCH];
static volatile uint64_t r[MOST][2][BATCH];
static void (*program)(long, int);
static long bad, relaxed;
static bool (*forbidden)(int);
static bool (*is_relaxed)(int);
static int crew;

// Threads meet here by spinning: the closer together they start the more they see.
static _Atomic long arrived, generation;
static void meet(void) {
    long mine = generation;
    if (++arrived == crew) {
        arrived = 0;
        generation++;
    } else {
        for (long spins = 0; generation == mine; spins++)
            if (spins > 2000) sched_yield();
            else relax();
    }
}

static void body(long who) {
    for (long n = 0; n < rounds(60); n++) {
        if (who == 0)
            for (int i = 0; i < BATCH; i++) x[i].v = y[i].v = 0;
        meet();
        for (int i = 0; i < BATCH; i++) program(who, i);
        meet();
        if (who == 0)
            for (int i = 0; i < BATCH; i++) {
                bad += forbidden(i);
                relaxed += is_relaxed && is_relaxed(i);
            }
        meet();
    }
}

static void run(int n, void (*p)(long, int), bool (*f)(int), bool (*s)(int)) {
    crew = n, program = p, forbidden = f, is_relaxed = s;
    threads(n, body);
    CHECK(bad == 0, "%ld forbidden outcomes of %ld", bad, rounds(60) * BATCH);
    if (s) note("%ld of %ld relaxed", relaxed, rounds(60) * BATCH);
}

#define R(t, k) r[t][k][i]
#define MFENCE __asm__ volatile("mfence" : : : "memory")

// Store buffering: both may read the old value.
static void sb(long who, int i) {
    if (who == 0) { x[i].v = 1; R(0, 0) = y[i].v; }
    else { y[i].v = 1; R(1, 0) = x[i].v; }
}
static bool never(int i) { return (void)i, false; }
static bool both_old(int i) { return !R(0, 0) && !R(1, 0); }
static void store_buffering(void) { run(2, sb, never, both_old); }

// With fences, or locked instructions, they may not.
static void sb_fence(long who, int i) {
    if (who == 0) { x[i].v = 1; MFENCE; R(0, 0) = y[i].v; }
    else { y[i].v = 1; MFENCE; R(1, 0) = x[i].v; }
}
static void fences(void) { run(2, sb_fence, both_old, 0); }
static void sb_xchg(long who, int i) {
    uint64_t one = 1;
    if (who == 0) { __atomic_exchange_n(&x[i].v, one, __ATOMIC_SEQ_CST); R(0, 0) = y[i].v; }
    else { __atomic_exchange_n(&y[i].v, one, __ATOMIC_SEQ_CST); R(1, 0) = x[i].v; }
}
static void exchanges(void) { run(2, sb_xchg, both_old, 0); }
static void sb_locked(long who, int i) {
    long dummy = 0;
    if (who == 0) { x[i].v = 1; __asm__ volatile("lock orl $0, %0" : "+m"(dummy) : : "memory"); R(0, 0) = y[i].v; }
    else { y[i].v = 1; __asm__ volatile("lock orl $0, %0" : "+m"(dummy) : : "memory"); R(1, 0) = x[i].v; }
}
static void locked(void) { run(2, sb_locked, both_old, 0); }

// Message passing: who sees the flag sees the message. Stores are seen in order, loads happen in order.
static void mp(long who, int i) {
    if (who == 0) { x[i].v = 1; y[i].v = 1; }
    else { R(1, 0) = y[i].v; R(1, 1) = x[i].v; }
}
static bool flag_only(int i) { return R(1, 0) && !R(1, 1); }
static void message_passing(void) { run(2, mp, flag_only, 0); }

// Load buffering: loads are not later than stores behind them.
static void lb(long who, int i) {
    if (who == 0) { R(0, 0) = x[i].v; y[i].v = 1; }
    else { R(1, 0) = y[i].v; x[i].v = 1; }
}
static bool both_new(int i) { return R(0, 0) && R(1, 0); }
static void load_buffering(void) { run(2, lb, both_new, 0); }

// Independent reads of independent writes: all agree on the order of two stores.
static void iriw(long who, int i) {
    if (who == 0) x[i].v = 1;
    if (who == 1) y[i].v = 1;
    if (who == 2) { R(2, 0) = x[i].v; R(2, 1) = y[i].v; }
    if (who == 3) { R(3, 0) = y[i].v; R(3, 1) = x[i].v; }
}
static bool disagree(int i) { return R(2, 0) && !R(2, 1) && R(3, 0) && !R(3, 1); }
static void independent_reads(void) { run(4, iriw, disagree, 0); }

// Causality: what a third learns through a second, it finds done.
static void wrc(long who, int i) {
    if (who == 0) x[i].v = 1;
    if (who == 1) { R(1, 0) = x[i].v; y[i].v = 1; }
    if (who == 2) { R(2, 0) = y[i].v; R(2, 1) = x[i].v; }
}
static bool lost_cause(int i) { return R(1, 0) && R(2, 0) && !R(2, 1); }
static void causality(void) { run(3, wrc, lost_cause, 0); }

// Two loads of one variable never go back; each own store is seen at once.
static void coherent(long who, int i) {
    if (who == 0) { x[i].v = 1; x[i].v = 2; }
    else if (who == 1) { R(1, 0) = x[i].v; R(1, 1) = x[i].v; }
    else { y[i].v = 7; R(2, 0) = y[i].v; }
}
static bool backwards(int i) { return R(1, 0) > R(1, 1) || R(2, 0) != 7; }
static void coherence(void) { run(3, coherent, backwards, 0); }

// Two threads that store to two variables in opposite order.
static void two_stores(long who, int i) {
    if (who == 0) { x[i].v = 1; y[i].v = 2; }
    else { y[i].v = 1; x[i].v = 2; }
}
static bool circle(int i) { return x[i].v == 1 && y[i].v == 1; }
static void two_by_two(void) { run(2, two_stores, circle, 0); }

// Accesses that are atomic: aligned ones of up to eight bytes, and any within eight aligned bytes (SDM 3A §8.1.1).
static uint64_t atoms[2] __attribute__((aligned(64)));
static _Atomic int stop;
static void atoms_body(long who) {
    uint8_t *base = (uint8_t *)atoms;
    if (who == 0) {
        for (long i = 0; i < rounds(40000); i++) {
            uint64_t v = (i & 1) * 0xffffffffffffffff;
            *(volatile unsigned long *)base = v;
            *(volatile uint32_t *)(base + 9) = v;
            *(volatile uint16_t *)(base + 13) = v;
        }
        stop = 1;
        return;
    }
    while (!stop) {
        unsigned long a = *(volatile unsigned long *)base;
        uint32_t b = *(volatile uint32_t *)(base + 9);
        uint16_t c = *(volatile uint16_t *)(base + 13);
        CHECK((a == 0 || a == ~0ul) && (b == 0 || b == ~0u) && (c == 0 || c == 0xffff), "torn: %lx %x %x", a, b, c);
    }
}
static void tearing(void) { threads(2, atoms_body); }

const struct test litmus_tests[] = {
    {"litmus-store-buffering", store_buffering}, {"litmus-fences", fences},       {"litmus-exchanges", exchanges},
    {"litmus-locked", locked},                   {"litmus-message", message_passing}, {"litmus-load-buffering", load_buffering},
    {"litmus-independent-reads", independent_reads}, {"litmus-causality", causality}, {"litmus-coherence", coherence},
    {"litmus-two-by-two", two_by_two},           {"litmus-tearing", tearing},     {0, 0},
};
