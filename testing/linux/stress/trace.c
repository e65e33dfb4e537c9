// The kernel patches its own text: tracepoints and static keys (jump labels, static calls), ftrace (every function's first
// instruction), kprobes (INT3, then an optimised jump), uprobes (INT3 in a program's text). Counts must be exact.
#include "stress.h"
#include <sys/mount.h>

#define TRACE "/sys/kernel/tracing/"

static void tracefs(void) {
    static bool there;
    if (there) return;
    if (access(TRACE "current_tracer", F_OK)) {
        if (mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, 0)) skip("no tracefs: %s", strerror(errno));
    }
    there = true;
}

static void must_put(const char *path, const char *text) { CHECK(put_file(path, text), "%s into %s: %s", text, path, strerror(errno)); }

// Keeps the other CPUs in and out of the kernel until it is killed.
static void busy(void *cpu) {
    pin((int)(intptr_t)cpu);
    for (;;) {
        int p[2];
        char c = 1;
        MUST(pipe(p));
        MUST(write(p[1], &c, 1));
        MUST(read(p[0], &c, 1));
        close(p[0]), close(p[1]);
        sched_yield();
        free(get_file("/proc/self/stat"));
    }
}
static pid_t helpers[8];
static int helper_count;
static void start_busy(void) {
    for (helper_count = 0; helper_count < cpus() && helper_count < 8; helper_count++)
        helpers[helper_count] = child(busy, (void *)(intptr_t)helper_count);
}
static void stop_busy(void) {
    for (int i = 0; i < helper_count; i++) {
        int status;
        kill(helpers[i], SIGKILL);
        waitpid(helpers[i], &status, 0);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "a busy process ended by itself: %#x", status);
    }
}

// Static keys: all events of the scheduler, of interrupts and of system calls, on and off while the machine works.
static void jump_labels(void) {
    tracefs();
    start_busy();
    static const char *const events[] = {"sched", "irq", "raw_syscalls", "timer", "signal", "kmem"};
    for (long i = 0; i < rounds(2); i++) {
        for (unsigned k = 0; k < sizeof events / sizeof *events; k++) {
            char path[100];
            snprintf(path, sizeof path, TRACE "events/%s/enable", events[k]);
            must_put(path, "1");
            usleep(1000);
            must_put(path, "0");
        }
        put_file("/proc/sys/kernel/sched_schedstats", i & 1 ? "1" : "0");
    }
    put_file("/proc/sys/kernel/sched_schedstats", "0");
    // What was recorded is readable and not empty.
    must_put(TRACE "events/raw_syscalls/sys_enter/enable", "1");
    for (int i = 0; i < 10; i++) syscall(SYS_getppid);
    must_put(TRACE "events/raw_syscalls/sys_enter/enable", "0");
    CHECK(strstr(get_file(TRACE "trace"), "sys_enter"), "nothing was recorded");
    must_put(TRACE "trace", "");
    stop_busy();
}

// The function tracer patches tens of thousands of places; a filter only some.
static void function_tracer(void) {
    tracefs();
    if (!strstr(get_file(TRACE "available_tracers"), "function")) skip("the kernel has no function tracer");
    start_busy();
    must_put(TRACE "buffer_size_kb", "64");
    for (long i = 0; i < rounds(2); i++) {
        must_put(TRACE "set_ftrace_filter", i & 1 ? "*pipe*" : "vfs_*");
        must_put(TRACE "current_tracer", "function");
        usleep(3000);
        // A reader of a buffer that fills all the time never comes to its end.
        must_put(TRACE "tracing_on", "0");
        char *text = get_file(TRACE "trace");
        CHECK(strstr(text, i & 1 ? "pipe_" : "vfs_"), "nothing was recorded");
        free(text);
        must_put(TRACE "current_tracer", "nop");
        must_put(TRACE "tracing_on", "1");
    }
    must_put(TRACE "set_ftrace_filter", "");
    stop_busy();
}

// All functions at once, for the long run.
static void all_functions(void) {
    tracefs();
    if (!strstr(get_file(TRACE "available_tracers"), "function_graph")) skip("the kernel has no function graph tracer");
    start_busy();
    must_put(TRACE "buffer_size_kb", "64");
    static const char *const tracers[] = {"function", "function_graph"};
    for (long i = 0; i < rounds(1); i++) {
        must_put(TRACE "current_tracer", tracers[i & 1]);
        usleep(50000);
        must_put(TRACE "current_tracer", "nop");
    }
    stop_busy();
}

