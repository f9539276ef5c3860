/* The least that a fresh virtual machine costs on this machine: one is made in a new process, runs one instruction that leaves it, and is
 * destroyed. No program, no jail, no snapshot.
 *
 *   floor serve DESCRIPTOR NAME   behind the front (docs/protocol.md): one such machine for each connection, which answers {"hello": body}
 *   floor micro                   costs of the parts, one a line: name, microseconds (median)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 2 << 20, CODE = 0x1000, SAMPLES = 200, EXITS = 2000, PAGES = 4096 };

struct machine {
    int vm, vcpu;
    struct kvm_run *run;
    uint8_t *memory;
    size_t size;
};

static int kvm, run_size;

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

/* Real mode, flat segments, starting at CODE. */
static struct machine make(uint8_t *memory, size_t size) {
    struct machine made = {.memory = memory, .size = size};
    if ((made.vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0) fail("KVM_CREATE_VM");
    struct kvm_userspace_memory_region region = {.memory_size = size, .userspace_addr = (uint64_t)memory};
    if (ioctl(made.vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) fail("KVM_SET_USER_MEMORY_REGION");
    if ((made.vcpu = ioctl(made.vm, KVM_CREATE_VCPU, 0)) < 0) fail("KVM_CREATE_VCPU");
    made.run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, made.vcpu, 0);
    if (made.run == MAP_FAILED) fail("kvm_run");
    struct kvm_sregs special;
    if (ioctl(made.vcpu, KVM_GET_SREGS, &special) < 0) fail("KVM_GET_SREGS");
    special.cs.base = 0;
    special.cs.selector = 0;
    if (ioctl(made.vcpu, KVM_SET_SREGS, &special) < 0) fail("KVM_SET_SREGS");
    struct kvm_regs general = {.rip = CODE, .rflags = 2};
    if (ioctl(made.vcpu, KVM_SET_REGS, &general) < 0) fail("KVM_SET_REGS");
    return made;
}

static void leave(struct machine *made) {
    if (ioctl(made->vcpu, KVM_RUN, 0) < 0) fail("KVM_RUN");
    if (made->run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "floor: exit reason %u\n", made->run->exit_reason);
        exit(1);
    }
}

static void destroy(struct machine *made) {
    munmap(made->run, run_size);
    close(made->vcpu);
    close(made->vm);
}

static uint8_t *fresh(size_t size) {
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("memory");
    static const uint8_t program[] = {0xe6, 0x10, 0xeb, 0xfc}; /* again: out %al, $0x10; jmp again */
    memcpy(memory + CODE, program, sizeof program);
    return memory;
}

static void answer(int connection, const char *name) {
    static char seen[1 << 16], text[1 << 16];
    size_t have = 0;
    dprintf(connection, "MAYFLY/1 %s\n", name);
    for (;;) {
        ssize_t got = read(connection, seen + have, sizeof seen - 1 - have);
        if (got <= 0) return;
        have += got;
        seen[have] = 0;
        char *end = strstr(seen, "\r\n\r\n"), *length = strcasestr(seen, "content-length:");
        size_t body = length && end && length < end ? strtoul(length + 15, NULL, 10) : 0;
        if (end && have - (end + 4 - seen) >= body) {
            int size = snprintf(text, sizeof text, "{\"hello\": \"%.*s\"}", (int)body, end + 4);
            dprintf(connection, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", size, text);
            return;
        }
    }
}

/* Waited for, so that the time of the ended is in this process's account. */
static void reap(int number) {
    (void)number;
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
}

static int serve(int listener, const char *name) {
    struct sigaction reaping = {.sa_handler = reap};
    sigaction(SIGCHLD, &reaping, NULL);
    /* The first machine of a host flips static keys of its kernel, and so does the last: one stays. */
    struct machine kept = make(fresh(MEMORY), MEMORY);
    leave(&kept);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) continue;
        if (fork() == 0) {
            struct machine made = make(fresh(MEMORY), MEMORY);
            leave(&made);
            answer(connection, name);
            close(connection);
            destroy(&made);
            _exit(0);
        }
        close(connection);
    }
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void tell(const char *name, double *samples, int count) {
    qsort(samples, count, sizeof *samples, ascending);
    printf("%s %.3f\n", name, samples[count / 2]);
}

static int micro(void) {
    static double made[SAMPLES], left[SAMPLES], gone[SAMPLES], whole[SAMPLES], vcpu[SAMPLES];
    struct machine kept = make(fresh(MEMORY), MEMORY);
    leave(&kept);
    for (int i = 0; i < SAMPLES; i++) {
        uint8_t *memory = fresh(MEMORY);
        double t0 = now();
        struct machine machine = make(memory, MEMORY);
        double t1 = now();
        leave(&machine);
        double t2 = now();
        int another = ioctl(machine.vm, KVM_CREATE_VCPU, 1);
        double t3 = now();
        close(another);
        double t4 = now();
        destroy(&machine);
        double t5 = now();
        munmap(memory, MEMORY);
        made[i] = t1 - t0, left[i] = t2 - t1, vcpu[i] = t3 - t2, gone[i] = t5 - t4;
    }
    tell("vm_made", made, SAMPLES);
    tell("vm_first_exit", left, SAMPLES);
    tell("vm_destroyed", gone, SAMPLES);
    tell("vcpu_added", vcpu, SAMPLES);
    for (int i = 0; i < SAMPLES; i++) {
        double t0 = now();
        pid_t child = fork();
        if (child == 0) {
            struct machine machine = make(fresh(MEMORY), MEMORY);
            leave(&machine);
            destroy(&machine);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        whole[i] = now() - t0;
    }
    tell("floor", whole, SAMPLES);
    double t0 = now();
    for (int i = 0; i < EXITS; i++) leave(&kept);
    printf("exit_real_mode %.3f\n", (now() - t0) / EXITS);
    for (int i = 0; i < SAMPLES; i++) {
        double begun = now();
        pid_t child = fork();
        if (child == 0) _exit(0);
        waitpid(child, NULL, 0);
        whole[i] = now() - begun;
    }
    tell("fork_exit_wait", whole, SAMPLES);
    uint8_t *pages = mmap(NULL, PAGES * 4096ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(pages, PAGES * 4096ul, MADV_NOHUGEPAGE);
    t0 = now();
    for (int i = 0; i < PAGES; i++) pages[i * 4096ul] = 1;
    printf("host_page_touched %.3f\n", (now() - t0) / PAGES);
    return 0;
}

int main(int count, char **words) {
    if ((kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)) < 0) fail("/dev/kvm");
    run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (count == 4 && !strcmp(words[1], "serve")) return serve(atoi(words[2]), words[3]);
    if (count == 2 && !strcmp(words[1], "micro")) return micro();
    fprintf(stderr, "usage: floor serve DESCRIPTOR NAME | floor micro\n");
    return 2;
}
