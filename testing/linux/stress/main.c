// Runs stress tests: `stress [-s SCALE] [-r SEED] [-t LIMIT] [-n TIMES] [-p PREFIX] [TEST...]`, all if none is named; `stress list`
// names them, `stress true` does nothing. Prints `PASS PREFIXname seconds s remark`, `FAIL PREFIXname: why` or `SKIP PREFIXname: why`.
#include "stress.h"
#include <stdarg.h>
#include <time.h>

static const struct test *const groups[] = {
    code_tests,   jit_tests,       patch_tests,   fault_tests, signal_tests, ptrace_tests, atomic_tests,
    litmus_tests, shootdown_tests, process_tests, clock_tests, legacy_tests,
#ifdef __x86_64__
    trace_tests,  bpf_tests,       module_tests,
#endif
};
enum { GROUPS = sizeof groups / sizeof *groups, FAILED = 3, SKIPPED = 4 };

static double scale = 1, limit = 120;
static uint64_t seed = 1, state;
static int remarks = -1;
static const char *prefix = "";

static void say(int status, const char *format, va_list args) {
    char text[400];
    int n = vsnprintf(text, sizeof text, format, args);
    if (n > (int)sizeof text - 1) n = sizeof text - 1;
    if (write(remarks, text, n) < 0) status = FAILED;
    if (status) _exit(status);
}

void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say(FAILED, format, args);
    __builtin_unreachable();
}

void skip(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say(SKIPPED, format, args);
    __builtin_unreachable();
}

void note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say(0, format, args);
    va_end(args);
}

long rounds(long base) {
    double n = base * scale;
    return n < 1 ? 1 : n;
}

uint64_t rnd(void) {
    // Threads may call it at the same time: each takes a step of its own.
    uint64_t x = __atomic_add_fetch(&state, 0x9e3779b97f4a7c15, __ATOMIC_RELAXED);
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int cpus(void) { return sysconf(_SC_NPROCESSORS_ONLN); }

void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu % cpus(), &set);
    MUST(sched_setaffinity(0, sizeof set, &set));
}

struct start {
    long index;
    void (*body)(long);
};
static _Atomic int waiting;
static void *started(void *argument) {
    struct start start = *(struct start *)argument;
    pin(start.index);
    // All begin together.
    waiting--;
    while (waiting > 0) sched_yield();
    start.body(start.index);
    return 0;
}
void threads(int n, void (*body)(long)) {
    pthread_t all[64];
    struct start start[64];
    waiting = n;
    for (int i = 0; i < n; i++) {
        start[i] = (struct start){i, body};
        CHECK(!pthread_create(&all[i], 0, started, &start[i]), "no thread");
    }
    for (int i = 0; i < n; i++) pthread_join(all[i], 0);
}

pid_t child(void (*body)(void *), void *argument) {
    pid_t pid = MUST(fork());
    if (pid) return pid;
    body(argument);
    _exit(0);
}

void reap(pid_t pid) {
    int status;
    MUST(waitpid(pid, &status, 0));
    if (WIFEXITED(status) && WEXITSTATUS(status) == FAILED) _exit(FAILED);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) _exit(SKIPPED);
    CHECK(status == 0, "a child ended with wait status %#x", status);
}

void *pages(size_t count, int rights) {
    void *p = mmap(0, count * PAGE, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
    return p;
}

bool put_file(const char *path, const char *text) {
    FILE *f = fopen(path, "we");
    if (!f) return false;
    bool good = fputs(text, f) >= 0;
    return !fclose(f) && good;
}

char *get_file(const char *path) {
    FILE *f = fopen(path, "re");
    CHECK(f, "%s: %s", path, strerror(errno));
    size_t size = 0, n;
    char *text = 0;
    do {
        text = realloc(text, size + 65537);
        CHECK(text, "no memory for %s", path);
        n = fread(text + size, 1, 65536, f);
        size += n;
    } while (n);
    text[size] = 0;
    fclose(f);
    return text;
}

// Runs one test in a process group of its own; true if it did not fail.
static bool run(const struct test *test) {
    int out[2];
    MUST(pipe2(out, O_CLOEXEC));
    double begin = seconds();
    fflush(stdout);
    pid_t pid = MUST(fork());
    if (!pid) {
        setpgid(0, 0);
        close(out[0]);
        remarks = out[1];
        state = seed * 0x2545f4914f6cdd1d;
        for (const char *c = test->name; *c; c++) state = (state ^ (uint8_t)*c) * 0x100000001b3;
        test->run();
        _exit(0);
    }
    setpgid(pid, pid);
    close(out[1]);
    int status;
    bool late = false;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        usleep(2000);
        if (seconds() - begin > limit) {
            late = true;
            kill(-pid, SIGKILL);
        }
    }
    double took = seconds() - begin;
    kill(-pid, SIGKILL);
    while (waitpid(-pid, 0, WNOHANG) > 0) {}
    char text[1200] = "";
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    ssize_t n = read(out[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(out[0]);
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    if (!late && status == 0) {
        printf("PASS %s%s %.2f s %s\n", prefix, test->name, took, text);
    } else if (!late && WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
        printf("SKIP %s%s: %s\n", prefix, test->name, text);
    } else if (late) {
        printf("FAIL %s%s: not done after %.0f s %s\n", prefix, test->name, took, text);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == FAILED) {
        printf("FAIL %s%s: %s\n", prefix, test->name, text);
    } else {
        printf("FAIL %s%s: ended with wait status %#x %s\n", prefix, test->name, status, text);
    }
    fflush(stdout);
    return !late && (status == 0 || (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED));
}

static bool run_named(const char *name) {
    bool found = false, good = true;
    for (int g = 0; g < GROUPS; g++)
        for (const struct test *t = groups[g]; t->name; t++)
            if (!name || !strcmp(name, t->name)) {
                found = true;
                good &= run(t);
            }
    if (!found) printf("FAIL %s: there is no such test\n", name ? name : "everything");
    return found && good;
}

int main(int argc, char **argv) {
    int times = 1;
    if (argc > 1 && !strcmp(argv[1], "true")) return 0;
    for (int option; (option = getopt(argc, argv, "s:r:t:n:p:")) != -1;) {
        if (option == 's') scale = atof(optarg);
        else if (option == 'r') seed = strtoull(optarg, 0, 0);
        else if (option == 't') limit = atof(optarg);
        else if (option == 'n') times = atoi(optarg);
        else if (option == 'p') prefix = optarg;
        else return 2;
    }
    if (optind < argc && !strcmp(argv[optind], "list")) {
        for (int g = 0; g < GROUPS; g++)
            for (const struct test *t = groups[g]; t->name; t++) puts(t->name);
        return 0;
    }
    bool good = true;
    for (int i = 0; i < times; i++, seed++) {
        if (optind == argc) good &= run_named(0);
        for (int a = optind; a < argc; a++) good &= run_named(argv[a]);
    }
    return good ? 0 : 1;
}
