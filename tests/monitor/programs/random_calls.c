// Random system calls with arguments at every edge: the guest may fail, the monitor may not.
#include "show.h"
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

static __thread unsigned long state;
static char *page;
static long rounds;

static unsigned long roll(unsigned long sides) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % sides;
}

// Everything about files, descriptors and waiting, and what else takes pointers; not what ends, replaces or unmaps the
// program, and not what signals it.
static const short calls[] = {
    0,   1,   2,   3,   4,   5,   6,   7,   8,   16,  17,  18,  19,  20,  21,  22,  23,  28,  32,  33,  40,  41,  42,  43,  44,  45,  46,
    47,  48,  49,  50,  51,  52,  53,  54,  55,  63,  72,  73,  74,  75,  76,  77,  78,  79,  80,  81,  82,  83,  84,  85,  86,  87,  88,
    89,  90,  91,  92,  93,  94,  95,  96,  97,  98,  99,  100, 107, 118, 120, 132, 133, 137, 138, 160, 161, 162, 187, 188, 189, 190, 191,
    192, 193, 194, 195, 196, 197, 198, 199, 201, 204, 206, 212, 213, 217, 221, 228, 229, 230, 232, 233, 235, 254, 255, 257, 258, 259, 260,
    261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 275, 276, 277, 278, 280, 281, 282, 283, 284, 285, 286, 287, 288, 289, 290, 291,
    292, 293, 294, 295, 296, 299, 302, 303, 304, 306, 307, 309, 316, 318, 319, 326, 327, 328, 332, 334, 400, 434, 436, 437, 439, 441, 451, 452,
};

static void interrupted(int signal) {}

static const char *names[] = {"/tmp", "/tmp/a", "a", "b", "a/b", ".", "..", "/", "/proc/self/fd/3", "/proc/self/maps", "/dev/null", "/dev/stdout", "", "//tmp//../tmp/a/", "/etc/passwd", "/sys"};

static void *make_calls(void *seed) {
    state = (long)seed * 0x9e3779b97f4a7c15 | 1;
    struct itimerval often = {{0, 3000}, {0, 3000}};
    for (long i = 0; i < rounds; i++) {
        long arguments[6];
        // What the pointers point to: names, small numbers, pointers again.
        for (int j = 0; j < 16; j++) {
            long *word = (long *)page + roll(512);
            switch (roll(5)) {
            case 0: *word = roll(16); break;
            case 1: *word = (long)page + roll(8192); break;
            case 2: *word = (long)state; break;
            case 3: *word = -1; break;
            default: memcpy(page + roll(3000), names[roll(16)], 17); page[3100 + roll(990)] = 0;
            }
        }
        for (int j = 0; j < 6; j++) {
            switch (roll(13)) {
            case 0: arguments[j] = roll(12); break;
            case 1: arguments[j] = roll(4096); break;
            case 2: arguments[j] = (long)page + roll(4096); break;
            case 3: arguments[j] = (long)page + 4096 - roll(64); break;
            case 4: arguments[j] = (long)page + 2 * 4096 + roll(4096); break;
            case 5: arguments[j] = (long)names[roll(16)]; break;
            case 6: arguments[j] = 0; break;
            case 7: arguments[j] = -1; break;
            case 8: arguments[j] = 1l << roll(64); break;
            case 9: arguments[j] = -100; break;
            case 10: arguments[j] = 2040 + roll(20); break;
            case 11: arguments[j] = state; break;
            default: arguments[j] = roll(4) * 0x200000 + roll(3) - 1;
            }
        }
        // Both ends of the output stay, and the timer that ends what waits.
        long number = calls[roll(sizeof calls / sizeof *calls)];
        if ((number == 3 || number == 33 || number == 292 || number == 436) && (unsigned)arguments[0] < 3) continue;
        if ((number == 33 || number == 292) && (unsigned)arguments[1] < 3) continue;
        setitimer(ITIMER_REAL, &often, NULL);
        syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    }
    return NULL;
}

// Three threads with one set of arguments in memory, so that it changes under the calls.
int main(int count, char **words) {
    long seed = strtol(words[1], NULL, 10) * 3;
    rounds = strtol(words[2], NULL, 10);
    page = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    DO(munmap(page + 4096, 4096));
    DO(mprotect(page + 2 * 4096, 4096, PROT_READ));
    signal(SIGALRM, interrupted);
    siginterrupt(SIGALRM, 1);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    pthread_t thread;
    pthread_create(&thread, NULL, make_calls, (void *)(seed + 1));
    pthread_create(&thread, NULL, make_calls, (void *)(seed + 2));
    make_calls((void *)seed);
    TEXT("survived");
    return 0;
}
