// Leaves a mark wherever a program can leave one, and looks for it: no call may find what another has left.
#define _GNU_SOURCE
#include <immintrin.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

// The call's mark, inverted: the mark itself is nowhere in memory before it is left, so that finding it means something.
static volatile unsigned long hidden;

static int has_avx512, has_avx;

// Registers first: the compiler uses few of them, and nothing between the accept and this touches the upper halves.
__attribute__((target("xsave"))) static int in_registers(void) {
    static unsigned char area[8192] __attribute__((aligned(64)));
    memset(area, 0, sizeof area);
    __builtin_ia32_xsave64(area, ~0ul);
    int found = 0;
    for (size_t i = 0; i + 8 <= sizeof area; i += 8) found += ~*(unsigned long *)(area + i) == hidden;
    memset(area, 0, sizeof area);
    return found;
}

__attribute__((target("avx512f"))) static void leave_512(unsigned long mark) {
    __m512i wide = _mm512_set1_epi64(mark);
    __asm__ volatile("vmovdqa64 %0, %%zmm16\n\tvmovdqa64 %0, %%zmm31\n\tvmovdqa64 %0, %%zmm5\n\tkmovw %1, %%k3" ::"v"(wide), "r"((int)mark));
}

__attribute__((target("avx"))) static void leave_256(unsigned long mark) {
    __m256i wide = _mm256_set1_epi64x(mark);
    __asm__ volatile("vmovdqa %0, %%ymm7\n\tvmovdqa %0, %%ymm15" ::"x"(wide));
}

// The whole memory, by its map.
static long in_memory(size_t *looked) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    long found = 0;
    *looked = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char protection[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, protection) != 3 || protection[0] != 'r' || strstr(line, "[vvar") || strstr(line, "[vsyscall")) continue;
        for (unsigned long at = start; at + 8 <= end; at += 8) {
            found += ~*(volatile unsigned long *)at == hidden;
        }
        *looked += end - start;
    }
    if (maps) fclose(maps);
    return found;
}

static void leave(void) {
    // Heap, fresh mappings, stack, a pipe, a file, the registers.
    unsigned long mark = ~hidden;
    unsigned long *heap = malloc(1 << 20), *mapped = mmap(0, 4 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), stack[4096];
    for (int i = 0; i < 4096; i++) stack[i] = mark;
    __asm__ volatile("" ::"r"(stack) : "memory");
    for (int i = 0; i < 1 << 17; i++) heap[i] = mark;
    for (int i = 0; i < 1 << 19; i++) mapped[i] = mark;
    int pipes[2];
    if (pipe(pipes) || write(pipes[1], stack, 4096) < 0) _exit(9);
    FILE *file = fopen("/tmp/mayfly-residue", "w");
    if (!file || fwrite(stack, 1, sizeof stack, file) != sizeof stack || fclose(file)) _exit(9);
    __asm__ volatile("movq %0, %%mm3\n\tmovq %0, %%xmm9" ::"r"(mark) : "xmm9");
    if (has_avx) leave_256(mark);
    if (has_avx512) leave_512(mark);
    __asm__ volatile("mov %0, %%r8\n\tmov %0, %%r9\n\tmov %0, %%r10\n\tmov %0, %%rbx" ::"r"(mark) : "r8", "r9", "r10", "rbx");
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    has_avx = __builtin_cpu_supports("avx");
    has_avx512 = __builtin_cpu_supports("avx512f");
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        static char request[4096], body[256];
        int connection = accept(listener, 0, 0);
        ssize_t length = read(connection, request, sizeof request - 1);
        if (length <= 0) return 6;
        if (strstr(request, " /canary")) {
            unsigned long canary;
            const unsigned char *bytes = (void *)getauxval(AT_RANDOM);
            __asm__("mov %%fs:0x28, %0" : "=r"(canary));
            int at = snprintf(body, sizeof body, "%016lx ", canary);
            for (int i = 0; i < 16; i++) at += snprintf(body + at, sizeof body - at, "%02x", bytes[i]);
        } else {
            // The mark comes as one of its halves, in digits.
            char *digits = strstr(request, " /look/");
            if (!digits) return 7;
            hidden = ~(strtoul(digits + 7, 0, 16) * 0x100000001ul);
            size_t looked;
            int registers = in_registers();
            long found = in_memory(&looked);
            snprintf(body, sizeof body, "%d %ld %d %zu", registers, found, access("/tmp/mayfly-residue", F_OK) == 0, looked);
            leave();
        }
        dprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
        close(connection);
    }
}
