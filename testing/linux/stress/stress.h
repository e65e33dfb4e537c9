// What the stress programs share. A test is a function that returns when all was right and calls fail() when not. Each runs
// in a process of its own.
#ifndef STRESS_H
#define STRESS_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

struct test {
    const char *name;
    void (*run)(void);
};

// Each file has one table; the last entry is empty.
extern const struct test code_tests[], jit_tests[], patch_tests[], fault_tests[], signal_tests[], ptrace_tests[], atomic_tests[],
    litmus_tests[], shootdown_tests[], process_tests[], clock_tests[], legacy_tests[], trace_tests[], bpf_tests[], module_tests[];

// Ends the test as failed.
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
// Ends the test as one that cannot run here; the host knows which may.
void skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
// Adds a remark to the PASS line.
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define CHECK(cond, ...)              \
    do {                              \
        if (!(cond)) fail(__VA_ARGS__); \
    } while (0)
// For system calls: fails with errno.
#define MUST(call)                                                      \
    ({                                                                  \
        __auto_type result_ = (call);                                   \
        if ((long)result_ == -1) fail("%s: %s", #call, strerror(errno)); \
        result_;                                                        \
    })

// `base` times the scale given on the command line, at least 1: how often to do something.
long rounds(long base);
// A number of the test's own sequence, which its name and the seed on the command line decide.
uint64_t rnd(void);
// CPUs that are on line.
int cpus(void);
// Runs the calling thread on one CPU (modulo their number) from here on.
void pin(int cpu);
double seconds(void);
// Runs `body(i)` in `n` threads, thread i on CPU i, and waits for all.
void threads(int n, void (*body)(long));
// Forks; `body` runs in the child, whose failures are the test's.
pid_t child(void (*body)(void *), void *argument);
void reap(pid_t pid);
// Pages of memory with these rights.
void *pages(size_t count, int rights);
// Writes text into a file of /sys or /proc; false if the kernel refuses.
bool put_file(const char *path, const char *text);
// Reads a whole file, with a zero behind it.
char *get_file(const char *path);

#define PAGE 4096
#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)
static inline void barrier(void) { __asm__ volatile("" : : : "memory"); }
static inline void relax(void) { __asm__ volatile("pause" : : : "memory"); }
static inline void serialize(void) {
    unsigned a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}
// Code that puts `value` into eax and returns: six bytes.
static inline void put_constant(uint8_t *at, uint32_t value) {
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}
typedef uint32_t (*constant)(void);
static inline uint32_t call_at(const void *at) { return ((constant)(uintptr_t)at)(); }
#endif
