// Modules come and go while the machine works: text is loaded, relocated, patched (alternatives, static calls, ftrace sites) and
// freed. /lib/modules/order lists the files, each after what it needs.
#include "stress.h"

static char *names[64];
static int count;

static void read_order(void) {
    FILE *f = fopen("/lib/modules/order", "re");
    if (!f) skip("no modules in this guest");
    char line[200];
    while (count < 64 && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (*line) names[count++] = strdup(line);
    }
    fclose(f);
    CHECK(count, "the list of modules is empty");
}

// The module's own name: the file's without folder and suffix, and with low lines.
static const char *bare(const char *path) {
    static char name[100];
    const char *slash = strrchr(path, '/');
    snprintf(name, sizeof name, "%s", slash ? slash + 1 : path);
    name[strcspn(name, ".")] = 0;
    for (char *c = name; *c; c++)
        if (*c == '-') *c = '_';
    return name;
}

static bool loaded(const char *name) {
    char pattern[110];
    char *text = get_file("/proc/modules");
    snprintf(pattern, sizeof pattern, "%s ", name);
    bool there = !strncmp(text, pattern, strlen(pattern));
    for (char *p = text; !there && (p = strchr(p, '\n')); p++) there = !strncmp(p + 1, pattern, strlen(pattern));
    free(text);
    return there;
}

static void load_all(void) {
    for (int i = 0; i < count; i++) {
        int fd = MUST(open(names[i], O_RDONLY | O_CLOEXEC));
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST) fail("%s: %s", names[i], strerror(errno));
        close(fd);
        CHECK(loaded(bare(names[i])), "%s is not loaded", names[i]);
    }
}

static void unload_all(void) {
    for (int i = count - 1; i >= 0; i--) {
        // The users of a module may need a moment to let go of it.
        int tries = 0;
        while (syscall(SYS_delete_module, bare(names[i]), O_NONBLOCK) && errno != ENOENT) {
            CHECK(errno == EAGAIN || errno == EBUSY || errno == EWOULDBLOCK, "%s: %s", names[i], strerror(errno));
            CHECK(++tries < 200, "%s stays in use", names[i]);
            usleep(5000);
        }
        CHECK(!loaded(bare(names[i])), "%s is still loaded", names[i]);
    }
}

static void body(void *unused) {
    (void)unused;
    for (;;) {
        free(get_file("/proc/modules"));
        sched_yield();
    }
}

static void come_and_go(void) {
    read_order();
    pid_t reader = child(body, 0);
    for (long i = 0; i < rounds(1); i++) {
        load_all();
        unload_all();
    }
    int status;
    kill(reader, SIGKILL);
    waitpid(reader, &status, 0);
    CHECK(WIFSIGNALED(status), "the reader ended: %#x", status);
    note("%d modules", count);
}

const struct test module_tests[] = {{"module-come-and-go", come_and_go}, {0, 0}};
