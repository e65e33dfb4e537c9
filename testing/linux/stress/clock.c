// Clocks: none goes back, on any CPU or from one to the next; sleeps do not end early.
#include "stress.h"
#include <time.h>

static uint64_t stamp(int which) {
    struct timespec t;
    if (which == 0) {
        uint32_t lo, hi;
        // Ordered by the fence, as the kernel does it.
        __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
        return (uint64_t)hi << 32 | lo;
    }
    clockid_t id = which == 1 ? CLOCK_MONOTONIC : CLOCK_REALTIME;
    if (which == 3) syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    else clock_gettime(id, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}
static const char *const names[] = {"TSC", "CLOCK_MONOTONIC", "CLOCK_REALTIME", "CLOCK_MONOTONIC by system call"};

// All CPUs read in turn, under a lock: each reads later than the one before.
static int which;
static uint64_t latest;
static _Atomic int lock;
static void in_turn_body(long who) {
    for (long i = 0; i < rounds(1500); i++) {
        for (long spins = 0; __atomic_exchange_n((int *)&lock, 1, __ATOMIC_ACQUIRE); spins++)
            if (spins > 200) sched_yield();
        uint64_t now = stamp(which), before = latest;
        latest = now;
        __atomic_store_n((int *)&lock, 0, __ATOMIC_RELEASE);
        CHECK(now >= before, "%s on CPU %ld went back by %llu", names[which], who, (unsigned long long)(before - now));
    }
}
static void in_turn(void) {
    for (which = 0; which < 4; which++) {
        latest = 0;
        threads(cpus() < 2 ? 2 : cpus(), in_turn_body);
    }
}

// A thread that is moved from CPU to CPU.
static void migrating(void) {
    for (which = 0; which < 4; which++) {
        uint64_t before = stamp(which);
        for (long i = 0; i < rounds(150); i++) {
            pin(i);
            uint64_t now = stamp(which);
            CHECK(now >= before, "%s went back by %llu", names[which], (unsigned long long)(before - now));
            before = now;
        }
    }
}

static void sleeps(void) {
    for (long i = 0; i < rounds(20); i++) {
        long nanos = 1 + rnd() % 4000000;
        struct timespec t = {0, nanos};
        uint64_t begin = stamp(1);
        nanosleep(&t, 0);
        uint64_t took = stamp(1) - begin;
        CHECK(took >= (uint64_t)nanos, "a sleep of %ld ns took %llu", nanos, (unsigned long long)took);
    }
    // Two clocks must agree on how long a second is: to 5 %, so that a slow machine does not fail.
    uint64_t tsc = stamp(0), mono = stamp(1);
    usleep(200000);
    uint64_t hz = (stamp(0) - tsc) * 1000000000 / (stamp(1) - mono);
    tsc = stamp(0), mono = stamp(1);
    usleep(200000);
    uint64_t again = (stamp(0) - tsc) * 1000000000 / (stamp(1) - mono);
    CHECK(hz > again / 20 * 19 && again > hz / 20 * 19, "the TSC ticks at %llu Hz, then at %llu", (unsigned long long)hz, (unsigned long long)again);
}

const struct test clock_tests[] = {{"clock-in-turn", in_turn}, {"clock-migrating", migrating}, {"clock-sleeps", sleeps}, {0, 0}};
