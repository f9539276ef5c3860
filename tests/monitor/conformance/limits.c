// Resource limits that a program sets for itself: setrlimit(2).
#include "case.h"
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

static struct rlimit lower(int resource, rlim_t soft) {
    struct rlimit old;
    DO(getrlimit(resource, &old));
    DO(setrlimit(resource, &(struct rlimit){soft, old.rlim_max}));
    return old;
}

static volatile sig_atomic_t told;
static void tell(int number) { told = number; }

CASE(a_write_ends_at_the_limit_of_the_file_size) {
    told = 0;
    signal(SIGXFSZ, tell);
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    struct rlimit old = lower(RLIMIT_FSIZE, 1000);
    char bytes[2000] = {0};
    CHECK(write(fd, bytes, 600) == 600 && write(fd, bytes, 600) == 400 && !told);
    FAILS(EFBIG, write(fd, bytes, 1));
    CHECK(told == SIGXFSZ);
    CHECK(pwrite(fd, bytes, 600, 900) == 100);
    FAILS(EFBIG, pwrite(fd, bytes, 1, 1000));
    struct iovec parts[3] = {{bytes, 300}, {bytes, 0}, {bytes, 300}};
    CHECK(lseek(fd, 500, SEEK_SET) == 500 && writev(fd, parts, 3) == 500);
    CHECK(write(fd, bytes, 0) == 0);
    DO(setrlimit(RLIMIT_FSIZE, &old));
    CHECK(write(fd, bytes, 600) == 600);
}

CASE(a_file_is_not_made_larger_than_the_limit) {
    signal(SIGXFSZ, SIG_IGN);
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(ftruncate(fd, 5000));
    struct rlimit old = lower(RLIMIT_FSIZE, 1000);
    CHECK(ftruncate(fd, 4000) == 0 && ftruncate(fd, 0) == 0 && ftruncate(fd, 1000) == 0);
    FAILS(EFBIG, ftruncate(fd, 1001));
    FAILS(EFBIG, truncate("file", 1001));
    CHECK(truncate("file", 10) == 0);
    DO(setrlimit(RLIMIT_FSIZE, &old));
}

CASE(pipes_have_no_limit_of_file_size) {
    int ends[2];
    DO(pipe(ends));
    struct rlimit old = lower(RLIMIT_FSIZE, 1);
    CHECK(write(ends[1], "abc", 3) == 3);
    DO(setrlimit(RLIMIT_FSIZE, &old));
}

CASE(memory_ends_at_the_limit_of_the_address_space) {
    char *at = pages(4);
    struct rlimit old = lower(RLIMIT_AS, 1 << 20);
    FAILS(ENOMEM, (long)mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    FAILS(ENOMEM, (long)mmap(NULL, 8 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    FAILS(ENOMEM, (long)mremap(at, 4 * PAGE, 8 << 20, MREMAP_MAYMOVE));
    CHECK(munmap(at, 4 * PAGE) == 0);
    DO(setrlimit(RLIMIT_AS, &old));
    CHECK(pages(2048) != MAP_FAILED);
}

CASE(memory_ends_at_the_limit_of_data) {
    struct rlimit old = lower(RLIMIT_DATA, 1 << 20);
    FAILS(ENOMEM, (long)mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    char *reserved = mmap(NULL, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(reserved != MAP_FAILED);
    FAILS(ENOMEM, mprotect(reserved, 64 << 20, PROT_READ | PROT_WRITE));
    DO(setrlimit(RLIMIT_DATA, &old));
    CHECK(mprotect(reserved, 64 << 20, PROT_READ | PROT_WRITE) == 0);
    DO(munmap(reserved, 64 << 20));
}

CASE(processor_time_ends_with_a_signal) {
    signal(SIGXCPU, tell);
    told = 0;
    struct timespec used;
    DO(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used));
    struct rlimit old = lower(RLIMIT_CPU, used.tv_sec + 1);
    alarm(60);
    while (!told) {
        for (volatile int i = 0; i < 1000000; i++) {
        }
        getppid();
    }
    CHECK(told == SIGXCPU);
    DO(setrlimit(RLIMIT_CPU, &old));
}
