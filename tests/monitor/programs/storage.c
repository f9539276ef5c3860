// Tries to store more than an instance may, one way a call. Contract `stdin`: the body names the way; the answer is what it
// came to, in lines.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)

static char block[MIB];

static int create(const char *directory, int number) {
    char name[64];
    snprintf(name, sizeof name, "%s/f%d", directory, number);
    return open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
}

// Pages of all files below the private directories, as du(1) has them, and 1 for each name.
static long found(const char *path) {
    long sum = 0;
    DIR *directory = opendir(path);
    if (!directory) return 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        char name[512];
        struct stat stat;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (lstat(name, &stat)) continue;
        sum += 1 + (S_ISDIR(stat.st_mode) ? found(name) : (stat.st_size + 4095) / 4096);
    }
    closedir(directory);
    return sum;
}

static void result(const char *what, long value) { printf("%s %ld %s\n", what, value, value == -1 ? strerrorname_np(errno) : ""); }

static void files(int vectored) {
    long written = 0;
    const char *const directories[] = {"/tmp", "/var/tmp", "/dev/shm"};
    for (int number = 0; number < 2000; number++) {
        int file = create(directories[number % 3], number);
        if (file < 0) break;
        struct iovec parts[2] = {{block, MIB / 2}, {block, MIB / 2}};
        ssize_t count = vectored ? writev(file, parts, 2) : write(file, block, MIB);
        if (count < 0) {
            result("write", count);
            break;
        }
        written += count;
        close(file);
    }
    result("MiB", written / MIB);
}

static void grow(const char *way) {
    int file = create("/tmp", 0), from = create("/tmp", 1), pipes[2];
    if (file < 0 || from < 0 || pipe(pipes)) exit(9);
    if (write(from, block, MIB) != MIB) exit(9);
    if (!strcmp(way, "append")) file = open("/tmp/f0", O_WRONLY | O_APPEND);
    long step = 0;
    for (int number = 0; number < 2000 && step >= 0; number++) {
        off_t at = (off_t)number * MIB;
        struct iovec part = {block, MIB};
        if (!strcmp(way, "pwrite")) step = pwrite(file, block, MIB, at);
        if (!strcmp(way, "pwritev")) step = pwritev(file, &part, 1, at);
        if (!strcmp(way, "pwritev2")) step = pwritev2(file, &part, 1, -1, RWF_APPEND);
        if (!strcmp(way, "append")) step = pwrite(file, block, MIB, 0);
        if (!strcmp(way, "ftruncate")) step = ftruncate(file, at + MIB);
        if (!strcmp(way, "truncate")) step = truncate("/tmp/f0", at + MIB);
        if (!strcmp(way, "fallocate")) step = fallocate(file, 0, at, MIB);
        if (!strcmp(way, "sendfile")) {
            off_t start = 0;
            step = sendfile(file, from, &start, 1 << 30);
        }
        if (!strcmp(way, "copy_file_range")) {
            off_t start = 0;
            step = copy_file_range(from, &start, file, 0, 1 << 30, 0);
        }
        if (!strcmp(way, "splice")) {
            for (int part = 0; part < 32 && step >= 0; part++) {
                if (write(pipes[1], block, 32768) != 32768) exit(9);
                step = splice(pipes[0], 0, file, 0, 1 << 20, 0);
            }
        }
        if (!strcmp(way, "mmap")) {
            step = ftruncate(file, at + MIB);
            if (step == 0) {
                char *view = mmap(0, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, file, at);
                if (view == MAP_FAILED) exit(9);
                memset(view, 'x', MIB);
                munmap(view, MIB);
            }
        }
    }
    result(way, step);
    struct stat stat;
    fstat(file, &stat);
    result("MiB", stat.st_size / MIB);
    result("over", found("/tmp") > 64 * 256);
}

static void names(const char *way) {
    long made = 0, step = 0;
    for (int number = 0; number < 100000; number++, made += step >= 0) {
        char name[64], other[64];
        snprintf(name, sizeof name, "/tmp/n%d", number);
        snprintf(other, sizeof other, "/tmp/n%d", number - 1);
        if (!strcmp(way, "empty")) {
            step = open(name, O_WRONLY | O_CREAT, 0600);
            if (step >= 0) close((int)step);
        }
        if (!strcmp(way, "directories")) step = mkdir(name, 0700);
        if (!strcmp(way, "fifos")) step = mkfifo(name, 0600);
        if (!strcmp(way, "symlinks")) step = symlink("target", name);
        if (!strcmp(way, "links")) step = number ? link("/tmp/n0", name) : close(creat(name, 0600));
        if (!strcmp(way, "deep")) {
            step = mkdir("d", 0700);
            if (step == 0) step = chdir("d");
        }
        if (step < 0) break;
    }
    result(way, step);
    result("names", made);
}

static void memory(void) {
    long made = 0, step = 0;
    for (int number = 0; number < 1000; number++, made++) {
        int file = memfd_create("m", 0);
        if (file < 0) exit(9);
        step = write(file, block, MIB);
        if (step < 0) break;
    }
    result("memfd", step);
    result("MiB", made);
}

