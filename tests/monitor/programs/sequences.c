// Random sequences of system calls whose results can be compared: `sequences FIRST COUNT CALLS [loud]`.
//
// Each sequence begins in an empty directory, with sixteen pages of memory at a fixed place and no descriptors but the standard
// ones; what it does follows from its number alone. One line for each: its number and a hash of all results, errors and data,
// and of the files and the memory that it leaves. With `loud` each call is shown.
//
// What is compared must not depend on the machine: no inode numbers, times, addresses that the kernel chose. Sizes are small, so
// that nothing can fill memory or disk, and nothing waits.
#include "show.h"
#include <poll.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#define PAGE 4096l
#define PAGES 16l
static char *const memory = (char *)0x10000000;

static uint64_t state, hash;
static int loud;
static long calls;

static uint64_t roll(uint64_t sides) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state * 0x2545f4914f6cdd1d >> 20) % sides;
}

static void mix(const void *data, long length) {
    for (long i = 0; i < length; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3;
}

static void mix_number(long number) { mix(&number, sizeof number); }

// One of a few numbers.
#define ONE_OF(...) ({ static const long choices_[] = {__VA_ARGS__}; choices_[roll(sizeof choices_ / sizeof *choices_)]; })

static const char *name(void) {
    static const char *const names[] = {"a", "b", "c", "d", "d/e", "d/f", "l", "a/x", "missing/x", ".", "..", "", "d/", "./a", "d/../b", "//", "d/./e"};
    // Never up: what is there is not the sequence's.
    const char *one = names[roll(sizeof names / sizeof *names)];
    return strcmp(one, "..") == 0 || strcmp(one, "//") == 0 ? "d/.." : one;
}

static int fd(void) { return roll(30) == 0 ? ONE_OF(-1, 99, 2047, 2048, 4000, 1 << 30) : 3 + (int)roll(9); }

static char *place(void) {
    switch (roll(12)) {
    case 0: return (char *)ONE_OF(0, 8, 0x1000, -1, -4096, 0x7ffffffff000);
    case 1: return memory + roll(PAGES) * PAGE + PAGE - 1 - roll(32);
    default: return memory + roll(PAGES * PAGE - 8192);
    }
}

static long length(void) { return roll(3) ? roll(200) : ONE_OF(0, 1, 4095, 4096, 4097, 8192, 5000); }

static long offset(void) { return roll(20) ? roll(20000) : ONE_OF(-1, 0, 65536, 4096); }

static char *page(void) { return memory + roll(PAGES) * PAGE; }

static long page_length(void) { return roll(12) ? (1 + roll(4)) * PAGE : ONE_OF(0, 1, 100, -4096, 1l << 47); }

static int flags_of_open(void) {
    int flags = ONE_OF(O_RDONLY, O_WRONLY, O_RDWR, O_RDWR) | O_NONBLOCK;
    static const int more[] = {O_CREAT, O_CREAT, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_CLOEXEC};
    for (int i = roll(4); i > 0; i--) flags |= more[roll(sizeof more / sizeof *more)];
    return flags;
}

static sigjmp_buf back;
static volatile long fault;
static void on_fault(int signal, siginfo_t *info, void *context) {
    long at = (char *)info->si_addr - memory;
    fault = -(signal * 1000000l + info->si_code * 100000l + (at >= 0 && at < PAGES * PAGE ? at : 99999));
    siglongjmp(back, 1);
}

static volatile int signals;
static void on_signal(int signal) { signals += signal; }

// Reads or writes a byte; the fault that it met, as a negative number.
static long touch(char *at, int store) {
    if (sigsetjmp(back, 1)) return fault;
    if (store) *(volatile char *)at = store;
    return *(volatile unsigned char *)at;
}

static long result;
static char told[400];
#define CALL(...)                                     \
    do {                                              \
        errno = 0;                                    \
        result = (long)(__VA_ARGS__);                 \
        if (loud) snprintf(told, sizeof told, "%s", #__VA_ARGS__); \
    } while (0)

static struct stat about;
static void mix_stat(void) {
    if (result != 0) return;
    mix_number(about.st_mode);
    if (S_ISREG(about.st_mode) || S_ISLNK(about.st_mode)) mix_number(about.st_size), mix_number(about.st_nlink);
}

static void call_on_names(void) {
    const char *one = name(), *two = name();
    char text[64];
    switch (roll(18)) {
    case 0: case 1: case 2: case 3: {
        int flags = flags_of_open(), mode = ONE_OF(0600, 0644, 0755, 0);
        CALL(open(one, flags, mode));
        break;
    }
    case 4: CALL(mkdir(one, 0755)); break;
    case 5: CALL(rmdir(one)); break;
    case 6: CALL(unlink(one)); break;
    case 7: CALL(rename(one, two)); break;
    case 8: { int flags = ONE_OF(RENAME_NOREPLACE, RENAME_EXCHANGE, 7); CALL(renameat2(AT_FDCWD, one, AT_FDCWD, two, flags)); break; }
    case 9: CALL(link(one, two)); break;
    case 10: CALL(symlink(one, two)); break;
    case 11: CALL(readlink(one, text, sizeof text)); if (result > 0) mix(text, result); break;
    case 12: CALL(stat(one, &about)); mix_stat(); break;
    case 13: CALL(lstat(one, &about)); mix_stat(); break;
    case 14: { int mode = ONE_OF(F_OK, R_OK, W_OK, R_OK | X_OK, 8); CALL(access(one, mode)); break; }
    case 15: { int mode = ONE_OF(0600, 0755, 0644, 01777); CALL(chmod(one, mode)); break; }
    case 16: { long size = offset(); CALL(truncate(one, size)); break; }
    default: { int flags = ONE_OF(0, AT_REMOVEDIR, 1); CALL(unlinkat(AT_FDCWD, one, flags)); }
    }
    if (loud) sprintf(told + strlen(told), " one=%s two=%s", one, two);
}

static void call_on_bytes(void) {
    int a = fd(), b = fd();
    char *at = place(), *to = place();
    long size = length(), where = offset();
    struct iovec vector[3] = {{at, size}, {to, length()}, {page(), roll(100)}};
    loff_t in = offset(), out = offset();
    off_t from = offset();
    switch (roll(20)) {
    case 0: case 1: CALL(read(a, at, size)); break;
    case 2: case 3: case 4: CALL(write(a, at, size)); break;
    case 5: CALL(pread(a, at, size, where)); break;
    case 6: CALL(pwrite(a, at, size, where)); break;
    case 7: { int count = ONE_OF(1, 2, 3, 0, -1, 1025); if (count > 3) count = 2; CALL(readv(a, vector, count)); break; }
    case 8: { int count = ONE_OF(1, 2, 3, 0, -1); CALL(writev(a, vector, count)); break; }
    case 9: CALL(preadv(a, vector, 2, where)); break;
    case 10: CALL(pwritev(a, vector, 3, where)); break;
    case 11: { int whence = ONE_OF(SEEK_SET, SEEK_CUR, SEEK_END, 99); CALL(lseek(a, where, whence)); break; }
    case 12: CALL(ftruncate(a, where)); break;
    case 13: { int mode = ONE_OF(0, 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0x4000); CALL(fallocate(a, mode, where, size)); break; }
    case 14: CALL(sendfile(a, b, roll(2) ? &from : NULL, size)); mix_number(from); break;
    case 15: CALL(copy_file_range(a, roll(2) ? &in : NULL, b, roll(2) ? &out : NULL, size, 0)); mix_number(in), mix_number(out); break;
    case 16: CALL(splice(a, NULL, b, NULL, size, SPLICE_F_NONBLOCK)); break;
    case 17: CALL(tee(a, b, size, SPLICE_F_NONBLOCK)); break;
    case 18: CALL(fstat(a, &about)); if (!S_ISSOCK(about.st_mode) && !S_ISFIFO(about.st_mode)) mix_stat(); break;
    default: { int which = ONE_OF(0, 1); CALL(which ? fsync(a) : fdatasync(a)); }
    }
    if (loud) sprintf(told + strlen(told), " a=%d b=%d at=%p size=%ld where=%ld", a, b, at, size, where);
}

static void call_on_descriptors(void) {
    int a = fd(), b = fd(), pair[2] = {-1, -1};
    switch (roll(18)) {
    case 0: case 1: CALL(close(a)); break;
    case 2: CALL(dup(a)); break;
    case 3: CALL(dup2(a, b < 12 ? b : 11)); break;
    case 4: { int flags = ONE_OF(O_CLOEXEC, 0, 7); CALL(dup3(a, b < 12 ? b : 11, flags)); break; }
    case 5: { int from = ONE_OF(0, 5, -1, 11); CALL(fcntl(a, F_DUPFD, from)); if (result > 30) close(result); break; }
    case 6: { int command = ONE_OF(F_GETFD, F_GETFL, F_GETPIPE_SZ, F_GET_SEALS, 9999); CALL(fcntl(a, command));
        // An existing file is opened through a reference, which forgets how it had to be named.
        if (command == F_GETFL && result > 0) result &= ~(O_DIRECTORY | O_NOFOLLOW);
        break; }
    case 7: { int flag = ONE_OF(0, 1); CALL(fcntl(a, F_SETFD, flag)); break; }
    case 8: { int flags = ONE_OF(O_NONBLOCK, O_NONBLOCK | O_APPEND); CALL(fcntl(a, F_SETFL, flags)); break; }
    case 9: case 10: CALL(pipe2(pair, O_NONBLOCK | (roll(3) ? 0 : O_CLOEXEC))); mix(pair, sizeof pair); break;
    case 11: { int start = ONE_OF(0, 3, 100), how = ONE_OF(EFD_NONBLOCK, EFD_NONBLOCK | EFD_SEMAPHORE); CALL(eventfd(start, how)); break; }
    case 12: { int kind = ONE_OF(SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, 77); CALL(socketpair(AF_UNIX, kind | SOCK_NONBLOCK, 0, pair)); mix(pair, sizeof pair); break; }
    case 13: { int flags = ONE_OF(0, MFD_CLOEXEC, MFD_ALLOW_SEALING, 0x100); CALL(memfd_create("m", flags)); break; }
    case 14: { int seals = ONE_OF(F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_SEAL, 0x100); CALL(fcntl(a, F_ADD_SEALS, seals)); break; }
    case 15: { int value = -1; long request = ONE_OF(FIONREAD, FIOCLEX, FIONCLEX); char room[64] = {0};
        CALL(ioctl(a, request, request == FIONREAD ? (void *)&value : room)); mix_number(value); break; }
    case 16: { struct flock lock = {.l_type = ONE_OF(F_RDLCK, F_WRLCK, F_UNLCK, 9), .l_start = roll(100), .l_len = roll(100)};
        int command = ONE_OF(F_SETLK, F_OFD_SETLK, F_OFD_GETLK); CALL(fcntl(a, command, &lock)); mix_number(lock.l_type); break; }
    default: { int how = ONE_OF(LOCK_SH | LOCK_NB, LOCK_EX | LOCK_NB, LOCK_UN, 0); CALL(flock(a, how)); }
    }
    if (loud) sprintf(told + strlen(told), " a=%d b=%d", a, b);
}

static void call_on_memory(void) {
    char *at = page(), *to = page();
    long size = page_length(), protection = ONE_OF(PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ | PROT_EXEC);
    if (at + size > memory + PAGES * PAGE && size > 0 && size < 1l << 40) size = memory + PAGES * PAGE - at;
    switch (roll(14)) {
    case 0: case 1: CALL(mmap(at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)); break;
    case 2: CALL(mmap(at, size, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0)); break;
    case 3: case 4: { int a = fd(), kind = ONE_OF(MAP_SHARED, MAP_PRIVATE), where = ONE_OF(0, 0, 4096, 100);
        // Whether what cannot be mapped leaves a hole is different in different kernels, and what it says of code.
        if (fstat(a, &about) != 0 || !S_ISREG(about.st_mode)) break;
        CALL(mmap(at, size, protection & ~PROT_EXEC, kind | MAP_FIXED, a, where)); break; }
    case 5: if (size > PAGES * PAGE || size < 0) size = PAGE; CALL(munmap(at, size)); break;
    case 6: case 7: CALL(mprotect(at + (roll(20) == 0), size, protection)); break;
    case 8: { long fresh = (1 + roll(3)) * PAGE; if (at + fresh > memory + PAGES * PAGE || size < 0 || size > PAGES * PAGE) break;
        if (to + fresh > memory + PAGES * PAGE) to = memory;
        CALL(mremap(at, PAGE, fresh, MREMAP_MAYMOVE | MREMAP_FIXED, to)); break; }
    case 9: { if (size > PAGES * PAGE || size < 0) break; CALL(madvise(at, size, MADV_DONTNEED)); break; }
    case 10: { int how = ONE_OF(MS_SYNC, MS_ASYNC, MS_SYNC | MS_ASYNC, 64); CALL(msync(at, size, how)); break; }
    case 11: CALL(mmap(at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)); break;
    case 12: { int store = roll(256); char *byte = at + roll(PAGE); CALL(touch(byte, store)); break; }
    default: { char *byte = at + roll(PAGE); CALL(touch(byte, 0)); }
    }
    if (loud) sprintf(told + strlen(told), " at=%p to=%p size=%ld protection=%ld", at, to, size, protection);
}

static void call_on_events(void) {
    int a = fd(), b = fd();
    struct epoll_event event = {ONE_OF(EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT), {.u64 = 5}}, got[4];
    struct pollfd polled[3] = {{a, POLLIN | POLLOUT, 0}, {b, POLLIN, 0}, {-1, 0, 0}};
    struct timeval now = {0, 0};
    fd_set set;
    char *at = place();
    long size = length();
    switch (roll(12)) {
    case 0: CALL(epoll_create1(0)); break;
    case 1: case 2: { int how = ONE_OF(EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, 9); CALL(epoll_ctl(a, how, b, &event)); break; }
    case 3: CALL(epoll_wait(a, got, 4, 0)); for (int i = 0; i < result; i++) mix_number(got[i].events); break;
    case 4: case 5: CALL(poll(polled, 3, 0)); mix(polled, sizeof polled); break;
    case 6: FD_ZERO(&set); if (a >= 0 && a < 1000) FD_SET(a, &set); CALL(select(13, &set, NULL, NULL, &now)); if (result >= 0) mix(&set, 8); break;
    case 7: { int flags = ONE_OF(TFD_NONBLOCK, 77); CALL(timerfd_create(CLOCK_MONOTONIC, flags)); break; }
    case 8: CALL(send(a, at, size, MSG_DONTWAIT | MSG_NOSIGNAL)); break;
    case 9: { int flags = ONE_OF(0, MSG_PEEK, MSG_TRUNC); CALL(recv(a, at, size, MSG_DONTWAIT | flags)); break; }
    case 10: { int how = ONE_OF(SHUT_RD, SHUT_WR, SHUT_RDWR, 9); CALL(shutdown(a, how)); break; }
    default: { int value = -1; socklen_t room = sizeof value; CALL(getsockopt(a, SOL_SOCKET, SO_TYPE, &value, &room)); mix_number(value); }
    }
    if (loud) sprintf(told + strlen(told), " a=%d b=%d at=%p size=%ld", a, b, at, size);
}

static void call_on_the_rest(void) {
    sigset_t set, old;
    struct sigaction action = {.sa_handler = ONE_OF(0, 1) ? on_signal : SIG_IGN, .sa_flags = SA_RESTART}, before;
    int one = ONE_OF(SIGUSR1, SIGUSR2, SIGURG, 40);
    sigemptyset(&set);
    sigaddset(&set, one);
    switch (roll(9)) {
    case 0: CALL(sigaction(one, &action, &before)); mix_number(before.sa_handler == on_signal); break;
    case 1: { int how = ONE_OF(SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK); CALL(sigprocmask(how, &set, &old)); mix(&old, 8); break; }
    case 2: if (sigaction(one, NULL, &before) == 0 && before.sa_handler == SIG_DFL) break; CALL(raise(one)); mix_number(signals); break;
    case 3: CALL(sigpending(&old)); mix(&old, 8); break;
    case 4: { int mode = ONE_OF(022, 077, 0); CALL(umask(mode)); break; }
    case 5: { char *word = place(); CALL(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0)); break; }
    case 6: { char *word = place(); struct timespec none = {0, 0}; CALL(syscall(SYS_futex, word, FUTEX_WAIT, 0x5a5a5a5a, &none, NULL, 0)); break; }
    case 7: { const char *where = roll(2) ? "d" : "."; CALL(access(where, F_OK)); break; }
    default: { struct rlimit limit; int which = ONE_OF(RLIMIT_NOFILE, RLIMIT_STACK, 99); CALL(getrlimit(which, &limit)); }
    }
}

static void describe(const char *path) {
    char text[70000];
    struct stat stat;
    if (lstat(path, &stat) != 0) {
        mix_number(-errno);
        return;
    }
    mix_number(stat.st_mode);
    if (S_ISLNK(stat.st_mode)) {
        long size = readlink(path, text, sizeof text);
        if (size > 0) mix(text, size);
    } else if (S_ISREG(stat.st_mode)) {
        mix_number(stat.st_size);
        chmod(path, 0600);
        int file = open(path, O_RDONLY);
        for (long step; (step = read(file, text, sizeof text)) > 0;) mix(text, step);
        close(file);
    }
}

static void run(uint64_t number, long steps, int top) {
    char directory[32];
    sigset_t none;
    state = number * 0x9e3779b97f4a7c15 ^ 0x123456789abcdef;
    hash = 0xcbf29ce484222325;
    signals = 0;
    snprintf(directory, sizeof directory, "s%lu", (unsigned long)number);
    DO(mkdir(directory, 0755));
    DO(chdir(directory));
    DO((long)mmap(memory, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    for (long i = 0; i < PAGES * PAGE; i += 97) memory[i] = roll(256);
    for (long i = 0; i < steps; i++) {
        result = 0;
        errno = 0;
        told[0] = 0;
        switch (roll(20)) {
        case 0: case 1: case 2: case 3: case 4: call_on_names(); break;
        case 5: case 6: case 7: case 8: case 9: call_on_bytes(); break;
        case 10: case 11: case 12: case 13: call_on_descriptors(); break;
        case 14: case 15: case 16: call_on_memory(); break;
        case 17: case 18: call_on_events(); break;
        default: call_on_the_rest();
        }
        int error = result == -1 ? errno : 0;
        calls++;
        mix_number(result);
        mix_number(error);
        if (loud) printf("%4ld %s = %ld %s %lx\n", i, told, result, error ? strerrorname_np(error) : "", (unsigned long)hash);
    }
    for (long i = 0; i < PAGES * PAGE; i += PAGE / 8) mix_number(touch(memory + i, 0));
    uint64_t of_memory = hash;
    munmap(memory, PAGES * PAGE);
    close_range(3, top - 1, 0);
    close_range(top + 1, 1023, 0);
    sigemptyset(&none);
    for (int one = 40, i = 0; i < 4; i++) signal(((int[]){SIGUSR1, SIGUSR2, SIGURG, one})[i], SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < 4; i++) signal(((int[]){SIGUSR1, SIGUSR2, SIGURG, 40})[i], SIG_DFL);
    umask(022);
    DO(fchdir(top));
    DO(chdir(directory));
    static const char *const names[] = {"d/e", "d/f", "d", "a", "b", "c", "l"};
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
            if (round == 0) describe(names[i]);
            else if (unlink(names[i]) != 0) rmdir(names[i]);
        }
    DO(fchdir(top));
    printf("%lu %lx %lx\n", (unsigned long)number, (unsigned long)of_memory, (unsigned long)hash);
}

int main(int count, char **words) {
    uint64_t first = strtoul(words[1], NULL, 10), sequences = strtoul(words[2], NULL, 10);
    long steps = strtol(words[3], NULL, 10);
    loud = count > 4;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    int top = DO(fcntl(DO(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), F_DUPFD_CLOEXEC, 500));
    close_range(3, top - 1, 0);
    for (uint64_t i = 0; i < sequences; i++) run(first + i, steps, top);
    printf("%ld calls\n", calls);
    return 0;
}
