// Processes and threads that come and go.
#include "stress.h"
#include <spawn.h>

static char self[] = "/proc/self/exe";

static void exec_true(void *unused) {
    (void)unused;
    char *const argv[] = {self, (char *)"true", 0};
    execv(self, argv);
    fail("exec: %s", strerror(errno));
}

// Several parents fork and exec at the same time.
static void storm_body(void *unused) {
    (void)unused;
    for (long i = 0; i < rounds(15); i++) reap(child(exec_true, 0));
}
static void exec_storm(void) {
    pid_t parents[4];
    for (int i = 0; i < 4; i++) parents[i] = child(storm_body, 0);
    for (int i = 0; i < 4; i++) reap(parents[i]);
}

// Forks deep, each generation adds to what it got and hands it back through a pipe.
static int generation(int depth, int value) {
    if (depth == 0) return value;
    int pipe_[2], result = 0;
    MUST(pipe(pipe_));
    pid_t pid = MUST(fork());
    if (!pid) {
        result = generation(depth - 1, value + depth);
        MUST(write(pipe_[1], &result, sizeof result));
        _exit(0);
    }
    MUST(read(pipe_[0], &result, sizeof result));
    reap(pid);
    close(pipe_[0]), close(pipe_[1]);
    return result;
}
static void generations(void) {
    for (long i = 0; i < rounds(10); i++) CHECK(generation(8, i) == i + 36, "round %ld", i);
}

// vfork-like spawning from threads.
extern char **environ;
static void spawn_body(long who) {
    (void)who;
    for (long i = 0; i < rounds(8); i++) {
        pid_t pid;
        char *const argv[] = {self, (char *)"true", 0};
        CHECK(!posix_spawn(&pid, self, 0, 0, argv, environ), "posix_spawn");
        reap(pid);
    }
}
static void spawns(void) { threads(4, spawn_body); }

// Threads that live for a moment.
static void *adds(void *at) {
    __atomic_fetch_add((long *)at, 1, __ATOMIC_RELAXED);
    return at;
}
static void short_lives(void) {
    long sum = 0;
    for (long i = 0; i < rounds(60); i++) {
        pthread_t t[8];
        void *back;
        for (int k = 0; k < 8; k++) CHECK(!pthread_create(&t[k], 0, adds, &sum), "no thread");
        for (int k = 0; k < 8; k++) {
            pthread_join(t[k], &back);
            CHECK(back == &sum, "a thread's result");
        }
    }
    CHECK(sum == 8 * rounds(60), "%ld", sum);
}

// A byte runs around a ring of processes.
static void ring(void) {
    enum { N = 6 };
    int p[N][2];
    pid_t pid[N];
    long laps = rounds(150);
    for (int i = 0; i < N; i++) MUST(pipe(p[i]));
    for (int i = 1; i < N; i++) {
        pid[i] = MUST(fork());
        if (pid[i]) continue;
        for (long k = 0; k < laps; k++) {
            uint32_t v;
            MUST(read(p[i][0], &v, 4));
            v = v * 3 + i;
            MUST(write(p[(i + 1) % N][1], &v, 4));
        }
        _exit(0);
    }
    for (uint32_t k = 0; k < laps; k++) {
        uint32_t v = k, expected = k;
        for (int i = 1; i < N; i++) expected = expected * 3 + i;
        MUST(write(p[1][1], &v, 4));
        MUST(read(p[0][0], &v, 4));
        CHECK(v == expected, "lap %u", k);
    }
    for (int i = 1; i < N; i++) reap(pid[i]);
}

const struct test process_tests[] = {
    {"process-exec-storm", exec_storm}, {"process-generations", generations}, {"process-spawns", spawns},
    {"process-short-lives", short_lives}, {"process-ring", ring}, {0, 0},
};