// What goes is given back, however often.
static void again(void) {
    for (int round = 0; round < 200; round++) {
        int file = create("/tmp", 0);
        for (int number = 0; number < 30; number++)
            if (write(file, block, MIB) != MIB) return result("round", round);
        close(file);
        if (round % 2) {
            if (unlink("/tmp/f0")) exit(9);
        } else {
            if (close(creat("/tmp/f1", 0600)) || rename("/tmp/f1", "/tmp/f0")) exit(9);
            if (unlink("/tmp/f0")) exit(9);
        }
        file = memfd_create("m", 0);
        if (ftruncate(file, 20 * MIB)) return result("memfd", round);
        close(file);
        if (mkdir("/tmp/d", 0700) || rmdir("/tmp/d")) return result("mkdir", round);
    }
    printf("again\n");
}

// Files without a name that something else than a descriptor number keeps.
static void kept(const char *way) {
    int ends[2];
    long made = 0, step = 0;
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    for (int number = 0; number < 200; number++, made++) {
        int file = create("/tmp", number);
        if (file < 0) break;
        char name[64];
        snprintf(name, sizeof name, "/tmp/f%d", number);
        step = write(file, block, MIB);
        if (step < 0) break;
        if (unlink(name)) exit(9);
        if (!strcmp(way, "mapped")) {
            if (mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0) == MAP_FAILED) exit(9);
            close(file);
        } else if (!strcmp(way, "sent")) {
            union {
                char room[CMSG_SPACE(sizeof(int))];
                struct cmsghdr header;
            } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
            *(int *)CMSG_DATA(&control.header) = file;
            struct iovec part = {"x", 1};
            struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
            if (sendmsg(ends[0], &message, MSG_DONTWAIT) < 0 && errno != EAGAIN) exit(9);
            close(file);
        } else if (!strcmp(way, "reference")) {
            snprintf(name, sizeof name, "/proc/self/fd/%d", file);
            if (open(name, O_PATH) < 0) exit(9);
            close(file);
        }
    }
    result(way, step);
    result("MiB", made);
}

// One thread writes to a number, another exchanges what the number is, a third moves positions.
static int shared_number, target;
static volatile int over;

static void *exchange(void *null) {
    while (!over) {
        dup2(target, shared_number);
        dup2(*(int *)null, shared_number);
    }
    return 0;
}

static void *move(void *unused) {
    (void)unused;
    while (!over) {
        lseek(target, 100 << 20, SEEK_SET);
        lseek(target, 0, SEEK_SET);
    }
    return 0;
}

static void *fill(void *unused) {
    (void)unused;
    while (!over) (void)!write(shared_number, block, MIB);
    return 0;
}

static void race(void) {
    pthread_t threads[4];
    int null = open("/dev/null", O_RDWR);
    shared_number = dup(null);
    target = create("/tmp", 0);
    long most = 0;
    pthread_create(&threads[0], 0, exchange, &null);
    pthread_create(&threads[1], 0, move, 0);
    pthread_create(&threads[2], 0, fill, 0);
    pthread_create(&threads[3], 0, fill, 0);
    for (time_t end = time(0) + 2; time(0) < end;) {
        long now = found("/tmp");
        if (now > most) most = now;
    }
    over = 1;
    for (int number = 0; number < 4; number++) pthread_join(threads[number], 0);
    result("over", found("/tmp") > 64 * 256);
    result("grew", most > 1);
}

static double each(int file, int count, int rewind) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int number = 0; number < count; number++) {
        if (rewind) (void)!pwrite(file, "x", 1, 0);
        else (void)!write(file, "x", 1);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / count;
}

// Not a test: nanoseconds a call, for docs/decisions.md.
static void cost(void) {
    int ends[2], null = open("/dev/null", O_WRONLY), file = create("/tmp", 0);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int number = 0; number < 20000; number++) syscall(SYS_getppid);
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("getppid %.0f ns\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / 20000);
    printf("/dev/null %.0f ns\n", each(null, 20000, 0));
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    each(ends[0], 100, 0);
    printf("full socket %.0f ns\n", each(ends[0], 20000, 0));
    printf("file %.0f ns\n", each(file, 20000, 0));
    printf("file in place %.0f ns\n", each(file, 20000, 1));
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int number = 2; number < 3000; number++) close(create("/tmp", number));
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("create %.0f ns\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / 3000);
}

// What the file systems say that they hold, before and after a mebibyte was stored.
static void room(void) {
    const char *const places[] = {"/tmp", "/var/tmp", "/dev/shm", "/", "/storage"};
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < 5; i++) {
            struct statfs one, open_one;
            int place = open(places[i], O_RDONLY);
            if (statfs(places[i], &one) || fstatfs(place, &open_one) || memcmp(&one, &open_one, sizeof one)) exit(8);
            close(place);
            printf("%s %lx %ld %ld %ld %ld\n", places[i], (long)one.f_type, (long)one.f_bsize, (long)one.f_blocks, (long)one.f_bfree,
                   (long)one.f_bavail);
        }
        if (turn == 0 && write(create("/tmp", 0), block, MIB) != MIB) exit(9);
    }
}

int main(void) {
    char way[64] = "";
    memset(block, 'x', sizeof block);
    if (read(0, way, sizeof way - 1) < 0 || chdir("/tmp")) return 9;
    if (!strcmp(way, "files")) files(0);
    else if (!strcmp(way, "vectors")) files(1);
    else if (!strcmp(way, "memfd")) memory();
    else if (!strcmp(way, "again")) again();
    else if (!strcmp(way, "race")) race();
    else if (!strcmp(way, "cost")) cost();
    else if (!strcmp(way, "room")) room();
    else if (!strncmp(way, "names ", 6)) names(way + 6);
    else if (!strncmp(way, "kept ", 5)) kept(way + 5);
    else grow(way);
    return 0;
}