// Hits of a probe by its name, as the kernel counts them.
static long hits(const char *profile, const char *name) {
    char *text = get_file(profile);
    char *at = strstr(text, name);
    CHECK(at, "%s is not in %s", name, profile);
    long n = strtol(at + strlen(name), 0, 10);
    free(text);
    return n;
}

// A kprobe and a return probe on a system call: called N times it hits N times. The second half on other CPUs at once.
static void calls_body(long who) {
    (void)who;
    for (long i = 0; i < rounds(300); i++) syscall(SYS_getpgid, 0);
}
static void kprobes(void) {
    tracefs();
    if (access(TRACE "kprobe_events", F_OK)) skip("the kernel has no kprobe events");
    must_put(TRACE "kprobe_events", "p:enters __x64_sys_getpgid\n");
    static const char leaves[] = "r:leaves __x64_sys_getpgid $retval\n";
    int fd = MUST(open(TRACE "kprobe_events", O_WRONLY | O_APPEND | O_CLOEXEC));
    MUST(write(fd, leaves, sizeof leaves - 1));
    close(fd);
    int n = cpus() < 2 ? 2 : cpus();
    for (long i = 0; i < rounds(2); i++) {
        long before = hits(TRACE "kprobe_profile", "enters"), left = hits(TRACE "kprobe_profile", "leaves");
        must_put(TRACE "events/kprobes/enable", "1");
        threads(n, calls_body);
        must_put(TRACE "events/kprobes/enable", "0");
        long in = hits(TRACE "kprobe_profile", "enters") - before, out = hits(TRACE "kprobe_profile", "leaves") - left;
        CHECK(in == n * rounds(300), "%ld hits of %ld", in, n * rounds(300));
        CHECK(out == in, "%ld returns of %ld", out, in);
    }
    must_put(TRACE "kprobe_events", "");
}

// A probe in this program's own text, on a function whose first instruction does something.
__attribute__((noinline, noclone)) long probed(long a) {
    __asm__ volatile("" : "+r"(a));
    return a * 3 + 1;
}
static void uprobes(void) {
    tracefs();
    if (access(TRACE "uprobe_events", F_OK)) skip("the kernel has no uprobe events");
    // In a file of its own: Linux treats INT3 differently in all that map a file with a probe in it (handle_swbp), other tests too.
    char path[64], line[200];
    snprintf(path, sizeof path, "/tmp/probed-%d", (int)getpid());
    uint8_t *page = (uint8_t *)((unsigned long)probed & -PAGE);
    unsigned long at = (uint8_t *)probed - page;
    int fd = MUST(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0700));
    CHECK(write(fd, page, 2 * PAGE) == 2 * PAGE, "%s: %s", path, strerror(errno));
    uint8_t *copy = mmap(0, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    CHECK(copy != MAP_FAILED, "%s: %s", path, strerror(errno));
    long (*inuser)(long) = (long (*)(long))(copy + at);
    snprintf(line, sizeof line, "p:inuser %s:0x%lx\n", path, at);
    must_put(TRACE "uprobe_events", line);
    for (long i = 0; i < rounds(2); i++) {
        long before = hits(TRACE "uprobe_profile", "inuser");
        must_put(TRACE "events/uprobes/enable", "1");
        for (long k = 0; k < rounds(300); k++) CHECK(inuser(k) == k * 3 + 1, "the probed function fails");
        must_put(TRACE "events/uprobes/enable", "0");
        long got = hits(TRACE "uprobe_profile", "inuser") - before;
        CHECK(got == rounds(300), "%ld hits of %ld", got, rounds(300));
        CHECK(inuser(i) == i * 3 + 1, "without the probe");
    }
    must_put(TRACE "uprobe_events", "");
    close(fd), unlink(path);
}

const struct test trace_tests[] = {
    {"trace-jump-labels", jump_labels}, {"trace-functions", function_tracer}, {"trace-all-functions", all_functions},
    {"trace-kprobes", kprobes},         {"trace-uprobes", uprobes},           {0, 0},
};
